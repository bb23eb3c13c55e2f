"""What a client may send, and what it is told. A field that is not listed goes into the event's payload."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from jollyboat.bundles.bundle import TENANT_ID
from jollyboat.bundles.features import EVENT_COLUMNS, naive_utc, payload_text

MOST_EVENTS, MOST_SESSIONS, MOST_PAYLOAD = 1_000, 500, 65_536
TOO_LONG = {
    "too_long",
    "string_too_long",
    "event_too_long",
}  # kinds of error that are 413 rather than 422


def _within_reason(value: datetime) -> datetime:
    if not 1970 <= value.year <= 2200:
        raise ValueError("a time lies between the years 1970 and 2200")
    return naive_utc(value)


def _payload_is_json(event: dict[str, Any]) -> dict[str, Any]:
    text, others = event.get("payload"), [name for name in event if name not in EVENT_COLUMNS]
    try:
        if others or isinstance(text, dict):
            text = payload_text(text, {name: event[name] for name in others})
    except ValueError as error:
        raise ValueError(
            "the fields that are no column hold a number that JSON does not know"
        ) from error
    if text and len(text) > MOST_PAYLOAD:
        raise PydanticCustomError(
            "event_too_long", f"the fields that are no column hold over {MOST_PAYLOAD:,} letters"
        )
    return event


Text = Annotated[str, Field(max_length=4_096)]
Identifier = Annotated[str, Field(max_length=512, pattern=r"[^ ]")]
Moment = Annotated[datetime, AfterValidator(_within_reason)]
NEEDED, IDENTIFIERS = (
    {"event_type", "occurred_at"},
    {"event_id", "tenant_id", "anonymous_id", "user_id", "session_id"},
)
FORMS = {
    "timestamp": Moment,
    "decimal(18,4)": Annotated[float, Field(ge=0, lt=1e13)],
    "integer": Annotated[int, Field(ge=0, lt=2**31)],
    "payload": dict[str, Any] | str,
}


def _form(name: str, kind: str) -> Any:
    if name in NEEDED:
        return Required[FORMS.get(kind, Identifier)]
    return FORMS.get(name, FORMS.get(kind, Identifier if name in IDENTIFIERS else Text)) | None


# A dictionary, not a model: validated twenty at a time, half of a request's own work went into the models.
Event = TypedDict(
    "Event", {name: _form(name, kind) for name, kind in EVENT_COLUMNS.items()}, total=False
)
Event.__doc__ = "One event in canonical form; a time without a zone is taken as UTC."
Event.__pydantic_config__ = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
CheckedEvent = Annotated[Event, AfterValidator(_payload_is_json)]


class PredictRequest(BaseModel):
    """A session's events so far, in any order."""

    model_config = ConfigDict(strict=True)

    tenant_id: Annotated[str, Field(pattern=TENANT_ID)]
    session_id: Identifier | None = None
    explain: bool = False
    # The first bad event is told and the rest not read: a body may hold a million of them.
    events: Annotated[list[CheckedEvent], Field(min_length=1, max_length=MOST_EVENTS), FailFast()]

    @model_validator(mode="after")
    def _one_tenant(self) -> "PredictRequest":
        for number, event in enumerate(self.events):
            if event.get("tenant_id") not in (None, self.tenant_id):
                raise ValueError(
                    f"events.{number}.tenant_id is another than the request's tenant_id"
                )
        return self

    def anonymous_id(self) -> str | None:
        """The first that the events name."""
        return self._first("anonymous_id")

    def user_id(self) -> str | None:
        """The first that the events name."""
        return self._first("user_id")

    def entity_id(self) -> str | None:
        """The session's id as sent, else one derived from tenant and device; None where there is neither."""
        if known := self.session_id or self._first("session_id"):
            return known
        device = self._first("anonymous_id", "user_id")
        return device and hashlib.sha256(f"{self.tenant_id}\n{device}".encode()).hexdigest()[:16]

    def _first(self, *names: str) -> str | None:
        return next(
            (found for event in self.events for name in names if (found := event.get(name))), None
        )


class BatchRequest(BaseModel):
    """Many sessions, each as POST /predict takes it."""

    model_config = ConfigDict(strict=True)

    sessions: Annotated[
        list[PredictRequest], Field(min_length=1, max_length=MOST_SESSIONS), FailFast()
    ]


class Reason(BaseModel):
    """What a feature moved the log-odds by, and that in words."""

    feature: str
    value: float | str | None
    effect: float
    text: str


class Answer(BaseModel):
    """The probability of the outcome after the events sent, and who says so; `reasons` only when asked to explain."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    tenant_id: str
    entity_id: str
    probability: float
    decision: bool
    threshold: float
    champion: str
    model_version: str
    variant: Literal["champion", "challenger"]
    reasons: list[Reason] | None = None


class BatchAnswer(BaseModel):
    """An answer for each session, in their order."""

    answers: list[Answer]


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The model as the description of a request's body, in one piece."""
    schema = model.model_json_schema()
    known = schema.pop("$defs")
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema, known)}},
        }
    }


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {name: _inlined(each, known) for name, each in schema.items()}
