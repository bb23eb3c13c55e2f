"""From raw event logs to a model in production: the library under a Jollyboat project."""

__version__ = "0.1.0"
