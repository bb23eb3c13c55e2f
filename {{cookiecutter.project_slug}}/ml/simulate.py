"""Raw logs of a small web shop with three tenants, as a team would get them, and the truth beside them.

    python -m ml.simulate --days 3 --seed 8

Same seed, same bytes. A file holds what arrived on its day, so more days only add files; what would arrive after the
last day is not there yet. `ml.shop` says who comes, `ml.browsing` what they do, `ml.dirt` what goes wrong on the way.
"""

import argparse
import json
import os
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from ml.browsing import PURCHASE, draw_events
from ml.dirt import soil
from ml.raw_files import describe_lines, describe_orders, write_orders_day, write_truth, write_web_day
from ml.shop import DAY_MS, Visitors, draw_sessions, stock

WRITERS = (write_web_day, write_orders_day)
ROOT = Path(__file__).resolve().parents[1]


class CannotSimulate(ValueError):
    """The message says what was found and which command mends it."""


def simulate(
    raw: Path,
    truth: Path | None,
    *,
    seed: int,
    start: date,
    days: int,
    sessions_per_day: int,
    on_day: Callable[[int], None] | None = None,
) -> dict:
    """Write each day's web events and orders below `raw`, and return what was drawn and `files_written`.

    Files that exist are left alone. The settings are kept beside `raw` in simulated.json; other settings over existing
    files raise CannotSimulate. `truth` (Parquet) has session_id, event_id, event_number and probability: that a
    purchase follows, given all that the session showed up to that event. `on_day` gets the number of days drawn.
    """
    if days < 1 or sessions_per_day < 1 or seed < 0:
        raise CannotSimulate(
            f"Found {days} days, {sessions_per_day} sessions per day, seed {seed}; the first two must be at least 1, "
            "the seed at least 0. Mend [simulate] in project.toml or the arguments."
        )
    settings = {"seed": seed, "start": start.isoformat(), "sessions_per_day": sessions_per_day}
    dates = [start + timedelta(days=day) for day in range(days)]
    missing = {path for day in dates for path in _files(raw, day) if not path.exists()}
    record = raw.parent / "simulated.json"
    before = _check_settings(raw, record, settings)
    if before.get("summary", {}).get("days", 0) >= days and not missing and (truth is None or truth.exists()):
        return before["summary"] | {"files_written": 0}
    _keep(record, {"settings": settings})

    counts, truths, writing = Counter(days=days), [], []
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as writers:
        for number, today in enumerate(_draw_days(dates, seed, sessions_per_day)):
            for path, rows, write in zip(_files(raw, dates[number]), today.arrived, WRITERS, strict=True):
                if path in missing:
                    writing.append(writers.submit(write, path, rows))
            counts.update(today.counts)
            truths.append(today.truth)
            writing = _wait_for_all_but(writing, 2 * cores)
            if on_day:
                on_day(number + 1)
        _wait_for_all_but(writing, 0)
    if truth is not None:
        write_truth(truth, pd.concat(truths, ignore_index=True))
    _keep(record, {"settings": settings, "summary": counts})
    return counts | {"files_written": len(missing) + (truth is not None)}


@dataclass(frozen=True)
class _Day:
    arrived: tuple[pd.DataFrame, pd.DataFrame]  # web lines and orders, whichever day they happened
    truth: pd.DataFrame
    counts: dict[str, int]


