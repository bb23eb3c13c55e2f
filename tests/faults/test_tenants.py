"""Thirty tenants: what goes wrong with one leaves the others as they are, and nothing crosses."""

import gzip
import json
import shutil
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, run
from searching import files_with

from jollyboat.serving import own_champions
from jollyboat.snapshots import snapshot
from jollyboat.store import Store
from jollyboat.training import run as runs

pytestmark = pytest.mark.faults

DAYS, SESSIONS_PER_DAY = 12, 700
DEAR, UNMAPPED, COLLAPSED, MARKED = "shop-0002", "shop-0003", "shop-0004", "shop-0001"
FAULTY = {DEAR, UNMAPPED, COLLAPSED}
MARKER = "kwyjibo"  # the category of everything that MARKED sells, and the channel of all visits


def change_lines(path: Path, change) -> None:
    """Write the file with `change` of each line and its tenant; "" is an empty line."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    changed = [change(line, tenant_of(line)) for line in lines]
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in changed).encode()))


def tenant_of(line: str) -> str:
    try:
        return json.loads(line)["shop"]
    except json.JSONDecodeError:
        return ""


def mark(line: str, tenant: str) -> str:
    if tenant != MARKED:
        return line
    event = json.loads(line)
    if "category" in event.get("product", {}):
        event["product"]["category"] = MARKER
    for name in {"channel", "utm_medium"}.intersection(event["context"]):
        event["context"][name] = MARKER
    return json.dumps(event)


def make_dear(line: str, tenant: str) -> str:
    if tenant != DEAR:
        return line
    event = json.loads(line)
    # An event without an id is known by its line, and another line would be another event.
    if "id" not in event["event"] or "price" not in event.get("product", {}):
        return line
    event["product"]["price"] = 99_999_999
    return json.dumps(event)


class Breaker:
    """Plants a fault in the lines of one day: one tenant maps to nothing, another one is gone."""

    def __init__(self):
        self.left = 3

    def __call__(self, line: str, tenant: str) -> str:
        if tenant not in {UNMAPPED, COLLAPSED}:
            return line
        event = json.loads(line)
        if tenant == UNMAPPED:
            event = {"shop": tenant, "v2": {"what": event["event"]}}
        if tenant == COLLAPSED:
            self.left -= 1
            return line if self.left > 0 else ""
        return json.dumps(event)


def go(project: Path, store: Path, *verbs: str) -> dict[str, str]:
    """What each verb prints; all succeed."""
    printed = {}
    for verb in verbs:
        result = run(project, store, f"flows/{verb}.py", "run")
        assert result.returncode == 0, result.stdout
        printed[verb] = result.stdout
    return printed


@pytest.fixture(scope="module")
def fleet(untouched, once) -> Path:
    """Eleven days of thirty tenants with their models; the twelfth is in next/."""

    def build(store: Path) -> None:
        size = ["--days", str(DAYS), "--sessions-per-day", str(SESSIONS_PER_DAY)]
        raw = ["--raw", str(store / "raw"), "--truth", str(store / "truth.parquet")]
        result = run(untouched, store, *JOLLYBOAT, "simulate", "--tenants", "30", *size, *raw)
        assert result.returncode == 0, result.stdout
        for path in (store / "raw/web").rglob("*.gz"):
            change_lines(path, mark)
        for folder in ("web", "orders"):
            last = max((store / "raw" / folder).iterdir())
            shutil.move(last, store / "next" / folder / last.name)
        go(untouched, store, "data", "train", "deploy", "score")

    return once("fleet", build)


def with_next_day(fleet: Path, store: Path, change=None) -> Path:
    """A copy of the fleet's store whose twelfth day has arrived, changed or not."""
    shutil.copytree(fleet, store)
    for folder in ("web", "orders"):
        shutil.copytree(store / "next" / folder, store / "raw" / folder, dirs_exist_ok=True)
    if change:
        change_lines(last_file(store), change)
    return store


def last_file(store: Path) -> Path:
    (path,) = max((store / "raw/web").iterdir()).glob("*.gz")
    return path


@pytest.fixture(scope="module")
def good(untouched, fleet, once) -> Path:
    """The twelfth day as it is."""

    def build(store: Path) -> None:
        shutil.rmtree(store)
        go(untouched, with_next_day(fleet, store), "data", "train", "deploy")

    return once("fleet_good", build)


@pytest.fixture(scope="module")
def bad(untouched, fleet, once) -> Path:
    """The twelfth day with a fault in each of three tenants."""

    def build(store: Path) -> None:
        shutil.rmtree(store)
        with_next_day(fleet, store, Breaker())
        for path in (store / "raw/web").rglob("*.gz"):
            change_lines(path, make_dear)
        printed = go(untouched, store, "data", "train", "deploy")
        (store / "printed.json").write_text(json.dumps(printed))

    return once("fleet_bad", build)


