"""The command `jollyboat`: everything that is not a flow, one module per group of commands."""

from jollyboat.cli.main import main

__all__ = ["main"]