def _draw_days(dates: list[date], seed: int, sessions_per_day: int) -> Iterator[_Day]:
    shop, visitors = stock(seed), Visitors()
    on_the_way: dict[int, list[list[pd.DataFrame]]] = defaultdict(lambda: [[], []])
    epoch = int(datetime.combine(dates[0], datetime.min.time(), UTC).timestamp()) * 1000
    for day, today in enumerate(dates):
        draw = {"seed": seed, "day": day}
        sessions = draw_sessions(visitors, **draw, weekday=today.weekday(), sessions_per_day=sessions_per_day)
        visitors.remember(sessions, day)
        events = draw_events(shop, sessions, **draw)
        is_purchase = (events["state"] == PURCHASE).to_numpy()
        order_no = np.where(is_purchase, (day + 1) * 1_000_000 + np.cumsum(is_purchase), 0)
        events = events.assign(at=events["at"] + epoch + day * DAY_MS, order_no=order_no)
        lines, dirt = soil(events, **draw)
        orders = describe_orders(shop, sessions, events[is_purchase], **draw)
        for kind, (arrived, rows) in enumerate(
            [(lines["arrived"], describe_lines(shop, sessions, lines, seed=seed)), (orders["placed"], orders)]
        ):
            arrival_day = (arrived.to_numpy() - epoch) // DAY_MS
            for later in {day, *np.unique(arrival_day).tolist()}:
                on_the_way[later][kind].append(rows[arrival_day == later])
        web, back_end = (pd.concat(parts, ignore_index=True) for parts in on_the_way.pop(day))
        truth = events.loc[~events["is_blocked"], ["session", "id", "place", "probability"]]
        truth = truth.assign(session_id=sessions["id"].to_numpy()[truth["session"]]).drop(columns="session")
        drawn = {"sessions": len(sessions), "events": len(events), "purchases": int(is_purchase.sum())}
        yield _Day((web, back_end), truth, drawn | {"lines": len(web), "orders": len(back_end)} | dirt)


def _files(raw: Path, day: date) -> tuple[Path, Path]:
    return raw / "web" / f"dt={day}" / "events.jsonl.gz", raw / "orders" / f"dt={day}" / "orders.csv"


def _check_settings(raw: Path, record: Path, settings: dict) -> dict:
    """What the record of an earlier run says, if it is one of the same logs."""
    try:
        before = json.loads(record.read_text())
    except FileNotFoundError:
        if any(raw.glob("web/dt=*")) or any(raw.glob("orders/dt=*")):
            raise CannotSimulate(
                f"{raw} already holds logs that were not simulated (there is no {record}). Give another --raw, or "
                "`make clean` removes everything below data/."
            ) from None
        return {}
    if before["settings"] != settings:
        raise CannotSimulate(
            f"{raw} holds logs simulated with {before['settings']}, and landed files never change: "
            f"`make clean` first to simulate with {settings}."
        )
    return before


def _keep(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def _wait_for_all_but(writing: list[Future], count: int) -> list[Future]:
    """Wait for the oldest, so that only `count` days are held in memory."""
    done = len(writing) - min(count, len(writing))
    for future in writing[:done]:
        future.result()
    return writing[done:]


def _read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    path = ROOT / "project.toml"
    try:
        defaults = tomllib.loads(path.read_text()).get("simulate", {})
    except FileNotFoundError:
        defaults = {}
    except tomllib.TOMLDecodeError as fault:
        raise SystemExit(f"{path} is not valid TOML: {fault}. Mend that line and run again.") from None
    parser = argparse.ArgumentParser(prog="python -m ml.simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=defaults.get("seed", 7))
    parser.add_argument("--start", type=date.fromisoformat, default=defaults.get("start", "2026-01-01"))
    parser.add_argument("--days", type=int, default=defaults.get("days", 30))
    parser.add_argument("--sessions-per-day", type=int, default=defaults.get("sessions_per_day", 800))
    parser.add_argument("--raw", type=Path, default=ROOT / "data" / "raw")
    parser.add_argument("--truth", type=Path, default=ROOT / "data" / "truth.parquet")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    given, began = _read_arguments(arguments), time.monotonic()

    def show(day: int) -> None:
        end = "" if day < given.days else "\r\033[K"
        print(f"\rsimulate: day {day} of {given.days}", end=end, file=sys.stderr, flush=True)

    try:
        did = simulate(**vars(given), on_day=show if sys.stderr.isatty() else None)
    except CannotSimulate as refusal:
        raise SystemExit(str(refusal)) from None
    except OSError as fault:
        raise SystemExit(f"Cannot write the simulated logs: {fault}. Mend that, then `make simulate` again.") from None
    what = f"{did['lines']:,} web lines, {did['orders']:,} orders, {did['sessions']:,} sessions of {did['days']} days"
    if did["files_written"]:
        print(f"simulate: {what} in {given.raw}, {time.monotonic() - began:.1f} s")
    else:
        print(f"simulate: nothing to do, {what} are in {given.raw}")


if __name__ == "__main__":
    main()
