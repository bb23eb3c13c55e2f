"""`vars` of dbt/dbt_project.yml as one typed object."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import duckdb
import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from jollyboat.store import UserError, suggest
from jollyboat.store.settings import Count, Section, Text, describe

FILE = "dbt/dbt_project.yml"
Names = list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]]
NONE = Field(default_factory=list)


def check_condition(outcome: str) -> str:
    """The condition; ValueError where it is no SQL, or reads other rows than its event."""
    statement = [f"select {outcome}"]
    parsed = duckdb.execute("select json_serialize_sql($1)", statement).fetchone()[0]
    if (tree := json.loads(parsed))["error"]:
        raise ValueError(f"it should be a condition in SQL ({tree['error_message']})")
    # A literal with these words has other quotes in JSON.
    if '"class":"WINDOW"' in parsed or '"class":"SUBQUERY"' in parsed:
        raise ValueError(
            "it should be a condition on one event, without a window function (over) or a "
            "subquery (select); "
            "event_number >= 5 is true from a session's fifth event on"
        )
    return outcome


class Variables(Section):
    """The settings of SQL. A project's own models may have more variables."""

    model_config = ConfigDict(extra="allow")

    sources: Annotated[Names, Field(min_length=1)]
    back_end_sources: Names = NONE
    feedback_sources: Names = NONE
    personal_fields: list[Text] = NONE
    outcome: Annotated[Text, AfterValidator(check_condition)]
    prediction_points: Annotated[list[Count], Field(min_length=1)]
    session_silence_minutes: Annotated[float, Field(gt=0)]
    bot_event_count: Count
    bot_seconds_per_event: Annotated[float, Field(ge=0)]
    accounts_of_a_device: Count
    devices_of_an_account: Count
    future_tolerance_days: Annotated[int, Field(ge=0, le=366)]
    first_year: Annotated[int, Field(ge=1, le=2200)]
    lines_at_once: Count
    sessions_at_once: Count
    change_days: Count


def parse(text: str) -> Variables:
    """The variables in dbt_project.yml; UserError with file, key, value and what is allowed."""
    try:
        variables = yaml.safe_load(text)["vars"] or {}
        return Variables.model_validate(variables)
    except yaml.YAMLError as error:  # its text has line and column
        raise UserError(f"{FILE} is not valid YAML: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{FILE} has no vars: sources, outcome and others are missing.") from error
    except ValidationError as error:
        raise UserError(f"{FILE}: vars: {_sentence(variables, error.errors()[0])}") from error


def _sentence(variables: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    if error["type"] != "missing":
        return describe(error["loc"] or ["vars"], error)
    (name,) = error["loc"]
    return f"{name} is missing.{suggest(name, set(variables) - set(Variables.model_fields))}"
