"""Incidents told once as they begin and once as they end, through a command or a webhook."""

import json
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from rails.store import Store, read_json, write_json

TRIES, PATIENCE_SECONDS = 3, 10
Hook = Callable[[str], None]


def hooks_of(command: str, webhook: str) -> list[Hook]:
    """What is to be called with a message, which is JSON; none where neither is set."""
    return [*([partial(_run, command)] if command else []), *([partial(_post, webhook)] if webhook else [])]


def tell(store: Store, alarms: Mapping[str, str], page: str, hooks: list[Hook], wait_seconds: float = 1) -> dict:
    """Say what began and ended since the last time: {"opened", "ended", "open", "failed"}.

    `alarms` maps each incident's key to its sentence. Whatever a hook did not take is said again the next time; a hook
    that fails is tried three times, and `failed` then says why.
    """
    path = store.monitor / "alerts.json"
    before = read_json(path, default={})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ended = {key: one for key, one in before.items() if key not in alarms}
    incidents = {key: before.get(key, {"since": now, "told": False}) | {"sentence": alarms[key]} for key in alarms}
    opened = {key: one for key, one in incidents.items() if not one["told"]}
    to_end = {key: one for key, one in ended.items() if one["told"]}  # who never heard of it need not hear its end
    failed = None
    if opened or to_end:
        told = {
            name: [one["sentence"] for one in some.values()] for name, some in (("opened", opened), ("ended", to_end))
        }
        text = "; ".join([*told["opened"], *(f"over: {sentence}" for sentence in told["ended"])])
        failed = _send(json.dumps({"text": text, **told, "page": page}), hooks, wait_seconds)
    if failed:
        incidents |= to_end
    else:
        incidents = {key: one | {"told": True} for key, one in incidents.items()}
    write_json(path, incidents)
    return {"opened": sorted(opened), "ended": sorted(to_end), "open": incidents, "failed": failed}


def _send(message: str, hooks: list[Hook], wait_seconds: float) -> str | None:
    """None, or why a hook did not take it."""
    for hook in hooks:
        for attempt in range(TRIES):
            try:
                hook(message)
                break
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                if attempt == TRIES - 1:
                    return (
                        f"The alert could not be sent ({_without_address(error)}); the next `make monitor` tries again."
                    )
                time.sleep(wait_seconds * 2**attempt)
    return None


def _run(command: str, message: str) -> None:
    subprocess.run(
        shlex.split(command), input=message, text=True, check=True, timeout=PATIENCE_SECONDS, capture_output=True
    )


def _post(address: str, message: str) -> None:
    request = urllib.request.Request(address, message.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
        pass


def _without_address(error: Exception) -> str:
    """What went wrong; an address or a command may hold a secret."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with exit code {error.returncode}"
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
