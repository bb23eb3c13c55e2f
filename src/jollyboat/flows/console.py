"""Prints a run: its tasks' lines, a live line for each stage, and an error at the end."""

import atexit
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jollyboat.pages.terminal import color_verdicts, format_count, is_terminal, wrap

LIVE_SECONDS = 0.2  # between two updates of the live line
STAGE_MARK = "\x1e"  # starts a line of a task that names its stage; the console does not print it
CLEAR_LINE = "\r\033[K"
STOPPED = "Stopped by Ctrl-C. What is in use stays in use; run the same command again."
ABORTED = "Aborted!"  # what each of Metaflow's processes says on Ctrl-C


@dataclass
class Stage:
    """A part of a task; its caller sets `rows` to the number of rows in it."""

    rows: int | None = None


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Show a stage while it runs, then print its name, rows and seconds.

    A stage that raises prints nothing.
    """
    current, began = Stage(), time.monotonic()
    _mark(name)
    yield current
    _mark("")
    rows = "" if current.rows is None else format_count(current.rows, "row")
    print(f"{name:<28}{rows:>18}{time.monotonic() - began:>9.1f} s", flush=True)


def _mark(name: str) -> None:
    if "FLOW_PROCESS" in os.environ:  # the process of the run has a console
        print(f"{STAGE_MARK}{name}", flush=True)


class Console:
    """Prints the lines of a run's tasks without Metaflow's prefix of 59 characters.

    Metaflow's own lines are printed only if something broke. `refusal` is the file in which a task
    leaves the sentence that ended the run.
    """

    def __init__(self, refusal: Path) -> None:
        self._refusal = refusal
        self._stages: dict[str, tuple[str, float]] = {}  # name and start, by task
        self._is_live = is_terminal(sys.stdout)
        self._live_line = ""
        self._lock = threading.Lock()

    def install(self) -> None:
        """Replace Metaflow's printing in this process, from now until it exits."""
        from metaflow import cli

        self._refusal.unlink(missing_ok=True)  # of a killed run whose process had the same number
        print_exception = cli.print_metaflow_exception
        cli.logger = self.log
        cli.print_metaflow_exception = lambda error: self._is_refused() or print_exception(error)
        os.environ["METAFLOW_QUIET"] = "1"
        atexit.register(self.close)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._stop)
        if self._is_live:
            threading.Thread(target=self._update, daemon=True).start()

    def log(
        self,
        body: str = "",
        system_msg: bool = False,
        head: str = "",
        bad: bool = False,
        **_: object,
    ) -> None:
        """Print a line of the task that `head` names, or a message of Metaflow, the caller."""
        with self._lock:
            if body.startswith(STAGE_MARK):
                self._stages[head] = (body.removeprefix(STAGE_MARK), time.monotonic())
            elif not system_msg:
                if body != ABORTED:
                    self._print(body)
            else:
                self._stages.pop(head, None)  # the task has ended
                if (bad or "failed" in body) and not self._is_refused():
                    self._print(body)
            self._show_stages()

    def close(self) -> None:
        """Print the refusal that ended the run, if there is one."""
        with self._lock:
            self._stages.clear()
            self._show_stages()
        with suppress(FileNotFoundError):
            sentence = self._refusal.read_text(encoding="utf-8")
            self._refusal.unlink()
            sys.stdout.flush()
            print(f"\n{color_verdicts(wrap(sentence), sys.stderr)}", file=sys.stderr)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Leave the sentence for `close`, and interrupt the run as Python does."""
        with suppress(OSError):
            self._refusal.write_text(STOPPED, encoding="utf-8")
        signal.default_int_handler(number, frame)

    def _is_refused(self) -> bool:
        return self._refusal.exists()

    def _print(self, line: str) -> None:
        clear = CLEAR_LINE if self._live_line else ""
        sys.stdout.write(f"{clear}{color_verdicts(wrap(line), sys.stdout)}\n")
        sys.stdout.flush()
        self._live_line = ""

    def _update(self) -> None:
        while True:
            time.sleep(LIVE_SECONDS)
            with self._lock:
                self._show_stages()

    def _show_stages(self) -> None:
        if not self._is_live:
            return
        now = time.monotonic()
        stages = [f"{name} {now - began:.0f} s" for name, began in self._stages.values() if name]
        line = ", ".join(stages)[: shutil.get_terminal_size().columns - 1]
        if line != self._live_line:
            sys.stdout.write(f"{CLEAR_LINE}{line}")
            sys.stdout.flush()
            self._live_line = line
