"""A new question: its models, expectations, behaviour cases, a test, and its settings."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from jollyboat.scaffold.source import NAME
from jollyboat.store import LIBRARY, Store, UserError

TEMPLATES = LIBRARY / "scaffold" / "question"
RANKING = LIBRARY / "scaffold" / "next_product"
SETTINGS, WEEKLY = "project.toml", "weekly"
# What each kind of entity is called, by its column of events.
WORDS = {
    "user_id": "user",
    "anonymous_id": "visitor",
    "session_id": "session",
    "order_id": "order",
    "product_id": "product",
    "tenant_id": "tenant",
}
HISTORY_COLUMN = """\
      - {{name: {0}, description: "{0} of the event, whose events are the history"}}
"""
LEAST_DAYS = 3  # with events in its history, else a weekly question does not ask about an entity


@dataclass(frozen=True)
class Question:
    """What `add_question` writes.

    `points` is "weekly", or the condition on the event at which an entity is asked about. The other
    fields are those of jollyboat.warehouse.questions.Definition.
    """

    entity: str
    points: str
    outcome: str
    is_absence: bool
    horizon_days: int | None
    history_days: int = 28
    history: str | None = None


PRESETS = {"churn": Question("user_id", WEEKLY, "true", True, 14), RANKING.name: RANKING}


def add_question(name: str, question: Question | Path, project: Path, store: Store) -> list[str]:
    """Write the question's files and its section of project.toml; returns what to do next.

    A folder has the files of a ranking question, whose name is the folder's.
    UserError, before anything is written, where the name is no name or is taken, or a part of the
    question cannot be.
    """
    from jollyboat.store.settings import FIRST
    from jollyboat.warehouse import questions

    settings = project / SETTINGS
    text = settings.read_text(encoding="utf-8")
    is_ranking = isinstance(question, Path)
    files = dict(_ranking_files(name, question) if is_ranking else _files(name, question))
    if not NAME.fullmatch(name) or name == "batch":
        raise UserError(
            f"{name!r} is no name of a question: lower-case letters, digits, underscores."
        )
    tables = tomllib.loads(text).get("questions", {})
    if name in {FIRST, *tables} or any((project / path).exists() for path in files):
        raise UserError(f"The project has a question {name} already. Choose another name.")
    definition = _definition_in(files, name) if is_ranking else _definition(question)
    definition = questions.check_definition(definition, f"The question {name}")
    if not tables:  # else the new question would be the first one
        text += f'\n[questions.{FIRST}]\nentity = "session"\noutcome = "outcome"\n'
    for path, content in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(content, encoding="utf-8")
    section = (question / SETTINGS).read_text() if is_ranking else _fill(SETTINGS, name, question)
    settings.write_text(text + section, encoding="utf-8")
    return [
        *(f"wrote {path}" for path in files),
        f"wrote [questions.{name}] into {SETTINGS}",
        *questions.describe_short_logs({name: definition}, questions.days_of_logs(store)),
        f"Read {next(iter(files))}, then run `make data`, and with QUESTION={name} `make train`, "
        "`make deploy` and `make score`.",
    ]


def _files(name: str, question: Question) -> Iterator[tuple[str, str]]:
    models = f"dbt/models/questions/{name}"
    kind = WEEKLY if question.points == WEEKLY else "event"
    yield f"{models}/{name}_points.sql", _fill(f"points_{kind}.sql", name, question)
    for part in ("events_at_point", "features"):
        macro = {"events_at_point": "events_before_points", "features": "labeled_features"}[part]
        yield f"{models}/{name}_{part}.sql", f"{{{{ jollyboat.{macro}('{name}') }}}}\n"
    features = _fill("features_at_point.sql", name, question)
    yield f"{models}/{name}_features_at_point.sql", features
    yield f"{models}/{name}.yml", _fill("question.yml", name, question)
    yield f"expectations/{name}_features.json", _fill("expectations.json", name, question)
    yield f"ml/behaviour/{name}.json", _fill("behaviour.json", name, question)
    if kind == WEEKLY:
        yield f"dbt/unit_tests/{name}.yml", _fill("unit_test.yml", name, question)


def _ranking_files(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    places = {f"{name}_points.json": "expectations", "unit_test.yml": "dbt/unit_tests"}
    for path in sorted(folder.glob("[!p]*"), key=lambda path: path.suffix != ".yml"):
        place = places.get(path.name, f"dbt/models/questions/{name}")
        target = f"{name}.yml" if path.name == "unit_test.yml" else path.name
        yield f"{place}/{target}", path.read_text(encoding="utf-8")


def _definition_in(files: Mapping[str, str], name: str) -> dict:
    models = yaml.safe_load(files[f"dbt/models/questions/{name}/{name}.yml"])["models"]
    return models[0]["config"]["meta"]["question"]


def _definition(question: Question) -> dict:
    names = ("entity", "outcome", "is_absence", "horizon_days", "history", "history_days")
    asked_at = "now" if question.points == WEEKLY else "last_event"
    return {name: getattr(question, name) for name in names} | {"asked_at": asked_at}


def _fill(template: str, name: str, question: Question) -> str:
    """The template with the question's values in place of @name@ and the like."""
    history, column = (
        question.history,
        f"\n        any_value({question.history}) as {question.history},",
    )
    values = _definition(question) | {
        "name": name,
        "column": question.entity,
        "entity": WORDS.get(question.entity, question.entity),
        "points": question.points,
        "outcome": json.dumps(question.outcome),
        "is_absence": str(question.is_absence).lower(),
        "is_wanted": str(not question.is_absence).lower(),
        "horizon_days": question.horizon_days or "null",
        "history": f"\n          history: {history}" if history else "",
        "history_column": column if history else "",
        "history_description": HISTORY_COLUMN.format(history) if history else "",
        "least_days": LEAST_DAYS,
    }
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), text)
