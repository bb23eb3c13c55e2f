"""The pages of the site's reference that are made from the code: settings, tables and commands."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import jinja2
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jollyboat.cli.main import jollyboat
from jollyboat.store.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "{{cookiecutter.project_slug}}"
MODELS = ROOT / "src/jollyboat/dbt/models"
LINE = re.compile(r'^(?P<key>\w+) = (?:"[^"]*"|[^"#])*(?:#\s*(?P<comment>.*))?$')
DOC = re.compile(r"{% docs (\w+) %}\n(.*?)\n{% enddocs %}", re.DOTALL)
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", list: "list"}
KINDS[Literal] = "text"  # the meaning names the choices


def settings_page() -> str:
    """Each setting of project.toml with its type, its value in a new project and its meaning.

    The meaning is the comment in project.toml, else the docstring of the field.
    ValueError for a setting without one.
    """
    text = (PROJECT / "project.toml").read_text(encoding="utf-8")
    comments, values = _comments(text), tomllib.loads(text)
    parts = [
        "# Settings",
        "All settings but those of SQL are in `project.toml`.\n"
        "An unknown setting is refused in a sentence.\n"
        "A table `[questions.<question>.<table>]` replaces entries of a table for one question.\n"
        "A table with a candidate's name, such as `[xgboost]`, has the settings of that candidate.",
    ]
    for table, model in _tables(Settings):
        parts.append(f"## `[{table}]`")
        if about := (model.__doc__ or "").strip():
            parts.append(re.sub(r"\n\s+", "\n", about))
        parts.append("| setting | type | new project | meaning |\n|---|---|---|---|")
        own = values.get(table, {})
        for name, field in model.model_fields.items():
            meaning = comments.get((table, name)) or field.description
            if not meaning:
                raise ValueError(f"[{table}] {name} of project.toml has no comment or docstring")
            value = own.get(name, None if field.is_required() else field.default)
            sentence = _cell(meaning[0].upper() + meaning[1:].rstrip(".") + ".")
            parts[-1] += f"\n| `{name}` | {_type(field)} | {_shown(value)} | {sentence} |"
    return "\n\n".join(parts) + "\n"


def tables_page() -> str:
    """Each table of a snapshot with its columns, from dbt's descriptions."""
    docs = dict(DOC.findall((MODELS / "columns.md").read_text(encoding="utf-8")))
    files = [*MODELS.rglob("*.yml"), *(PROJECT / "dbt/models").rglob("*.yml")]
    models = {
        model["name"]: model
        for file in files
        for model in yaml.safe_load(file.read_text(encoding="utf-8")).get("models", ())
    }
    parts = [
        "# Tables and columns",
        "A snapshot has these tables, as Parquet files below `data/tables`.\n"
        "`make docs` writes pages of all tables and columns of your own project.",
    ]
    for name, model in models.items():
        meta = model.get("config", {}).get("meta", {})
        if "published_by" not in meta:
            continue
        parts += [f"## `{name}`", _described(model["description"], docs)]
        if other := meta.get("described_by"):
            parts.append(f"It also has the columns of `{other}`.")
            model = {"columns": [*model.get("columns", ()), *models[other].get("columns", ())]}
        rows = [
            f"| `{each['name']}` | {_cell(_described(each['description'], docs))} |"
            for each in model.get("columns", ())
        ]
        parts.append("\n".join(["| column | meaning |\n|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def modules() -> list[str]:
    """The public modules of the library, as the page `what-is-public` lists them."""
    text = (ROOT / "docs/how-to/what-is-public.md").read_text(encoding="utf-8")
    return re.findall(r"\bjollyboat(?:\.\w+)+", text.split("## Python")[1].split("## Files")[0])


def python_page() -> str:
    """The functions and classes of the public modules; mkdocstrings writes their docstrings."""
    parts = ["# Python", "The public modules, with what their docstrings promise."]
    return "\n\n".join([*parts, *(f"::: {name}" for name in modules())]) + "\n"


def commands_page() -> str:
    """Each command of `jollyboat` with its help, as the terminal prints it."""
    parts = ["# Commands", "`--help` after a command prints the same."]
    for context in _contexts(jollyboat, click.Context(jollyboat, info_name="jollyboat")):
        context.terminal_width = context.max_content_width = 90
        parts += [f"## `{context.command_path}`", f"```text\n{context.get_help()}\n```"]
    return "\n\n".join(parts) + "\n"


def _contexts(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """The command's context and those of the commands below it, in order of their names."""
    yield context
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _contexts(below, click.Context(below, parent=context, info_name=name))


PAGES = {
    "reference/settings.md": settings_page,
    "reference/tables.md": tables_page,
    "reference/python.md": python_page,
    "reference/commands.md": commands_page,
}


def _tables(settings: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables of settings with their models; a table by name has a placeholder."""
    for name, field in settings.model_fields.items():
        kind = field.annotation
        path = name
        for key in ("<question>",) if name == "questions" else ("<flow>", "<step>"):
            if get_origin(kind) is dict:
                kind, path = get_args(kind)[1], f"{path}.{key}"
        yield path, kind


def _comments(text: str) -> dict[tuple[str, str], str]:
    """The comment after each setting of a TOML document, by table and setting."""
    comments, table = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line[1 : line.index("]")]
        elif (match := LINE.match(line)) and match["comment"]:
            comments[table, match["key"]] = match["comment"]
    return comments


def _type(field: FieldInfo) -> str:
    """The kind of a setting and its limits, in words."""
    kind, metadata = field.annotation, list(field.metadata)
    kind = next((each for each in get_args(kind) if type(None) in get_args(kind)), kind)
    metadata += getattr(kind, "__metadata__", ())
    kind = getattr(kind, "__origin__", kind)
    limits = [
        f"{words} {getattr(each, name)}"
        for each in _unpacked(metadata)
        for name, words in LIMITS.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join([KINDS.get(kind, kind.__name__), *limits])


def _unpacked(metadata: Iterable[Any]) -> Iterator[Any]:
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" and "cookiecutter" not in str(value) else ""


def _described(text: str, docs: Mapping[str, str]) -> str:
    return jinja2.Template(text).render(doc=lambda name: docs[name]).strip()


def _cell(text: str) -> str:
    """The text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
