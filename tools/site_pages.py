"""What mkdocs adds to docs/: the guides of a project, the changelog and the reference."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from reference import PAGES, PROJECT, ROOT

# How a page of docs/ links a guide of the project, and where that guide is on the site.
PROJECT_GUIDES, SITE_GUIDES = "../%7B%7Bcookiecutter.project_slug%7D%7D/docs/", "how-to/"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere or are made from the code."""
    for guide in sorted((PROJECT / "docs").glob("*.md")):
        files.append(_page(config, f"how-to/{guide.name}", guide.read_text(encoding="utf-8")))
    changelog = (ROOT / "src/jollyboat/CHANGELOG.md").read_text(encoding="utf-8")
    files.append(_page(config, "changelog.md", changelog))
    for path, make in PAGES.items():
        files.append(_page(config, path, make()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to the project's guides as they are on the site."""
    return markdown.replace(PROJECT_GUIDES, SITE_GUIDES)


def _page(config: MkDocsConfig, path: str, text: str) -> File:
    return File.generated(config, path, content=text)
