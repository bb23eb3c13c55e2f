"""Raw logs of web shops, three tenants or any number, and the true probabilities.

The same seed gives the same bytes. A file contains the records that arrived on its day, so more
days only add files. `tenants.py` draws the tenants, `shop.py` visitors and events, `customers.py`
who comes back and for how long, `vocabulary.py` each tenant's words, `raw_files.py` the errors in
the logs.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd

from jollyboat.simulate.customers import draw_customers, draw_lapses, draw_visits
from jollyboat.simulate.raw_files import (
    CUSTOMERS,
    LINE,
    ORDER,
    TRUTH,
    record_orders,
    soil,
    write,
)
from jollyboat.simulate.shop import (
    draw_companions,
    draw_events,
    draw_products,
    draw_sessions,
    draw_visitors,
)
from jollyboat.simulate.tenants import Tenants, default_tenants, draw_tenants
from jollyboat.simulate.vocabulary import default_vocabulary, draw_vocabulary
from jollyboat.store import UserError, write_text

DAY_MS = 86_400_000
MOST_TENANTS, SECOND_LARGEST = 9999, 1


def simulate(
    raw: Path,
    truth: Path | None,
    *,
    seed: int,
    start: date,
    days: int,
    sessions_per_day: int,
    tenants: int | None = None,
    drift: int | None = None,
    broken: int | None = None,
    customers: Path | None = None,
) -> dict[str, int]:
    """Write each day's web events and orders below `raw`; returns counts and `files_written`.

    Existing files stay. The settings are in simulated.json beside `raw`, and the names of the
    written files in simulated.txt. UserError if the logs have other settings or are not simulated.
    Without `tenants` there are acme, globex and initech; else so many of different sizes and kinds.
    From day `drift` on (the first is 1) half of the visitors come by ads. From day `broken` on the
    web events of the second largest tenant have another shape.
    `truth` (Parquet) has session_id, event_id, event_number and the probability that a purchase
    follows. `customers` (Parquet) has user_id, day, visit_chance and lapse_probability of each
    visit of a customer; customers.py predicts absences from them.
    """
    if days < 1 or sessions_per_day < 1 or seed < 0:
        raise UserError(
            f"days = {days}, sessions_per_day = {sessions_per_day}, seed = {seed} cannot be "
            "simulated. Write at least 1, 1 and 0 in project.toml, [simulate]."
        )
    if tenants is not None and not 1 <= tenants <= MOST_TENANTS:
        raise UserError(
            f"{tenants} tenants cannot be simulated. Give --tenants from 1 to {MOST_TENANTS}."
        )
    dates = [start + timedelta(days=day) for day in range(days)]
    missing = {path for day in dates for path in _files(raw, day) if not path.exists()}
    settings = {"seed": seed, "start": start.isoformat(), "sessions_per_day": sessions_per_day}
    _claim(raw, settings | ({} if tenants is None else {"tenants": tenants}))
    truths = {TRUTH: truth, CUSTOMERS: customers}
    truths = {query: path for query, path in truths.items() if path is not None}
    if not missing and all(path.exists() for path in truths.values()):
        return {"files_written": 0}
    _own(raw, missing)
    for path in truths.values():
        path.unlink(missing_ok=True)  # a run that is killed leaves no truth
    shops, vocabulary = _draw_shops(tenants, seed)
    counts, cores = Counter(), os.cpu_count() or 1
    pending, truths_by_day = [], []
    with ThreadPoolExecutor(cores) as writers:
        for today, (lines, orders, *truths_of_day) in zip(
            dates, _draw_days(shops, dates, seed, sessions_per_day, drift, broken), strict=True
        ):
            files = zip(_files(raw, today), (LINE, ORDER), (lines, orders), strict=True)
            pending += [
                writers.submit(write, *file, vocabulary) for file in files if file[0] in missing
            ]
            while len(pending) > 2 * cores:  # memory has room for a few days only
                pending.pop(0).result()
            sessions = truths_of_day[0]["session_id"].nunique()
            counts.update(lines=len(lines), orders=len(orders), sessions=sessions)
            truths_by_day.append(truths_of_day)
        for future in pending:
            future.result()
    rows = dict(zip((TRUTH, CUSTOMERS), zip(*truths_by_day, strict=True), strict=True))
    for query, path in truths.items():
        write(path, query, pd.concat(rows[query], ignore_index=True), vocabulary)
    return counts | {"files_written": len(missing) + len(truths)}


def _draw_shops(count: int | None, seed: int) -> tuple[Tenants, pd.DataFrame]:
    """The tenants and their words; the default ones without a count."""
    if count is None:
        tenants = default_tenants()
        return tenants, default_vocabulary(tenants.names)
    tenants = draw_tenants(count, seed)
    return tenants, draw_vocabulary(tenants.names, seed)


def _draw_days(
    tenants: Tenants,
    dates: list[date],
    seed: int,
    sessions_per_day: int,
    drift: int | None,
    broken: int | None,
) -> Iterator[list[pd.DataFrame]]:
    """For each day the lines and orders that arrive on it, and the truth of events and visits."""
    products = draw_products(tenants, seed)
    companions = draw_companions(products, seed)
    size = {"seed": seed, "sessions_per_day": sessions_per_day}
    visitors = draw_visitors(tenants, days=len(dates), **size)
    customers = draw_customers(tenants, **size)
    past = pd.DataFrame({"visitor": [], "day": [], "outcome": []}, dtype=int)
    in_transit: list[tuple[pd.DataFrame, ...]] = []
    for day, today in enumerate(dates):
        draw = {"seed": seed, "day": day}
        visit = {"weekday": today.weekday(), "has_campaign": drift is not None and day + 1 >= drift}
        midnight = int(datetime.combine(today, datetime.min.time(), UTC).timestamp()) * 1000
        visit["sessions_per_day"] = sessions_per_day
        visiting = draw_visits(tenants, customers, **draw)
        sessions = draw_sessions(tenants, visitors, visiting, past, **draw, **visit)
        past = pd.concat([past, sessions[["visitor", "day", "outcome"]]])
        events = draw_events(products, companions, sessions, **draw)
        customers, visits = draw_lapses(customers, sessions, events, **draw)
        events = events.join(sessions.drop(columns=["at_ms", "category", "log_odds"]), on="session")
        events = events.join(products[["number", "price"]], on="product")
        events["at_ms"] += midnight
        orders, reported = record_orders(events, **draw)
        is_broken = broken is not None and day + 1 >= broken
        lines = soil(reported, **draw, broken_tenant=SECOND_LARGEST if is_broken else None)
        tables = [pd.concat(parts) for parts in zip(*in_transit, (lines, orders), strict=True)]
        in_transit = [tuple(table[table["arrived_ms"] >= midnight + DAY_MS] for table in tables)]
        arrived = [table[table["arrived_ms"] < midnight + DAY_MS] for table in tables]
        truth = events[["session_id", "event_id", "place", "probability"]]
        yield [*arrived, truth, visits.assign(day=today)]


def _files(raw: Path, day: date) -> tuple[Path, Path]:
    return (
        raw / "web" / f"dt={day}" / "events.jsonl.gz",
        raw / "orders" / f"dt={day}" / "orders.csv",
    )


def _own(raw: Path, files: set[Path]) -> None:
    """Add files to those that the simulator owns, before it writes them; `make clean` reads it."""
    record = raw.parent / "simulated.txt"
    names = {path.relative_to(raw.parent).as_posix() for path in files}
    before = record.read_text().splitlines() if record.exists() else []
    write_text(record, "".join(f"{name}\n" for name in sorted({*before, *names})))


def _claim(raw: Path, settings: dict) -> None:
    """Write the settings beside `raw`; UserError if its logs are not of these settings."""
    record = raw.parent / "simulated.json"
    before = json.loads(record.read_text()) if record.exists() else None
    if before != settings and (before or any(raw.glob("web/dt=*")) or any(raw.glob("orders/dt=*"))):
        kind = f"simulated with {before}" if before else "not simulated, in web or orders"
        clean = "`make clean` removes simulated logs, and all snapshots, runs and champions"
        what = clean if before else "Move them away"
        raise UserError(f"{raw} contains logs that are {kind}. {what}. Or give another --raw.")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings) + "\n")
