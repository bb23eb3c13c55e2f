"""What a client may send and what it gets; unlisted fields go into the event's payload."""

import hashlib
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any, Literal, Required

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from jollyboat.bundles.features import (
    EVENT_COLUMNS,
    Rows,
    kept_id,
    naive_utc,
    payload_text,
)
from jollyboat.bundles.model import LoadedModel
from jollyboat.bundles.ranking_model import MOST_ITEMS
from jollyboat.store import TENANT_ID

MOST_EVENTS, MOST_SESSIONS, MOST_PAYLOAD = 1_000, 500, 65_536
# The kinds of validation error that are 413 rather than 422.
TOO_LONG = {"too_long", "string_too_long", "event_too_long"}


def _check_moment(value: datetime) -> datetime:
    if not 1970 <= value.year <= 2200:
        raise ValueError("a time lies between the years 1970 and 2200")
    return naive_utc(value)


def _check_payload(event: dict[str, Any]) -> dict[str, Any]:
    payload = event.get("payload")
    names = event.keys() - EVENT_COLUMNS.keys()
    unlisted = {name: event[name] for name in names} if names else {}
    try:
        if unlisted or isinstance(payload, dict):
            payload = payload_text(payload, unlisted)
    except ValueError as error:
        message = "the unlisted fields hold a number that JSON cannot express"
        raise ValueError(message) from error
    if payload and len(payload) > MOST_PAYLOAD:
        message = f"the unlisted fields hold over {MOST_PAYLOAD:,} characters"
        raise PydanticCustomError("event_too_long", message)
    return event


Text = Annotated[str, Field(max_length=4_096)]
Identifier = Annotated[str, Field(max_length=512, pattern=r"[^ ]")]
Moment = Annotated[datetime, AfterValidator(_check_moment)]
REQUIRED = {"event_type", "occurred_at"}
IDENTIFIERS = {"event_id", "tenant_id", "anonymous_id", "user_id", "session_id"}
TYPES = {
    "timestamp": Moment,
    "decimal(18,4)": Annotated[float, Field(ge=0, lt=1e13)],
    "integer": Annotated[int, Field(ge=0, lt=2**31)],
    "bigint": Annotated[int, Field(ge=-(2**63), lt=2**63)],
    "payload": dict[str, Any] | str,
}


MEANINGS = {
    "event_id": "the event's own id; one that is repeated counts once",
    "tenant_id": "the customer whose event it is, as in the request",
    "source": "the system that recorded it",
    "event_type": "what happened, in the words of the training data",
    "occurred_at": "when it happened; UTC without a zone",
    "received_at": "when it arrived",
    "sequence": "the order among events of the same time",
    "anonymous_id": "the device or browser",
    "user_id": "the account, where somebody is logged in",
    "session_id": "the visit",
    "price": "of one piece, in `currency`",
    "quantity": "the number of pieces",
    "query": "the text of a search",
    "page": "the kind of page",
    "referrer": "the address of the page before",
    "channel": "what brought the visitor",
    "payload": "everything else; unlisted fields go here",
}


def _field_type(name: str, sql_type: str) -> Any:
    meaning = Field(description=MEANINGS.get(name, f"the event's {name.replace('_', ' ')}"))
    if name in REQUIRED:
        return Required[Annotated[TYPES.get(sql_type, Identifier), meaning]]
    text = Identifier if name in IDENTIFIERS else Text
    return Annotated[TYPES.get(name, TYPES.get(sql_type, text)) | None, meaning]


# A dictionary, since models took half of the time to validate a request of twenty events.
FIELDS = {name: _field_type(name, sql_type) for name, sql_type in EVENT_COLUMNS.items()}
Event = TypedDict("Event", FIELDS, total=False)
Event.__doc__ = "One event in canonical form; a time without a zone is taken as UTC."
Event.__pydantic_config__ = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
CheckedEvent = Annotated[Event, AfterValidator(_check_payload)]


class PredictRequest(BaseModel):
    """A session's events so far, in any order."""

    model_config = ConfigDict(strict=True)

    tenant_id: Annotated[str, Field(pattern=TENANT_ID, description="the customer")]
    session_id: Annotated[Identifier | None, Field(description="the visit")] = None
    explain: Annotated[bool, Field(description="whether the answer has its reasons")] = False
    # Validation ends at the first bad event: a body may hold a million of them.
    events: Annotated[
        list[CheckedEvent],
        Field(min_length=1, max_length=MOST_EVENTS, description="the events so far"),
        FailFast(),
    ]

    @model_validator(mode="after")
    def _check_tenants(self) -> "PredictRequest":
        for number, event in enumerate(self.events):
            if event.get("tenant_id") not in (None, self.tenant_id):
                raise ValueError(f"events.{number}.tenant_id differs from the request's tenant_id")
        return self

    _rows: Rows | None = PrivateAttr(None)

    @property
    def rows(self) -> Rows | list[dict[str, Any]]:
        """The rows that `prepare_rows` made, else the events."""
        return self._rows or self.events

    def prepare_rows(self, model: LoadedModel) -> None:
        """Make the rows of the events once; making rows of rows is quick and changes nothing."""
        point_at = getattr(self, "point_at", None)
        self._rows = model.rows_of(0, self.tenant_id, self.events, point_at)

    def anonymous_id(self) -> str | None:
        """The first in the events."""
        return self._first("anonymous_id")

    def user_id(self) -> str | None:
        """The first in the events."""
        return self._first("user_id")

    def entity(self) -> str | None:
        """The session's id as staging keeps it, else one of tenant and device, else None."""
        own = kept_id(self.session_id or "")
        if session_id := own or self._first("session_id"):
            return session_id
        device = self._first("anonymous_id", "user_id")
        return device and hashlib.sha256(f"{self.tenant_id}\n{device}".encode()).hexdigest()[:16]

    def _first(self, *names: str) -> str | None:
        values = (kept_id(event.get(name) or "") for event in self.events for name in names)
        return next(filter(None, values), None)


