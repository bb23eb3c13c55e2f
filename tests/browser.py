"""Headless Chromium over its debugging pipe: fd 3 in, fd 4 out, JSON that ends with a null byte."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest

AXE = files("axe_core_python") / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
RUN_AXE = f"""axe.run(document, {{runOnly: {RULES}}}).then(result => result.violations.map(
    one => `${{one.id}}: ${{one.nodes.map(node => node.html.slice(0, 200)).join(" ")}}`))"""


class Browser:
    """One page: `errors` of its console and scripts, `requests` the addresses that it loaded."""

    def __init__(self, write: int, read: int):
        self._write, self._read, self._buffer, self._number, self._session = (
            write,
            read,
            b"",
            0,
            None,
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            response = self._next()
            if response.get("id") == self._number:
                assert "error" not in response, response
                return response["result"]

    def open(self, address: str) -> None:
        """Go there and wait until the page has loaded."""
        self._events.clear()
        self("Page.navigate", url=address)
        self.wait_for_load()

    def press(self, key: str) -> None:
        """Press a key that leads to another page."""
        self._events.clear()
        self("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.wait_for_load()

    def press_at_once(self, keys: str) -> None:
        """Press keys before the first of them has led to another page."""
        self._events.clear()
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key}))"
        self.evaluate(f"for (const key of {json.dumps(keys)}) {press}")
        self.wait_for_load()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get(
            "value"
        )

    def hindrances(self) -> list[str]:
        """What axe finds against WCAG 2.1 AA and good practice in the page, in both schemes."""
        hindrances = []
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            self("Emulation.setEmulatedMedia", features=[feature])
            self.evaluate(AXE.read_text(encoding="utf-8"))
            result = self(
                "Runtime.evaluate",
                expression=RUN_AXE,
                awaitPromise=True,
                returnByValue=True,
            )
            hindrances += [f"{scheme}: {each}" for each in result["result"]["value"]]
        return hindrances

    def wait_for_load(self, patience_seconds: float = 20) -> None:
        until = time.monotonic() + patience_seconds
        while "Page.loadEventFired" not in self._events:
            assert time.monotonic() < until, "the page did not load"
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            self._buffer += os.read(self._read, 1 << 16)
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, details = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and details["type"] == "error"
        ):
            self.errors.append(json.dumps(details))
        if method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        if method == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.errors.append(json.dumps(details["entry"]))
        return message


@contextmanager
def browser(width: int = 1200) -> Iterator[Browser]:
    """A browser for the block; the test is skipped where there is none."""
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("needs Chromium on the PATH")
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The shell puts the two ends where Chromium looks for them.
        command = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},900", "about:blank"]
        process = subprocess.Popen(
            ["bash", "-c", command, program, *options],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        try:
            page = Browser(our_out, our_in)
            # A window is no narrower than 500 pixels.
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page("Emulation.setDeviceMetricsOverride", **size)
            yield page
        finally:
            process.terminate()
            process.wait(20)
            os.close(our_out)
            os.close(our_in)
