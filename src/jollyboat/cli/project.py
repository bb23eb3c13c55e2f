"""Commands about the project as a whole."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from jollyboat.pages.terminal import format_count, format_percent, wrap
from jollyboat.store import LIBRARY, PROJECT, Store, UserError, default_store, suggest
from jollyboat.store.remote import Remote


@click.command(epilog="Example: jollyboat status")
def status() -> None:
    """Show what exists and what to type next."""
    from jollyboat.serving.project_state import read_state

    store = default_store()
    parts = read_state(store)
    lines = [
        *format_state(parts, store),
        *(("unreadable", each) for each in parts["troubles"].values()),
    ]
    lines += _format_bucket(store) if store.remote else []
    for name, line in [*lines, ("next", next_step(parts, store))]:
        click.echo(wrap(f"{name:<12}{line}"))


@click.command(epilog="Example: jollyboat link && .venv/bin/dbt build --project-dir dbt")
def link() -> None:
    """Link the library's dbt models and macros into dbt/dbt_packages."""
    from jollyboat.warehouse import warehouse

    click.echo(f"link: {warehouse.link_package().relative_to(PROJECT)}")


@click.command(epilog="Example: jollyboat pins && make setup")
def pins() -> None:
    """Write requirements.txt from requirements.in and the library's needs.

    Every package gets its newest version that fits, with its hash."""
    from jollyboat.upgrade import write_requirements

    write_requirements(PROJECT)


@click.command(epilog="Example: jollyboat upgrade --from ../jollyboat-0.2.0-py3-none-any.whl")
@click.option("--from", "source", help="A wheel, a folder or an index of wheels, or a clone.")
@click.option("--to", "version", help="The version; the newest by default.")
@click.option("--check", is_flag=True, help="Only check what an older version left in data/.")
def upgrade(source: str | None, version: str | None, check: bool) -> None:
    """Take the project to another version of the library."""
    from jollyboat import upgrade as upgrades

    if not check and not source:
        raise UserError("Say where the version comes from: jollyboat upgrade --from PLACE.")
    store = default_store()
    sentences = upgrades.check_store(store) if check else upgrades.upgrade(PROJECT, source, version)
    for sentence in sentences:
        click.echo(sentence)


@click.command(epilog="Example: jollyboat docs add-a-lookup")
@click.argument("topic", required=False)
def docs(topic: str | None) -> None:
    """Print a guide; without TOPIC list the guides."""
    folders = (LIBRARY / "how_to", PROJECT / "docs")
    guides = {path.stem: path for folder in folders for path in sorted(folder.glob("*.md"))}
    if topic is None:
        width = max(map(len, guides))
        for name, path in sorted(guides.items()):
            title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            click.echo(f"{name:<{width}}  {title}")
    elif topic in guides:
        click.echo(guides[topic].read_text(encoding="utf-8"))
    else:
        having = [name for name, path in sorted(guides.items()) if topic.lower() in _text_of(path)]
        names = ", ".join(having or sorted(guides))
        hint = suggest(topic, guides) or f" {'The word is in' if having else 'There are'} {names}."
        raise UserError(f"There is no guide {topic!r}.{hint}")


def _text_of(guide: Path) -> str:
    return guide.read_text(encoding="utf-8").lower()


@click.command(epilog="Example: jollyboat table-docs")
def table_docs() -> None:
    """Write dbt's page of every table and column below data/docs."""
    from jollyboat.warehouse.table_docs import write_table_docs

    page, missing = write_table_docs(default_store())
    if missing:
        count = format_count(len(missing), "column")
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        click.echo(wrap(f"note: {count} of published tables without a description: {names}"))
    click.echo(f"page: {page.relative_to(PROJECT) if page.is_relative_to(PROJECT) else page}")


