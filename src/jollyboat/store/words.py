"""The words for a question's rows and outcome, on pages and in messages."""

import re
from contextlib import suppress
from dataclasses import dataclass

from jollyboat.store.errors import UserError
from jollyboat.store.paths import Store
from jollyboat.store.project import project_settings

# Commands about the first question, unless they name another one; in sentences and on pages.
ABOUT_ONE = re.compile(
    r"(?<=`|>)jollyboat (?:ask|compare|experiment|models|rollback|runs|tenants)\b"
    r"[^`<]*(?=`|</code>)"
)
VERBS = re.compile(r"(?<=`|>)make (?:train|deploy|score|monitor)\b[^`<]*(?=`|</code>)")
FORCED = re.compile(r"\bmake deploy(?= FORCE=)")


@dataclass(frozen=True)
class Words:
    """The question's name, whom it is about (session, user), and what may follow (purchase).

    `home` is the way from data/ to the question's files.
    """

    question: str
    row: str
    outcome: str
    home: str

    @property
    def rows(self) -> str:
        return f"{self.row}s"


def words_of(store: Store) -> Words:
    """The words in project.toml, or general ones where it cannot be read or lacks the question."""
    name, row, outcome = store.question, "session", "outcome"
    try:
        settings = project_settings()
        name = settings.name_of(store.question)
        row, outcome = settings.questions[name].entity, settings.questions[name].outcome
    except (UserError, KeyError):
        pass
    home = store.runs.parent.relative_to(store.root).as_posix()
    return Words(name, row, outcome, "" if home == "." else f"{home}/")


def name_question(text: str, question: str) -> str:
    """The sentence or page, whose commands name this question of a store; "" is the first one.

    Commands are about the first question by default. But FORCE would force all questions.
    """
    if not question:
        return _name_first(text)
    text = FORCED.sub(f"make deploy QUESTION={question}", text)
    text = VERBS.sub(lambda command: _add(command[0], "QUESTION=", question), text)
    return ABOUT_ONE.sub(lambda command: _add(command[0], "--question ", question), text)


def _name_first(text: str) -> str:
    """The text, whose forced deployments name the first question if there are others."""
    with suppress(UserError):
        first, *others = project_settings().questions
        return FORCED.sub(f"make deploy QUESTION={first}", text) if others else text
    return text


def _add(command: str, option: str, question: str) -> str:
    return command if option in command else f"{command.rstrip()} {option}{question}"
