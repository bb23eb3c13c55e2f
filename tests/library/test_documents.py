"""The documents of the repository as its readers find them, without the site."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from demo import HERE

LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
DOCUMENTS = [
    *(HERE / "docs").glob("*.md"),
    *(HERE / "docs/concepts").glob("*.md"),
    *(HERE / "src/jollyboat/how_to").glob("*.md"),
    *HERE.glob("*.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HERE)))
def test_each_link_of_a_document_leads_to_a_file(document: Path):
    # The guides' own links are those of docs/how-to, which is a link to their folder.
    folder = HERE / "docs/how-to" if document.parent.name == "how_to" else document.parent
    links = [unquote(link) for link in LINK.findall(document.read_text(encoding="utf-8"))]

    assert [link for link in links if not (folder.resolve() / link).exists()] == []
