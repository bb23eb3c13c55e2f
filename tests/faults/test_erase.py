"""Every record about a tenant or a person goes from everywhere, whatever it is packed in, and no other record goes."""

import glob
import gzip
import json
import pickle
import shutil
import signal
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, refusal, run
from searching import files_with

from jollyboat.erasure import erase, erase_plan
from jollyboat.landing import landing, records
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, write_json
from jollyboat.warehouse import warehouse

pytestmark = pytest.mark.faults

# Where the command is killed, one place after the other: before it does this.
KILLED_BEFORE = [
    "_rewrite",
    "_remove_derived",
    "_rebuild",
    "snapshot.publish",
    "retention.remove",
]
ADDRESS = "owner@example.com"  # an id of theirs, which the tables have as its hash
PERSON = """
select tenant_id, min(id) filter (where id_kind = 'user') as account from int_identities
group by tenant_id, person_id having count(*) > 1 and account is not null order by person_id limit 1
"""


@pytest.fixture
def somebody(untouched, copied) -> tuple[str, set[str]]:
    """Somebody with an account and two devices: an id of theirs, and all that leads to them."""
    with duckdb.connect(str(copied / "warehouse.duckdb"), read_only=True) as connection:
        tenant, account = connection.sql(PERSON).fetchone()
    folder = copied / "raw/web/dt=2026-01-08"
    for number, user in enumerate([account, None, ADDRESS], 1):
        event = {
            "id": f"linked-{number}",
            "type": "page_view",
            "ts": f"2026-01-07T10:0{number}:00Z",
        }
        line = {
            "event": event,
            "shop": tenant,
            "visitor": {"anonymous_id": "second-device", "user_id": user},
        }
        with (folder / "linked.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    (folder / "broken.jsonl").write_text('{"visitor": {"anonymous_id": "second-device"}, "cut')
    assert run(untouched, copied, "flows/data.py", "run").returncode == 0
    with duckdb.connect(str(copied / "warehouse.duckdb"), read_only=True) as connection:
        (ids,) = connection.execute(
            "select list(id) from int_identities where (tenant_id, person_id) in "
            "(select tenant_id, person_id from int_identities where id = ?)",
            [account],
        ).fetchone()
        query = "select session_id, event_id, order_id from events where list_has_any($ids, [anonymous_id, user_id])"
        carried = connection.execute(query, {"ids": ids}).fetchall()
    assert {account, "second-device"} < set(ids)
    return account, {*ids, *(one for row in carried for one in row if one)}


def others(store: Path, ids: set[str]) -> int:
    """How many events of others there are."""
    query = "select count(*) from events where not list_has_any($ids, [anonymous_id, user_id, session_id])"
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(query, {"ids": sorted(ids)}).fetchone()[0]


def test_a_person_goes_from_everywhere_with_linked_ids_and_nobody_else_does(
    untouched, copied, somebody
):
    ids = somebody[1] | {ADDRESS}
    before, of_others = files_with(ids, copied), others(copied, ids)
    assert {path.relative_to(copied).parts[0] for path in before} >= {
        "raw",
        "warehouse.duckdb",
        "tables",
        "truth.parquet",
    }

    listed = refusal(run(untouched, copied, *JOLLYBOAT, "erase", "--person", ADDRESS))
    assert somebody[0] in listed and "second-device" in listed and "--linked keep" in listed
    result = run(untouched, copied, *JOLLYBOAT, "erase", "--person", ADDRESS, "--linked", "erase")

    assert result.returncode == 0, result.stdout
    assert "learned from them: shared/" in result.stdout
    assert files_with(ids, copied) == set()
    assert others(copied, ids) == of_others
    (record,) = map(json.loads, (copied / "erasures.jsonl").read_text().splitlines())
    assert record["what"] == "person" and record["records"] > 0 and record["models"]
    for verb in ("data", "score"):
        assert run(untouched, copied, f"flows/{verb}.py", "run").returncode == 0
    assert "Nothing is known of" in refusal(
        run(untouched, copied, *JOLLYBOAT, "erase", "--person", ADDRESS)
    )


def test_a_model_whose_snapshot_an_earlier_erasure_removed_is_named(tmp_path):
    store = Store(tmp_path)
    (store.snapshots / "there").mkdir(parents=True)
    for version, snapshot_id in {"old": "gone", "new": "there"}.items():
        manifest = {"run": f"run of {version}", "snapshot": snapshot_id}
        write_json(store.bundle("shared", version) / "manifest.json", manifest)

    assert erase_plan._made_from(store, []) == ([], ["shared/old"])


def test_an_erasure_killed_at_any_place_is_finished_by_the_same_command(
    untouched, copied, somebody
):
    account, ids = somebody
    code = (
        "import os, signal; from jollyboat.erasure import erase; from jollyboat.snapshots import retention, snapshot; "
        "from jollyboat.store import default_store; {} = lambda *_: os.kill(os.getpid(), 9); "
    )
    for place in KILLED_BEFORE:
        name = place if "." in place else f"erase.{place}"
        killed = run(
            untouched,
            copied,
            "-c",
            code.format(name) + f"erase.erase(default_store(), None, '{account}')",
        )
        assert killed.returncode == -signal.SIGKILL, (place, killed.stdout)
    other = refusal(run(untouched, copied, *JOLLYBOAT, "erase", "--tenant", "acme"))
    assert f"jollyboat erase --person {account}` again" in other

    result = run(untouched, copied, *JOLLYBOAT, "erase", "--person", account)

    assert result.returncode == 0, result.stdout
    assert files_with(ids, copied) == set()
    assert not (copied / ".erasing.json").exists()


def test_a_tenant_goes_and_the_others_keep_every_event(untouched, copied):
    query = "select tenant_id, count(*), sum(hash(event_id, session_id)) from events group by all order by all"
    with duckdb.connect(str(copied / "warehouse.duckdb"), read_only=True) as connection:
        *kept, (gone, *_) = connection.sql(query).fetchall()
        ids = {
            one
            for (one,) in connection.execute(
                "select id from int_identities where tenant_id = ?", [gone]
            ).fetchall()
        }
        ids |= {
            one
            for (one,) in connection.execute(
                "select session_id from sessions where tenant_id = ?", [gone]
            ).fetchall()
        }
        shared = connection.execute(
            "select id from int_identities where tenant_id != ?", [gone]
        ).fetchall()

    result = run(untouched, copied, *JOLLYBOAT, "erase", "--tenant", gone)

    assert result.returncode == 0, result.stdout
    assert files_with(ids - {one for (one,) in shared}, copied) == set()
    with duckdb.connect(str(copied / "warehouse.duckdb"), read_only=True) as connection:
        assert connection.sql(query).fetchall() == kept
    pages = [
        path
        for path in copied.rglob("*")
        if path.suffix in (".html", ".csv", ".json") and "models" not in path.parts
    ]
    assert [
        path for path in pages if f'"{gone}"' in path.read_text() or f">{gone}<" in path.read_text()
    ] == []


PLANTED = [
    ".metaflow/F/data/ab/abc",
    "runs/x/holdout.parquet",
    "raw/web/dt=2026-01-01/x.jsonl.gz",
    "live/x.jsonl",
]


@pytest.mark.parametrize("place", ["reports/x.html", "new/new.duckdb", *PLANTED])
def test_an_id_that_is_planted_is_found_by_the_search_of_these_tests(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    if path.suffix == ".parquet":
        duckdb.sql("select 'x' as a, '{\"visitor\": \"u24136\"}' as payload").write_parquet(
            str(path)
        )
    elif path.suffix == ".duckdb":
        with duckdb.connect(str(path)) as connection:
            connection.execute("create table t as select {'visitor': 'u24136'} as nested")
    else:
        text = (
            pickle.dumps({"visitor": "u24136"}) if "metaflow" in place else b'{"visitor": "u24136"}'
        )
        path.write_bytes(text if path.suffix in (".html", ".jsonl") else gzip.compress(text))

    assert files_with({"u24136"}, tmp_path) == {tmp_path / place}


def put(store: Store, *events: dict) -> None:
    """A line of each event of a browser, with the parts that are given, and one that is cut off."""
    path = store.raw / "web" / "dt=2026-01-01" / "a.jsonl"
    path.parent.mkdir(parents=True)
    lines = [
        {
            "event": {
                "id": f"event-{number}",
                "type": "page_view",
                "ts": f"2026-01-01T10:00:{number:02}Z",
            },
            "shop": "acme",
        }
        | event
        for number, event in enumerate(events)
    ]
    path.write_text(
        "\n".join(
            [*map(json.dumps, lines), *(json.dumps(line["visitor"])[:-1] for line in lines[:2])]
        )
    )


def visit(user: str, device: str, session: str, order: str) -> dict:
    visitor = {"anonymous_id": device, "user_id": user}
    return {"visitor": visitor, "session": {"id": session}, "order": {"id": order}}


SHORT, ODD, ACCENTED = "1042", "auth0|5f7c==", "jos\u00e9.garc\u00eda"
VISITS = [
    visit(ODD, "device-odd==", "session:odd/1", "1"),
    visit(ACCENTED, "ger\u00e4t-7", "session \u00e9", "2"),
    visit(SHORT, "11", "12", "77"),
    visit("77", "1042x", SHORT, "1042"),  # the numbers of 1042 and of its order, on somebody else
    visit("someone", "device:odd", "session:odd/10", "3"),
    *(
        visit(f"other{number}", f"device{number}", f"session{number}", f"{number}")
        for number in range(200, 206)
    ),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Store:
    """People with an event each, in a snapshot, a page, a report and what a killed landing left."""
    store = Store(tmp_path_factory.mktemp("small"))
    put(store, *VISITS)
    with warehouse.locked(store) as lock:
        landed = landing.land(store, *warehouse.source_names())
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))
    snapshot.publish(store, {}, "select 1", {})
    result = " and ".join(visit["visitor"]["user_id"] for visit in VISITS[:2]) + "."
    for name in ("reports/x.html", "reports/x.json", "landed/.draft.jsonl.17"):
        (store.root / name).parent.mkdir(exist_ok=True)
        (store.root / name).write_text(json.dumps({"warning": result}))
    return store


@pytest.mark.parametrize(("person", "place"), [(ODD, 0), (ACCENTED, 1), (SHORT, 2)])
def test_of_people_with_odd_and_like_ids_one_goes_from_everywhere_and_nobody_else_does(
    small, tmp_path, person, place
):
    store = Store(Path(shutil.copytree(small.root, tmp_path / "store")))

    report = erase.erase(store, None, person)

    left = (store.raw / "web/dt=2026-01-01/a.jsonl").read_text().splitlines()[: len(VISITS) - 1]
    others = [each["visitor"] for number, each in enumerate(VISITS) if number != place]
    assert [json.loads(line)["visitor"] for line in left] == others
    named = (
        {person, VISITS[place]["visitor"]["anonymous_id"]} if person != SHORT else {"none has this"}
    )
    assert files_with(named | {json.dumps(one)[1:-1] for one in named}, store.root) == set()
    assert (
        [each.id for each in snapshot.all_of(store)] == [report["snapshot"]] != report["snapshots"]
    )


def web(
    name: str,
    shop: str,
    user: str | None,
    cookie: str,
    event: dict | None = None,
    **context: object,
) -> str:
    summary = {"id": f"event-of-{name}", "type": "page_view", "ts": "2026-01-01T10:00:00Z"} | (
        event or {}
    )
    visitor = {"anonymous_id": cookie, "user_id": user}
    return json.dumps({"event": summary, "shop": shop, "visitor": visitor, "context": context})


def answered(name: str, shop: str, **ids: str | None) -> str:
    summary = {
        "request_id": f"request-{name}",
        "answered_at": "2026-01-01T10:00:00Z",
        "tenant_id": shop,
    }
    return json.dumps(
        summary
        | {"entity_id": None, "anonymous_id": None, "user_id": None, "probability": 0.5}
        | ids
    )


BAD = {"ts": "nonsense"}
LINES = {  # by what each is
    "web": {
        "shared_acme": web("1", "acme", "acct-shared-1", "acme-cookie-9"),
        "shared_globex": web("1", "globex", "acct-shared-1", "globex-cookie-9"),
        "of_unknown": web("3", "acme", "realuser-555", "unknown"),
        "unknown_device": web("4", "acme", "other-4", "cookie-4", device={"type": "unknown"}),
        "app": web("5", "app", "app-user-1", "app-cookie-1"),
        "app_undated": web("6", "app", "app-user-2", "app-cookie-2", BAD),
        "on_app": web("7", "globex", "other-7", "cookie-7", device={"type": "app"}),
        "on_app_undated": web("8", "globex", "other-8", "cookie-8", BAD, device={"type": "app"}),
        "on_app_broken": '{"event": {"id": "event-of-9"}, "context": {"device": {"type": "app"}',
        "of_referrer": web("10", "globex", "referrer-77", "cookie-10"),
        "referred": web(
            "11",
            "globex",
            "other-11",
            "cookie-11",
            page={"url": "https://x.example/?ref=referrer-77"},
        ),
        "ghost": web("12", "globex", "ghost-account-77", "ghost-cookie-77", BAD),
        "ghost_short": web("13", "globex", "g13", "g-c", BAD),
        "number": web("14", "globex", "000007", "cookie-14"),
        "mailed": web("15", "globex", "other-15", "cookie-15", note="to ann@shop.example"),
        "of_the_mailed": web("16", "globex", "other-15", "cookie-15"),
        "victim": web("17", "globex", "victim-1", "victim-cookie"),
        "forged": web("18", "globex", "victim-1", "forger-cookie"),
        **{
            f"other_{number}": web(f"o{number}", "globex", f"o{number}", f"c{number}")
            for number in range(20)
        },
    },
    "predictions": {
        "asked": answered("1", "globex", anonymous_id="asked-cookie-1", entity_id="5e55104f"),
        "asked_short": answered("2", "globex", user_id="u42", entity_id="s42"),
        "asked_other": answered("3", "globex", user_id="u43", entity_id="u42"),
    },
}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Store:
    """Tenants and people whose ids are also other words, a run that learned from them, and two bundles of it."""
    store = Store(tmp_path_factory.mktemp("crowded"))
    for source, lines in LINES.items():
        path = store.raw / source / "dt=2026-01-01" / "a.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{line}\n" for line in lines.values()))
    (store.raw / "orders/dt=2026-01-01").mkdir(parents=True)
    orders = "".join(f"{number};globex;2026-01-01\n" for number in range(20))
    rows = f"order_no;shop_code;placed_at\nAnn Lee;7\nbob@shop.example;1\n{orders}"
    (store.raw / "orders/dt=2026-01-01/b.csv").write_text(rows)
    (store.raw / "web/dt=2026-01-01/of-file@shop.example.jsonl").write_text("\n")
    with warehouse.locked(store) as lock:
        landed = landing.land(store, *warehouse.source_names())
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))
    published, _ = snapshot.publish(store, {}, "select 1", {})
    segments = [{"segment": name, "value": "app", "rows": 1} for name in ("tenant_id", "device")]
    learned = {"features": [{"name": "device", "categories": ["app", "unknown"]}]}
    write_json(store.runs / "r/settings.json", {"snapshot": published.id})
    write_json(store.runs / "r/schema.json", learned)
    write_json(store.runs / "r/candidates/xgboost/model.json", learned)
    rows = "select 'globex' as tenant_id, unnest(['s42', 's43']) as entity_id, 'app' as device"
    duckdb.sql(rows).write_parquet(str(store.runs / "r/holdout.parquet"))
    write_json(store.runs / "r/metrics.json", {"candidates": {"baseline": {"segments": segments}}})
    for version in ("old", "serving"):
        write_json(store.models / "shared" / version / "manifest.json", {"run": "r"})
        (store.models / "shared" / version / "card.html").write_text(
            "tried on the tenants app, globex"
        )
        (store.models / "shared" / f"{version}-gate.html").write_text("tenant_id app does worst")
        checks = [{"sentence": "tenant_id app does worst"}, {"name": "app"}]
        write_json(store.gate("shared", version), {"checks": checks})
    write_json(store.champion("shared"), {"version": "serving", "history": []})
    return store


