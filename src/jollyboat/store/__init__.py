"""A project's paths, its files, locks and settings, and the error that a person reads."""

from jollyboat.store.bucket import person
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
from jollyboat.store.paths import SHARED, TENANT_ID, Store, default_store
from jollyboat.store.personal import hash_addresses, hash_personal, hash_text
from jollyboat.store.project import LIBRARY, PROJECT, find_project, is_project, project_settings
from jollyboat.store.session import (
    fetch,
    followed,
    keep_salt,
    leased,
    publish,
    remove_history,
    synced,
)
from jollyboat.store.sql import quoted, unused_name
from jollyboat.store.words import Words, name_question, words_of

__all__ = [
    "LIBRARY",
    "PROJECT",
    "SHARED",
    "TENANT_ID",
    "PointerMoved",
    "Store",
    "UserError",
    "Words",
    "default_store",
    "explain",
    "fetch",
    "find_project",
    "followed",
    "hash_addresses",
    "hash_file",
    "hash_folder",
    "hash_personal",
    "hash_text",
    "is_alive",
    "is_project",
    "keep_salt",
    "leased",
    "locked",
    "name_question",
    "person",
    "project_settings",
    "publish",
    "quoted",
    "read_json",
    "remove_history",
    "replace_pointer",
    "replacing",
    "suggest",
    "synced",
    "unused_name",
    "words_of",
    "write_json",
    "write_text",
]
