"""A request's body: complete, in time, and no larger than allowed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

BODY_SECONDS = 30
# Of all bodies that are not answered: a larger one than SMALL is refused above the limit, a
# smaller one above four times the limit, so that slow large bodies lock out no small one.
MOST_UNANSWERED_BYTES, SMALL = 64_000_000, 65_536
_unanswered = {"bytes": 0}


@asynccontextmanager
async def body_of(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    """The body, which counts as unanswered until the block ends.

    413 where it is too large, 408 where it takes too long, 400 where it is cut off, 503 where the
    unanswered bodies are too large together.
    """
    chunks: list[bytes] = []
    try:
        yield await _read_in_time(request, most_bytes, chunks)
    finally:
        _unanswered["bytes"] -= sum(map(len, chunks))


async def _read_in_time(request: Request, most_bytes: int, chunks: list[bytes]) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read(request, most_bytes, chunks)
    except ClientDisconnect:
        raise HTTPException(400, "The request ended before its body did.") from None
    except TimeoutError:
        raise HTTPException(408, f"The body was not sent within {BODY_SECONDS} seconds.") from None
    if body is None:
        raise HTTPException(413, f"A request holds at most {most_bytes:,} bytes.")
    return body


async def _read(request: Request, most_bytes: int, chunks: list[bytes]) -> bytes | None:
    """The body, or None where it is too large.

    Up to 20 times the limit is read and dropped: a client that still sends does not see the 413.
    """
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most_bytes:
            chunks.append(chunk)
            _unanswered["bytes"] += len(chunk)
            _refuse_too_many(size)
        elif size > 20 * most_bytes:
            break
    return b"".join(chunks) if size <= most_bytes else None


def _refuse_too_many(size: int) -> None:
    limit = MOST_UNANSWERED_BYTES * (4 if size <= SMALL else 1)
    if _unanswered["bytes"] > limit:
        raise HTTPException(
            503,
            f"The requests that wait for an answer hold over {limit:,} bytes. Send this one again.",
            {"Retry-After": "1"},
        )
