"""What mkdocs adds to docs/: the guides of a project, the changelog and the reference."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from reference import PAGES, PROJECT, ROOT


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere or are made from the code."""
    for guide in sorted((PROJECT / "docs").glob("*.md")):
        files.append(_page(config, f"how-to/{guide.name}", guide.read_text(encoding="utf-8")))
    changelog = (ROOT / "src/jollyboat/CHANGELOG.md").read_text(encoding="utf-8")
    files.append(_page(config, "changelog.md", changelog))
    for path, make in PAGES.items():
        files.append(_page(config, path, make()))
    return files


def _page(config: MkDocsConfig, path: str, text: str) -> File:
    return File.generated(config, path, content=text)
