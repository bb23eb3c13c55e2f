"""Who is one person, whatever arrives first, and what a shared device and a bot may not do to that."""

import json
import random
from pathlib import Path

import duckdb
import pytest
from runs import run

BOT_IDS, TABLET_USERS = 100_000, 50
DAY = "2026-01-01"


def a_line(number: int, anonymous_id: str | None, user_id: str | None, tenant: str = "acme") -> str:
    at = f"{DAY}T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    event = {"id": f"e{number}-{anonymous_id}-{user_id}", "type": "page_view", "ts": at}
    visitor = {"anonymous_id": anonymous_id, "user_id": user_id}
    return json.dumps({"event": event, "shop": tenant, "visitor": visitor})


def lines() -> list[str]:
    """A person of two devices and an account, a chain of ids, a tablet of fifty accounts, a bot of 100,000 cookies."""
    of_one = [a_line(1, "laptop", None), a_line(2, "phone", "ann"), a_line(3, "laptop", "ann")]
    chain = [a_line(10 + i, f"c{i // 2}", f"d{(i + 1) // 2}") for i in range(200)]
    own = [a_line(300 + i, f"own{i}", f"user{i}") for i in range(TABLET_USERS)]
    shared = [a_line(400 + i, "tablet", f"user{i}") for i in range(TABLET_USERS)]
    return (
        of_one
        + chain
        + own
        + shared
        + [a_line(500 + i % 80_000, f"bot{i}", "bot") for i in range(BOT_IDS)]
    )


def publish(project: Path, store: Path, batches: list[list[str]]) -> list[tuple]:
    """Land the batches one after the other, and return the identities of the last snapshot."""
    for number, batch in enumerate(batches):
        folder = store / "raw" / "web" / f"dt={DAY}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jsonl").write_text("\n".join(batch))
        result = run(project, store, "flows/data.py", "run")
        assert result.returncode == 0, result.stdout
    assert "links of 2 shared devices and accounts" in result.stdout
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        return connection.sql("from int_identities order by all").fetchall()


@pytest.fixture(scope="module")
def stores(untouched: Path, tmp_path_factory) -> dict:
    all_at_once, shuffled = lines(), lines()
    random.Random(7).shuffle(shuffled)
    half = len(shuffled) // 2
    newcomers = [a_line(600 + i, f"first{i % 3}", None, "newcomer") for i in range(30)]
    folder = tmp_path_factory.mktemp("identity")
    return {
        "folder": folder,
        "whole": publish(untouched, folder / "whole", [all_at_once + newcomers]),
        "shuffled": publish(
            untouched, folder / "shuffled", [shuffled[half:], shuffled[:half] + newcomers]
        ),
    }


def test_persons_do_not_depend_on_the_order_of_arrival(stores):
    assert stores["whole"] == stores["shuffled"]


def test_a_person_is_named_after_the_id_first_seen_and_a_chain_is_one(stores):
    persons = {row[2]: row[3] for row in stores["whole"]}

    assert {"a:laptop"} == {persons[name] for name in ("laptop", "phone", "ann")}
    assert {"a:c0"} == {persons[f"c{number}"] for number in range(100)}


def test_a_shared_device_and_a_bot_merge_nobody(stores):
    persons = {row[2]: row[3] for row in stores["whole"]}

    assert TABLET_USERS == len({persons[f"user{number}"] for number in range(TABLET_USERS)})
    assert all(
        persons[f"user{number}"] == persons[f"own{number}"] for number in range(TABLET_USERS)
    )
    assert BOT_IDS + 1 == len({persons[name] for name in persons if name.startswith("bot")})


def test_a_new_snapshot_keeps_which_ids_changed_their_person(stores):
    files = list((stores["folder"] / "shuffled" / "snapshots").glob("*/moved_ids.parquet"))

    moved = (
        duckdb.read_parquet([str(file) for file in files]).filter("id not like 'bot%'").fetchall()
    )
    assert moved
    assert all(row[3] != row[4] for row in moved)


def test_a_tenant_is_onboarded_by_a_file_of_its_logs_and_nothing_else(stores):
    with duckdb.connect(
        str(stores["folder"] / "shuffled" / "warehouse.duckdb"), read_only=True
    ) as connection:
        actual = connection.sql(
            "select count(*) from session_features where tenant_id = 'newcomer'"
        ).fetchone()

    assert (3,) == actual
    assert "newcomer" in (stores["folder"] / "shuffled" / "reports" / "data.html").read_text()


def test_sessions_carry_the_person_of_their_account(stores):
    with duckdb.connect(
        str(stores["folder"] / "whole" / "warehouse.duckdb"), read_only=True
    ) as connection:
        actual = connection.sql(
            "select distinct person_id from sessions where user_id = 'ann'"
        ).fetchall()
        (unknown,) = connection.sql(
            "select count(*) from sessions where person_id is null"
        ).fetchone()

    assert [("a:laptop",)] == actual
    assert 0 == unknown