class QuestionRequest(PredictRequest):
    """The events of one entity (a user, an order), in any order.

    `entity_id` names it; without it the newest event that does. `point_at` is the time as of which
    the question is asked. `count` is the number of items that a ranking question is asked for.
    """

    entity_id: Annotated[Identifier | None, Field(description="whom it is about")] = None
    point_at: Annotated[Moment | None, Field(description="when it is asked; UTC")] = None
    count: Annotated[int, Field(ge=1, le=MOST_ITEMS, description="items of a ranking")] = 20

    def entity_of(self, column: str) -> str | None:
        """The entity's id as staging keeps it, from the request or from this column of events."""
        events = sorted(self.events, key=itemgetter("occurred_at"), reverse=True)
        values = (kept_id(event.get(column) or "") for event in events)
        return kept_id(self.entity_id or "") or next(filter(None, values), None)


class BatchRequest(BaseModel):
    """Many sessions, each as POST /predict takes it."""

    model_config = ConfigDict(strict=True)

    sessions: Annotated[
        list[PredictRequest], Field(min_length=1, max_length=MOST_SESSIONS), FailFast()
    ]


class QuestionBatch(BaseModel):
    """Many entities, each as POST /predict/<question> takes it."""

    model_config = ConfigDict(strict=True)

    requests: Annotated[
        list[QuestionRequest], Field(min_length=1, max_length=MOST_SESSIONS), FailFast()
    ]


Warnings = Annotated[
    list[str] | None, Field(description="what in the events the model does not know, if anything")
]


class Reason(BaseModel):
    """A feature, its effect on the log-odds, and both in words."""

    feature: str
    value: float | str | None
    effect: float
    text: str


class Answer(BaseModel):
    """The probability of the outcome after the events, and its model; `reasons` on request.

    Probability and decision are null where the session has fewer events than every prediction
    point (`too_early`), or the outcome already (`had_outcome`), or where no event is in the history
    that a question's features are made from (`no_events`).
    """

    model_config = ConfigDict(protected_namespaces=())

    request_id: Annotated[str, Field(description="names the answer in the prediction log")]
    tenant_id: Annotated[str, Field(description="the customer")]
    entity_id: Annotated[str, Field(description="the session, or whom the question is about")]
    status: Annotated[
        Literal["predicted", "too_early", "had_outcome", "no_events"],
        Field(description="whether there is a probability, and why not"),
    ]
    probability: Annotated[float | None, Field(description="that the outcome follows")]
    decision: Annotated[bool | None, Field(description="whether it reaches the threshold")]
    threshold: Annotated[float, Field(description="from which on acting pays")]
    champion: Annotated[str, Field(description="whose model answered: shared, or the tenant")]
    model_version: Annotated[str, Field(description="the version of the model")]
    variant: Annotated[
        Literal["champion", "challenger"], Field(description="the side of an experiment")
    ]
    warnings: Warnings = None
    reasons: Annotated[
        list[Reason] | None, Field(description="the features that moved it most, on request")
    ] = None


class Item(BaseModel):
    """An item with its score, a higher one being better, and the reason in words."""

    item: str
    score: float
    reason: str


class RankingAnswer(BaseModel):
    """The best items of a ranking question, the best first, and its model.

    There is none for a tenant without any item (`unknown_tenant`), where no item is left
    (`no_items`), and where no event is up to the point (`no_events`).
    """

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    tenant_id: str
    entity_id: str
    status: Literal["recommended", "unknown_tenant", "no_items", "no_events"]
    items: list[Item]
    champion: str
    model_version: str
    variant: Literal["champion", "challenger"]
    warnings: Warnings = None


class BatchAnswer(BaseModel):
    """An answer for each session, in their order."""

    answers: list[Answer | RankingAnswer]


def request_body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model as OpenAPI's description of a request's body, without references."""
    schema = model.model_json_schema()
    schema = _without_references(schema, schema.pop("$defs"))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _without_references(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_without_references(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _without_references(definitions[name], definitions)
    return {name: _without_references(part, definitions) for name, part in schema.items()}
