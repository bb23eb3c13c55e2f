"""How well the question next_product ranks, beside item-kNN of the package implicit, and what its size costs.

uv pip install --python build/demo/.venv implicit      once; the library does not need it
build/demo/.venv/bin/python bench/ranking.py           30 days of 800 simulated sessions, seed 7
build/demo/.venv/bin/python bench/ranking.py --size 1000000 --products 50000
                                                       seconds and peak memory of synthetic sessions, no implicit
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "library"))

import duckdb
import numpy as np
import pandas as pd
from ranking_data import COVISITS, EVENTS, PAIRS, POINTS, POPULAR, QUESTION, render
from scipy.sparse import csr_matrix

from jollyboat.bundles.features import EVENT_COLUMNS
from jollyboat.ranking import evaluate, rankers
from jollyboat.ranking.pairs import PairQuery, split_points
from jollyboat.scaffold import PRESETS, add_question
from jollyboat.store import Store

TEMPLATE = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
COUNT, RESAMPLES, SEED = 20, 500, 7
MOST_POINTS, TUNING_POINTS, SHARE = 50_000, 2_000, 0.3

BUILD = """
from pathlib import Path
from jollyboat.store import Store
from jollyboat.warehouse import warehouse
store = Store(Path("data").resolve())
with warehouse.locked(store) as lock:
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))
Path("pairs.sql").write_text(warehouse.compiled(store, "next_product_pairs_at_point"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions-per-day", type=int, default=800)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, help="synthetic sessions instead of simulated ones")
    parser.add_argument("--products", type=int, default=50_000, help="of the synthetic sessions")
    parser.add_argument("--memory", default="5GB", help="DuckDB's limit while it builds lookups")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else XGBoost spins beside other processes
    with tempfile.TemporaryDirectory() as folder:
        if given.size:
            print_size(Path(folder), given.size, given.products, given.memory)
        else:
            print_quality(Path(folder), given.sessions_per_day, given.seed)


def print_quality(folder: Path, sessions_per_day: int, seed: int) -> None:
    """A table of each candidate's figures on the holdout, and who leads whom by how much."""
    clock, project = Clock(), folder / "project"
    simulate(project, sessions_per_day, seed)
    clock.lap("simulate and build")
    connection = duckdb.connect(str(project / "data" / "warehouse.duckdb"), read_only=True)
    query = PairQuery(QUESTION, (project / "pairs.sql").read_text(), export(connection, folder))
    parts = split_points(connection.table(POINTS).df(), 0.6, 0.2, MOST_POINTS, seed)
    train, validation, holdout = fetch_pairs(query, parts)
    clock.lap("pairs")
    gains, rows = {}, {}
    for name in rankers.CANDIDATES:
        ranker = rankers.fit(name, train, validation, {"seed": seed})
        clock.lap(f"fit {name}")
        score = ranker.score(holdout.frame)
        gains[name] = evaluate.gains(holdout, score, COUNT)
        rows[name] = evaluate.figures(
            holdout, score, query.catalogue(POPULAR), RESAMPLES, seed, COUNT
        )
    sessions = evaluate.number_sessions(holdout.points)
    for name, places in rank_by_neighbours(connection, holdout.points).items():
        gains[name] = {f"mrr_{COUNT}": places, f"hit_rate_{COUNT}": (places > 0).astype(float)}
        rows[name] = {
            key: evaluate.mean(each, sessions, RESAMPLES, seed) for key, each in gains[name].items()
        }
    clock.lap("item-kNN")
    reach = holdout.frame.groupby("point")["is_next"].any().sum() / len(holdout.points)
    print("points: " + ", ".join(f"{name} {len(part):,}" for name, part in parts.items()))
    print(
        f"holdout: {sessions.max() + 1:,} sessions; {100 * reach:.1f} % of next items are candidates\n"
    )
    print(f"{'':<40}{f'MRR@{COUNT}':>22}{f'HR@{COUNT}':>22}{'coverage':>10}{'popular':>9}")
    for name, row in rows.items():
        others = "".join(
            f"{row[key]:>{width}.3f}"
            for key, width in (("coverage", 10), ("popular_share", 9))
            if key in row
        )
        print(
            f"{name:<40}{span(row[f'mrr_{COUNT}']):>22}{span(row[f'hit_rate_{COUNT}']):>22}{others}"
        )
    best = max(
        set(rows) - set(rankers.CANDIDATES), key=lambda name: rows[name][f"mrr_{COUNT}"]["value"]
    )
    print()
    for a, b in (
        ("covisits", "popularity"),
        ("xgboost", "covisits"),
        ("covisits", best),
        ("xgboost", best),
    ):
        leads = [
            evaluate.lead(gains[a][key], gains[b][key], sessions, RESAMPLES, seed)
            for key in gains[a]
        ]
        print(f"{f'{a} over {b}':<52}" + "".join(f"{span(each, '+'):>26}" for each in leads))


def simulate(project: Path, sessions_per_day: int, seed: int) -> None:
    """A copy of the project with the question, and its tables over simulated logs."""
    kept = shutil.ignore_patterns("data", ".venv", ".metaflow", "__pycache__")
    shutil.copytree(TEMPLATE, project, ignore=kept)
    add_question(QUESTION, PRESETS[QUESTION], project, Store(project / "data"))
    environment = os.environ | {
        "JOLLYBOAT_PROJECT": str(project),
        "STORE_ROOT": str(project / "data"),
    }
    numbers = ["--days", "30", "--sessions-per-day", str(sessions_per_day), "--seed", str(seed)]
    for command in (["-m", "jollyboat.cli", "simulate", *numbers], ["-c", BUILD]):
        done = subprocess.run(
            [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def export(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, str]:
    """The tables that the pairs read as Parquet files, each with its `from` clause."""
    for table in (POPULAR, COVISITS, EVENTS):
        connection.execute(f"copy (from {table}) to '{folder / table}.parquet'")
    return {table: f"'{folder / table}.parquet'" for table in (POPULAR, COVISITS, EVENTS)}


def fetch_pairs(query: PairQuery, parts: dict) -> list:
    """The pairs of train (a share of the wrong ones), of some of validation, and of the holdout."""
    validation = parts["validation"]
    tuning = validation.sample(min(TUNING_POINTS, len(validation)), random_state=SEED)
    return [query.run(parts["train"], SHARE), query.run(tuning), query.run(parts["holdout"])]


def rank_by_neighbours(connection: duckdb.DuckDBPyConnection, points: pd.DataFrame) -> dict:
    """The reciprocal place of each point's next item by implicit's recommenders.

    Each day's points get a model of all sessions that had arrived by the day before. The input is
    the session's products so far, or the last one alone; as is implicit's default, these are not
    recommended.
    """
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

    item = "tenant_id || chr(31) || product_id"
    is_view = "event_type = 'product_view' and product_id is not null"
    views = connection.sql(
        f"select hash(tenant_id, session_id) as row, {item} as item, "
        "min(cast(received_at as date)) as day from events semi join "
        "(from sessions where status not in ('bot', 'unfit')) using (tenant_id, session_id) "
        f"where {is_view} group by all"
    ).df()
    connection.register("sampled", points.rename_axis("row").reset_index().drop(columns="item"))
    seen = connection.sql(
        f"select row, {item} as item from {EVENTS} inner join sampled "
        f"using (tenant_id, entity_id, point_at) where {is_view} group by all "
        "order by row, max(event_number)"
    ).df()
    items = pd.Index(views["item"].unique())
    target = items.get_indexer(points["tenant_id"] + chr(31) + points["item"])
    point_day = points["point_at"].dt.normalize()
    inputs = {"session": seen, "last product": seen.drop_duplicates("row", keep="last")}
    matrices = {label: count_views(rows, items, len(points)) for label, rows in inputs.items()}
    results = {}
    for kind in (CosineRecommender, TFIDFRecommender, BM25Recommender):
        for day in point_day.unique():
            past = views[views["day"] < day]
            past = past.assign(row=past["row"].factorize()[0])
            model = kind(K=100)
            model.fit(count_views(past, items, past["row"].max() + 1), show_progress=False)
            some = np.flatnonzero(point_day == day)
            for label, matrix in matrices.items():
                name = f"{kind.__name__.removesuffix('Recommender')} of the {label} (implicit)"
                ids, _ = model.recommend(some, matrix[some], N=COUNT)
                reciprocal = np.where(ids == target[some, None], 1 / np.arange(1, COUNT + 1), 0)
                results.setdefault(name, np.zeros(len(points)))[some] = reciprocal.max(axis=1)
    return results


def count_views(rows: pd.DataFrame, items: pd.Index, count: int) -> csr_matrix:
    """A matrix with a 1 for each row and item of a frame."""
    cells = np.ones(len(rows)), (rows["row"], items.get_indexer(rows["item"]))
    return csr_matrix(cells, (count, len(items)))


def print_size(folder: Path, sessions: int, products: int, memory: str) -> None:
    """Seconds and peak memory of each stage over synthetic sessions."""
    clock = Clock()
    connection = duckdb.connect(str(folder / "warehouse.duckdb"), config={"memory_limit": memory})
    connection.execute("set preserve_insertion_order = false; set TimeZone = 'UTC'")
    make_events(connection, sessions, products)
    clock.lap("make events")
    for table in (POINTS, POPULAR, COVISITS, EVENTS):
        chunks = 1 + sessions // 500_000 if table == COVISITS else 1
        for chunk in range(chunks):
            in_chunk = f"hash(earlier.item) % {chunks} = {chunk}" if table == COVISITS else "true"
            sql = render(table, in_chunk)
            into = "view" if table == EVENTS else "table"
            connection.execute(
                f"insert into {table} {sql}" if chunk else f"create {into} {table} as {sql}"
            )
        clock.lap(
            table, connection.table(table).count("*").fetchone()[0] if table != EVENTS else None
        )
    parts = split_points(connection.table(POINTS).df(), 0.6, 0.2, MOST_POINTS, SEED)
    parts["holdout"] = parts["holdout"].head(10_000)
    names = ", ".join(("tenant_id", "entity_id", "point_at"))
    connection.register("sampled", pd.concat(parts.values()))
    connection.execute(
        f"create table kept_events as from {EVENTS} semi join sampled using ({names})"
    )
    for table, source in ((POPULAR, POPULAR), (COVISITS, COVISITS), (EVENTS, "kept_events")):
        connection.execute(f"copy (from {source}) to '{folder / table}.parquet'")
        clock.lap(f"export {table}", (folder / f"{table}.parquet").stat().st_size)
    connection.close()
    query = PairQuery(
        QUESTION,
        render(PAIRS),
        {table: f"'{folder / table}.parquet'" for table in (POPULAR, COVISITS, EVENTS)},
    )
    clock.lap("load lookups")
    train, validation, holdout = fetch_pairs(query, parts)
    clock.lap("pairs", sum(len(each.frame) for each in (train, validation, holdout)))
    for name in rankers.CANDIDATES:
        ranker = rankers.fit(name, train, validation, {"seed": SEED, "n_jobs": 2})
        figure = evaluate.figures(
            holdout, ranker.score(holdout.frame), query.catalogue(POPULAR), RESAMPLES, SEED
        )
        clock.lap(f"fit and figures of {name}: MRR@20 {span(figure['mrr_20'])}")


def make_events(connection: duckdb.DuckDBPyConnection, sessions: int, products: int) -> None:
    """Sessions of 2 to 8 views over 30 days; half of the views show a companion of the one before."""
    columns = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in EVENT_COLUMNS.items())
    connection.execute(
        f"""
        create table events as
        with recursive draws as (
            select range as session, 1 as place, cast(floor({products} * pow(random(), 3)) as bigint) as product
            from range({sessions})
            union all
            select session, place + 1, case
                    when random() < 0.5 then (product * 7919 + cast(floor(4 * random()) as bigint)) % {products}
                    else cast(floor({products} * pow(random(), 3)) as bigint) end
            from draws where place < 2 + session % 7
        )
        from (select {columns}, 1 as event_number where false)
        union all by name
        select 't' || session % 3 as tenant_id, 's' || session as session_id, place as event_number,
            'e' || session || '-' || place as event_id, 'product_view' as event_type,
            timestamp '2026-01-01' + to_seconds(cast(hash(session) % 2592000 as bigint) + 20 * place) as occurred_at,
            occurred_at as received_at, 'p' || cast(product as integer) as product_id,
            10 + product % 90 as price, 'c' || product % 40 as category, 'mobile' as device,
            'web' as source, 'a' as file, place as line_number, 0 as part
        from draws
        """
    )
    connection.execute(
        "create table sessions as select tenant_id, session_id, 'train' as status from events group by all; "
        "create table int_data_end as select max(received_at) as received_until from events"
    )


class Clock:
    """Prints the seconds since the last lap, and the process's peak memory so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self, stage: str, count: int | None = None) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        number = "" if count is None else f"{count:>14,}"
        print(
            f"{stage:<62}{time.perf_counter() - self._began:>8.1f} s{peak:>9,.0f} MB{number}",
            flush=True,
        )
        self._began = time.perf_counter()


def span(figure: dict, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f}-{figure['high']:{sign}.3f})"


if __name__ == "__main__":
    main()
