"""Who is one person, whatever arrives first, and what a shared device and a bot may not do to that."""

import json
import random
from pathlib import Path

import duckdb
import pytest
from runs import copy_project, run

import demo

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


@pytest.mark.faults
def test_persons_do_not_depend_on_the_order_of_arrival(stores):
    assert stores["whole"] == stores["shuffled"]


@pytest.mark.faults
def test_a_person_is_named_after_the_id_first_seen_and_a_chain_is_one(stores):
    persons = {row[2]: row[3] for row in stores["whole"]}

    assert {"a:laptop"} == {persons[name] for name in ("laptop", "phone", "ann")}
    assert {"a:c0"} == {persons[f"c{number}"] for number in range(100)}


@pytest.mark.faults
def test_a_shared_device_and_a_bot_merge_nobody(stores):
    persons = {row[2]: row[3] for row in stores["whole"]}

    assert TABLET_USERS == len({persons[f"user{number}"] for number in range(TABLET_USERS)})
    assert all(
        persons[f"user{number}"] == persons[f"own{number}"] for number in range(TABLET_USERS)
    )
    assert BOT_IDS + 1 == len({persons[name] for name in persons if name.startswith("bot")})


@pytest.mark.faults
def test_a_new_snapshot_keeps_which_ids_changed_their_person(stores):
    files = list((stores["folder"] / "shuffled" / "snapshots").glob("*/moved_ids.parquet"))

    moved = (
        duckdb.read_parquet([str(file) for file in files]).filter("id not like 'bot%'").fetchall()
    )
    assert moved
    assert all(row[3] != row[4] for row in moved)


@pytest.mark.faults
def test_a_tenant_is_onboarded_by_a_file_of_its_logs_and_nothing_else(stores):
    with duckdb.connect(
        str(stores["folder"] / "shuffled" / "warehouse.duckdb"), read_only=True
    ) as connection:
        actual = connection.sql(
            "select count(*) from session_features where tenant_id = 'newcomer'"
        ).fetchone()

    assert (3,) == actual
    assert "newcomer" in (stores["folder"] / "shuffled" / "reports" / "data.html").read_text()


@pytest.mark.faults
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


STAGING = """
with records as (
    select * from {{ jollyboat.raw_records() }}
),

typed as (
    select *
    from {{ jollyboat.each_element('records', "record -> '$.actions'") }}
),

mapped as (
    select
        *,
        'a reason' as reason,
        'ignored' as parsed_occurred_at,
        'app' as tenant_id,
        coalesce(element ->> 'id', record ->> 'id') as event_id,
        record ->> 'time' as occurred_at,
        record ->> 'at' as sequence,
        record ->> 'who' as anonymous_id,
        record ->> 'account' as user_id,
        coalesce(element ->> 'what', record ->> 'what') as event_type,
        record ->> 'page' as page,
        (record ->> 'what') = 'identify' as left_out
    from typed
)

{{ jollyboat.canonical_events('mapped') }}
"""


def app_lines() -> list[dict]:
    """A visitor's log in whole seconds, in the order in which it was written."""
    second = {"time": "2026-01-01T10:00:00Z", "who": "v1"}
    pages = [second | {"what": "page_view", "page": page} for page in "cab"]
    counted = [pages[0] | {"who": "v2", "page": str(at), "at": at} for at in (10, 9)]
    several = second | {"who": "v3", "actions": [{"what": "search"}, {"what": "page_view"}]}
    accounts = [pages[0] | {"who": None, "account": one} for one in ("7", "7.0")]
    nobody = [
        pages[0] | {"who": who, "id": "undefined", "page": str(number)}
        for number, who in enumerate(["undefined", "NULL", "0", "00000000-0000-0000"] * 20)
    ]
    left_out = [second | {"what": "identify"}]
    return [*pages, *counted, several, *accounts, *nobody, *left_out]


@pytest.fixture(scope="module")
def own(untouched: Path, tmp_path_factory) -> tuple[str, Path]:
    """What `make data` prints about an app's log, and the store."""
    project = copy_project(untouched, tmp_path_factory.mktemp("own") / "project")
    (project / "dbt/models/staging/stg_app__events.sql").write_text(STAGING)
    settings = project / "dbt/dbt_project.yml"
    settings.write_text(settings.read_text().replace("[web, orders]", "[app]"))
    folder = project / "data/raw/app" / f"dt={DAY}"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, app_lines())))
    result = run(project, project / "data", "flows/data.py", "run")
    assert result.returncode == 0, result.stdout
    return demo.unwrap(result.stdout), project / "data"


def rows(store: Path, query: str) -> list[tuple]:
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        return connection.sql(query).fetchall()


@pytest.mark.parametrize(("visitor", "pages"), [("v1", "c a b"), ("v2", "9 10")])
def test_events_of_one_second_are_in_the_order_of_their_sequence_or_of_their_lines(
    own, visitor, pages
):
    in_order = "select string_agg(page, ' ' order by event_number) from events"

    assert [(pages,)] == rows(own[1], f"{in_order} where anonymous_id = '{visitor}'")


def test_a_line_is_left_out_or_becomes_several_events_and_the_account_says_so(own):
    actual = rows(own[1], "select event_type, part from events where anonymous_id = 'v3'")
    counts = "left_out_count, further_count, missing_count, quarantined_count"

    assert [("page_view", 2), ("search", 1)] == sorted(actual)
    assert [(1, 1, 0, 0)] == rows(own[1], f"select {counts} from record_reconciliation")
    assert "(1 left out, 1 more rows than records)" in own[0]


def test_an_id_that_says_that_there_is_none_is_nobodys_and_named(own):
    nobody = "select count(*), count(session_id) from events"

    assert [(80, 0)] == rows(own[1], f"{nobody} where coalesce(anonymous_id, user_id) is null")
    assert "20 records of app with the anonymous_id NULL" in own[0]
    assert "80 records of app with the event_id undefined" in own[0]


def test_a_whole_number_that_was_a_float_is_the_same_account(own):
    accounts = "select distinct user_id from sessions where user_id is not null"

    assert [("7",)] == rows(own[1], accounts)


def test_no_column_of_a_staging_model_changes_what_becomes_of_a_record(own):
    assert [(89,)] == rows(own[1], "select count(*) from int_records where reason is null")


@pytest.mark.parametrize("name", ["day", "Status"])
def test_a_feature_with_a_name_of_training_or_monitoring_is_refused(own, untouched, tmp_path, name):
    project = copy_project(untouched, tmp_path / "project")
    features = project / "dbt/models/questions/purchase_intent/features_at_point.sql"
    features.write_text(
        features.read_text().replace("behaviour.*,", f"behaviour.*,\n        1 as {name},")
    )
    models = ["--select", "features_at_point", "int_features"]
    folders = ["--project-dir", "dbt", "--profiles-dir", "."]

    result = run(project, own[1], "-m", "dbt.cli.main", "run", *models, *folders)

    assert 0 != result.returncode
    assert f"The feature {name} has a name that Jollyboat uses" in result.stdout
