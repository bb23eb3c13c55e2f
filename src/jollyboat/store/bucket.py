"""An S3 bucket below one prefix: list, read and write objects, some only under a condition.

Faults of the network are tried again by boto3; what stays is raised as a UserError.
"""

import getpass
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from jollyboat.store.errors import UserError

MOST_AT_ONCE = 8
LARGE_BYTES = 64_000_000  # from here on boto3 sends the parts of a file in parallel
DELETED_AT_ONCE = 1_000  # the most that S3 takes
STAYS = (
    "Nothing here is lost: run the same command again, or with STORE_REMOTE= (empty) to work "
    "with the files of this machine alone."
)
# What is wrong, by the code of S3's error.
REFUSALS = {
    "NoSuchBucket": "there is no such bucket; create it, or correct [store] remote",
    "InvalidAccessKeyId": "the server does not know AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is wrong",
    "ExpiredToken": "AWS_SESSION_TOKEN has expired",
    "AccessDenied": "these credentials may not do that",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it (`timedatectl`)",
}


class Unreachable(UserError):
    """A server that does not answer, or whose answer is that it cannot now."""


class ObjectMoved(Exception):
    """An object is not, or no longer, as the condition says."""


@dataclass(frozen=True)
class Object:
    """An object as a listing has it; `etag` changes with the content."""

    etag: str
    size: int
    modified: datetime


def person() -> str:
    """The user's name, for histories; `owner` if that is root, as in containers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "root"
    return "owner" if user == "root" else user


class Bucket:
    """The objects below an address such as `s3://bucket/prefix`, by their names after the prefix.

    Endpoint, region and credentials come from the AWS variables, as for every AWS tool.
    """

    def __init__(self, address: str):
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc:
            raise UserError(
                f"[store] remote is {address!r}; it should be s3://bucket/prefix "
                "(the variable STORE_REMOTE comes before project.toml)."
            )
        self.address, self.name = address.rstrip("/"), parts.netloc
        self._prefix = f"{parts.path.strip('/')}/".lstrip("/")

    def objects(self, prefix: str = "") -> dict[str, Object]:
        """The objects whose names begin with `prefix`, by name."""
        start = len(self._prefix)
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self._prefix + prefix
            )
            return {
                each["Key"][start:]: Object(each["ETag"], each["Size"], each["LastModified"])
                for page in pages
                for each in page.get("Contents", [])
            }

    def folders(self) -> set[str]:
        """The first part of each name; that of a folder ends with a slash."""
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self._prefix, Delimiter="/"
            )
            return {
                each["Prefix" if "Prefix" in each else "Key"].removeprefix(self._prefix)
                for page in pages
                for each in [*page.get("CommonPrefixes", []), *page.get("Contents", [])]
            }

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object's content and etag; None where there is none."""
        with self._explained():
            try:
                answer = self._client.get_object(Bucket=self.name, Key=self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                return None
            return answer["Body"].read(), answer["ETag"]

    def download(self, name: str, draft: Path, etag: str) -> int | None:
        """Write an object to a file; returns its time in nanoseconds, if it was uploaded with one.

        Raises ObjectMoved where it is another one than `etag` says.
        """
        key = {"Bucket": self.name, "Key": self._prefix + name, "IfMatch": etag}
        with self._explained(name):
            about = self._client.head_object(**key)
            self._client.download_file(self.name, key["Key"], str(draft))
        time = about["Metadata"].get("modified-ns")
        return int(time) if time else None

    def upload(self, name: str, path: Path) -> str:
        """Write a file whatever was there; returns the new etag."""
        status = path.stat()
        about = self._about(status.st_mtime_ns)
        key = {"Bucket": self.name, "Key": self._prefix + name}
        with self._explained(name):
            if status.st_size < LARGE_BYTES:
                with path.open("rb") as file:
                    return self._client.put_object(**key, Body=file, Metadata=about)["ETag"]
            self._client.upload_file(str(path), **key, ExtraArgs={"Metadata": about})
            return self._client.head_object(**key)["ETag"]

    def write(self, name: str, content: bytes, expected: str | None, modified_ns: int = 0) -> str:
        """Write an object if its etag is still `expected` (None: if there is none).

        Returns the new etag; raises ObjectMoved.
        """
        condition = {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}
        with self._explained(name):
            return self._client.put_object(
                Bucket=self.name,
                Key=self._prefix + name,
                Body=content,
                Metadata=self._about(modified_ns),
                **condition,
            )["ETag"]

    def writer(self, name: str) -> str:
        """Who wrote an object and when, as words; nothing where there is none any more."""
        with self._explained():
            try:
                about = self._client.head_object(Bucket=self.name, Key=self._prefix + name)
            except self._client.exceptions.ClientError:
                return "somebody who removed it"
        by = unquote(about["Metadata"].get("by", "another program"))
        return f"{by} at {about['LastModified']:%Y-%m-%d %H:%M:%S} UTC"

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there count as removed."""
        self._delete([{"Key": self._prefix + name} for name in names])

    def delete_versions(self) -> int:
        """Remove what versioning keeps of objects that were replaced or removed.

        Returns their number; UserError where the credentials may not.
        """
        with self._explained():
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self.name, Prefix=self._prefix
            )
            old = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for page in pages
                for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                if each["VersionId"] != "null" and not (each["IsLatest"] and "ETag" in each)
            ]
        self._delete(old)
        return len(old)

    def seconds_since(self, moment: datetime) -> float:
        """The seconds from a moment to now by the server's clock, whatever this machine's says."""
        with self._explained():
            answer = self._client.head_bucket(Bucket=self.name)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (now - moment).total_seconds()

    def _delete(self, keys: list[dict]) -> None:
        for start in range(0, len(keys), DELETED_AT_ONCE):
            with self._explained():
                answer = self._client.delete_objects(
                    Bucket=self.name,
                    Delete={"Objects": keys[start : start + DELETED_AT_ONCE], "Quiet": True},
                )
            for error in answer.get("Errors", []):
                raise UserError(
                    f"{self.address}: {error['Key']} cannot be removed ({error['Message']})."
                )

    @staticmethod
    def _about(modified_ns: int) -> dict[str, str]:
        by = quote(f"{person()}@{socket.gethostname()}", safe="@")  # S3 takes ASCII alone
        return {"by": by, "modified-ns": str(modified_ns)}

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        """Faults as sentences. A condition that does not hold is ObjectMoved."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (409, 412) or (status == 404 and code != "NoSuchBucket" and name):
                raise ObjectMoved(name) from error
            if isinstance(error, self._client.exceptions.NoSuchKey):
                raise
            reason = REFUSALS.get(code) or f"the server answered {status} {code}"
            kind = UserError if code in REFUSALS else Unreachable
            raise kind(f"The bucket {self.address}: {reason}. {STAYS}") from error
        except (BotoCoreError, Boto3Error, HTTPError) as error:
            reason = f"{error}".rstrip(".")
            raise Unreachable(f"The bucket {self.address}: {reason}. {STAYS}") from error

    @cached_property
    def _client(self):
        import boto3
        from botocore.config import Config

        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or 5)
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=2 * MOST_AT_ONCE,
        )
        return boto3.client("s3", config=config)


def in_parallel(function: Callable, items: Iterable) -> list:
    """The results for all items, some at a time; the first fault is raised."""
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        return list(pool.map(function, items))
