"""The server's socket and processes: what `jollyboat serve` starts."""

import os
import resource
import signal
import socket
import sys
import tempfile
from contextlib import suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from jollyboat.serving.protocol import LimitedHeadProtocol
from jollyboat.store import UserError


class Workers(Multiprocess):
    """uvicorn's workers; new connections are refused as soon as they stop."""

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free port); UserError where the address is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; else an answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as error:
        listening.close()
        raise UserError(
            f"The server cannot listen on {host}:{port} ({error}). Stop the program that uses it, "
            "or choose another port: `jollyboat serve --port 8001`."
        ) from error
    return listening


def run(listening: socket.socket, workers: int) -> bool:
    """Serve until a signal; False where the server did not start, whose reason it has printed."""
    # uvicorn raises the signal again when it has ended; so what comes after it still happens.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    _raise_open_file_limit()
    config = uvicorn.Config(
        "jollyboat.serving.app:app",
        http=LimitedHeadProtocol,
        access_log=False,
        log_level="warning",
        workers=workers,
        timeout_graceful_shutdown=10,
    )
    with suppress(KeyboardInterrupt):
        if workers == 1:
            server = uvicorn.Server(config)
            server.run(sockets=[listening])
            return server.started
        with tempfile.TemporaryDirectory(prefix="serving-") as folder:
            # A worker's import of prometheus_client reads the variable.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            # Workers end with this process, even if it is killed.
            os.environ["SERVE_PARENT"] = str(os.getpid())
            Workers(config, [listening]).run()
    return True


def _raise_open_file_limit() -> None:
    """Allow as many open files, and so connections, as possible; workers inherit the limit."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports "unlimited", but has a limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
