"""On a Python's path: no connection but to loopback, in this process and whatever Python it starts; tries are kept."""

import os
import sys

LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}


def watch(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host not in LOOPBACK:
        with open(os.environ["NETWORK_TRIES"], "a") as tries:
            tries.write(f"{host} by {' '.join(sys.argv[:3])}\n")
        raise OSError(f"no network: {host}")


sys.addaudithook(watch)
