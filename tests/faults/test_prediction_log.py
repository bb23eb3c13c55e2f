"""What a client has heard is in the prediction log, whatever became of the server, and comes back as data."""

import time
from collections import Counter

import duckdb
import pytest
from runs import run
from traffic import kill, load, logged, serving, sessions

pytestmark = pytest.mark.faults


def test_every_answer_heard_before_a_kill_is_in_the_log_once_and_comes_back_as_data(
    untouched, copied
):
    bodies = sessions(copied, 200)
    heard = []

    for workers in ("1", "2", "2"):
        with serving(untouched, copied, WORKERS=workers) as server, load(server, bodies) as report:
            time.sleep(1.5)
            kill(server.workers()[0] if workers == "2" else server.process.pid)
            time.sleep(1)
        heard += report.answers
    with serving(untouched, copied):
        pass
    lines = logged(copied)
    result = run(untouched, copied, "flows/data.py", "run")

    assert len(heard) > 200
    assert not [status for status, _ in report.refused]
    assert {1} == set(Counter(line["request_id"] for line in lines).values())
    assert {answer["request_id"] for answer in heard} <= {line["request_id"] for line in lines}
    assert not list((copied / "live").iterdir())
    assert result.returncode == 0, result.stdout
    assert len(lines) == predictions(copied, "count(*)")
    assert 0 == predictions(
        copied, "count(*) filter (where session_id is null or probability is null)"
    )
    assert predictions(copied, "count(*) filter (where outcome)") > 0
    assert [("predictions", 0, 0)] == account(copied)


def test_answers_go_on_while_the_disk_is_full_and_the_log_goes_on_after_it(untouched, copied):
    bodies = sessions(copied, 20)
    store, disk = copied, copied / "live"
    disk.mkdir(exist_ok=True)

    # A file's size is limited here: the kernel refuses the same write, half-taken first, as on a disk that is full.
    with serving(untouched, store, before=("prlimit", "--fsize=20000")) as server:
        statuses = Counter(server.call("/predict", body)[0] for body in bodies * 5)
        _, health = server.call("/health")
    lines = logged(store)

    assert statuses == {200: 100}
    assert "not written" in health["prediction_log"]
    assert 10 < len(lines) < 100


def predictions(store, what: str):
    return query(store, f"select {what} from fct_predictions")[0][0]


def account(store) -> list[tuple]:
    return query(
        store,
        "select source, sum(missing_count), sum(quarantined_count) from record_reconciliation where source = 'predictions' "
        "group by all",
    )


def query(store, sql: str) -> list[tuple]:
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        return connection.sql(sql).fetchall()