def erased_lines(store: Store, person: str, linked: str | None = "erase") -> set[str]:
    """Which of the records an erasure of the person removes."""
    erase.erase(store, None, person, linked)
    return {name for lines in LINES.values() for name in lines} - left(store)


def test_linked_ids_are_listed_and_go_only_where_this_is_said(crowded, tmp_path):
    """One forged event links somebody's account to a cookie of somebody else."""
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))

    with pytest.raises(
        UserError, match=r"2 more ids are linked to forger-cookie: .*victim-1"
    ) as listed:
        erase.erase(store, None, "forger-cookie", None)
    assert "--linked keep" in str(listed.value) and not store.erasing.exists()
    assert {"forged"} == erased_lines(store, "forger-cookie", "keep")


def test_an_address_that_stands_only_in_texts_goes_with_or_without_its_visitor(crowded, tmp_path):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))

    with pytest.raises(UserError, match=r"are linked to .*cookie-15"):
        erase.erase(store, None, "ann@shop.example", None)
    assert {"mailed"} == erased_lines(store, "ann@shop.example", "keep")
    assert files_with({"ann@shop.example"}, store.root) == set()


WRITTEN = {  # ways in which logs write zoe@shop.example, by what each is
    "plain": {"note": "zoe@shop.example"},
    "stopped": {"note": "write to zoe@shop.example."},
    "upper": {"visitor": {"anonymous_id": "zoe-cookie", "user_id": "ZOE@Shop.Example"}},
    "named": {"customer": {"email": "Zoe <Zoe@shop.example>"}},
    "worded": {"customer": [{"email": "mail zoe@shop.example, please"}]},
    "queried": {"context": {"page": {"url": "/?mail=zoe%40shop.example&a=1"}}},
    "searched": {"context": {"page": {"url": "/?q=mail+ZOE%2540shop.example"}}},
    "escaped": {"body": json.dumps({"phone": "zoe\\u0040shop.example"})},
    "on_a_line": {"note": "at\nzoe@shop.example\n"},
    "left_out": {"context": {"ip": "zoe@shop.example"}},
    "of_the_cookie": {"visitor": {"anonymous_id": "zoe-cookie"}},
}
OTHERS = {
    "longer": {"note": "ezoe@shop.example, mail+zoe@shop.example, e.zoe@shop.example"},
    "elsewhere": {"note": "zoe@shop.example.org, zoe@shop.example-mail.com"},
}


