"""A connection is for those who ask: one whose request does not come is closed, and no other one is."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from jollyboat.serving import protocol

ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POSTED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
SECONDS = 0.4


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    """Where a server answers with the body that it was sent."""

    async def echo(scope, receive, send):
        message, body = {"more_body": True}, b""
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)
    config = uvicorn.Config(echo, http=protocol.Timely, lifespan="off", log_level="error")
    server, listening = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize(
    "sent", [b"", b"GET", ASKED[:-2], b"\r\n", ASKED + b"GET", ASKED + b"\r\n"]
)
def test_a_connection_whose_next_request_does_not_come_is_closed(port, sent):
    with connect(port) as client:
        if sent.startswith(ASKED):
            client.sendall(ASKED)
            assert client.recv(1_000).startswith(b"HTTP/1.1 200")
            sent = sent.removeprefix(ASKED)
        client.sendall(sent)
        began = time.monotonic()

        assert client.recv(1_000) == b""
        assert SECONDS / 2 < time.monotonic() - began < 4 * SECONDS


def test_a_head_that_comes_byte_by_byte_is_not_waited_for_any_longer(port):
    with connect(port) as client, pytest.raises(OSError):
        for byte in ASKED * 10:
            client.sendall(bytes([byte]))
            time.sleep(SECONDS / 10)


def test_a_body_may_take_longer_than_a_head_and_a_connection_is_used_again(port):
    with connect(port) as client:
        for _ in range(2):
            client.sendall(POSTED)
            time.sleep(2 * SECONDS)
            client.sendall(b"}")
            assert client.recv(1_000).endswith(b"{}")
