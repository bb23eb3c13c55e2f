"""A request's body: complete, in time, and no larger than allowed."""

import asyncio

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

BODY_SECONDS = 30
# Of all bodies that are not complete: a larger one than SMALL is refused above the limit, a
# smaller one above four times the limit, so that slow large bodies lock out no small one.
MOST_UNFINISHED_BYTES, SMALL = 64_000_000, 65_536
_unfinished = {"bytes": 0}


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The body; 413 where it is too large, 408 where it takes too long, 400 where it is cut off.

    503 where all unfinished bodies together are too large.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read(request, most_bytes)
    except ClientDisconnect:
        raise HTTPException(400, "The request ended before its body did.") from None
    except TimeoutError:
        raise HTTPException(408, f"The body was not sent within {BODY_SECONDS} seconds.") from None
    if body is None:
        raise HTTPException(413, f"A request holds at most {most_bytes:,} bytes.")
    return body


async def _read(request: Request, most_bytes: int) -> bytes | None:
    """The body, or None where it is too large.

    Up to 20 times the limit is read and dropped: a client that still sends does not see the 413.
    """
    chunks, size, kept = [], 0, 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= most_bytes:
                chunks.append(chunk)
                kept += len(chunk)
                _unfinished["bytes"] += len(chunk)
                _refuse_too_many(size)
            elif size > 20 * most_bytes:
                break
    finally:
        _unfinished["bytes"] -= kept
    return b"".join(chunks) if size <= most_bytes else None


def _refuse_too_many(size: int) -> None:
    limit = MOST_UNFINISHED_BYTES * (4 if size <= SMALL else 1)
    if _unfinished["bytes"] > limit:
        raise HTTPException(
            503,
            f"The requests that are not complete hold over {limit:,} bytes. Send this one again.",
            {"Retry-After": "1"},
        )