def test_an_address_is_found_however_a_raw_line_writes_it(tmp_path):
    store, written = Store(tmp_path), WRITTEN | OTHERS
    put(
        store,
        *({"visitor": {"anonymous_id": f"cookie-of-{name}"}} | written[name] for name in written),
    )
    folder = store.raw / "web/dt=2026-01-01"
    duckdb.sql("select 'acme' as shop, 'Zoe@shop.example' as note").write_parquet(
        str(folder / "b.parquet")
    )
    (folder / "c.csv").write_text('shop,note\nacme,Ann\nacme,"line 1\nZOE@shop.example"\n')
    with warehouse.locked(store) as lock:
        landed = landing.land(store, *warehouse.source_names())
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))

    plan = erase_plan.plan(store, {"tenant": None, "person": "zoe@shop.example"}, "erase")

    lines = {Path(name).name: file["lines"] for name, file in plan["files"].items()}
    assert [list(written)[number - 1] for number in lines["a.jsonl"]] == list(WRITTEN)
    assert (lines["b.parquet"], lines["c.csv"]) == ([1], [2])


@pytest.mark.parametrize(
    "address", ["bob@shop.example", "of-file@shop.example", "Bob@SHOP.example"]
)
def test_an_address_in_an_unreadable_row_or_in_the_name_of_a_file_goes(crowded, tmp_path, address):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))

    assert set() == erased_lines(store, address)
    assert [
        path for path in store.root.rglob("*") if "of-file@" in path.name and "of-" in address
    ] == []
    rows = (store.raw / "orders/dt=2026-01-01/b.csv").read_text().splitlines()
    assert len(rows) == (23 if "of-" in address else 22) and rows[1].startswith("Ann Lee")


