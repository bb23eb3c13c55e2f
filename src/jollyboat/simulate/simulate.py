"""Raw logs of a small web shop with three tenants, as a team would get them, and the truth beside them.

Same seed, same bytes. A file holds what arrived on its day, so more days only add files. `shop.py` says who comes and
what they do, `raw_files.py` what goes wrong on the way.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd

from jollyboat.simulate.raw_files import LINE, ORDER, TRUTH, record_orders, soil, write
from jollyboat.simulate.shop import draw_events, draw_products, draw_sessions, draw_visitors
from jollyboat.store.errors import UserError

DAY_MS = 86_400_000


def simulate(
    raw: Path,
    truth: Path | None,
    *,
    seed: int,
    start: date,
    days: int,
    sessions_per_day: int,
    drift: int | None = None,
) -> dict[str, int]:
    """Write each day's web events and orders below `raw`, and return what was drawn and `files_written`.

    Files that exist stay. Settings are kept beside `raw` in simulated.json; other ones, or logs of other origin, raise
    UserError. From day `drift` on (the first is 1) half of the visitors come by ads. `truth` (Parquet):
    session_id, event_id, event_number, probability that a purchase follows.
    """
    if days < 1 or sessions_per_day < 1 or seed < 0:
        found = f"days = {days}, sessions_per_day = {sessions_per_day}, seed = {seed}"
        raise UserError(
            f"Found {found}, at least 1, 1 and 0 can be simulated: correct [simulate] in project.toml."
        )
    dates = [start + timedelta(days=day) for day in range(days)]
    missing = {path for day in dates for path in _files(raw, day) if not path.exists()}
    _claim(raw, {"seed": seed, "start": start.isoformat(), "sessions_per_day": sessions_per_day})
    if not missing and (truth is None or truth.exists()):
        return {"files_written": 0}
    if truth is not None:
        truth.unlink(missing_ok=True)  # what is cut short starts again
    done, truths, writing, cores = Counter(), [], [], os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as writers:
        for today, (lines, orders, truths_of_day) in zip(
            dates, _draw_days(dates, seed, sessions_per_day, drift), strict=True
        ):
            files = zip(_files(raw, today), (LINE, ORDER), (lines, orders), strict=True)
            writing += [writers.submit(write, *file) for file in files if file[0] in missing]
            while len(writing) > 2 * cores:  # only a few days are held in memory
                writing.pop(0).result()
            done.update(
                lines=len(lines), orders=len(orders), sessions=truths_of_day["session_id"].nunique()
            )
            truths.append(truths_of_day)
        for future in writing:
            future.result()
    if truth is not None:
        write(truth, TRUTH, pd.concat(truths, ignore_index=True))
    return done | {"files_written": len(missing) + (truth is not None)}


def _draw_days(
    dates: list[date], seed: int, sessions_per_day: int, drift: int | None
) -> Iterator[list[pd.DataFrame]]:
    """By day the lines and the orders that land on it, whichever day they happened, and the truth of its events."""
    products = draw_products(seed)
    visitors = draw_visitors(seed=seed, days=len(dates), sessions_per_day=sessions_per_day)
    past = pd.DataFrame({"visitor": [], "day": [], "outcome": []}, dtype=int)
    on_the_way: list[tuple[pd.DataFrame, ...]] = []
    for day, today in enumerate(dates):
        draw = {"seed": seed, "day": day}
        visit = {"weekday": today.weekday(), "has_campaign": drift is not None and day + 1 >= drift}
        midnight = int(datetime.combine(today, datetime.min.time(), UTC).timestamp()) * 1000
        sessions = draw_sessions(visitors, past, **draw, **visit, sessions_per_day=sessions_per_day)
        past = pd.concat([past, sessions[["visitor", "day", "outcome"]]])
        events = draw_events(products, sessions, **draw)
        events = events.join(sessions.drop(columns=["at_ms", "category", "log_odds"]), on="session")
        events = events.join(products[["number", "price"]], on="product")
        events["at_ms"] += midnight
        orders, reported = record_orders(events, **draw)
        tables = [
            pd.concat(parts)
            for parts in zip(*on_the_way, (soil(reported, **draw), orders), strict=True)
        ]
        on_the_way = [tuple(table[table["arrived_ms"] >= midnight + DAY_MS] for table in tables)]
        landed = [table[table["arrived_ms"] < midnight + DAY_MS] for table in tables]
        yield [*landed, events[["session_id", "event_id", "place", "probability"]]]


def _files(raw: Path, day: date) -> tuple[Path, Path]:
    return (
        raw / "web" / f"dt={day}" / "events.jsonl.gz",
        raw / "orders" / f"dt={day}" / "orders.csv",
    )


def _claim(raw: Path, settings: dict) -> None:
    """Note beside `raw` what its logs are simulated with; raises UserError if it holds others."""
    record = raw.parent / "simulated.json"
    before = json.loads(record.read_text()) if record.exists() else None
    if before != settings and (before or any(raw.glob("web/dt=*")) or any(raw.glob("orders/dt=*"))):
        found = f"simulated with {before}" if before else "not simulated"
        raise UserError(
            f"{raw} holds logs {found}: `make clean` removes simulated ones, or give another --raw."
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings) + "\n")
