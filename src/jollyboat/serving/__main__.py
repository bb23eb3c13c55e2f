"""`python -m serving`: the server as project.toml's [serve] says, or HOST, PORT and WORKERS."""

import os
import resource
import socket
import sys
import tempfile
import threading
import webbrowser
from contextlib import ExitStack, suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from jollyboat.serving.protocol import Timely
from jollyboat.store.store import project_settings


class Workers(Multiprocess):
    """uvicorn's, which as they stop leave no open socket for new connections to wait at."""

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def main() -> int:
    """Serve until told to stop; 1 where the address cannot be had."""
    settings = project_settings().get("serve", {})
    host = os.environ.get("HOST") or settings.get("host", "127.0.0.1")
    port = os.environ.get("PORT") or settings.get("port", 8000)
    try:
        workers = int(os.environ.get("WORKERS") or settings.get("workers", 1))
        listening = _listen(host, int(port))
    except (OSError, ValueError, OverflowError) as error:
        sentence = f"The server cannot have {host}:{port} ({error})"
        print(f"{sentence}; stop what uses it, or say `PORT=8001 make serve`.", file=sys.stderr)
        return 1
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"Serving on {address}; its API is described at {address}/docs. Ctrl-C stops it.", flush=True)
    if page := os.environ.get("OPEN"):
        print(f"page: {address}{page}", flush=True)
        threading.Timer(2, webbrowser.open, [address + page]).start()
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
            return 0 if server.started else 1
        figures = until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="serving-"))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures  # before a worker imports prometheus_client
        os.environ["SERVE_PARENT"] = str(os.getpid())  # workers end with this process, even if it is killed
        Workers(config, [listening]).run()
    return 0


def _allow_connections() -> None:
    """As many open files, which connections are, as this process may have; workers inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says unlimited and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is said because asyncio sets TCP_NODELAY only then; without it every answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(2_048)
    return listening


if __name__ == "__main__":
    sys.exit(main())
