"""Receive the body of a request within limits, and notice when its sender leaves."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.problems import Problem


class Buffers:
    """Limits the memory that the bodies of all requests take together.

    Attributes:
        used: Number of bytes in use.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.used = 0

    @asynccontextmanager
    async def body(self, headers: Mapping[bytes, bytes], receive: Receive) -> AsyncIterator[bytes]:
        """Receive a body. Its memory is reserved before it arrives, and released at the end of the block.

        Args:
            headers: Headers of the request, with names in lower case.
            receive: ASGI receive function of the request, from which nothing was received yet.

        Raises:
            Problem: The body is too large, too slow or in an unknown encoding, or the server has no room for it.
            ClientDisconnect: The sender left.
        """
        limit, seconds = self.limits.body_bytes, self.limits.receive_seconds
        declared = headers.get(b"content-length")
        if declared is not None and (not declared.isdigit() or int(declared) > limit):
            raise _too_large(limit, declared.decode("latin-1"))
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding not in ("identity", "gzip", "deflate"):
            raise Problem(415, "unsupported_encoding", f"expected gzip or deflate, found {encoding[:40]!r}")
        room = limit if declared is None or encoding != "identity" else int(declared)
        if self.used + room > self.limits.buffered_bytes:
            raise Problem(
                429,
                "buffers_full",
                "the server has no room for another body",
                hint="send it again later",
                retry_after=1,
            )
        self.used += room
        try:
            try:
                async with asyncio.timeout(seconds):
                    body = await _read(receive, limit)
            except TimeoutError:
                raise Problem(408, "too_slow", f"the body did not arrive within {seconds:g} s") from None
            yield body if encoding == "identity" else await asyncio.to_thread(_inflated, body, encoding, limit)
        finally:
            self.used -= room


async def left(receive: Receive) -> None:
    """Wait until the sender leaves. Call it only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return _checked(message.get("body", b""), limit)
    parts, size = [], 0
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit, str(size))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def _checked(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise _too_large(limit, str(len(body)))
    return body


def _inflated(body: bytes, encoding: str, limit: int) -> bytes:
    inflater = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Problem(422, "bad_request", f"the {encoding} body is damaged: {error}") from None
    if len(inflated) > limit:
        raise _too_large(limit, "more once decompressed")
    if not inflater.eof:
        raise Problem(422, "bad_request", f"the {encoding} body is cut off")
    return inflated


def _too_large(limit: int, found: str) -> Problem:
    return Problem(
        413,
        "body_too_large",
        f"expected at most {limit} bytes, found {found[:20]}",
        hint="send fewer or smaller images",
    )