def left(store: Store) -> set[str]:
    """Which of the records are still there."""
    actual = {
        source: (store.raw / source / "dt=2026-01-01/a.jsonl").read_text().splitlines()
        for source in LINES
    }
    return {
        name
        for source, lines in LINES.items()
        for name, line in lines.items()
        if line in actual[source]
    }


@pytest.mark.parametrize(
    ("tenant", "person", "gone"),
    [
        ("acme", "acct-shared-1", {"shared_acme"}),
        (None, "realuser-555", {"of_unknown"}),
        (None, "referrer-77", {"of_referrer"}),
        (None, "000007", {"number"}),
        (None, "ghost-account-77", {"ghost"}),
        (None, "g13", {"ghost_short"}),
        (None, "asked-cookie-1", {"asked"}),
        (None, "u42", {"asked_short"}),
    ],
)
def test_of_ids_that_are_other_words_too_the_records_go_and_what_was_made_from_them(
    crowded, tmp_path, tenant, person, gone
):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))

    report = erase.erase(store, tenant, person)

    assert {name for lines in LINES.values() for name in lines} - left(store) == gone
    assert not store.erasing.exists()
    assert (report["runs"], report["models"]) == (["r"], ["shared/old", "shared/serving"])
    assert not (store.runs / "r").exists()
    assert {path.name for path in (store.models / "shared").glob("[!.]*")} >= {
        "old",
        "serving",
        "serving-gate.json",
    }
    if person in (
        "realuser-555",
        "ghost-account-77",
        "asked-cookie-1",
    ):  # others name the rest, or it is any number
        assert files_with({person}, store.root) == set()


