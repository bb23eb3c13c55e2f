"""Personal texts as the tables keep them; dbt's macros of the same names do the same."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

_AT = r"(?:@|%(?:25)?40|\\{1,8}u0040)"
_PART = r"""(?:[^ \t\r\n\f\v"\\<>,;:/?&=()\[\]{}|]|\\{1,8}u0040)+"""
# Word by word: with the macro's one expression, 10,000 letters after an at sign take a second.
WORD, _ADDRESS = re.compile(_PART), re.compile(_PART + _AT + _PART)
# Possessive, since each part of the macro's expression matches in one way: no text costs more time.
_QUOTE, _COLON, _TEXT = r'(?<!\\)\\*+"', r"[\t\n\f\r ]*+:[\t\n\f\r ]*+", r'"(?:[^"\\]|\\.)*+"?'


def hash_text(text: str, salt: str) -> str:
    """A personal text as 32 hex digits."""
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:32]


def hash_personal(json: str, fields: Sequence[str], salt: str) -> str:
    """JSON text, valid or not, in which the values of these keys are hashed, at any depth."""

    def hash_value(pair: re.Match) -> str:
        value = pair["value"].strip('"\\').replace("%40", "@")
        return pair["key"] + pair["quote"] + hash_text(value, salt) + pair["quote"]

    names = "|".join(fields)
    words = _words(names)
    if words:  # most texts have none of the names, and the expression takes three times as long
        folded = json.casefold()
        if not any(word in folded for word in words):
            return json
    return _pair(names).sub(hash_value, json) if fields else json


@cache
def _words(names: str) -> list[str]:
    """The names as a text has them in lower case; none if one of them is a pattern."""
    words = names.casefold().split("|")
    return words if all(re.fullmatch(r"[\w -]+", word) for word in words) else []


@cache
def _pair(names: str) -> re.Pattern:
    """A key and its value: a text, a number, a group four deep, or a text with escaped quotes."""
    group = ""
    for _ in range(4):
        group = rf'|[\[{{](?:[^\[\]{{}}"]|{_TEXT}{group})*+[\]}}]?'
    value = rf'{_TEXT}|[-0-9][-+.0-9eE]*+{group}|\\++"[^"\\]*+\\*+"?'
    key = rf'(?P<key>(?P<quote>{_QUOTE})(?:{names})\\*+"{_COLON})'
    return re.compile(f"{key}(?P<value>{value})", re.IGNORECASE)


def hash_addresses(text: str, salt: str) -> str:
    """The text in which every word that looks like an e-mail address is replaced by its hash."""
    # Written out: it runs for each text of each request, and a loop takes five times as long.
    if not ("@" in text or "%40" in text or "%2540" in text or "u0040" in text):
        return text
    return WORD.sub(lambda word: _hash_address(word[0], salt), text)


def _hash_address(word: str, salt: str) -> str:
    return hash_text(re.sub(_AT, "@", word), salt) if _ADDRESS.fullmatch(word) else word
