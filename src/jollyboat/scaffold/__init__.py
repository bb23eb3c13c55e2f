"""Files of a project that a command writes: a source's staging model, a candidate, a question."""

from jollyboat.scaffold.candidate import add_candidate, candidate_kinds
from jollyboat.scaffold.question import PRESETS, Question, add_question
from jollyboat.scaffold.source import add_source, source_kinds

__all__ = [
    "PRESETS",
    "Question",
    "add_candidate",
    "add_question",
    "add_source",
    "candidate_kinds",
    "source_kinds",
]