def test_a_tenant_goes_with_the_models_that_learned_from_it_but_the_one_that_serves(
    crowded, tmp_path
):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))
    write_json(store.monitor / "alerts.json", {"volume/app/sessions": {}})

    report = erase.erase(store, "app", None)

    # The broken line names the tenant, and nobody can read whose it is.
    assert {name for lines in LINES.values() for name in lines} - left(store) == {
        "app",
        "app_undated",
        "on_app_broken",
    }
    assert not (store.runs / "r").exists() and not (store.monitor / "alerts.json").exists()
    kept = {path.name for path in (store.models / "shared").glob("[!.]*")}
    assert (kept, report["cards"]) == ({"champion.json", "serving"}, ["shared/serving"])


def test_what_else_lies_beside_the_data_is_named_and_not_touched(crowded, tmp_path):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))
    (store.root / "notes").mkdir()
    (store.root / "notes/mine.txt").write_text("ghost-account-77")

    erase.erase(store, None, "ghost-account-77")

    assert erase.unknown_files(store) == ["notes"]
    assert (store.root / "notes/mine.txt").exists()


@pytest.mark.parametrize("nobody", ["page_view", "unknown-77", "globex", "visitor", "app"])
def test_a_word_that_nobody_goes_by_erases_nothing(crowded, tmp_path, nobody):
    store = Store(Path(shutil.copytree(crowded.root, tmp_path / "store")))

    with pytest.raises(UserError, match="Nothing is known of"):
        erase.erase(store, None, nobody)

    assert len(left(store)) == sum(map(len, LINES.values())) and not store.erasing.exists()