def format_state(parts: Mapping[str, Any], store: Store) -> Iterator[tuple[str, str]]:
    """A name and a line for each part of a project's state (jollyboat.serving.project_state)."""
    if store.erasing.exists():
        yield "erasure", "not finished: type the same jollyboat erase again"
    if parts["data"] and parts["data"]["held"]:
        yield "held back", f"{', '.join(parts['data']['held'])}: jollyboat snapshots show"
    yield "snapshot", _snapshot(parts["data"]) if parts["data"] else "none"
    if parts["refused"]:
        yield "refused", _refused(parts, store)
    yield "run", _run(parts["runs"][0]) if parts["runs"] else "none"
    for owner, (step, *_) in parts["champions"].items():
        yield "champion", f"{owner}: {step['version']}, since {_moment(step['at'])}"
    if not parts["champions"]:
        yield "champion", "none"
    if model := parts["refused_model"]:
        page = store.root / model["page"]
        failed = ", ".join(model["failed"])
        yield "refused", f"the last make deploy, {model['version']} failed {failed} (page: {page})"
    for one in parts["others"]:
        yield from _format_other(one["words"].question, one["state"])
    yield "experiment", _experiment(parts["experiment"]) if parts["experiment"] else "none"
    yield "monitor", _monitor(parts["monitor"]) if parts["monitor"] else "none"


def _format_bucket(store: Store) -> Iterator[tuple[str, str]]:
    """What is here, what is in the bucket, and who publishes there; or why that is unknown."""
    try:
        state = Remote(store.root, store.remote).describe()
    except UserError as refusal:
        yield "bucket", str(refusal)
        return
    yield "bucket", f"{store.remote}: {state}"


def _format_other(question: str, parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for another question than the first: its run, champion and monitor."""
    if parts["runs"]:
        yield "run", f"{question}: {_run(parts['runs'][0])}"
    for owner, (step, *_) in parts["champions"].items():
        yield "champion", f"{question}, {owner}: {step['version']}, since {_moment(step['at'])}"
    if parts["monitor"]:
        yield "monitor", f"{question}: {_monitor(parts['monitor'])}"


def next_step(parts: Mapping[str, Any], store: Store) -> str:
    """The command to type next in this state."""
    if parts["refused"]:
        return "fix what the data page names, then make data"
    if not parts["data"]:
        has_logs = any(store.raw.glob("*/dt=*"))
        logs = "make simulate, or put your own logs below data/raw; then make data"
        return "make data" if has_logs else logs
    if not parts["runs"]:
        return "make train"
    if not parts["champions"]:
        change = "change what the gate's page names, then make data train deploy"
        return change if parts["refused_model"] else "make deploy"
    if parts["experiment"]:
        return "make data, then jollyboat experiment read"
    if parts["refused_model"]:
        return "change what the gate's page names, then make data train deploy"
    if parts["data"]["held"]:
        return "what the data page says about the tenants that are held back, then make data"
    if parts["monitor"] and any(check["state"] == "alarm" for check in parts["monitor"]["checks"]):
        return "make monitor, which says what to do about each alarm"
    return "jollyboat serve --open, make score, or make monitor"


def _snapshot(data: Mapping[str, Any]) -> str:
    rows = ", ".join(
        format_count(count, name.removesuffix("s").replace("_", " "))
        for name, count in data["rows"].items()
    )
    return f"{data['id']}, published {_moment(data['published_at'])}, {rows}"


def _refused(parts: Mapping[str, Any], store: Store) -> str:
    first, *others = parts["refused"]
    more = f" and {len(others)} more" if others else ""
    stays = f"snapshot {parts['data']['id']} stays" if parts["data"] else "nothing was published"
    page = store.reports / "data.html"
    return f"the last make data, FAILED (critical): {first}{more}; {stays} (page: {page})"


def _run(run: Mapping[str, Any]) -> str:
    from jollyboat.training.run import interval

    figure = f", {run['figure']['measure']} {interval(run['figure'])}" if run["figure"] else ""
    return f"{run['id']}, finished {_moment(run['finished_at'])}, {run['chosen']} chosen{figure}"


def _experiment(experiment: Mapping[str, Any]) -> str:
    since = experiment["since"][:16]
    return f"{experiment['version']}, share {format_percent(experiment['share'])}, since {since}"


def _monitor(report: Mapping[str, Any]) -> str:
    alarms = sum(check["state"] == "alarm" for check in report["checks"])
    return f"{_moment(report['at'])}, {format_count(alarms, 'alarm')}; {report['reason']}"


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M}"
