"""The one error of this room that a person is meant to read."""


class CannotLearn(ValueError):  # noqa: N818 (it is an answer to a person, not a fault)
    """What was found, where, and which command mends it."""