def test_the_only_tenant_can_be_erased_though_nothing_is_left_to_be_published(small, tmp_path):
    store = Store(Path(shutil.copytree(small.root, tmp_path / "store")))

    with pytest.raises(UserError, match=r"is erased.*there are events"):
        erase.erase(store, "acme", None)

    assert (snapshot.all_of(store), store.latest_snapshot.exists(), store.erasing.exists()) == (
        [],
        False,
        False,
    )
    assert json.loads(store.erasures.read_text())["snapshot"] is None
    assert files_with({"event-1"}, store.root) == set()
    # The unit tests of dbt use the name, too.
    assert files_with({'"acme"'}, store.root) == {store.root / "dbt/target/manifest.json"}


@pytest.mark.parametrize(
    ("one", "text", "is_named"),
    [("u24136", '{"by": "u24136", cut', True), ("u24136", '{"by": "u241365"}', False),
     ("a|5f7", "1,a|5f7,2", True), ("a b", '"a b', False), ("a b", '{"by": "a b"', True),
     ("jos\u00e9 1", '{"by": "jos\\u00e9 1"', True), ("1042", '{"total": 1042, ', True), ("1042", "1042.5", False)],
)  # fmt: skip
def test_an_unreadable_line_names_an_id_that_stands_alone_in_it(one, text, is_named):
    assert erase_plan._text_names(text, {one, "another"}) == is_named


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "jsonl.gz", "csv.jsonl", "parquet"])
def test_a_raw_file_loses_the_records_named_and_keeps_the_others(tmp_path, kind):
    path = tmp_path / "dt=2026-01-01" / f"part[1].{kind}"
    path.parent.mkdir()
    rows = [
        {"no": str(number), "text": text}
        for number, text in enumerate(["x", 'two\nlines, "quoted"', "y", "z"], 1)
    ]
    if kind == "parquet":
        duckdb.from_df(__import__("pandas").DataFrame(rows)).write_parquet(str(path))
    else:
        quoted = ['"%s","%s"' % (row["no"], row["text"].replace('"', '""')) for row in rows]  # noqa: UP031
        lines = ["same,same", *quoted] if "json" not in kind else [json.dumps(row) for row in rows]
        with gzip.open(path, "wt") if kind.endswith("gz") else path.open("w") as file:
            file.write("\n".join(lines))

    erase._rewrite(path, {1, 3})

    if kind == "parquet":
        left = duckdb.read_parquet(glob.escape(str(path)), hive_partitioning=False).fetchall()
    elif "json" not in kind:
        left = duckdb.read_csv(
            glob.escape(str(path)), all_varchar=True, hive_partitioning=False
        ).fetchall()
    else:
        with gzip.open(path, "rt") if kind.endswith("gz") else path.open() as file:
            left = [tuple(json.loads(line).values()) for line in file]
    assert left == [tuple(rows[1].values()), tuple(rows[3].values())]


