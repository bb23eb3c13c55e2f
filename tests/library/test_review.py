"""People's judgements are lines of a source, change what training uses, and are made on a page of the server."""

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor

import duckdb
import httpx
import pytest
from fastapi.testclient import TestClient
from whole_path import build

from jollyboat.review import review
from jollyboat.serving import request_body
from jollyboat.serving.app import app
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, write_json
from jollyboat.store.bucket import person
from jollyboat.training import run as runs

JUDGED = ("acme", "s1", "2026-01-01T00:00:00Z")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    return Store(tmp_path)


def test_an_undone_judgement_is_not_in_effect_and_an_unreadable_line_is_ignored(store):
    first = review.judge(store, "ann", *JUDGED, "fit")
    second = review.judge(store, "bob", *JUDGED, "not_a_person")
    review.undo(store, "bob", second)
    (store.raw / "labels/dt=2026-01-01").mkdir()
    (store.raw / "labels/dt=2026-01-01/torn.jsonl").write_text('{"judgement_id"\n[1]\n')

    assert [line["judgement_id"] for line in review.judged(store)] == [first]


def test_a_person_judges_a_session_once_until_the_judgement_is_undone(store):
    first = review.judge(store, "ann", *JUDGED, "fit")

    assert first == review.judge(store, "ann", *JUDGED, "not_a_person", "f" * 32)
    assert {"fit"} == {line["judgement"] for line in review.judged(store)}
    review.undo(store, "ann", first)
    review.judge(store, "ann", *JUDGED, "not_a_person")
    review.judge(store, "ann", "acme", "s2", JUDGED[2], "fit")
    assert ["not_a_person", "fit"] == [line["judgement"] for line in review.judged(store)]


def test_judgements_sent_at_once_by_one_person_are_one(store):
    publish_session(store, *JUDGED[:2])
    form = dict(zip(("tenant_id", "entity_id", "point_at"), JUDGED, strict=True)) | {"by": "ann"}

    with TestClient(app, follow_redirects=False) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda judgement: client.post("/review", data=form | {"judgement": judgement}),
            [*review.JUDGEMENTS] * 3,
        )

        assert {303} == {answer.status_code for answer in answers}
    assert 1 == len(list(store.raw.glob("labels/dt=*/*.jsonl")))


def test_a_name_and_a_comment_are_kept_with_the_judgement(store):
    publish_session(store, *JUDGED[:2])
    form = dict(zip(("tenant_id", "entity_id", "point_at"), JUDGED, strict=True))
    form["judgement"] = "fit"

    with TestClient(app, follow_redirects=False) as client:
        for by, comment in (("  Ann\n Lee ", " a bot? "), ("", ""), ("x" * 99, "")):
            client.post("/review", data=form | {"by": by, "comment": comment})
        too_long = client.post("/review", data=form | {"comment": "x" * 1_001})

    lines = review.judged(store)
    assert ["Ann Lee", person(), "x" * 80] == [line["by"] for line in lines]
    assert ["a bot?", None, None] == [line.get("comment") for line in lines]
    assert too_long.status_code == 422 and "at most 1,000 characters" in too_long.json()["detail"]


def test_the_teams_guidelines_are_read_by_paragraphs_where_there_are_any(tmp_path):
    assert [] == review.read_guidelines(tmp_path)

    (tmp_path / "docs").mkdir()
    (tmp_path / review.GUIDELINES).write_text("# Bots\n\n- fast\n- <b>\n \n\nElse: a person.\n")

    assert ["# Bots", "- fast\n- <b>", "Else: a person."] == review.read_guidelines(tmp_path)


def test_an_invalid_judgement_is_refused(store):
    with pytest.raises(UserError, match="not 'good'"):
        review.judge(store, "ann", *JUDGED, "good")
    with pytest.raises(UserError, match="No judgement 'x' is in effect"):
        review.undo(store, "ann", "x")
    for tenant_id in ("", "a b", "../x", "acme\n", "x" * 65):
        with pytest.raises(UserError, match="tenant_id has the form"):
            review.judge(store, "ann", tenant_id, *JUDGED[1:], "fit")
    for point_at in ("", "yesterday", "5", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(UserError, match="point_at is a time"):
            review.judge(store, "ann", *JUDGED[:2], point_at, "fit")

    assert review.judged(store) == []


def test_the_start_page_says_what_to_do_where_there_is_nothing_yet(store):
    with TestClient(app) as client:
        page = client.get("/")

    assert page.status_code == 200
    assert "There is no champion yet" in page.text
    assert "make deploy" in page.text


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../secret.html",
            "%2e%2e/secret.html",
            "raw/web.jsonl",
            "/etc/hosts",
            "nothing.html",
            "%00.html",
        ),
        "a/" * 3_000 + "x.html",
    ],
)
def test_only_pages_below_data_are_shown(store, path):
    (store.root.parent / "secret.html").write_text("secret")

    with TestClient(app) as client:
        assert client.get(f"/page/{path}").status_code == 404


