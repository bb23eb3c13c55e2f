"""Commands that show a file of the library, or copy it into the project to change it there."""

from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from jollyboat.scaffold.source import SETTINGS
from jollyboat.store import LIBRARY, PROJECT, UserError, suggest

# By kind: the folder in the library and in the project, and the files' suffix.
KINDS = {
    "model": ("dbt/models", "dbt/models", ".sql"),
    "suite": ("expectations", "expectations", ".json"),
    "page": ("pages/templates", "templates", ".html"),
}
KIND = click.Choice(list(KINDS))


@click.command(epilog="Example: jollyboat show model events")
@click.argument("kind", type=KIND)
@click.argument("name", required=False)
def show(kind: str, name: str | None) -> None:
    """Print a file of the library; without NAME list the files.

    A file is a dbt model, a suite of expectations or the template of a page.
    """
    if name is None:
        click.echo("\n".join(find_files(kind)))
    else:
        click.echo(_find_file(kind, name).read_text(encoding="utf-8"), nl=False)


@click.command(epilog="Example: jollyboat eject model events")
@click.argument("kind", type=KIND)
@click.argument("name")
def eject(kind: str, name: str) -> None:
    """Copy a file of the library into the project.

    The project uses the copy from then on. `jollyboat show` prints the file without copying it.
    """
    for sentence in eject_file(kind, name, PROJECT):
        click.echo(sentence)


def find_files(kind: str) -> dict[str, Path]:
    """The library's files of a kind by their names, in order."""
    folder, _, suffix = KINDS[kind]
    return {path.stem: path for path in sorted((LIBRARY / folder).rglob(f"*{suffix}"))}


def eject_file(kind: str, name: str, project: Path) -> list[str]:
    """Copy the file, and switch a model of the library off; returns what was done.

    UserError if there is no such file, if the project has one of its name, or if dbt's settings are
    wrong.
    """
    source = _find_file(kind, name)
    folder, own, _ = KINDS[kind]
    place = source.relative_to(LIBRARY / folder)
    target = project / own / place
    if there := [path for path in (project / own).rglob(source.name) if path.is_file()]:
        raise UserError(
            f"The project has {there[0].relative_to(project)} already; change it there."
        )
    texts = {target: source.read_text(encoding="utf-8")}
    if kind == "model":
        from jollyboat.warehouse import variables

        settings = project / SETTINGS
        text = settings.read_text(encoding="utf-8")
        variables.parse(text)  # says what is wrong with the file
        texts[settings] = switch_off(text, ["models", "jollyboat", *place.parent.parts, name])
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    files = [str(path.relative_to(project)) for path in texts]
    return [
        f"wrote {', '.join(files)}",
        f"{files[0]} replaces the library's from now on. `make upgrade` says if that one changed.",
    ]


def switch_off(text: str, keys: Sequence[str]) -> str:
    """The YAML of dbt's settings in which the model at these keys is disabled; the rest stays.

    UserError with the keys if that has to be done by hand.
    """
    node, line, column, missing = yaml.compose(text), 0, 0, list(keys)
    while len(missing) > 1:
        child = next((value for key, value in node.value if key.value == missing[0]), None)
        if not isinstance(child, yaml.MappingNode) or child.flow_style:
            break
        node, line, column = child, child.start_mark.line, child.start_mark.column
        missing.pop(0)
    added = [f"{' ' * (column + 2 * depth)}{key}:" for depth, key in enumerate(missing)]
    added[-1] += " {+enabled: false}"
    lines = text.splitlines()
    result = "\n".join([*lines[:line], *added, *lines[line:]]) + "\n"
    setting = yaml.safe_load(result)
    for key in keys:
        setting = setting.get(key) or {}
    if setting != {"+enabled": False}:
        raise UserError(
            f"Add {' > '.join(keys)}: {{+enabled: false}} to {SETTINGS}, then run this again."
        )
    return result


def _find_file(kind: str, name: str) -> Path:
    files = find_files(kind)
    if name in files:
        return files[name]
    hint = suggest(name, files) or f" There are {', '.join(files)}."
    raise UserError(f"The library has no {kind} {name!r}.{hint}")
