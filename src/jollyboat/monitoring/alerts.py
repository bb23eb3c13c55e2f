"""Incidents told once as they begin and once as they end, through a command or a webhook."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from jollyboat.store import Store, UserError, read_json, write_json

TRIES, PATIENCE_SECONDS = 3, 10
WAIT_SECONDS = 60  # for another monitor to have told; a hook that hangs costs it 33
Hook = Callable[[str], None]


def hooks_of(command: str, webhook: str) -> dict[str, Hook]:
    """What is to be called with a message, which is JSON; none where neither is set."""
    given = {"command": (_run, command), "webhook": (_post, webhook)}
    return {name: partial(call, where) for name, (call, where) in given.items() if where}


def tell(
    store: Store,
    alarms: Mapping[str, str],
    page: str,
    hooks: Mapping[str, Hook],
    wait_seconds: float = 1,
) -> dict:
    """Say what began and ended since the last time: {"opened", "ended", "open", "failed"}.

    `alarms` maps each incident's key to its sentence. What a hook did not take is said to it again the next time; one
    that fails is tried three times, and `failed` then says why. UserError where another monitor is telling for long.
    """
    with _alone(store):
        return _tell(store, alarms, page, hooks, wait_seconds)


def _tell(
    store: Store,
    alarms: Mapping[str, str],
    page: str,
    hooks: Mapping[str, Hook],
    wait_seconds: float,
) -> dict[str, Any]:
    path = store.monitor / "alerts.json"
    before = _read(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ended = {key: one for key, one in before.items() if key not in alarms}
    incidents = {
        key: before.get(key, {"since": now, "told": []}) | {"sentence": alarms[key]}
        for key in alarms
    }
    opened = [
        key for key, one in incidents.items() if key not in before or set(hooks) - set(one["told"])
    ]
    failed = {}
    for name, hook in hooks.items():
        begun = [one["sentence"] for one in incidents.values() if name not in one["told"]]
        over = [
            one["sentence"] for one in ended.values() if name in one["told"]
        ]  # else it never heard of it
        if (begun or over) and (why := _send(hook, _message(begun, over, page), wait_seconds)):
            failed[name] = why
    took = set(hooks) - set(failed)
    incidents = {
        key: one | {"told": sorted({*one["told"], *took})} for key, one in incidents.items()
    }
    unheard = {
        key: one | {"told": sorted(set(one["told"]) & set(failed))} for key, one in ended.items()
    }
    write_json(path, incidents | {key: one for key, one in unheard.items() if one["told"]})
    reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
    sentence = (
        f"The alert could not be sent ({reasons}); the next `make monitor` tries again."
        if failed
        else None
    )
    return {"opened": sorted(opened), "ended": sorted(ended), "open": incidents, "failed": sentence}


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Hold the right to tell for the block, so that no incident is told twice."""
    store.monitor.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + WAIT_SECONDS
    with (store.monitor / ".alerts.lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(
                        f"Another monitor ({file.read()}) is telling of incidents. "
                        "Wait for it to end, then run the same command again."
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(
            f"process {os.getpid()}, since {datetime.now(UTC).isoformat(timespec='seconds')}"
        )
        file.flush()
        yield


def _read(path: Path) -> dict[str, dict]:
    """What was told, by the incident's key; UserError where the file holds anything else."""
    before = read_json(path, default={})
    if not isinstance(before, dict) or not all(map(_is_incident, before.values())):
        raise UserError(
            f"{path} is not readable as a history of alerts; delete it and run `make monitor`, which writes it again "
            "and tells once more what is open."
        )
    return before


def _is_incident(one: object) -> bool:
    match one:
        case {"since": str(), "sentence": str(), "told": [*names]}:
            return all(isinstance(name, str) for name in names)
    return False


def _message(opened: Sequence[str], ended: Sequence[str], page: str) -> str:
    text = "; ".join([*opened, *(f"over: {sentence}" for sentence in ended)])
    return json.dumps({"text": text, "opened": opened, "ended": ended, "page": page})


def _send(hook: Hook, message: str, wait_seconds: float) -> str | None:
    """None, or why the hook did not take it."""
    for attempt in range(TRIES):
        try:
            hook(message)
            return None
        except (OSError, ValueError, subprocess.SubprocessError, HTTPException) as error:
            why = _without_address(error)
        if attempt < TRIES - 1:
            time.sleep(wait_seconds * 2**attempt)
    return why


def _run(command: str, message: str) -> None:
    """In a session of its own, so that what it started goes with it where it hangs."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, text=True, start_new_session=True, **silent
    ) as process:
        try:
            process.communicate(message, timeout=PATIENCE_SECONDS)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _post(address: str, message: str) -> None:
    request = urllib.request.Request(
        address, message.encode(), {"Content-Type": "application/json"}
    )
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
                answer.set_result(None)
        except Exception as error:  # whatever it is, the caller gets it
            answer.set_exception(error)

    # A thread that is left behind, for the timeout above is one of each read, and an answer may drip.
    threading.Thread(target=ask, daemon=True).start()
    answer.result(PATIENCE_SECONDS)


def _without_address(error: Exception) -> str:
    """What went wrong; an address or a command may hold a secret."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with exit code {error.returncode}"
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return f"it did not end within {PATIENCE_SECONDS} s"
    return (
        getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
    )
