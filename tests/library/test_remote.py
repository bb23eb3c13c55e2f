"""State in a bucket: two folders as two machines, and an S3 server in a process of its own."""

import json
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from s3_server import client, names_in, s3_server

from jollyboat.champions import champion
from jollyboat.store import (
    Store,
    UserError,
    fetch,
    followed,
    lease,
    leased,
    publish,
    read_json,
    remote,
    session,
    synced,
    write_json,
)
from jollyboat.store.bucket import Bucket


@pytest.fixture(scope="module")
def server():
    with s3_server() as variables:
        client(variables).create_bucket(Bucket="boat")
        yield variables


@pytest.fixture
def address(server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PERSONAL_SALT", raising=False)
    return f"s3://boat/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def machines(address, tmp_path):
    """Two stores with the same bucket."""
    return tuple(Store(tmp_path / name / "data", remote=address) for name in ("one", "two"))


def write(store, name, text):
    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def there(server, address, name):
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return client(server).get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read().decode()


def test_what_one_machine_wrote_is_there_on_another_with_its_time(machines):
    one, two = machines
    with synced(one, "all"):
        path = write(one, "raw/web/dt=2026-01-01/acme.jsonl", "a line\n")

    with synced(two, "all"):
        copy = two.root / path.relative_to(one.root)
        assert ("a line\n", path.stat().st_mtime_ns) == (copy.read_text(), copy.stat().st_mtime_ns)


def test_a_change_and_a_removal_reach_the_other_machine(machines):
    one, two = machines
    with synced(one, "all"):
        write(one, "runs/a/run.json", "old")
        write(one, "runs/b/run.json", "b")
    with synced(two, "all"):
        write(two, "runs/a/run.json", "newer")
        (two.root / "runs/b/run.json").unlink()

    with synced(one, "all"):
        assert "newer" == (one.root / "runs/a/run.json").read_text()
        assert not (one.root / "runs/b").exists()


def test_what_was_deleted_here_by_hand_comes_back(machines):
    one, _ = machines
    with synced(one, "all"):
        path = write(one, "runs/a/run.json", "{}")
    path.unlink()

    with synced(one, "all"):
        assert path.exists()


def test_an_emptied_bucket_is_filled_again_and_removes_nothing_here(machines, server, address):
    one, _ = machines
    with synced(one, "all"):
        path = write(one, "raw/web/dt=2026-01-01/a.jsonl", "a line\n")
    for name in names_in(server, "boat", address.rpartition("/")[2]):
        client(server).delete_object(Bucket="boat", Key=name)

    with synced(one, "all"):
        assert path.exists()
    assert "a line\n" == there(server, address, "raw/web/dt=2026-01-01/a.jsonl")


def test_a_file_name_that_no_bucket_can_have_is_named(machines):
    one, _ = machines
    with pytest.raises(UserError, match="its name is not UTF-8"), synced(one, "all"):
        (one.root / "runs").mkdir()
        (one.root / os.fsdecode(b"runs/\xff")).write_text("x")


def test_salt_warehouse_and_live_logs_never_leave_the_machine(machines, server, address):
    one, _ = machines
    with synced(one, "all"):
        for name in (".salt", "warehouse.duckdb", "live/a.jsonl", "dbt/target/x", ".metaflow/x"):
            write(one, name, "secret")
        write(one, "models/shared/v1/manifest.json", "{}")

    prefix = address.rpartition("/")[2]
    expected = {"jollyboat.json", "models/shared/v1/manifest.json"}
    assert expected == {name.partition("/")[2] for name in names_in(server, "boat", prefix)}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (
            "results",
            {"tables/events/a", "tables/lookup_product/a", "models/shared/v1/x", "runs/r/x"},
        ),
        ("served", {"tables/lookup_product/a", "models/shared/v1/x", "questions/churn/models/x"}),
        ("staged", {"staged/a.parquet", "landed/catalog.json", "accepted_days.json"}),
        (
            "shards",
            {
                "staged/a.parquet",
                "landed/catalog.json",
                "accepted_days.json",
                "shards/p/events-0/a",
            },
        ),
    ],
)
def test_a_task_pulls_only_what_it_needs(machines, scope, expected):
    one, two = machines
    names = {
        *("raw/web/dt=2026-01-01/a.jsonl", "staged/a.parquet", "landed/catalog.json"),
        *("tables/events/a", "tables/lookup_product/a", "models/shared/v1/x", "runs/r/x"),
        *("questions/churn/models/x", "questions/churn/runs/x"),
        *("accepted_days.json", "shards/p/events-0/a"),
    }
    with synced(one, "all"):
        for name in names:
            write(one, name, "{}")

    with synced(two, scope):
        pulled = {name for name in names if (two.root / name).exists()}
    if scope == "results":
        expected |= {"questions/churn/models/x", "questions/churn/runs/x", "accepted_days.json"}
    assert expected == pulled


