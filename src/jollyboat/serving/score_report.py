"""What a batch of scores holds, as lines for the terminal and as a page."""

from pathlib import Path

import duckdb

from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, format_percent
from jollyboat.store import Store, quoted, read_json, words_of

BINS = 20
LEFT_OUT = {
    "short": "before the prediction point",
    "had_outcome": "with the outcome at the point",
    "bot": "of bots",
    "unfit": "judged to be no person",
}
BY_TENANT = """
select tenant_id, any_value(champion) as champion, any_value(model_version) as model_version,
    count(*) as session_count, avg(probability) as mean_probability,
    count_if(decision) as decision_count, sum(probability) as expected_count
from {} group by tenant_id order by session_count desc, tenant_id
"""
HISTOGRAM = f"""
select least(cast(floor(probability * {BINS}) as integer), {BINS - 1}) as bin, count(*)
from {{}} group by bin
"""
TOP = "from {} where outcome is not true limit 20"
EXPECTED = """
select sum(probability) as value, 1.96 * sqrt(sum(probability * (1 - probability))) as half,
    coalesce(sum(probability) filter (decision), 0) as above, count_if(decision) as decision_count,
    count_if(outcome) as outcome_count, count_if(decision and outcome) as late_count
from {}
"""


BY_TENANT_OF_RANKING = """
select tenant_id, any_value(champion) as champion, any_value(model_version) as model_version,
    count(distinct entity_id) as session_count, count(distinct item) as item_count
from {} group by tenant_id order by session_count desc, tenant_id
"""
FIRST_ITEMS = """
select tenant_id, entity_id, point_at, list(item order by place)[:5] as items,
    min_by(reason, place) as reason
from {} group by all order by point_at desc, entity_id limit 20
"""


def gather_ranking(folder: Path) -> dict:
    """The figures of a ranking's scores: by tenant, and the newest sessions with their items."""
    source = f"read_parquet('{quoted(folder / 'scores.parquet')}')"
    with duckdb.connect() as connection:
        by_tenant, top = (
            connection.sql(query.format(source)).df().to_dict("records")
            for query in (BY_TENANT_OF_RANKING, FIRST_ITEMS)
        )
    files = [str(folder / "scores.parquet"), str(folder / "scores.csv")]
    return _read(folder) | {"by_tenant": by_tenant, "top": top, "files": files}


def gather(folder: Path) -> dict:
    """The figures of the scores: totals, by tenant, histogram and the most probable sessions."""
    source = f"read_parquet('{quoted(folder / 'scores.parquet')}')"
    with duckdb.connect() as connection:
        by_tenant = connection.sql(BY_TENANT.format(source)).df().to_dict("records")
        counts = dict(connection.sql(HISTOGRAM.format(source)).fetchall())
        top = connection.sql(TOP.format(source)).df().astype(object)
        top = top.where(top.notna(), None).to_dict("records")
        [expected] = connection.sql(EXPECTED.format(source)).df().to_dict("records")
    about = {"thresholds": [], "reasons": []} | _read(folder)
    reasons = {(row["tenant_id"], row["entity_id"]): row["reasons"] for row in about["reasons"]}
    top = [row | {"reasons": reasons.get((row["tenant_id"], row["entity_id"]), [])} for row in top]
    total = sum(row["session_count"] for row in by_tenant)
    return about | {
        "expected": expected,
        "meanings": LEFT_OUT,
        "by_tenant": by_tenant,
        "histogram": [
            {
                "from": bin / BINS,
                "middle": (bin + 0.5) / BINS,
                "to": (bin + 1) / BINS,
                "session_count": counts.get(bin, 0),
            }
            for bin in range(BINS)
        ],
        "top": top,
        "positives_share": sum(row["decision_count"] for row in by_tenant) / total,
        "files": [str(folder / "scores.parquet"), str(folder / "scores.csv")],
    }


def format_summary(folder: Path, seconds: float) -> str:
    """How many rows were scored by which model, and where the scores are."""
    if _read(folder).get("is_ranking"):
        return _format_ranking(folder, seconds)
    scores, words = gather(folder), words_of(_store_of(folder))
    versions = {f"{row['champion']} {row['model_version']}" for row in scores["by_tenant"]}
    files = "\n".join(f"file: {path}" for path in scores["files"])
    left_out = ""
    if scores.get("left_out"):
        counts = ", ".join(
            f"{count:,} {LEFT_OUT.get(key, key)}" for key, count in scores["left_out"].items()
        )
        left_out = f"left out: {counts}\n"
    return (
        f"{left_out}score: {format_count(scores['rows'], words.row)} of the last "
        f"{format_count(scores['days'], 'day')} scored by {', '.join(sorted(versions))}, "
        f"{format_percent(scores['positives_share'])} above the threshold; {seconds:.1f} s\n"
        f"{files}\npage: {folder / 'report.html'}"
    )


def write_page(folder: Path, title: str) -> str:
    """Write the page beside the scores and return it."""
    is_ranking = _read(folder).get("is_ranking")
    template = "rank_scores.html" if is_ranking else "scores.html"
    scores = gather_ranking(folder) if is_ranking else gather(folder)
    path = folder / "report.html"
    return page.write(_store_of(folder), path, template, title=title, scores=scores)


def _format_ranking(folder: Path, seconds: float) -> str:
    scores = gather_ranking(folder)
    versions = {f"{row['champion']} {row['model_version']}" for row in scores["by_tenant"]}
    files = "\n".join(f"file: {path}" for path in scores["files"])
    return (
        f"score: {format_count(scores['rows'], 'open session')} of the last "
        f"{format_count(scores['days'], 'day')} got up to {scores['count']} items by "
        f"{', '.join(sorted(versions)) or 'no model'}; {seconds:.1f} s\n"
        f"{files}\npage: {folder / 'report.html'}"
    )


def _read(folder: Path) -> dict:
    return read_json(folder / "scores.json")


def _store_of(folder: Path) -> Store:
    """The store of the scores in this folder: that of a question below data/questions."""
    home = folder.parents[1]
    is_other = home.parent.name == "questions"
    return Store(home.parents[1], home.name) if is_other else Store(home)
