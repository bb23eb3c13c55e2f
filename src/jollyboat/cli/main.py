"""The command's groups and help, and the one place that prints a UserError."""

import sys

import click

from jollyboat.cli import add, cluster, data, experiment, models, parts, project, server, tenants
from jollyboat.pages.terminal import escape
from jollyboat.store import (
    PROJECT,
    UserError,
    default_store,
    is_project,
    project_settings,
    synced,
)

GROUPS = {
    "Data": (data.simulate, data.snapshots, data.land, data.erase),
    "Models": (models.runs, models.compare, models.models, models.rollback, tenants.tenants),
    "Live": (server.serve, server.ask, server.review, experiment.experiment),
    "Project": (
        project.status,
        project.docs,
        project.table_docs,
        add.add,
        parts.show,
        parts.eject,
        project.link,
        project.pins,
        project.upgrade,
        cluster.cluster,
    ),
}
# The commands that use data/, and which of its files they pull from a bucket.
SCOPES = dict.fromkeys(("land", "erase"), "all") | dict.fromkeys(
    ("snapshots", "runs", "compare", "models", "rollback", "tenants", "experiment", "ask"),
    "results",
)
# The commands that change what the overview shows.
CHANGING = {"erase", "experiment", "rollback", "tenants"}
COMPLETION = """\b
Completion of commands and options, for bash (zsh and fish: zsh_source, fish_source):
  eval "$(_JOLLYBOAT_COMPLETE=bash_source jollyboat)"
"""


class Grouped(click.Group):
    """A group of commands that lists them under the headings of GROUPS."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                rows = [(each.name.ljust(width), each.get_short_help_str(60)) for each in commands]
                formatter.write_dl(rows)


@click.group(
    cls=Grouped,
    commands=[command for commands in GROUPS.values() for command in commands],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=COMPLETION,
)
def jollyboat() -> None:
    """From raw logs to a model that serves.

    The steps of the pipeline are make's (`make help`); everything else is a command here.
    `jollyboat COMMAND --help` explains one, with an example.
    """
    if {"-h", "--help"} & set(sys.argv):
        return
    if not is_project(PROJECT):
        raise UserError(
            f"{PROJECT} is not in a Jollyboat project. "
            "Change into the folder that contains project.toml."
        )
    context = click.get_current_context()
    if scope := SCOPES.get(context.invoked_subcommand):
        context.with_resource(synced(default_store(), scope))


@jollyboat.result_callback()
def refresh_overview(*_: object, **__: object) -> None:
    """Write data/index.html again after a command that changed what it shows."""
    if click.get_current_context().invoked_subcommand in CHANGING:
        from jollyboat.serving.overview import write_overview

        write_overview(default_store(), project_settings().project.name)


def main() -> None:
    """Run the command line; an error ends it with one sentence on stderr and exit code 1."""
    try:
        jollyboat(prog_name="jollyboat")
    except UserError as refusal:
        sys.exit(escape(str(refusal)))
    except OSError as error:
        fault = f"{error.filename or 'A file'} cannot be used ({error.strerror or error})"
        sys.exit(escape(f"{fault}. Fix it, then run the same command again."))
