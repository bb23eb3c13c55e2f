"""An S3 server on loopback, in a process of its own, for tests of state in a bucket."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import boto3

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",
}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Start moto's server; yields the environment variables that lead to it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the S3 server did not start"
                time.sleep(0.1)
        yield VARIABLES | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        process.kill()
        process.wait()


@contextmanager
def held(
    variables: dict[str, str], request: bytes
) -> Iterator[tuple[dict[str, str], threading.Event]]:
    """A way to the server that never forwards a request that begins so: its variables, and the event of its coming."""
    came = threading.Event()
    server = variables["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                if request in part:
                    came.set()
                    return
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, far = (
                    listening.accept()[0],
                    socket.create_connection((server[0], int(server[1]))),
                )
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=forward, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield variables | {"AWS_ENDPOINT_URL": url}, came


def client(variables: dict[str, str], service: str = "s3"):
    """A client of the server, whatever this process's own variables are."""
    return boto3.client(
        service,
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_DEFAULT_REGION"],
    )


def names_in(variables: dict[str, str], bucket: str, prefix: str = "") -> set[str]:
    """The names of all objects of the bucket that begin with the prefix."""
    pages = (
        client(variables).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    )
    return {each["Key"] for page in pages for each in page.get("Contents", [])}