HEADER = b"\xef\xbb\xbforder_no,text\r\n"
ROWS = [  # as bytes, each of them a record
    b"1,theirs\n",
    b"2,others," + b"x" * 30_000 + b"\n",
    b'3,"theirs,\r\nin two lines"\r\n',
    b"4,caf\xe9 \0\r\n",
    b'5,"two\r\nlines of ""another"""\n',
    b"\n",
    b'6,"open quote\n',
    b"7,without newline",
]


@pytest.mark.parametrize("name", ["a.JSON", "a.json.bz2", "a.log.xz", "A.TSV", "a.csv.bz2"])
def test_a_file_of_any_format_that_is_read_loses_a_record_and_nothing_else(tmp_path, name):
    contents = {
        "json": ('[{"a": "x, 1"},\n{"a": 2},{"a": 3}]', '{"a": "x, 1"}\n{"a": 3}\n'),
        "log": ("GET /a\nGET /b\nGET /c\n", "GET /a\nGET /c\n"),
        "tsv": ("1\ta\n2\tb\n3\tc\n", "1\ta\n3\tc\n"),
        "csv": ("id\n1\n2\n3\n", "id\n1\n3\n"),
    }
    before, after = contents[name.lower().split(".")[1]]
    path = tmp_path / name
    with records.open_raw(path, "wb") as file:
        file.write(before.encode())

    erase._rewrite(path, {2})

    with records.open_raw(path) as file:
        assert after == file.read().decode()


