"""uvicorn's HTTP protocol with limits on a request's head and trailers: seconds and bytes."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10
MOST_HEAD_BYTES = 65_536
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class LimitedHeadProtocol(HttpToolsProtocol):
    """Closes a connection whose next request's head is late, or too large (431).

    Seconds count from when it opens, or from the first byte after an answer. Bytes count from the
    second read of a head, since a read may begin with the end of the request before. Those after
    the head count, too, if they are no body: trailers and the lines before chunks.
    """

    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._timer is None and is_answered:
            self._start_timer()
        if self._head_bytes > MOST_HEAD_BYTES:
            if is_answered or not (self._is_in_head or self.cycle.response_started):
                self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # a trailer is no header, and nothing here reads one
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
