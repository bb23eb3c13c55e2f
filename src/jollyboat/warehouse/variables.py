"""`vars` of dbt/dbt_project.yml as one typed object; dbt refuses a variable that is missing."""

from collections.abc import Mapping
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError

from jollyboat.store.errors import UserError
from jollyboat.store.settings import Count, Section, Text, describe, suggest

FILE = "dbt/dbt_project.yml"
Names = list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]]
NONE = Field(default_factory=list)


class Variables(Section):
    """What is set once for SQL. A project's own models may have variables beside these."""

    model_config = ConfigDict(extra="allow")

    sources: Annotated[Names, Field(min_length=1)]
    back_end_sources: Names = NONE
    feedback_sources: Names = NONE
    personal_fields: list[Text] = NONE
    outcome: Text
    prediction_points: Annotated[list[Count], Field(min_length=1)]
    session_silence_minutes: Annotated[float, Field(gt=0)]
    lines_at_once: Count


def parse(text: str) -> Variables:
    """The variables in dbt_project.yml; UserError with file, key, value and what would do."""
    try:
        given = yaml.safe_load(text)["vars"] or {}
        return Variables.model_validate(given)
    except yaml.YAMLError as error:  # it names line and column
        raise UserError(f"{FILE} is not valid YAML: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{FILE} has no vars: sources, outcome and the rest.") from error
    except ValidationError as error:
        raise UserError(f"{FILE}: vars: {_sentence(given, error.errors()[0])}") from error


def _sentence(given: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    if error["type"] != "missing":
        return describe(error["loc"] or ["vars"], error)
    (name,) = error["loc"]
    return f"{name} is missing.{suggest(name, set(given) - set(Variables.model_fields))}"