def test_a_task_fetches_single_files_that_its_scope_leaves_in_the_bucket(machines):
    one, two = machines
    with synced(one, "all"):
        for name in ("raw/web/dt=2026-01-01/a.jsonl", "raw/web/dt=2026-01-01/b.jsonl"):
            write(one, name, "{}")

    with synced(two, "staged"):
        fetch(["raw/web/dt=2026-01-01/b.jsonl", "landed/is-not-there.jsonl"])

    assert [path.name for path in two.raw.rglob("*.jsonl")] == ["b.jsonl"]


def test_of_two_that_move_a_pointer_the_second_hears_who_won_and_loses_nothing(machines):
    one, two = machines
    with synced(one, "all"):
        write_json(one.latest_run, {"run": "first"})
    with (
        pytest.raises(UserError, match=r"runs/latest\.json was replaced by .+@.+ at 20"),
        synced(two, "all"),
    ):
        write(two, "runs/mine/run.json", "{}")
        write_json(two.latest_run, {"run": "mine"})
        mine, session._active = session._active, None  # the other machine meanwhile
        with synced(one, "all"):
            write_json(one.latest_run, {"run": "theirs"})
        session._active = mine

    assert {"run": "theirs"} == json.loads(two.latest_run.read_text())
    with synced(one, "all"):
        assert (one.root / "runs/mine/run.json").exists()


def test_a_pointer_goes_after_the_files_that_it_names(machines, monkeypatch):
    one, _ = machines
    order = []
    upload, move = Bucket.upload, Bucket.write
    monkeypatch.setattr(
        Bucket, "upload", lambda self, name, path: order.append(name) or upload(self, name, path)
    )
    monkeypatch.setattr(
        Bucket, "write", lambda self, name, *rest: order.append(name) or move(self, name, *rest)
    )

    with synced(one, "all"):
        write_json(one.latest_snapshot, {"snapshot": "a"})
        write(one, "tables/events/x.parquet", "rows")
        write(one, "snapshots/a/manifest.json", "{}")

    assert "snapshots/latest.json" == order[-1]
    assert {"tables/events/x.parquet", "snapshots/a/manifest.json"} <= set(order[:-1])


def test_a_run_killed_between_files_and_pointer_is_finished_by_the_next(machines, monkeypatch):
    one, two = machines
    with synced(one, "all"):
        write_json(one.latest_run, {"run": "old"})
    with monkeypatch.context() as patch:
        patch.setattr(remote.Remote, "_move", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), synced(one, "all"):
            write(one, "runs/new/run.json", "{}")
            write_json(one.latest_run, {"run": "new"})
    with synced(two, "all"):
        assert {"run": "old"} == json.loads(two.latest_run.read_text())

    with synced(one, "all"):
        pass
    with synced(two, "all"):
        assert {"run": "new"} == json.loads(two.latest_run.read_text())
        assert (two.root / "runs/new/run.json").exists()


def test_a_refused_command_still_pushes_what_it_wrote(machines):
    one, two = machines
    with pytest.raises(UserError, match="the gate is shut"), synced(one, "all"):
        write(one, "models/shared/v1-gate.json", "{}")
        raise UserError("the gate is shut")

    with synced(two, "all"):
        assert (two.root / "models/shared/v1-gate.json").exists()


def test_a_raw_file_that_both_sides_changed_is_refused_by_name(machines):
    one, two = machines
    name = "raw/web/dt=2026-01-01/a.jsonl"
    for store in machines:
        with synced(store, "all"):
            write(one, name, "first\n")
    write(one, name, "changed here\n")
    with synced(two, "all"):
        write(two, name, "changed there, too\n")

    with pytest.raises(UserError, match=f"data/{name} was changed here, and"), synced(one, "all"):
        pass
    assert "changed here\n" == (one.root / name).read_text()


def test_logs_that_a_logger_writes_to_the_bucket_are_raw_logs(machines, server, address):
    _, two = machines
    key = f"{address.rpartition('/')[2]}/raw/web/dt=2026-01-01/firehose-1.jsonl"
    client(server).put_object(Bucket="boat", Key=key, Body=b"a line\n")

    for _ in range(2):
        with synced(two, "all"):
            path = two.raw / "web/dt=2026-01-01/firehose-1.jsonl"
            state = path.read_text(), path.stat().st_mtime_ns
    assert state == (path.read_text(), path.stat().st_mtime_ns)


