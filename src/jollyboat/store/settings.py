"""`project.toml` as one typed object, and a sentence for a wrong entry."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jollyboat.store.errors import UserError, suggest

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
InnerShare = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(gt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
FIRST = "purchase_intent"  # the question of a project.toml without [questions]


class Section(BaseModel):
    """A table of settings. Every name is required, and no other is allowed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the site's page of all settings shows them
    )


class Project(Section):
    """The answers that generated the project."""

    name: str
    """The project's name, on all pages."""
    slug: str
    """The name of Metaflow's project and of objects on a cluster."""
    description: str
    """What the project predicts and what for."""
    owner: str
    """Who answers for the project: a team or a person."""


class Simulate(Section):
    seed: Annotated[int, Field(ge=0)]
    start: Annotated[date, Field(strict=False)]
    days: Count
    """Days of logs."""
    sessions_per_day: Count
    """Sessions of a day, on average."""


class Split(Section):
    train: InnerShare
    validation: InnerShare

    @model_validator(mode="after")
    def _leaves_a_holdout(self) -> Self:
        if self.train + self.validation >= 1:
            raise ValueError("train and validation leave no holdout; their sum should be below 1")
        return self


class Train(Section):
    candidates: Annotated[list[Text], Field(min_length=1)]
    trials: Annotated[int, Field(ge=0)]
    search_seconds: Positive
    seed: Annotated[int, Field(ge=0)]


class Decision(Section):
    value_of_hit: Positive
    cost_of_alarm: Positive


class Evaluate(Section):
    resamples: Count
    segments: list[Text]


class Score(Section):
    days: Count


class Deploy(Section):
    keep: Count


class Gate(Section):
    min_outcomes: Count
    champion_margin: Share
    segment_drop: Share
    tenant_drop: Share = 0.05
    calibration_error: Share
    feature_auc: Share
    model_auc: Share
    shared_rows: Share
    latency_ms: Positive
    memory_mb: Positive
    bundle_mb: Positive
    training_seconds: Positive


class Serve(Section):
    host: Text
    port: Annotated[int, Field(ge=0, le=65_535)]
    """The port; 0 lets the system choose one."""
    workers: Count


class Monitor(Section):
    windows: Annotated[list[Count], Field(min_length=1)]
    psi: Positive
    alpha: InnerShare
    rate_ratio: Factor
    volume_ratio: Factor
    freshness_hours: Positive
    quarantined_share: Share
    unknown_share: Share
    retrain_after_days: Count
    cool_down_days: Annotated[int, Field(ge=0)]
    command: str
    webhook: str


class Experiment(Section):
    share: InnerShare
    alpha: InnerShare
    expected_visitors: Count
    slower_ms: Annotated[float, Field(ge=0)]
    failing: Share


class Review(Section):
    size: Count
    days: Count


class Tenants(Section):
    """A tenant needs `min_outcomes` among the rows that a model of its own would learn from.

    The shared model learns from no row of the `private` tenants.
    """

    min_outcomes: Count = 50
    private: list[Text] = []


class Targets(Section):
    """What a team promised about a question; pages show it as met or missed."""

    quality: Share | None = None
    """Average precision on the holdout; for a ranking, MRR@20."""
    value_per_1000: float | None = None
    """Value of 1,000 decisions, in the unit of `[decision]`."""
    precision: Share | None = None
    """Precision at the threshold."""
    recall: Share | None = None
    """Recall at the threshold."""
    p99_ms: Positive | None = None
    """99th percentile of a response, in milliseconds, at most."""
    is_gate: bool = False
    """Whether the gate refuses a candidate that misses a target."""


class Storage(Section):
    """Where `data/` has its copy."""

    remote: str = ""
    """`s3://bucket/prefix`; without it, `data/` has no copy."""


class Cluster(Section):
    """What `jollyboat cluster export` needs to know; one machine needs none of it."""

    image: str = ""
    """The containers' image; `--image` comes first."""
    namespace: Text = "default"
    """The namespace of Kubernetes."""
    secrets: list[Text] = []
    """Secrets of Kubernetes whose entries become variables of the containers."""
    environment: list[Text] = []
    """Variables whose values at the export the containers get."""
    schedule: Text = "15 4 * * *"
    """When DataFlow starts, as a line of cron, in UTC."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a lost pod is started again."""
    shards: Count = 4
    """The pods that fit the models of tenants at the same time."""
    data_shards: Count = 1
    """The pods that read raw files, or build the tables of tenants, at the same time."""