def test_a_page_is_shown_from_a_folder_of_pages_and_from_no_other(store):
    shown = ("reports/data.html", "runs/r1/report.html", "models/shared/v1-gate.html")
    shown += ("scores/s1/report.html", "monitor/report.html", "docs/static_index.html")
    hidden = ("raw/web/dt=2026-01-01/x.html", "live/x.html", "x.html", ".metaflow/x/card.html")
    for name in (*shown, *hidden):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("<h1>A page</h1>")
    (store.root / "reports/raw").symlink_to(store.raw)
    for name in ("scores/s1/scores.csv", "raw/scores.csv", "reports/s1/scores.csv"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("tenant_id,probability\n")
    shown += ("scores/s1/scores.csv",)
    hidden += ("raw/scores.csv", "reports/s1/scores.csv")
    hidden += ("reports/raw/web/dt=2026-01-01/x.html", "reports/../raw/web/dt=2026-01-01/x.html")

    with TestClient(app) as client:
        assert [client.get(f"/page/{path}").status_code for path in shown] == [200] * 7
        assert {client.get(f"/page/{path}").status_code for path in hidden} == {404}
        overview = client.get("/page/index.html", follow_redirects=False)
        assert overview.headers["location"] == "/"


def test_pages_need_the_token_where_one_is_set_and_a_browser_keeps_it(store, monkeypatch):
    monkeypatch.setenv("SERVE_TOKEN", "s€cret")
    pages = ("/", "/page/x.html", "/review", "/model", "/model/card", "/docs", "/openapi.json")
    with TestClient(app) as client:
        assert [client.get(path).status_code for path in pages] == [401] * 7
        assert client.post("/review").status_code == 401
        assert client.get("/", params={"token": "wrong€"}).status_code == 401
        assert client.get("/", params={"token": "s€cret"}).status_code == 200
        assert client.get("/").status_code == 200


def test_another_sites_page_and_what_is_no_judgement_are_refused(store):
    judgement = {"tenant_id": "acme", "entity_id": "s1", "judgement": "fit"}
    with TestClient(app) as client:
        for origin in ("http://evil.example", "http://["):
            assert (
                client.post("/review", data=judgement, headers={"origin": origin}).status_code
                == 403
            )
        assert client.post("/review", data=judgement | {"judgement": "good"}).status_code == 422
        assert client.post("/review", data={"judgement": "fit"}).status_code == 422
        assert (
            client.post("/review", data=judgement | {"entity_id": "x" * 20_000}).status_code == 413
        )

    assert review.judged(store) == []


def test_a_judgement_that_is_never_sent_to_its_end_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.1)

    async def never():
        yield b"tenant_id=acme"
        await asyncio.Event().wait()

    async def post():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.post("/review", content=never())

    assert asyncio.run(asyncio.wait_for(post(), 5)).status_code == 408


def test_only_a_session_of_the_newest_snapshot_is_judged_and_only_a_judgement_in_effect_is_undone(
    store,
):
    publish_session(store, *JUDGED[:2])
    judgement = dict(zip(("tenant_id", "entity_id", "point_at"), JUDGED, strict=True)) | {
        "judgement": "fit"
    }
    wrong = [
        {"tenant_id": "a b"},
        {"entity_id": "x"},
        {"tenant_id": "globex"},
        {"point_at": "x"},
        {"point_at": ""},
    ]

    with TestClient(app, follow_redirects=False) as client:
        refused = [client.post("/review", data=judgement | junk) for junk in wrong]
        kept = client.post("/review", data=judgement)
        (line,) = review.judged(store)
        undo = {"judgement": "undo", "undoes": line["judgement_id"]}
        undone = [
            client.post("/review", data=data).status_code
            for data in (undo | {"undoes": "x"}, undo, undo)
        ]

    assert [response.status_code for response in refused] == [422] * 5
    assert "no session 'x' of 'acme'" in refused[1].json()["detail"]
    assert (kept.status_code, line["point_at"]) == (303, JUDGED[2])
    assert undone == [422, 303, 422]
    assert review.judged(store) == []