def test_one_command_at_a_time_may_publish_and_the_other_hears_who(machines):
    one, two = machines
    with synced(one, "all"), leased():
        holder, session._active = session._active, None
        with (
            pytest.raises(UserError, match=r"on .+ \(process \d+\) has been writing since 20"),
            synced(two, "all"),
            leased(),
        ):
            pass
        session._active = holder
    with synced(two, "all"), leased():
        pass


def leased_elsewhere() -> Bucket:
    """The bucket, whose lease another machine has."""
    bucket = session._active.bucket
    holder = {"by": "ann", "host": "gone", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    bucket.write(lease.NAME, json.dumps(holder).encode(), None)
    return bucket


def test_the_lease_of_a_dead_process_is_free_at_once_and_of_a_dead_machine_later(
    machines, monkeypatch
):
    one, _ = machines
    with synced(one, "all"):
        bucket = leased_elsewhere()
        with (
            pytest.raises(UserError, match=r"ann on gone .+ its right ends in \d+ seconds"),
            leased(),
        ):
            pass
        monkeypatch.setattr(lease, "EXPIRES_AFTER", 0)
        with leased():
            assert "ann" not in lease.read_lease(bucket)


def test_where_the_holder_seems_dead_the_next_one_waits_for_the_end_of_its_lease(
    machines, monkeypatch
):
    one, _ = machines
    with synced(one, "all"):
        bucket = leased_elsewhere()
        for name, seconds in {"SILENT_AFTER": 0, "EXPIRES_AFTER": 2, "LOOKED_EVERY": 0.2}.items():
            monkeypatch.setattr(lease, name, seconds)
        with leased():
            assert "ann" not in lease.read_lease(bucket)


def test_who_lost_the_lease_publishes_nothing(machines, monkeypatch):
    one, _ = machines
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.05)
    with pytest.raises(UserError, match="lost the right to publish"), synced(one, "all"), leased():
        bucket = session._active.bucket
        bucket.delete([lease.NAME])
        session._active.lease._thread.join(10)
        write_json(one.latest_snapshot, {"snapshot": "mine"})
        publish()
    assert bucket.read("snapshots/latest.json") is None


def test_the_lease_is_renewed_while_the_command_works(machines, monkeypatch):
    one, _ = machines
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.05)
    with synced(one, "all"), leased():
        renewed = threading.Event()
        write_to = Bucket.write
        monkeypatch.setattr(Bucket, "write", lambda *each: renewed.set() or write_to(*each))
        assert renewed.wait(10)


def test_a_bucket_of_another_project_is_refused(machines, monkeypatch):
    one, two = machines
    monkeypatch.setattr(remote, "_project_toml", lambda: {"project": {"slug": "shop"}})
    with synced(one, "all"):
        pass
    monkeypatch.setattr(remote, "_project_toml", lambda: {"project": {"slug": "bank"}})
    with (
        pytest.raises(UserError, match="has the data of the project shop, and this is bank"),
        synced(two, "all"),
    ):
        pass


def test_a_bucket_of_a_newer_version_is_refused(machines, monkeypatch):
    one, two = machines
    with monkeypatch.context() as newer, synced(one, "all"):
        newer.setattr(remote, "LAYOUT", 2)
    with monkeypatch.context() as newer:
        newer.setattr(remote, "LAYOUT", 99)
        with synced(Store(one.root, remote=f"{one.remote}-new"), "all"):
            pass
    with (
        pytest.raises(UserError, match="written by a newer version of Jollyboat"),
        synced(Store(two.root, remote=f"{one.remote}-new"), "all"),
    ):
        pass


