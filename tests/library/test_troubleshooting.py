"""The guide to messages quotes what the code can print."""

import re

from demo import HERE

GUIDE = HERE / "docs/how-to/troubleshooting.md"
SOURCES = [
    *(HERE / "src/jollyboat").rglob("*.py"),
    *(HERE / "{{cookiecutter.project_slug}}").glob("*.mk"),
]


def test_each_message_of_the_guide_is_one_of_the_code():
    headings = re.findall(r"^### (.*)", GUIDE.read_text(), re.MULTILINE)
    quotes = [part for each in headings for part in re.findall(r'"(.*?)"', each)]
    code = " ".join(" ".join(path.read_text().split()) for path in SOURCES)
    code = re.sub(r'" f?"', "", code)  # texts that Python joins

    missing = [
        part
        for quote in quotes
        for part in quote.split(" ... ")
        if part.removeprefix("FAIL ") not in code
    ]

    assert len(quotes) > 20
    assert missing == []
