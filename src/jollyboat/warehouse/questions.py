"""The questions of a project beside its first one, which is about sessions.

A question `churn` is a definition (`question` in the meta of the model `churn_points`), and the
models churn_points, churn_events_at_point, churn_features_at_point and churn_features. One with
the key `item` is a ranking: which item comes next, from lookups and <name>_pairs_at_point.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import duckdb
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from jollyboat.store import PROJECT, Store, UserError, suggest
from jollyboat.store.settings import Section, Settings, Text, describe
from jollyboat.warehouse.event_columns import EVENT_COLUMNS
from jollyboat.warehouse.variables import check_condition

ENTITIES = ("user_id", "anonymous_id", "session_id", "order_id", "product_id", "tenant_id")
SUFFIX = "_points"
FEATURES = ("features_at_point", "pairs_at_point")  # of an outcome, of a ranking
OWN_SOURCES = ("predictions", "labels")
ITEMS = ("product_id", "category", "page", "query")
COLUMNS = EVENT_COLUMNS | {"event_number": "bigint", "file": "varchar", "arrived_on": "date"}
LEAST_WINDOW_DAYS = 7  # of views before the first day to learn from
Days = Annotated[int, Field(ge=1, le=3650)]
Few = Annotated[int, Field(ge=1, le=1000)]


def _check_outcome(outcome: str) -> str:
    """The outcome; ValueError where it is no condition on the columns of one event."""
    check_condition(outcome)
    columns = ", ".join(f'cast(null as {kind}) as "{name}"' for name, kind in COLUMNS.items())
    try:
        query = f"select ({outcome}) from (select {columns}) where ({outcome})"
        (kind,) = duckdb.sql(query).types
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"it should be a condition on one event ({reason})") from error
    if str(kind) != "BOOLEAN":
        raise ValueError(
            f"it should be true or false, but is {kind}. A number is no outcome of a question; "
            "whether it is above a limit is one, such as price > 100"
        )
    return outcome


class Definition(Section):
    """What is predicted, about whom, and until when.

    `entity` and `history` are columns of events: a point's features come from the events of the
    last `history_days` with its entity, or with its own value of `history`. The outcome is that a
    later event of the entity fulfils `outcome`, or with `is_absence` that none does. Without
    `horizon_days` it may follow until the session is over. A server is asked as of `now`, or as of
    the last event of the request.
    """

    entity: Literal[ENTITIES]
    outcome: Annotated[Text, AfterValidator(_check_outcome)]
    is_absence: bool = False
    horizon_days: Days | None = None
    history: Literal[ENTITIES] | None = None
    history_days: Days
    asked_at: Literal["now", "last_event"] = "last_event"

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.horizon_days is None and self.entity != "session_id":
            raise ValueError(
                "horizon_days is missing; only a question about sessions may have none"
            )
        return self


class Ranking(Section):
    """Which item comes next in a session, and what the lookups of items count.

    An item is what the column `item` names in an event of type `item_event`. Lookups count the
    views of `window_days`; points are the views of the last `learning_days`. A point's `candidates`
    are the `covisits` of its `last_items`, viewed within `neighbours` steps, and popular items.
    """

    entity: Literal["session_id"]
    item: Literal[ITEMS]
    item_event: Annotated[Text, Field(pattern=r"^[^']*$")]
    window_days: Days = 28
    learning_days: Days = 14
    covisits: Few = 30
    neighbours: Few = 3
    last_items: Few = 5
    candidates: Few = 100


def read_definitions(dbt: Path = PROJECT / "dbt") -> dict[str, Definition | Ranking]:
    """The questions by name, from the YAML below dbt/models; UserError with file and key."""
    definitions: dict[str, Definition | Ranking] = {}
    for path in sorted(dbt.glob("models/**/*.yml")):
        for name, meta in _metas(path).items():
            if "question" not in meta:
                continue
            place = f"{path.relative_to(dbt.parent)}: {name}"
            if not name.endswith(SUFFIX):
                raise UserError(f"{place}: the model of a question's points ends with {SUFFIX}.")
            definitions[name.removesuffix(SUFFIX)] = check_definition(meta["question"], place)
    return definitions


def check_definition(definition: Any, place: str) -> Definition | Ranking:
    """The definition; UserError with its place and key where it cannot be."""
    if not isinstance(definition, Mapping):
        raise UserError(f"{place}: question should have the keys entity, outcome, history_days.")
    form = Ranking if "item" in definition else Definition
    try:
        return form.model_validate(definition)
    except ValidationError as error:
        first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else "question"
    if first["type"] == "extra_forbidden":
        names = form.model_fields
        hint = suggest(key, names) or f" There are {', '.join(names)}."
        raise UserError(f"{place}: question has no key {key}.{hint}")
    if first["type"] == "missing":
        raise UserError(f"{place}: question: {key} is missing.")
    if not first["loc"]:
        raise UserError(f"{place}: question: {first['msg'].removeprefix('Value error, ')}.")
    raise UserError(f"{place}: question: {describe(list(first['loc']), first)}")


def check_questions(settings: Settings, definitions: Mapping[str, Definition | Ranking]) -> None:
    """UserError where project.toml and the definitions do not have the same questions."""
    _, *others = settings.questions
    for name in others:
        if name not in definitions:
            hint = suggest(name, definitions)
            raise UserError(
                f"project.toml has [questions.{name}], but no model {name}{SUFFIX} below "
                f"dbt/models has `question` in its meta.{hint} "
                f"`jollyboat add question {name}` writes the files of a new question."
            )
    for name in definitions:
        if name not in others:
            raise UserError(
                f"dbt/models defines the question {name}, but project.toml has no "
                f"[questions.{name}]. Add that section, or remove the question's files."
            )


def check_project(settings: Settings, store: Store) -> list[str]:
    """Check the project's questions before a build; a sentence for each that cannot be used yet.

    UserError as by `read_definitions`, `check_questions` and `check_features`.
    """
    definitions = read_definitions()
    check_questions(settings, definitions)
    for name in definitions:
        check_features(name)
    sentences = describe_short_logs(definitions, days_of_logs(store))
    return [*sentences, *forgotten_questions(store, settings)]


def check_features(name: str, dbt: Path = PROJECT / "dbt") -> None:
    """UserError where a question's features read a table that may hold what came later."""
    paths = [path for part in FEATURES for path in dbt.glob(f"models/**/{name}_{part}.sql")]
    for path in paths:
        for read in re.findall(r"ref\(\s*['\"](\w+)", path.read_text(encoding="utf-8")):
            if read != f"{name}_events_at_point" and not read.startswith("lookup_"):
                raise UserError(
                    f"{path.relative_to(dbt.parent)} reads {read}, which has what came after the "
                    f"point. Features may read {name}_events_at_point and lookups only."
                )


