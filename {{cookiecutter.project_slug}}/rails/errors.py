"""The one error that a person is meant to read."""


class Refused(Exception):  # noqa: N818 (it is a decision, not a fault)
    """Something was refused; the message says what was found, where, and which command mends it."""
