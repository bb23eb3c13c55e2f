"""What a run prints: lines of at most 100 columns, a live line and colors on a terminal alone."""

import io
import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from whole_path import run

from jollyboat.flows.console import STOPPED
from jollyboat.pages.terminal import (
    WIDTH,
    color_verdicts,
    escape,
    format_count,
    join_lines,
    wrap,
)
from jollyboat.store import PROJECT, Store

CHECK = f"FAIL  {'calibration':<28}{'Probabilities are off by more than chance explains. ' * 4}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_line_continues_below_its_last_column():
    first, second, *_ = lines = wrap(f"{CHECK}\nshort").splitlines()

    assert max(map(len, lines)) <= WIDTH
    assert lines[-1] == "short"
    assert second.index(second.strip()[0]) == first.index("Probabilities")
    assert " ".join(" ".join(lines).split()) == " ".join(f"{CHECK} short".split())


HOSTILE = "ev\x1b[31mil\r\n\x9b2Jpass \u202egnp.\udcff"


def test_control_characters_of_data_are_shown_and_not_obeyed():
    escaped = "ev\\x1b[31mil\\r\n\\x9b2Jpass \\u202egnp.\\udcff"
    harmless = "1,299\u00a0€ ünïcødé 👩‍🚀\tx"

    assert escape(HOSTILE) == wrap(HOSTILE) == escaped
    assert join_lines(["a", HOSTILE]) == "a\n" + escaped.replace("\n", "\\n")
    assert wrap(harmless) == harmless


def test_a_word_that_is_longer_than_a_line_stays_whole():
    path = f"/{'folder/' * 20}page.html"

    assert path in wrap(f"The page is at {path}").splitlines()[-1]


def test_a_label_keeps_the_long_word_that_it_names_on_its_line():
    path = f"/{'folder/' * 20}latest.json"

    assert wrap(f"unreadable  {path}: delete it").splitlines()[0] == f"unreadable  {path}:"


@pytest.mark.parametrize(
    ("line", "color"),
    [
        (CHECK, 31),
        ("deploy: refused by latency; there is still no champion.", 31),
        ("Nothing was published; the snapshot before stays.", 31),
        ("pass  behaves", 32),
        ("data: snapshot 123 published; 3.0 s", 32),
        ("deploy: 123 is now the champion of shared", 32),
        ("warning: events: few rows", 33),
    ],
)
def test_a_verdict_is_colored_on_a_terminal_alone(line, color, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored = color_verdicts(line, Terminal())
    piped = color_verdicts(line, io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")

    assert f"\033[{color}m" in colored and colored.count("\033[") == 2
    assert color_verdicts(line, Terminal()) == piped == line


def test_a_refusal_is_the_only_thing_that_a_run_prints(tmp_path):
    refused = run(Store(tmp_path), "flows/train.py", "run")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.strip().startswith("There is no snapshot yet")
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_step_that_breaks_shows_its_traceback_and_its_name(copied):
    for manifest in copied.snapshots.glob("*/manifest.json"):
        content = json.loads(manifest.read_text()) | {"views": 5}
        manifest.write_text(json.dumps(content))

    broken = run(copied, "flows/score.py", "run")

    assert broken.returncode == 1
    assert "Traceback (most recent call last):" in broken.stdout
    assert "Workflow failed." in broken.stdout
    assert "Step start (task-id 1) failed." in broken.stderr


def test_ctrl_c_ends_a_run_with_one_sentence_about_what_to_type(copied):
    command = [sys.executable, "flows/data.py", "run"]
    environment = os.environ | {"STORE_ROOT": str(copied.root)}
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Whoever starts the tests in the background makes their children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    first_line = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate()[0]

    assert first_line and process.returncode
    assert printed.strip().endswith(STOPPED)
    assert "Workflow interrupted" not in printed and "failed" not in printed, printed


def test_a_stage_is_rewritten_in_place_on_a_terminal(copied):
    ours, theirs = pty.openpty()
    environment = os.environ | {"STORE_ROOT": str(copied.root), "TERM": "xterm", "NO_COLOR": ""}
    command = [sys.executable, "flows/score.py", "run"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)

    with subprocess.Popen(command, cwd=PROJECT, env=environment, **streams) as process:
        os.close(theirs)
        shown = read_all(ours)

    assert process.returncode == 0, shown
    assert "\r\033[Kscore sessions 0 s\r\033[K" in shown
    assert " rows " in shown.partition("score sessions  ")[2].partition("\n")[0]
    assert "\x1e" not in shown


def read_all(terminal: int) -> str:
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            return shown.decode()
        shown += part


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 alarms"), (1, "1 alarm"), (2, "2 alarms"), (2821, "2,821 alarms")]
)
def test_a_number_and_its_noun_agree(number, text):
    assert text == format_count(number, "alarm")
