"""The base of a project's flows. Import it before Metaflow, whose settings it makes."""

from jollyboat.flows.base import ProjectFlow, QuestionFlow, report_errors, run_flow

__all__ = ["ProjectFlow", "QuestionFlow", "report_errors", "run_flow"]