def test_another_salt_is_refused_before_anything_is_hashed_with_it(machines, monkeypatch):
    one, two = machines
    with synced(one, "all"):
        session.keep_salt("the salt of the first machine")
    for salt, sentence in (("", "hashed with a salt"), ("another", "hashed with another salt")):
        monkeypatch.setenv("PERSONAL_SALT", salt)
        with pytest.raises(UserError, match=sentence), synced(two, "all"):
            pass
    monkeypatch.setenv("PERSONAL_SALT", "the salt of the first machine")
    with synced(two, "all"):
        pass


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "Could not connect to the endpoint"),
        ("bucket", "s3://nothing-here/x", "there is no such bucket"),
        ("bucket", "boat/x", "it should be s3://bucket/prefix"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_sentence(
    address, tmp_path, monkeypatch, variable, value, sentence
):
    if variable == "bucket":
        address = value
    else:
        monkeypatch.setenv(variable, value)
    store = Store(tmp_path / "data", remote=address)
    write(store, "runs/a/run.json", "{}")

    with pytest.raises(UserError, match=sentence), synced(store, "all"):
        pass
    assert (store.root / "runs/a/run.json").exists()


class Faulty(BaseHTTPRequestHandler):
    """An S3 server that answers every request with one fault."""

    fault = ("503 Slow Down", "SlowDown")

    def do_GET(self):
        status, code = self.fault
        type(self).count += 1
        if code == "reset":
            self.connection.close()
            return
        body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        self.wfile.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("fault", "sentence", "attempts"),
    [
        (("503 Slow Down", "SlowDown"), "503 SlowDown", 2),
        (("500 Internal", "InternalError"), "500 InternalError", 2),
        (("", "reset"), "closed", 2),
        (("403 Forbidden", "RequestTimeTooSkewed"), "the clock of this machine is wrong", 1),
        (("403 Forbidden", "SignatureDoesNotMatch"), "AWS_SECRET_ACCESS_KEY is wrong", 1),
        (("403 Forbidden", "AccessDenied"), "these credentials may not do that", 1),
    ],
)
def test_a_fault_is_tried_again_with_a_limit_and_then_a_sentence(
    address, tmp_path, monkeypatch, fault, sentence, attempts
):
    handler = type("Handler", (Faulty,), {"fault": fault, "count": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        with (
            pytest.raises(UserError, match=sentence),
            synced(Store(tmp_path / "data", remote=address), "all"),
        ):
            pass
        server.shutdown()
    assert attempts == handler.count


def test_the_age_of_a_lease_does_not_depend_on_the_clock_of_this_machine(machines, monkeypatch):
    one, _ = machines

    class Late(datetime):
        @classmethod
        def now(cls, tz=UTC):
            return datetime(2036, 1, 1, tzinfo=tz)

    with synced(one, "all"), leased():
        monkeypatch.setattr(lease, "datetime", Late)
        assert lease.lease_age(session._active.bucket) < 60


def test_a_rollback_beside_a_deployment_that_came_first_moves_nothing(machines, monkeypatch):
    one, two = machines
    for version in ("v1", "v2"):
        write(one, f"models/shared/{version}/manifest.json", "{}")
    monkeypatch.setattr(
        champion,
        "open_bundle",
        lambda folder: type("B", (), {"owner": "shared", "version": folder.name, "folder": folder}),
    )
    promote = {"run": "r", "by": "ann", "why": "better"}
    with synced(one, "results"):
        champion.promote(one, "shared", "v1", **promote)
        champion.promote(one, "shared", "v2", **promote)
    with pytest.raises(UserError, match=r"champion\.json was replaced by"), synced(two, "results"):
        mine, session._active = session._active, None
        with synced(one, "results"):
            write(one, "models/shared/v3/manifest.json", "{}")
            champion.promote(one, "shared", "v3", **promote)
        session._active = mine
        champion.rollback(two, by="bob", why="alarms")

    assert ("shared", "v3") == champion.current(two)


def test_old_versions_of_removed_objects_go_with_them(address, server):
    name = f"versioned-{uuid.uuid4().hex[:6]}"
    client(server).create_bucket(Bucket=name)
    client(server).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    bucket = Bucket(f"s3://{name}/shop")
    etag = bucket.write("raw/a", b"about somebody", None)
    bucket.write("raw/a", b"without them", etag)
    bucket.write("raw/b", b"about somebody", None)
    bucket.delete(["raw/b"])

    assert 3 == bucket.delete_versions()
    versions = client(server).list_object_versions(Bucket=name)
    assert ["shop/raw/a"] == [each["Key"] for each in versions["Versions"]]
    assert "DeleteMarkers" not in versions


def test_a_server_follows_new_champions_and_pushes_what_it_logged(machines, monkeypatch):
    one, two = machines
    monkeypatch.setattr(session, "FOLLOWED_EVERY", 0.1)
    with synced(one, "all"):
        write_json(one.champion("shared"), {"version": "v1"})
    with followed(two):
        assert {"version": "v1"} == read_json(two.champion("shared"))
        with synced(one, "all"):
            write_json(one.champion("shared"), {"version": "v2"})
        write(two, "raw/predictions/dt=2026-01-01/a.jsonl", "an answer\n")
        deadline = time.monotonic() + 20
        while read_json(two.champion("shared")) != {"version": "v2"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with synced(one, "all"):
        assert "an answer\n" == (one.raw / "predictions/dt=2026-01-01/a.jsonl").read_text()


def test_a_server_goes_on_with_what_is_here_while_the_bucket_does_not_answer(
    machines, monkeypatch, caplog
):
    one, _ = machines
    with synced(one, "all"):
        write_json(one.champion("shared"), {"version": "v1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with followed(one):
        assert {"version": "v1"} == read_json(one.champion("shared"))
    assert "Could not connect" in caplog.text
