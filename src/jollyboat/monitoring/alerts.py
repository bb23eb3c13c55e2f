"""Alerts: each incident is sent once when it begins and once when it ends."""

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

from jollyboat.monitoring.incidents import describe, due
from jollyboat.store import Store, UserError, read_json, write_json

TRIES, TIMEOUT_SECONDS = 3, 10
LOCK_SECONDS = 60  # a hook that hangs costs another monitor 33
Hook = Callable[[str], None]


def hooks_of(command: str, webhook: str) -> dict[str, Hook]:
    """The functions that send a JSON message; none if neither setting is set."""
    hooks = {"command": (_run, command), "webhook": (_post, webhook)}
    return {name: partial(send, target) for name, (send, target) in hooks.items() if target}


def send_alerts(
    store: Store,
    alarms: Mapping[str, str],
    page: str,
    hooks: Mapping[str, Hook],
    wait_seconds: float = 1,
    days: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Send the incidents that began or ended: {"opened", "ended", "open", "failed"}.

    `alarms` maps each incident's key to its sentence, `days` to the day on which it began in the
    data. Incidents of one subject in many tenants are one sentence. Tenants that join such a group
    later wait until it has doubled. A hook that fails is tried three times, then again at the next
    call; `failed` says why. UserError if another monitor sends for too long.
    """
    path = store.monitor / "alerts.json"
    with _lock(store):
        before, now = _read(path), datetime.now(UTC).isoformat(timespec="seconds")
        ended = {key: one for key, one in before.items() if key not in alarms}
        incidents = {
            key: before.get(key, {"since": now, "sent_to": []}) | {"sentence": sentence}
            for key, sentence in alarms.items()
        }
        sent = {name: _due(incidents, name) for name in hooks}
        began = {key for keys in sent.values() for key in keys}
        opened = [key for key in incidents if key in began or key not in before]
        failures = {}
        for name, hook in hooks.items():
            new = describe({key: alarms[key] for key in sent[name]}, days)
            over = describe(
                {key: one["sentence"] for key, one in ended.items() if name in one["sent_to"]}
            )
            if new or over:
                failures[name] = _send(hook, _message(new, over, page), wait_seconds)
        failures = {name: reason for name, reason in failures.items() if reason}
        for name in set(hooks) - set(failures):
            for key in sent[name]:
                one = incidents[key]
                incidents[key] = one | {"sent_to": sorted({*one["sent_to"], name})}
        unsent = {
            key: one | {"sent_to": sorted(set(one["sent_to"]) & set(failures))}
            for key, one in ended.items()
        }
        write_json(path, incidents | {key: one for key, one in unsent.items() if one["sent_to"]})
    return {
        "opened": sorted(opened),
        "ended": sorted(ended),
        "open": incidents,
        "failed": _format_failures(failures),
    }


def _due(incidents: Mapping[str, Mapping], hook: str) -> list[str]:
    """The incidents to send to this hook now."""
    reported = {key for key, one in incidents.items() if hook in one["sent_to"]}
    return due([key for key in incidents if key not in reported], reported)


@contextmanager
def _lock(store: Store) -> Iterator[None]:
    """Hold the lock of the alerts, so that no incident is sent twice."""
    store.monitor.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    with (store.monitor / ".alerts.lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(
                        f"Another monitor ({file.read()}) is sending alerts. "
                        "Wait for it to end, then run the same command again."
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()}, since {since}")
        file.flush()
        yield


def _read(path: Path) -> dict[str, dict]:
    """The incidents of the last call by key; UserError if the file holds anything else."""
    before = read_json(path, default={})
    if not isinstance(before, dict) or not all(map(_is_incident, before.values())):
        raise UserError(
            f"{path} is not readable as a history of alerts. Delete it and run `make monitor`, "
            "which writes it again and sends the open incidents once more."
        )
    return before


def _is_incident(one: object) -> bool:
    match one:
        case {"since": str(), "sentence": str(), "sent_to": [*names]}:
            return all(isinstance(name, str) for name in names)
    return False


def _message(opened: Sequence[str], ended: Sequence[str], page: str) -> str:
    text = "; ".join([*opened, *(f"over: {sentence}" for sentence in ended)])
    return json.dumps({"text": text, "opened": opened, "ended": ended, "page": page})


def _send(hook: Hook, message: str, wait_seconds: float) -> str | None:
    """None, or the reason why the hook failed."""
    for attempt in range(TRIES):
        try:
            hook(message)
            return None
        except (OSError, ValueError, subprocess.SubprocessError, HTTPException) as error:
            reason = _describe_failure(error)
        if attempt < TRIES - 1:
            time.sleep(wait_seconds * 2**attempt)
    return reason


def _run(command: str, message: str) -> None:
    """Run the command in a session of its own: a timeout ends its child processes too."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, text=True, start_new_session=True, **silent
    ) as process:
        try:
            process.communicate(message, timeout=TIMEOUT_SECONDS)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _post(address: str, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, message.encode(), headers)
    response: Future[None] = Future()

    def post() -> None:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                response.set_result(None)
        except Exception as error:  # the caller gets every error
            response.set_exception(error)

    # urlopen's timeout is per read, and a response may drip: the thread may outlive this call
    threading.Thread(target=post, daemon=True).start()
    response.result(TIMEOUT_SECONDS)


def _describe_failure(error: Exception) -> str:
    """The reason without an address or a command, which may hold a secret."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with exit code {error.returncode}"
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return f"it did not end within {TIMEOUT_SECONDS} s"
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None)
    return reason or type(error).__name__


def _format_failures(failures: Mapping[str, str]) -> str | None:
    if not failures:
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
    return f"The alert could not be sent ({reasons}); the next `make monitor` tries again."
