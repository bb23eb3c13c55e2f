"""A connection whose next request is late or too large is closed, and no other one is."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from jollyboat.serving import protocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
SECONDS = 0.4


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    """The port of a server that answers with the request's body."""

    def trailers(scope):
        return [pair for pair in scope["headers"] if b"trailer" in pair[0]]

    async def echo(scope, receive, send):
        message, body = {"more_body": True}, b""
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(body)), *trailers(scope)],
            }
        )
        await send({"type": "http.response.body", "body": body})

    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)
    config = uvicorn.Config(
        echo, http=protocol.LimitedHeadProtocol, lifespan="off", log_level="error"
    )
    server, listening = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize(
    "sent", [b"", b"GET", REQUEST[:-2], b"\r\n", REQUEST + b"GET", REQUEST + b"\r\n"]
)
def test_a_connection_whose_next_request_does_not_come_is_closed(port, sent):
    with connect(port) as client:
        if sent.startswith(REQUEST):
            client.sendall(REQUEST)
            assert client.recv(1_000).startswith(b"HTTP/1.1 200")
            sent = sent.removeprefix(REQUEST)
        client.sendall(sent)
        began = time.monotonic()

        assert client.recv(1_000) == b""
        assert SECONDS / 2 < time.monotonic() - began < 4 * SECONDS


def test_a_head_that_is_too_large_is_answered_431(port):
    with connect(port) as client:
        for data in (REQUEST[:-2] + b"X: ", b"x" * protocol.MOST_HEAD_BYTES, b"x"):
            client.sendall(data)
            time.sleep(SECONDS / 8)

        assert client.recv(1_000).startswith(b"HTTP/1.1 431")
        assert client.recv(1_000) == b""


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


@pytest.mark.parametrize("rest", [b"0\r\nX: ", b"0\r\n" + b"X: y\r\n" * 9, b"1;x="])
def test_trailers_and_chunk_lines_that_are_too_large_are_answered_431(port, rest):
    with connect(port) as client:
        for data in (CHUNKED + rest, b"x" * protocol.MOST_HEAD_BYTES, b"x"):
            client.sendall(data)
            time.sleep(SECONDS / 8)

        assert client.recv(1_000).startswith(b"HTTP/1.1 431")
        assert client.recv(1_000) == b""


def test_a_small_trailer_is_read_and_is_no_header(port):
    with connect(port) as client:
        for _ in range(2):
            client.sendall(CHUNKED + b"0\r\nX-Trailer: y\r\n\r\n")

            answer = client.recv(1_000)
            assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"{}")
            assert b"x-trailer" not in answer


def test_a_large_body_and_many_requests_at_once_are_no_large_head(port):
    body = b"x" * 3 * protocol.MOST_HEAD_BYTES
    large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(port) as client:
        client.sendall(large + body + REQUEST[:-2])
        received = b""
        while len(received) < len(body):
            received += client.recv(1 << 20)
        client.sendall(b"\r\n")

        assert client.recv(1_000).startswith(b"HTTP/1.1 200")


def test_a_head_that_comes_byte_by_byte_is_not_waited_for_any_longer(port):
    with connect(port) as client, pytest.raises(OSError):
        for byte in REQUEST * 10:
            client.sendall(bytes([byte]))
            time.sleep(SECONDS / 10)


def test_a_body_may_take_longer_than_a_head_and_a_connection_is_used_again(port):
    with connect(port) as client:
        for _ in range(2):
            client.sendall(POST)
            time.sleep(2 * SECONDS)
            client.sendall(b"}")
            assert client.recv(1_000).endswith(b"{}")
