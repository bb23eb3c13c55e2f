"""What differs between two versions of the library, for the reader of an upgrade."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from jollyboat.upgrade.sources import CHANGELOG

BY_HAND = "By hand: "
# Folders of a project whose files replace those of the same name in the library.
REPLACING = ("dbt/models", "dbt/macros", "expectations", "templates")


def describe_changelog(old: str, new: str) -> Iterator[str]:
    """What the new changelog says and the old one does not, entry by entry; and the reverse."""
    before, after = read_changelog(old), read_changelog(new)
    for entry, heading in after.items():
        if entry not in before and not entry.startswith(BY_HAND):
            yield f"New in {heading}: {entry}"
    for entry, heading in before.items():
        if entry not in after:
            yield f"No longer there, from {heading}: {entry}"


def read_changelog(text: str) -> dict[str, str]:
    """The heading (a version) of each entry of the changelog, in their order."""
    entries: dict[str, str] = {}
    heading = ""
    for block in text.replace("\n- ", "\n\n- ").split("\n\n"):
        line = " ".join(block.split())
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("- "):
            entries[line.removeprefix("- ")] = heading
    return entries


def describe_packages(old: Mapping[str, set[str]], new: Mapping[str, set[str]]) -> Iterator[str]:
    """Which pins of requirements.txt are others."""
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            before = ", ".join(sorted(old.get(name, ["not pinned"])))
            after = ", ".join(sorted(new.get(name, ["not pinned"])))
            yield f"requirements.txt: {name} is {after} now; it was {before}."


def describe_rebuild(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """Whether the next `make data` builds the tables again, and why."""
    names = [name for name in _find_changes(old, new) if name.startswith("jollyboat/dbt/")]
    names = [PurePosixPath(name).name for name in names if "/unit_tests/" not in name]
    if names:
        files = ", ".join(names)
        yield f"The next `make data` rebuilds the tables: the library's SQL changed ({files})."
    else:
        yield "The library's SQL is the same: `make data` rebuilds nothing."


def describe_work(
    old: Mapping[str, bytes], new: Mapping[str, bytes], project: Path
) -> Iterator[str]:
    """What is left to do by hand."""
    before, after = (read_changelog(each[CHANGELOG].decode()) for each in (old, new))
    yield from (entry for entry in after if entry.startswith(BY_HAND) and entry not in before)
    changed = {PurePosixPath(name).name for name in _find_changes(old, new)}
    for folder in REPLACING:
        for path in sorted((project / folder).rglob("*")):
            if path.name in changed and path.suffix != ".yml":
                place = path.relative_to(project)
                yield f"{BY_HAND}{place} replaces a file of the library that changed; compare them."
    if (project / ".cruft.json").exists():
        yield f"{BY_HAND}`cruft update` brings what changed in the template's own files."
    yield f"{BY_HAND}restart the servers that run, and commit vendor/ and requirements.txt."


def _find_changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[str]:
    """The names of the library's files that were changed, added or removed."""
    names = {name for name in {*old, *new} if name.startswith("jollyboat/")}
    return sorted(name for name in names if old.get(name) != new.get(name))
