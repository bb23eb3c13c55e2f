"""Each guide for a common export is followed on invented lines, and all models are built at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from runs import read_guide, take, type_in

import demo

pytestmark = pytest.mark.faults

HOW_TO = Path(__file__).parents[2] / "src/jollyboat/how_to"
COLUMNS = "event_type, occurred_at, anonymous_id, session_id, price, device"
EXPECTED = {
    "ga4": [
        ("product_view", "10:00:00", "70.1", "70.1-1772359100", "199.5000", "mobile"),
        ("purchase", "10:01:00", "70.1", "70.1-1772359100", "199.5000", "mobile"),
    ],
    "segment": [
        ("page_view", "10:00:00", "a1", None, None, "mobile"),
        ("cart_add", "10:00:30", "a1", None, "199.5000", "bot"),
        ("purchase", "10:01:00", "a1", None, "199.5000", None),
    ],
    "snowplow": [
        ("page_view", "10:00:00", "d1", "s1", None, "desktop"),
        ("purchase", "10:01:00", "d1", "s1", "199.5000", "desktop"),
    ],
    "product": [
        ("page_view", "10:00:00", "d1", "s1", None, "Mobile"),
        ("purchase", "10:01:00", "d1", "s1", "199.5000", None),
        ("page_view", "10:00:00", "d2", None, None, None),
        ("page_view", "10:00:00", "d3", "d3-1772359200000", None, "Apple iPhone"),
    ],
    "access": [
        ("page_view", "10:00:00", "hash", None, None, "desktop"),
        ("failed_request", "08:00:01", "hash", None, None, "bot"),
    ],
    "spark": [("product_view", "10:00:00", "v1", None, "199.5000", None)],
    "table": [
        ("product_view", "10:00:00", "v1", None, "199.5000", None),
        ("page_view", "10:00:20", "v1", None, None, None),
        ("page_view", "10:00:40", "v1", None, None, None),
    ],
}
ACCESS = (
    '10.0.0.7 - - [01/Mar/2026:10:00:00 +0000] "GET /tv?q=\\x22 HTTP/1.1" 200 17 "-" "Mozilla/5.0 (X11; Linux)"\n'
    '10.0.0.8 - - [01/Mar/2026:10:00:01 +0200] "GET /tv HTTP/1.1" 404 9 "https://x.example/" "curl/8.5.0"\n'
)


def snowplow(**columns: str) -> str:
    """A line of the enriched TSV."""
    places = {"app_id": 1, "collector": 4, "created": 5, "event_id": 7, "visitor": 16, "url": 30}
    places |= {"contexts": 53, "order": 60, "total": 62, "agent": 78, "session": 124, "name": 127}
    line = [""] * 131
    for name, value in columns.items():
        line[places[name] - 1] = value
    return "\t".join(line)


def write_exports(folder: Path) -> None:
    (folder / "access.log").write_text(ACCESS)
    shared = {"app_id": "shop", "visitor": "d1", "session": "s1", "contexts": '{"data":[]}'}
    shared |= {"agent": "Mozilla/5.0 (X11; Linux)", "collector": "2026-03-01 10:02:00.000"}
    lines = [
        snowplow(event_id="e1", name="page_view", created="2026-03-01 10:00:00.000", **shared),
        snowplow(event_id="e2", name="transaction", created="2026-03-01 10:01:00.000", total="199.5", **shared),
    ]  # fmt: skip
    (folder / "enriched.tsv").write_text("\n".join(lines) + "\n")
    (folder / "exports").mkdir()
    duckdb.sql(
        "select timestamp '2026-03-01 10:00:00' as ts, 'v1' as visitor, 'product_view' as action, "
        "{'id': 'tv', 'price': 199.5} as item"
    ).write_parquet(str(folder / "exports/part-0.snappy.parquet"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> duckdb.DuckDBPyConnection:
    """The warehouse of a project that reads all the exports as their guides say."""
    project = tmp_path_factory.mktemp("exports") / "project"
    template = Path(os.environ["JOLLYBOAT_PROJECT"])
    shutil.copytree(template, project, ignore=shutil.ignore_patterns(*demo.LEFTOVERS))
    write_exports(project)
    for guide in sorted(HOW_TO.glob("logs-from-*.md")):
        for step in read_guide(guide):
            take(step, project)
            if step.kind == "sh":
                assert type_in(project, step.text).returncode == 0, guide
    settings = project / "dbt/dbt_project.yml"
    text = settings.read_text().replace("[web, orders]", f"[{', '.join(EXPECTED)}]")
    settings.write_text(text.replace("back_end_sources: [orders]", "back_end_sources: []"))
    code = "from whole_path import build; from jollyboat.store import default_store; build(default_store())"
    tests = Path(__file__).parents[1]
    environment = {
        "JOLLYBOAT_PROJECT": str(project),
        "STORE_ROOT": str(project / "data"),
        "PYTHONPATH": os.pathsep.join([*map(str, (tests, tests / "library", tests.parent)), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    built = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-3_000:] + built.stderr[-3_000:]
    return duckdb.connect(str(project / "data/warehouse.duckdb"), read_only=True)


def test_every_guide_is_followed():
    assert len(list(HOW_TO.glob("logs-from-*.md"))) == len(EXPECTED)


@pytest.mark.parametrize("source", EXPECTED)
def test_the_guide_reads_the_lines_of_its_export(tables, source):
    query = f"select {COLUMNS}, reason, file_seq from stg_{source}__events order by line_number"
    rows = tables.sql(query).fetchall()

    actual = [
        (
            event_type,
            str(occurred_at)[11:],
            "hash" if visitor and len(visitor) == 32 else visitor,
            session_id,
            price and str(price),
            device,
        )
        for event_type, occurred_at, visitor, session_id, price, device, *_ in rows
    ]
    assert (EXPECTED[source], {None}) == (actual, {reason for *_, reason, _ in rows})
