"""What a data run or a deployment refuses leaves what was published as it was, and says which command fixes it."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from runs import JOLLYBOAT, refusal, run

import demo
from jollyboat.store import LIBRARY

pytestmark = pytest.mark.faults

DATA = ("flows/data.py", "run")
# A command over a store on a disk of its own (its place, its size, what lies there at first, where to keep what lies
# there in the end) which something else fills as soon as the file named exists.
ON_A_SMALL_DISK = """
disk=$1; start=$3; end=$4; sign=$5
mount -t tmpfs -o size="$2" small "$disk" && cp -a "$start/." "$disk" || exit 3
(until test -e "$disk/$sign"; do sleep 0.05; done; head -c 1G /dev/zero > "$disk/other") 2>/dev/null &
other=$!
shift 5; "$@"; code=$?
kill $other 2>/dev/null
cp -a "$disk/snapshots" "$end"
exit $code
"""


@pytest.fixture
def mine(untouched: Path, tmp_path: Path) -> Path:
    """A project of one's own, to be broken."""
    return Path(shutil.copytree(untouched, tmp_path / "project"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} has no {old}"
    file.write_text(text.replace(old, new, 1))


def published(store: Path) -> str:
    return (store / "snapshots/latest.json").read_text()


def test_files_that_cannot_be_read_stop_the_publication_until_they_are_accepted(untouched, copied):
    before = published(copied)
    day = next((copied / "raw/web").glob("dt=*"))
    bad = {
        "EXPORT.XLSX": b"PK",
        "cut.jsonl.gz": b"\x1f\x8b\x08",
        "wide.csv": "a,b\n".encode("utf-16"),
    }
    for name, content in bad.items():
        (day / name).write_bytes(content)

    result = run(untouched, copied, *DATA)

    sentence = refusal(result)
    assert "`jollyboat land --accept`" in sentence
    assert all(f"{day.name}/{name}" in sentence for name in bad)
    assert "convert it with `iconv" in demo.unwrap(result.stdout)
    assert published(copied) == before
    assert run(untouched, copied, *JOLLYBOAT, "land", "--accept").returncode == 0
    accepted = run(untouched, copied, *DATA)
    assert accepted.returncode == 0, accepted.stdout
    assert "note: 3 accepted files cannot be read" in accepted.stdout


def test_a_broken_model_is_named_and_publishes_nothing(mine, copied):
    before = published(copied)
    (mine / "dbt/models/lookups/lookup_product.sql").write_text(
        "select no_such_column from {{ ref('events') }}"
    )

    sentence = refusal(run(mine, copied, *DATA))

    assert "lookup_product" in sentence
    assert "no_such_column" in sentence
    assert "`make data`" in sentence
    assert published(copied) == before


def test_a_critical_finding_publishes_nothing_and_names_the_keys_of_rows(mine, copied):
    before = published(copied)
    shutil.copy(LIBRARY / "expectations/sessions.json", mine / "expectations")
    edit(mine / "expectations/sessions.json", '"min_value": 1', '"min_value": 3')

    sentence = refusal(run(mine, copied, *DATA))

    assert "Nothing was published; the snapshot before stays" in sentence
    assert "a session has events" in sentence
    assert re.search(r"tenant_id=\w+, session_id=\S+", sentence)
    assert published(copied) == before


def test_an_outcome_of_mere_chance_is_learned_from_and_refused_by_the_gate(mine, copied):
    """Half of the sessions have this outcome, so that many of them are there to judge by."""
    shutil.rmtree(copied / "models")
    edit(
        mine / "dbt/dbt_project.yml",
        "outcome: event_type = 'purchase'",
        "outcome: md5(session_id) < '8'",
    )
    for verb in ("data", "train"):
        assert run(mine, copied, f"flows/{verb}.py", "run").returncode == 0

    sentence = refusal(run(mine, copied, "flows/deploy.py", "run"))

    assert "refused by" in sentence
    assert "beats_the_baseline" in sentence
    assert "there is still no champion" in sentence
    assert not (copied / "models/shared/champion.json").exists()


def test_a_second_data_run_says_who_holds_the_warehouse_since_when_and_the_first_goes_on(
    untouched, copied
):
    environment = demo.environment() | {"STORE_ROOT": str(copied)}
    (copied / "dbt/built.json").unlink()  # so that there is something to build
    (copied / "dbt/logs/run.txt").unlink()
    first = subprocess.Popen(
        [untouched / ".venv/bin/python", *DATA],
        cwd=untouched,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (copied / "dbt/logs/run.txt").exists():
        assert first.poll() is None
        time.sleep(0.01)

    sentence = refusal(run(untouched, copied, *DATA))

    holder = json.loads((copied / ".warehouse.lock").read_text())
    assert (
        f"Another data run (process {holder['pid']}) has been writing the warehouse since"
        in sentence
    )
    assert "Wait for it to end, then run the same command again" in sentence
    assert first.wait() == 0


def test_a_warehouse_that_is_open_elsewhere_or_damaged_is_told_and_built_again(untouched, copied):
    before = published(copied)
    hold = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    command = [untouched / ".venv/bin/python", "-c", hold, str(copied / "warehouse.duckdb")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()

    sentence = refusal(run(untouched, copied, *DATA))

    holder.kill()
    holder.wait()
    assert "The warehouse is open in another program" in sentence
    assert str(holder.pid) in sentence

    (copied / "warehouse.duckdb").write_bytes(b"what a crash of the machine left" * 1000)
    assert "warehouse.duckdb is damaged" in refusal(run(untouched, copied, *DATA))
    assert published(copied) == before
    (copied / "warehouse.duckdb").unlink()
    assert run(untouched, copied, *DATA).returncode == 0
    assert published(copied) == before


@pytest.mark.parametrize(
    ("size", "sign"), [("16m", "never"), ("200m", "dbt/logs/run.txt"), ("200m", "dbt/built.json")]
)
def test_a_full_disk_publishes_nothing(untouched, built, tmp_path, size, sign):
    disk, start, end = (tmp_path / name for name in ("disk", "start", "end"))
    disk.mkdir()
    unshared = ("unshare", "--map-root-user", "--mount")
    if subprocess.run(
        [*unshared, "mount", "-t", "tmpfs", "small", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine gives no mount namespace of one's own (unshare)")
    for folder in ("raw", "snapshots"):
        shutil.copytree(built / folder, start / folder)
    on_it = (*unshared, "sh", "-c", ON_A_SMALL_DISK, "-", *map(str, (disk, size, start, end, sign)))

    sentence = refusal(run(untouched, disk, *DATA, before=on_it))

    assert "The disk is full" in sentence
    assert "run the same command again" in sentence
    assert sorted(path.name for path in end.iterdir()) == sorted(
        path.name for path in (start / "snapshots").iterdir()
    )
    assert (end / "latest.json").read_text() == published(start)