def test_a_form_counts_once_however_often_it_is_sent(store):
    publish_session(store, *JUDGED[:2])
    form = dict(zip(("tenant_id", "entity_id", "point_at"), JUDGED, strict=True))
    form["judgement_id"] = "0123456789abcdef" * 2

    with TestClient(app, follow_redirects=False) as client:
        sent = [
            client.post("/review", data=form | {"judgement": each})
            for each in ("fit", "cannot_say")
        ]
        forged = client.post("/review", data=form | {"judgement": "fit", "judgement_id": "../x"})

    assert [response.status_code for response in sent] == [303] * 2
    assert [line["judgement"] for line in review.judged(store)] == ["fit"]
    assert forged.status_code == 422


def test_a_browser_gets_a_page_where_there_is_no_champion_or_the_disk_is_full(store, monkeypatch):
    browser, judgement = {"accept": "text/html,*/*;q=0.8"}, {"judgement": "fit"}
    judgement |= dict(zip(("tenant_id", "entity_id", "point_at"), JUDGED, strict=True))

    def fill_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "data/raw/labels/x.jsonl")

    with TestClient(app) as client:
        no_snapshot = client.get("/review", headers=browser)
        write_empty_features(store)
        no_champion = client.get("/review", headers=browser)
        publish_session(store, *JUDGED[:2])
        monkeypatch.setattr(review, "write_text", fill_disk)
        full = client.post("/review", data=judgement, headers=browser)
        plain = client.post("/review", data=judgement)

    for response, words in (
        (no_snapshot, "<code>make data</code>"),
        (no_champion, "<code>make deploy</code>"),
        (full, "data/raw/labels/x.jsonl cannot be used (No space left on device)"),
    ):
        assert response.status_code == 503
        assert "<h1>" in response.text and words in response.text
    assert plain.status_code == 503 and "No space left" in plain.json()["detail"]


def write_empty_features(store: Store) -> None:
    """A snapshot without a session."""
    columns = {"tenant_id": "VARCHAR", "status": "VARCHAR", "point_at": "TIMESTAMP"}
    table = {"columns": columns, "files": []}
    write_json(store.snapshots / "empty/manifest.json", {"tables": {"session_features": table}})
    write_json(store.latest_snapshot, {"snapshot": "empty"})


def publish_session(store: Store, tenant_id: str, entity_id: str) -> None:
    """A snapshot of one session's key."""
    path = store.tables / "session_features/dt=2026-01-01/rows.parquet"
    path.parent.mkdir(parents=True)
    duckdb.sql(f"select '{tenant_id}' as tenant_id, '{entity_id}' as entity_id").to_parquet(
        str(path)
    )
    table = {"columns": {}, "files": [{"file": "dt=2026-01-01/rows.parquet"}]}
    write_json(store.snapshots / "made-up/manifest.json", {"tables": {"session_features": table}})
    write_json(store.latest_snapshot, {"snapshot": "made-up"})


def test_judged_sessions_leave_training_or_change_their_label_and_the_next_runs_page_says_so(
    copied, monkeypatch
):
    monkeypatch.setenv("STORE_ROOT", str(copied.root))
    with TestClient(app) as client:
        queue = review.queue(copied, client.app.state.champions.of, size=30, days=14)
        pages = [client.get("/review").text]
        rows = [row for _, row in queue.head(3).iterrows()]
        for row, judgement in zip(
            rows,
            ("not_a_person", "outcome_false" if rows[1]["label"] else "outcome_true", "fit"),
            strict=True,
        ):
            session = {
                "tenant_id": row["tenant_id"],
                "entity_id": row["entity_id"],
                "point_at": f"{row['point_at']}Z",
            }
            pages.append(client.post("/review", data=session | {"judgement": judgement}).text)
        start = client.get("/").text
    build(copied)
    published, _ = snapshot.publish(copied, {}, snapshot.open_latest(copied).feature_sql, {})
    sessions = published.frame("session_features").set_index("entity_id")
    run = runs.open("", copied)
    write_json(
        run.folder / "settings.json", run.settings | {"snapshot": published.id}
    )  # as if it had learned from it
    page = " ".join(runs.write_page(run, "A run").split())

    assert {"uncertain", "wrong", "random"} == set(queue["kind"])
    assert [f"{30 - done} to go, {done} judged" in page for done, page in enumerate(pages)] == [
        True
    ] * 4
    assert "3 judgements by people, 27 sessions are pending" in start
    assert sessions.loc[rows[0]["entity_id"], "status"] == "unfit"
    assert bool(sessions.loc[rows[1]["entity_id"], "label"]) is not bool(rows[1]["label"])
    assert bool(sessions.loc[rows[2]["entity_id"], "label"]) is bool(rows[2]["label"])
    assert "People judged 3 sessions of this snapshot: 1 are no person" in page
