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
from naflex_deploy.serving.http.receiving.room import Room


class Buffers:
    """Limits the memory that the bodies of all requests take together, and the share of each client.

    Attributes:
        room: Of the bytes that have arrived.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.room = Room(limits.buffered_bytes)

    @asynccontextmanager
    async def body(self, headers: Mapping[bytes, bytes], receive: Receive, client: str) -> AsyncIterator[bytes]:
        """Receive a body. Room is taken as it arrives, and given back at the end of the block.

        Args:
            headers: Headers of the request, with names in lower case.
            receive: ASGI receive function of the request, from which nothing was received yet.
            client: Whose share of the room it takes.

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
        if declared is not None and len(declared) > 5 and not self.room.fits(client, int(declared)):
            raise _no_room()  # before it is sent; small ones are cheaper to receive
        share = _Share(self.room, client)
        try:
            try:
                async with asyncio.timeout(seconds):
                    body = await _read(receive, limit, share)
            except TimeoutError:
                raise Problem(408, "too_slow", f"the body did not arrive within {seconds:g} s") from None
            if encoding != "identity":
                share.take(limit)
                body = await asyncio.to_thread(_inflated, body, encoding, limit)
                share.keep(len(body))
            yield body
        finally:
            share.keep(0)


class _Share:
    """What one body takes of the room."""

    def __init__(self, room: Room, client: str) -> None:
        self._room, self._client, self._taken = room, client, 0

    def take(self, amount: int) -> None:
        if not self._room.take(self._client, amount):
            raise _no_room()
        self._taken += amount

    def keep(self, amount: int) -> None:
        """Give back what is above ``amount``."""
        self._room.give_back(self._client, self._taken - amount)
        self._taken = amount


async def left(receive: Receive) -> None:
    """Wait until the sender leaves. Call it only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive, limit: int, share: _Share) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (message := await receive())["type"] == "http.request":
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit, str(size))
        share.take(len(part))
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)
    raise ClientDisconnect


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


def _no_room() -> Problem:
    return Problem(
        429, "buffers_full", "the server has no room for another body", hint="send it again later", retry_after=1
    )
