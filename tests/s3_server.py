"""An S3 server on loopback, in a process of its own, for tests of state in a bucket."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
