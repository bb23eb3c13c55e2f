"""A project's paths, its files, locks and settings, and the error that a person reads."""

from jollyboat.store.errors import UserError, explain, suggest
from jollyboat.store.files import (
    hash_file,
    hash_folder,
    read_json,
    replacing,
    write_json,
    write_text,
)
from jollyboat.store.locks import PointerMoved, is_alive, locked, replace_pointer
from jollyboat.store.paths import Store, default_store
from jollyboat.store.personal import hash_addresses, hash_personal, hash_text
from jollyboat.store.project import LIBRARY, PROJECT, find_project, is_project, project_settings
from jollyboat.store.sql import quoted, unused_name
from jollyboat.store.words import Words, words_of

__all__ = [
    "LIBRARY",
    "PROJECT",
    "PointerMoved",
    "Store",
    "UserError",
    "Words",
    "default_store",
    "explain",
    "find_project",
    "hash_addresses",
    "hash_file",
    "hash_folder",
    "hash_personal",
    "hash_text",
    "is_alive",
    "is_project",
    "locked",
    "project_settings",
    "quoted",
    "read_json",
    "replace_pointer",
    "replacing",
    "suggest",
    "unused_name",
    "words_of",
    "write_json",
    "write_text",
]