def days_needed(definition: Definition | Ranking) -> int:
    """The fewest days of logs that a question with a horizon, or a ranking, can be trained on.

    Outcomes of train, validation and holdout are known one horizon later, and a horizon lies
    between two parts: three horizons, and at least a week for each part. The lookups of a ranking
    have a state for each day to learn from, with the views of some days before it.
    """
    if isinstance(definition, Ranking):
        return definition.learning_days + LEAST_WINDOW_DAYS
    return 3 * (definition.horizon_days or 0) + 3 * 7


def days_of_logs(store: Store) -> set[date]:
    """The days of arrival that data/raw has folders for, without the server's own logs."""
    days = set()
    for folder in store.raw.glob("*/dt=*"):
        if folder.parent.name not in OWN_SOURCES:
            with suppress(ValueError):
                days.add(date.fromisoformat(folder.name.removeprefix("dt=")))
    return days


def describe_short_logs(
    definitions: Mapping[str, Definition | Ranking], days: Collection[date]
) -> list[str]:
    """A sentence for each question for which the logs of these days of arrival are too short.

    Of one day nothing is said: it may be an export of a year.
    """
    if len(days) < 2:
        return []
    span = (max(days) - min(days)).days + 1
    return [
        f"{name} cannot be trained yet: the logs span {span} days, and with {_days_setting(one)} "
        f"it needs {days_needed(one)} or more. Put more days below "
        f"data/raw (simulated ones: `jollyboat simulate --days {5 * (days_needed(one) // 5 + 1)}`)."
        for name, one in definitions.items()
        if _days_setting(one) and span < days_needed(one)
    ]


def _days_setting(definition: Definition | Ranking) -> str:
    """What the days that a question needs follow from; empty where any number will do."""
    if isinstance(definition, Ranking):
        return f"learning_days of {definition.learning_days}"
    return definition.horizon_days and f"a horizon of {definition.horizon_days} days"


def forgotten_questions(store: Store, settings: Settings) -> list[str]:
    """A sentence for each question that has a champion and is no longer in project.toml."""
    return [
        f"{one.question} has a champion in {one.models}, but project.toml has no "
        f"[questions.{one.question}]: nothing answers it. Put the section and its files back, or "
        f"delete {one.models.parent}."
        for one in store.of_every_question()[1:]
        if one.question not in settings.questions and any(one.models.glob("*/champion.json"))
    ]


def _metas(path: Path) -> dict[str, dict[str, Any]]:
    """The meta of each model in a file of properties."""
    try:
        models = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("models") or []
        metas = {}
        for model in models:
            meta = (model.get("config") or {}).get("meta") or model.get("meta") or {}
            if isinstance(meta, dict):
                metas[model["name"]] = meta
        return metas
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return {}  # dbt itself says what is wrong with the file