class Build(Section):
    """Where the models after staging run."""

    engine: Literal["duckdb", "spark"] = "duckdb"
    """The engine: `duckdb` or `spark`."""
    spark_master: Text = "local[*]"
    """The address of Spark's master; `SPARK_MASTER` in the environment comes first."""
    spark_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")] = "4g"
    """Memory of the driver and of each executor, such as `500m` or `4g`."""


class StepResources(Section):
    """The resources of a step's container on a cluster."""

    cpu: Positive = 1
    """Cores."""
    memory_gb: Positive = 4
    """Memory in GB; DuckDB takes 60 % of it."""
    disk_gb: Positive = 20
    """Disk in GB."""


class Question(Section):
    """The words for a question's entity and outcome, and tables that replace entries of the others.

    `[questions.churn.decision]` replaces entries of `[decision]` for the question churn.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    entity: Text = "session"
    """The word for whom it is about."""
    outcome: Text = "outcome"
    """The word for what is predicted."""
    is_wanted: bool = True
    """Whether an experiment's variant with more outcomes is the better one."""


class Settings(Section):
    """The tables of project.toml. Any other table has the settings of the candidate of its name.

    The first question is the one about sessions.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    questions: Annotated[dict[Name, Question], Field(min_length=1)] = {FIRST: Question()}
    tenants: Tenants = Tenants()
    targets: Targets = Targets()
    store: Storage = Storage()
    cluster: Cluster = Cluster()
    build: Build = Build()
    resources: dict[Name, dict[Name, StepResources]] = {}  # by flow and step

    project: Project
    simulate: Simulate
    split: Split
    train: Train
    decision: Decision
    evaluate: Evaluate
    score: Score
    deploy: Deploy
    gate: Gate
    serve: Serve
    monitor: Monitor
    experiment: Experiment
    review: Review

    def store_name(self, question: str) -> str:
        """The question as a Store takes it: "" for the first; UserError if there is none."""
        if question not in ("", *self.questions):
            hint = suggest(question, self.questions) or f" There are {', '.join(self.questions)}."
            raise UserError(f"project.toml has no [questions.{question}].{hint}")
        return "" if question == next(iter(self.questions)) else question

    def name_of(self, question: str) -> str:
        """The question's name; "" is the first one's."""
        return question or next(iter(self.questions))

    def of(self, question: str) -> "Settings":
        """The settings of one question: its own entries replace those of project.toml."""
        tables = self.model_dump(mode="json")
        own = tables["questions"].get(self.name_of(question), {})
        replaced = {
            name: tables.get(name, {}) | table
            for name, table in own.items()
            if isinstance(table, dict)
        }
        return Settings.model_validate(tables | replaced)


def parse(text: str) -> Settings:
    """The settings in a TOML document; UserError with file, key, value and what is allowed."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its text has line and column
        raise UserError(f"project.toml is not valid TOML: {error}.") from error
    return check(tables)


def check(tables: Mapping[str, Any]) -> Settings:
    """The settings in tables that were parsed before; UserError as by `parse`."""
    place = "project.toml"
    try:
        settings = Settings.model_validate(tables)
        for name in settings.questions:
            place = f"project.toml: [questions.{name}]"
            settings.of(name)
    except ValidationError as error:
        raise UserError(f"{place}: {_sentence(tables, error.errors())}") from error
    return settings


def _sentence(tables: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for one of pydantic's errors: an unknown name if there is one."""
    error = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    section, *keys = error["loc"]
    match error["type"], keys:
        case "missing", []:
            unknown = [name for name in tables if name not in Settings.model_fields]
            return f"section [{section}] is missing.{suggest(section, unknown)}"
        case "missing", [key]:
            return f"[{section}] {key} is missing. Write a line {key} = ... there."
        case "extra_forbidden", [key]:
            names = Settings.model_fields[section].annotation.model_fields
            suggestion = suggest(key, names) or f" There are {', '.join(names)}."
            return f"[{section}] has no setting {key}.{suggestion}"
        case "extra_forbidden", [*names, key] if names:
            return f"[{'.'.join((section, *names))}] has no setting {key}."
        case "value_error", _:
            return f"[{section}] {error['msg'].removeprefix('Value error, ')}."
        case _, []:
            return f"{section} is {_shorten(error['input'])}; it should be a section, [{section}]."
    return f"[{section}] {describe(keys, error)}"


def describe(keys: Sequence[str | int], error: Mapping[str, Any]) -> str:
    """Key, value and what is allowed, for an entry of the wrong type or out of range."""
    key = f"{keys[0]}" + "".join(f"[{place}]" for place in keys[1:])
    problem = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{key} is {_shorten(error['input'])}; {problem}."


def _shorten(value: object) -> str:
    """A value as JSON, at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"