@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
@pytest.mark.parametrize("gone", [{1, 3}, {1, 8}, {2, 4, 5}, {6, 7}])
def test_rows_of_a_csv_that_stay_keep_their_bytes(tmp_path, kind, gone):
    path, unzip = tmp_path / f"a.{kind}", gzip.decompress if kind == "csv.gz" else bytes
    content = HEADER + b"".join(ROWS)
    path.write_bytes(gzip.compress(content) if kind == "csv.gz" else content)
    assert len(ROWS) == len(list(records.csv_records(path)))

    erase._rewrite(path, gone)

    left = b"".join(row for number, row in enumerate(ROWS, 1) if number not in gone)
    assert HEADER + left == unzip(path.read_bytes())


def test_of_a_link_the_file_that_it_leads_to_loses_the_records(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "elsewhere.jsonl").write_text("theirs\nothers\n")
    link = tmp_path / "raw" / "a.jsonl"
    link.symlink_to("../elsewhere.jsonl")

    erase._rewrite(link, {1})

    assert (
        link.is_symlink()
        and link.read_text() == (tmp_path / "elsewhere.jsonl").read_text() == "others\n"
    )
    erase._rewrite(link, set())
    assert [each.name for each in tmp_path.rglob("*")] == ["raw"]


def test_a_link_to_what_cannot_be_written_is_refused_by_name_before_anything_goes(
    small, tmp_path, monkeypatch
):
    store = Store(Path(shutil.copytree(small.root, tmp_path / "store")))
    path = store.raw / "web/dt=2026-01-01/a.jsonl"
    (tmp_path / "mounted").mkdir()
    path.rename(tmp_path / "mounted/a.jsonl")
    path.symlink_to(tmp_path / "mounted/a.jsonl")
    monkeypatch.setattr(erase_plan.os, "access", lambda folder, _: folder != tmp_path / "mounted")

    with pytest.raises(UserError, match=r"a\.jsonl names them, and .*/mounted cannot be written"):
        erase.erase(store, None, SHORT)

    assert not store.erasing.exists()
    assert path.read_bytes() == (small.raw / "web/dt=2026-01-01/a.jsonl").read_bytes()


@pytest.mark.parametrize(
    "name", ["n" * 249 + ".jsonl", "\u00fc" * 124 + ".jsonl", "\U0001f600" * 62 + ".jsonl"]
)
def test_a_file_with_the_longest_name_there_can_be_loses_its_records(tmp_path, name):
    path = tmp_path / name
    path.write_text("theirs\nothers\n")

    erase._rewrite(path, {1})

    assert ([path], "others\n") == (list(tmp_path.iterdir()), path.read_text())


def test_nobody_is_erased_from_a_store_that_was_never_built(tmp_path, untouched):
    shutil.copytree(untouched, tmp_path / "project", symlinks=True)

    assert "`make data`" in refusal(
        run(tmp_path / "project", tmp_path / "data", *JOLLYBOAT, "erase", "--person", "x")
    )
