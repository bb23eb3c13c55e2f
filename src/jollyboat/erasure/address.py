"""An e-mail address in raw text: in any case, escaped as in JSON or an url, beside punctuation."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

from jollyboat.store import hash_addresses
from jollyboat.store.personal import WORD

_ESCAPED = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|[bfnrt])")
_ESCAPED_AT = re.compile(r"%(?:25)*40")
_AT_IN_URL = "\ue000"  # for private use, so that no text has it


class Address:
    """An address as a whole: texts with `max@a.de` or `x@a.de.example` do not have `x@a.de`."""

    def __init__(self, text: str):
        address = unquote(text).lower()
        in_url = re.escape(address.replace("@", _AT_IN_URL))
        # A plus sign before it is a space in an url, elsewhere a part of a longer address.
        either = rf"(?:(?<!\w\+){re.escape(address)}|{in_url})"
        self._whole = re.compile(rf"(?<!\w)(?<!\w[-.]){either}(?!-*[^\W_]|\.[^\W_])")
        # Nothing escapes these letters, and few lines have them.
        self._letters = max(re.findall("[a-z0-9]+", address), key=len, default="")

    def is_in(self, text: str) -> bool:
        """Whether a text has the address."""
        if self._letters not in text.lower():
            return False
        text = _ESCAPED.sub(lambda each: chr(int(each[1], 16)) if each[1] else " ", text)
        text = unquote(unquote(_ESCAPED_AT.sub(_AT_IN_URL, text)))
        return bool(self._whole.search(text.lower()))

    def hashes(self, text: str, salt: str) -> Iterator[str]:
        """What the tables have in place of the words of a text that have the address."""
        return (hash_addresses(word, salt) for word in WORD.findall(text) if self.is_in(word))
