"""Files of a project that a command writes: a source's staging model, a candidate."""

from jollyboat.scaffold.candidate import add_candidate, candidate_kinds
from jollyboat.scaffold.source import add_source, source_kinds

__all__ = ["add_candidate", "add_source", "candidate_kinds", "source_kinds"]
