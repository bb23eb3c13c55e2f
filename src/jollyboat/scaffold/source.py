"""A new source: its staging model, from a guide or a CSV's header, and its name in `vars`."""

import re
from pathlib import Path

import yaml

from jollyboat.scaffold import csv_model
from jollyboat.store import LIBRARY, UserError

SETTINGS = "dbt/dbt_project.yml"
GUIDE = "logs-from-{}"
KINDS = {"access-log": "an-access-log"}  # the guides with longer names
CSV = "csv"  # its model is made from the header
SQL = re.compile(r"`dbt/models/staging/stg_\w+__events\.sql`:\n\n```sql\n(.*?)```", re.DOTALL)
NAME = re.compile(r"[a-z][a-z0-9_]*")


def source_kinds() -> list[str]:
    """The exports that a source may be like: a plain CSV, and those with a guide."""
    names = {name: kind for kind, name in KINDS.items()}
    guides = sorted(path.stem for path in (LIBRARY / "how_to").glob(f"{GUIDE.format('*')}.md"))
    kinds = [guide.removeprefix(GUIDE.format("")) for guide in guides]
    return sorted([CSV, *(names.get(kind, kind) for kind in kinds)])


def add_source(name: str, kind: str, project: Path, raw: Path) -> list[str]:
    """Write the staging model and name the source in `vars: sources`; returns what to do next.

    The model of a plain CSV has the columns of the newest one in the raw folder. UserError, before
    anything is written, where the name is no folder's name or is taken, or where dbt's settings are
    wrong.
    """
    from jollyboat.warehouse import variables

    guide = GUIDE.format(KINDS.get(kind, kind))
    model = project / f"dbt/models/staging/stg_{name}__events.sql"
    settings = project / SETTINGS
    text = settings.read_text(encoding="utf-8")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name of a source: lower-case letters, digits, underscores."
        )
    read = variables.parse(text)
    if model.exists() or name in [*read.sources, *read.feedback_sources]:
        raise UserError(f"The project has a source {name} already. Choose another name.")
    if kind == CSV:
        columns = csv_model.read_columns(raw / name)
        sql = csv_model.write_model(name, columns or csv_model.EXAMPLE)
        hint = csv_model.describe_model(columns) if columns else csv_model.WITHOUT_A_FILE
    else:
        (sql,) = SQL.findall((LIBRARY / "how_to" / f"{guide}.md").read_text(encoding="utf-8"))
        hint = (
            f"Compare the model with your export (`jollyboat docs {guide}`): its tenant_id, its "
            "fields and the names of its events."
        )
    named = add_to_sources(text, name)
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_text(sql, encoding="utf-8")
    settings.write_text(named, encoding="utf-8")
    return [
        f"wrote {model.relative_to(project)}, and {name} under vars: sources in {SETTINGS}",
        hint,
        f"Put the files below data/raw/{name}/dt=<day of arrival>/, then run `make data`.",
    ]


def add_to_sources(text: str, name: str) -> str:
    """dbt's settings with one more source, at the end of the list; the rest stays as it is.

    UserError if the list cannot be edited.
    """
    before = yaml.safe_load(text)
    node = yaml.compose(text)
    for wanted in ("vars", "sources"):
        node = next(value for key, value in node.value if key.value == wanted)
    last = node.value[-1]
    between = ", " if node.flow_style else f"\n{' ' * node.start_mark.column}- "
    place = last.end_mark.index
    result = f"{text[:place]}{between}{name}{text[place:]}"
    before["vars"]["sources"] = [*before["vars"]["sources"], name]
    if yaml.safe_load(result) != before:
        raise UserError(f"Add {name} to vars: sources in {SETTINGS}, then run this again.")
    return result
