"""The server's socket and processes: what `jollyboat serve` starts."""

import os
import resource
import socket
import tempfile
from contextlib import ExitStack, suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from jollyboat.serving.protocol import Timely
from jollyboat.store.errors import UserError


class Workers(Multiprocess):
    """uvicorn's, which as they stop leave no open socket for new connections to wait at."""

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free port); UserError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; without it an answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2_048)
    except OSError as error:
        listening.close()
        raise UserError(
            f"The server cannot have {host}:{port} ({error}); stop what uses it, "
            "or choose another: `jollyboat serve --port 8001`."
        ) from error
    return listening


def run(listening: socket.socket, workers: int) -> bool:
    """Serve until a signal stops it; False where the server did not start, which it has printed."""
    _allow_connections()
    config = uvicorn.Config(
        "jollyboat.serving.app:app",
        http=Timely,
        access_log=False,
        log_level="warning",
        workers=workers,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt), ExitStack() as until_the_end:
        if workers == 1:
            server.run(sockets=[listening])
            return server.started
        figures = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="serving-"))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = (
            figures  # before a worker imports prometheus_client
        )
        os.environ["SERVE_PARENT"] = str(
            os.getpid()
        )  # workers end with this process, even if it is killed
        Workers(config, [listening]).run()
    return True


def _allow_connections() -> None:
    """As many open files, which connections are, as this process may have; workers inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says unlimited and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