def rows_of(opened: snapshot.Snapshot, table: str, of_others: str) -> duckdb.DuckDBPyRelation:
    return opened.relation(table).filter(of_others)


def test_a_tenant_with_a_fault_is_held_back_and_named_first_with_its_reason(bad):
    held = snapshot.open_latest(Store(bad)).held
    lines = json.loads((bad / "printed.json").read_text())["data"].splitlines()

    assert set(held) == FAULTY
    assert "price" in held[DEAR]["reason"]
    assert "quarantined" in held[UNMAPPED]["reason"]
    assert "volume" in held[COLLAPSED]["reason"] or "records" in held[COLLAPSED]["reason"]
    summary = next(place for place, line in enumerate(lines) if line.startswith("source  "))
    for tenant in FAULTY:
        assert any(tenant in line for line in lines[:summary]), tenant


def test_the_others_rows_are_those_of_a_run_without_the_faults(good, bad):
    one, other = (snapshot.open_latest(Store(each)) for each in (good, bad))
    of_others = f"tenant_id not in ({', '.join(map(repr, sorted(FAULTY)))})"
    tables = [name for name in one.manifest["tables"] if "tenant_id" in one.columns(name)]

    assert {"events", "sessions", "session_features", "lookup_product"} <= set(tables)
    for table in tables:
        expected, actual = (rows_of(each, table, of_others).df() for each in (one, other))
        columns = sorted(expected.columns)
        expected, actual = (
            each[columns].astype(str).sort_values(columns).reset_index(drop=True)
            for each in (expected, actual)
        )
        assert expected.equals(actual), table


def test_a_tenant_with_a_fault_keeps_its_last_good_rows(fleet, bad):
    before, after = (snapshot.open_latest(Store(each)) for each in (fleet, bad))

    for tenant in FAULTY:
        counts = [
            each.relation("events").filter(f"tenant_id = '{tenant}'").count("*").fetchone()
            for each in (before, after)
        ]
        assert counts[0] == counts[1] and counts[0][0] > 0, tenant


def test_every_record_is_accounted_for_though_some_wait(bad):
    opened = snapshot.open_latest(Store(bad))
    sums = opened.relation("record_reconciliation").aggregate(
        "sum(held_back_count), sum(missing_count), sum(event_count)"
    )

    waiting, missing, events = sums.fetchone()
    assert waiting == sum(each["record_count"] for each in opened.held.values()) > 0
    assert missing == 0
    assert events == opened.relation("events").count("*").fetchone()[0]


def test_the_others_own_models_and_decisions_are_those_of_a_run_without_the_faults(good, bad):
    one, other = (runs.open("", Store(each)) for each in (good, bad))
    decisions = [own_champions.read_decisions(Store(each)) for each in (good, bad)]
    others = [tenant for tenant in one.own_models if tenant not in FAULTY]
    fitted = [tenant for tenant in others if one.own_models[tenant]["status"] == "fitted"]

    assert fitted
    for tenant in fitted:
        files = [
            {path.name: path.read_bytes() for path in each.own_model(tenant).iterdir()}
            for each in (one, other)
        ]
        assert files[0] == files[1], tenant
    for tenant in others:
        assert decisions[0][tenant]["model"] == decisions[1][tenant]["model"], tenant


def test_a_tenant_whose_data_are_corrected_is_released_and_the_snapshot_is_the_good_one(
    untouched, good, bad, tmp_path
):
    store = Path(shutil.copytree(bad, tmp_path / "store"))
    shutil.copytree(good / "raw", store / "raw", dirs_exist_ok=True)

    go(untouched, store, "data")

    assert snapshot.open_latest(Store(store)).held == {}
    assert snapshot.latest_id(Store(store)) == snapshot.latest_id(Store(good))


def test_nothing_of_a_tenant_reaches_the_rows_models_or_scores_of_another(fleet):
    opened, last_run = snapshot.open_latest(Store(fleet)), runs.open("", Store(fleet))
    folders = [last_run.folder / "tenants", Store(fleet).models]
    of_others = f"tenant_id != '{MARKED}'"

    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in (MARKED, "shared")
    ]
    marked = files_with({MARKER}, *folders)
    assert any(path.is_relative_to(last_run.folder / "tenants" / MARKED) for path in marked)
    assert marked.isdisjoint(files)
    for table in opened.manifest["tables"]:
        if "tenant_id" in opened.columns(table):
            assert MARKER not in rows_of(opened, table, of_others).df().to_csv(), table
    (scores,) = Store(fleet).scores.glob("*/scores.parquet")
    others = duckdb.read_parquet(str(scores)).filter(of_others).df().to_csv()
    assert MARKER not in others
