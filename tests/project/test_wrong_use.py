"""Wrong use is answered by a sentence and the command that fixes it, never by a traceback."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import JOLLYBOAT, refusal, run

import demo

TOO_EARLY = {
    "data": (["flows/data.py", "run"], "No raw logs: ", "`make simulate`"),
    "train": (["flows/train.py", "run"], "There is no snapshot yet", "`make data`"),
    "deploy": (["flows/deploy.py", "run"], "There is no training run yet", "`make train`"),
    "score": (["flows/score.py", "run"], "There is no snapshot yet", "`make data`"),
    "ask": ([*JOLLYBOAT, "ask"], "There is no champion to ask", "`make deploy`"),
}
UNKNOWN = {
    "train": (
        ["flows/train.py", "run", "--snapshot", "nope"],
        "There is no snapshot 'nope'",
        "the latest",
    ),
    "score": (
        ["flows/score.py", "run", "--snapshot", "nope"],
        "There is no snapshot 'nope'",
        "the latest",
    ),
    "deploy": (
        ["flows/deploy.py", "run", "--candidate", "nope"],
        "Training run 'nope' does not exist",
        "`make train`",
    ),
}
# Root reads whatever it likes; without these capabilities it is bound by permissions as everybody is.
BOUND = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    if os.geteuid() == 0
    else ()
)


@contextmanager
def serving(project: Path, store: Path) -> Iterator[str]:
    """The address of a server over this store, on a free port."""
    environment = demo.environment() | {"STORE_ROOT": str(store), "PORT": "0"}
    command = [project / ".venv/bin/python", *JOLLYBOAT, "serve"]
    server = subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield server.stdout.readline().split("Serving on ")[1].partition(";")[0]
    finally:
        server.terminate()
        server.wait()


def ready(address: str) -> tuple[int, str]:
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["detail"]
    raise AssertionError("the server did not answer")


@pytest.mark.parametrize("verb", TOO_EARLY)
def test_a_verb_before_its_time_says_which_comes_first(untouched, tmp_path, verb):
    command, actual, remedy = TOO_EARLY[verb]

    sentence = refusal(run(untouched, tmp_path / "store", *command))

    assert actual in sentence
    assert remedy in sentence


@pytest.mark.parametrize("verb", UNKNOWN)
def test_an_unknown_name_is_told_with_those_there_are(untouched, built, verb):
    command, actual, remedy = UNKNOWN[verb]
    folder = "runs" if verb == "deploy" else "snapshots"

    sentence = refusal(run(untouched, built, *command))

    assert actual in sentence
    assert remedy in sentence
    assert json.loads((built / folder / "latest.json").read_text()).popitem()[1] in sentence


def test_a_run_that_did_not_finish_is_not_deployed(untouched, copied):
    (finished,) = copied.glob("runs/*/run.json")
    finished.unlink()

    sentence = refusal(run(untouched, copied, "flows/deploy.py", "run"))

    assert "did not finish" in sentence
    assert "`make train` resumes it, or says again why it was refused" in sentence


def test_a_raw_folder_without_files_of_the_sources_is_refused_and_another_is_named(
    untouched, tmp_path
):
    (tmp_path / "raw/web/dt=2026-01-01").mkdir(parents=True)
    (tmp_path / "raw/mine/dt=2026-01-01").mkdir(parents=True)

    sentence = refusal(run(untouched, tmp_path, "flows/data.py", "run"))

    assert "no file of the sources web, orders" in sentence
    assert "It has mine; name a source under vars: sources in dbt/dbt_project.yml" in sentence


def test_a_raw_folder_that_cannot_be_read_is_named_with_its_fix(untouched, tmp_path):
    closed = tmp_path / "raw/web"
    closed.mkdir(parents=True)
    closed.chmod(0)
    if subprocess.run([*BOUND, "ls", closed], capture_output=True).returncode == 0:
        pytest.skip("this machine lets us read what is closed (root, and no setpriv)")

    sentence = refusal(run(untouched, tmp_path, "flows/data.py", "run", before=BOUND))

    closed.chmod(0o700)
    assert f"{closed} cannot be read" in sentence
    assert "`chmod u+rx`" in sentence


def test_a_port_in_use_is_named_with_the_way_to_another(untouched, built):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        result = run(untouched, built, *JOLLYBOAT, "serve", before=("env", f"PORT={port}"))

    assert f"127.0.0.1:{port}" in refusal(result)
    assert "`jollyboat serve --port 8001`" in refusal(result)


def test_a_server_without_a_champion_starts_and_says_what_is_missing(untouched, tmp_path):
    with serving(untouched, tmp_path) as address:
        status, sentence = ready(address)

    assert status == 503
    assert "There is no champion yet. Run `make deploy`" in sentence


def test_a_bundle_that_misses_a_file_is_neither_served_nor_scored_with_until_deploy_mends_it(
    untouched, copied
):
    next(copied.glob("models/shared/*/schema.json")).unlink()
    missing = "is missing the file schema.json: run `make deploy`"

    with serving(untouched, copied) as address:
        status, sentence = ready(address)

    assert status == 503
    assert missing in sentence
    assert missing in refusal(run(untouched, copied, "flows/score.py", "run"))
    assert missing in refusal(run(untouched, copied, *JOLLYBOAT, "ask"))
    assert run(untouched, copied, "flows/deploy.py", "run").returncode == 0
