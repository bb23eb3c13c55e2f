"""Personal texts as the tables keep them; dbt's macros of the same names do the same."""

import hashlib
import re

# Any of these means that a text may have an address.
_SIGNS = ("@", "%40", "%2540", "u0040")
_AT = r"(?:@|%(?:25)?40|\\{1,8}u0040)"
_PART = r"""(?:[^ \t\r\n\f\v"\\<>,;:/?&=()\[\]{}|]|\\{1,8}u0040)+"""
# Word by word: with the macro's one expression, 10,000 letters after an at sign take a second.
_WORD, _ADDRESS = re.compile(_PART), re.compile(_PART + _AT + _PART)


def hash_text(text: str, salt: str) -> str:
    """A personal text as 32 hex digits."""
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:32]


def hash_addresses(text: str, salt: str) -> str:
    """The text in which every word that looks like an e-mail address is replaced by its hash."""
    if not any(sign in text for sign in _SIGNS):
        return text
    return _WORD.sub(lambda word: _hash_address(word[0], salt), text)


def _hash_address(word: str, salt: str) -> str:
    return hash_text(re.sub(_AT, "@", word), salt) if _ADDRESS.fullmatch(word) else word
