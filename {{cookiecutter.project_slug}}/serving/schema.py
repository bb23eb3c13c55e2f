"""What a client may send, and what it is told. A field that is not listed goes into the event's payload."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.features import naive_utc, payload_text

MOST_EVENTS, MOST_SESSIONS, MOST_PAYLOAD = 1_000, 500, 65_536
TOO_LONG = {"too_long", "string_too_long", "event_too_long"}  # kinds of error that are 413 rather than 422
Text = Annotated[str, Field(max_length=4_096)]
Identifier = Annotated[str, Field(max_length=512, pattern=r"[^ ]")]


class Event(BaseModel):
    """One event in canonical form; a time without a zone is taken as UTC."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    event_id: Identifier | None = None
    tenant_id: Identifier | None = None
    source: Text | None = None
    event_type: Identifier
    occurred_at: datetime
    received_at: datetime | None = None
    anonymous_id: Identifier | None = None
    user_id: Identifier | None = None
    session_id: Identifier | None = None
    order_id: Text | None = None
    product_id: Text | None = None
    price: Annotated[float, Field(ge=0, lt=1e13)] | None = None
    quantity: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    currency: Text | None = None
    category: Text | None = None
    query: Text | None = None
    page: Text | None = None
    url: Text | None = None
    referrer: Text | None = None
    channel: Text | None = None
    device: Text | None = None
    country: Text | None = None
    payload: dict[str, Any] | str | None = None

    @field_validator("occurred_at", "received_at")
    @classmethod
    def _within_reason(cls, value: datetime | None) -> datetime | None:
        if value is not None and not 1970 <= value.year <= 2200:
            raise ValueError("a time lies between the years 1970 and 2200")
        return value and naive_utc(value)

    @model_validator(mode="after")
    def _payload_is_json(self) -> "Event":
        try:
            text = payload_text(self.payload, self.model_extra)
        except ValueError as error:
            raise ValueError("the fields that are no column hold a number that JSON does not know") from error
        if text and len(text) > MOST_PAYLOAD:
            raise PydanticCustomError(
                "event_too_long", f"the fields that are no column hold over {MOST_PAYLOAD:,} letters"
            )
        return self


class PredictRequest(BaseModel):
    """A session's events so far, in any order."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "tenant_id": "acme",
                    "events": [
                        {
                            "event_id": "e1",
                            "event_type": "product_view",
                            "occurred_at": "2026-01-01T10:00:00Z",
                            "anonymous_id": "a1",
                            "product_id": "p1",
                            "price": 19.9,
                            "page": "product",
                            "device": "mobile",
                        }
                    ],
                }
            ]
        },
    )

    tenant_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    session_id: Identifier | None = None
    explain: bool = False
    # The first bad event is told and the rest not read: a body may hold a million of them.
    events: Annotated[list[Event], Field(min_length=1, max_length=MOST_EVENTS), FailFast()]

    @model_validator(mode="after")
    def _one_tenant(self) -> "PredictRequest":
        for number, event in enumerate(self.events):
            if event.tenant_id not in (None, self.tenant_id):
                raise ValueError(f"events.{number}.tenant_id is another than the request's tenant_id")
        return self

    def anonymous_id(self) -> str | None:
        """The first that the events name."""
        return next((event.anonymous_id for event in self.events if event.anonymous_id), None)

    def entity_id(self) -> str | None:
        """The session's id as sent, else one derived from tenant and device; None where there is neither."""
        sent = [self.session_id, *(event.session_id for event in self.events)]
        if known := next((one for one in sent if one), None):
            return known
        device = next((one for event in self.events for one in (event.anonymous_id, event.user_id) if one), None)
        if device is None:
            return None
        return hashlib.sha256(f"{self.tenant_id}\n{device}".encode()).hexdigest()[:16]

    def rows(self) -> list[dict[str, Any]]:
        """The events as the feature query takes them."""
        return [event.model_dump(exclude_none=True) for event in self.events]


class BatchRequest(BaseModel):
    """Many sessions, each as POST /predict takes it."""

    model_config = ConfigDict(strict=True)

    sessions: Annotated[list[PredictRequest], Field(min_length=1, max_length=MOST_SESSIONS), FailFast()]


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
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema, known)}}}}


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {name: _inlined(each, known) for name, each in schema.items()}
