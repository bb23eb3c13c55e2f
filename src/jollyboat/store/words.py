"""The words for a question's rows and outcome, on pages and in messages."""

from dataclasses import dataclass

from jollyboat.store.errors import UserError
from jollyboat.store.paths import Store
from jollyboat.store.project import project_settings


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
