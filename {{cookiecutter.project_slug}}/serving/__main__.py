"""`python -m serving`: the server on the host and port of project.toml's [serve], or of HOST and PORT."""

import os
import socket
import sys
import tomllib
from contextlib import suppress

import uvicorn

from rails.store import PROJECT


def main() -> int:
    """Serve until told to stop; 1 where the address cannot be had."""
    settings = tomllib.loads((PROJECT / "project.toml").read_text(encoding="utf-8")).get("serve", {})
    host = os.environ.get("HOST") or settings.get("host", "127.0.0.1")
    port = os.environ.get("PORT") or settings.get("port", 8000)
    try:
        listening = _listen(host, int(port))
    except (OSError, ValueError, OverflowError) as error:
        sentence = f"The server cannot have {host}:{port} ({error})"
        print(f"{sentence}; stop what uses it, or say `PORT=8001 make serve`.", file=sys.stderr)
        return 1
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"Serving on {address}; its API is described at {address}/docs. Ctrl-C stops it.", flush=True)
    server = uvicorn.Server(uvicorn.Config("serving.app:app", access_log=False, log_level="warning"))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    return 0 if server.started else 1


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
