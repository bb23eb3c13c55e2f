"""Commands that write files of a project: a source, a candidate, a question."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from jollyboat import scaffold
from jollyboat.pages.terminal import wrap
from jollyboat.store import PROJECT, default_store


@click.group(epilog="Example: jollyboat add source shop --like ga4")
def add() -> None:
    """Write the files of a new source, candidate or question."""


@add.command(epilog="Example: jollyboat add source shop --like segment")
@click.argument("name")
@click.option("--like", "kind", required=True, type=click.Choice(scaffold.source_kinds()))
def source(name: str, kind: str) -> None:
    """Write a source's staging model and name the source.

    --like says which export it reads. Of a plain csv the newest file's header is read."""
    _print(scaffold.add_source(name, kind, PROJECT, default_store().raw))


@add.command(epilog="Example: jollyboat add candidate trees --like lightgbm")
@click.argument("name")
@click.option("--like", "kind", required=True, type=click.Choice(scaffold.candidate_kinds()))
def candidate(name: str, kind: str) -> None:
    """Write a candidate's function and name the candidate.

    --like says which library it uses."""
    _print(scaffold.add_candidate(name, kind, PROJECT))


@add.command(epilog="Example: jollyboat add question churn")
@click.argument("name")
@click.option("--entity", help="The column of events that names who it is about: user_id.")
@click.option("--points", help="When it is asked: weekly, or at the event with this condition.")
@click.option("--outcome", help="The condition on a later event that is the outcome.")
@click.option("--absence", is_flag=True, default=None, help="The outcome is that none follows.")
@click.option("--horizon", help="The days in which it may follow, or session for its rest.")
@click.option("--history", help="Whose events the features read, if not the entity's.")
@click.option("--history-days", type=click.IntRange(1), default=28, show_default=True)
def question(name: str, **options: str | int | bool | None) -> None:
    """Write the files of a new question.

    `churn` and `next_product` (a ranking) are complete.
    Of another one what is not given is asked."""
    preset = scaffold.PRESETS.get(name)
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(preset, Path):
        if set(given) > {"history_days"}:
            raise click.UsageError(f"{name} takes no options: its settings are in its files.")
        new = preset
    elif preset and set(given) <= {"history_days", "horizon"}:
        new = replace(
            preset,
            horizon_days=_days(given.get("horizon", str(preset.horizon_days))),
            history_days=given["history_days"],
        )
    else:
        new = _ask(given)
    _print(scaffold.add_question(name, new, PROJECT, default_store()))


def _ask(given: dict) -> scaffold.Question:
    """The question from the options, and from prompts for those that are missing."""
    prompts = {
        "entity": ("Whom is it about? A column of events", "user_id", str),
        "points": ("When is it asked? weekly, or the condition of an event", "weekly", str),
        "outcome": ("The outcome: a condition on a later event", "event_type = 'purchase'", str),
        "absence": ("Is the outcome that no such event follows?", False, bool),
        "horizon": ("Within how many days? session for the rest of it", "14", str),
    }
    values = {
        name: given[name] if name in given else click.prompt(text, default=default, type=kind)
        for name, (text, default, kind) in prompts.items()
        if name != "absence" or "outcome" not in given
    }
    return scaffold.Question(
        entity=values["entity"],
        points=values["points"],
        outcome=values["outcome"],
        is_absence=values.get("absence", given.get("absence", False)),
        horizon_days=_days(values["horizon"]),
        history_days=given["history_days"],
        history=given.get("history"),
    )


def _days(horizon: str) -> int | None:
    if horizon == "session":
        return None
    if not horizon.isdecimal() or not int(horizon):
        raise click.UsageError(f"--horizon is a number of days or session, not {horizon!r}.")
    return int(horizon)


def _print(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(wrap(sentence))
