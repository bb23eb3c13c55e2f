"""Text as a terminal shows it: lines of at most 100 columns, and verdicts in color."""

import math
import os
import re
import textwrap
from collections.abc import Iterable
from typing import TextIO

WIDTH = 100
VERDICTS = re.compile(
    r"(?P<green>^pass\b|\bpublished\b|\b(?:now|already) the champion\b)"
    r"|(?P<red>^(?:FAIL|ALARM|critical)\b|\brefused by\b|\b[Nn]othing (?:was )?published\b)"
    r"|(?P<yellow>^warning\b|\bFORCED\b)",
    re.MULTILINE,
)
# What a terminal obeys rather than shows, and what turns the direction of a text.
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
COLORS = {"red": "\033[31m", "green": "\033[32m", "yellow": "\033[33m"}
RESET = "\033[0m"


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can rewrite a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def color_verdicts(text: str, stream: TextIO) -> str:
    """The text for this stream: colored on a terminal, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not is_terminal(stream):
        return text
    return VERDICTS.sub(lambda match: f"{COLORS[match.lastgroup]}{match[0]}{RESET}", text)


def escape(text: str) -> str:
    """The text with control characters as Python writes them, but for the ends of lines."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def format_count(number: float, noun: str) -> str:
    """A number with its noun, such as "1 row" and "2,821 rows"."""
    return f"{number:,.0f} {noun}{'' if number == 1 else 's'}"


def format_percent(share: float | None) -> str:
    """A share with three digits at most, such as "31.5 %", "0.033 %" or "unknown"."""
    if share is None or math.isnan(share):
        return "unknown"
    return f"{100 * share:.3g} %"


def join_lines(lines: Iterable[str]) -> str:
    """The lines as one text; an end of line within one, as of a value from the data, is escaped."""
    return "\n".join(escape(line.replace("\n", "\\n")) for line in lines)


def wrap(text: str) -> str:
    """The text, escaped, in lines of at most 100 columns, except where one word needs more.

    A long line continues below its last column, or 4 columns to the right. A label keeps the
    word that it names on its line, however long that is.
    """
    return "\n".join(_wrap_line(line) for line in escape(text).split("\n"))


def _wrap_line(line: str) -> str:
    if len(line) <= WIDTH:
        return line
    columns = re.match(r" *(\S+ {2,})*", line).end()
    return textwrap.fill(
        line[columns:],
        WIDTH,
        initial_indent=line[:columns],
        subsequent_indent=" " * min(columns or 4, WIDTH // 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
