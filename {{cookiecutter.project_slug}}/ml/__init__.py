"""What you decide: simulated logs, split, candidates, evaluation, gate."""


class CannotLearn(ValueError):
    """A sentence for a person: what was found, where, and which command mends it."""
