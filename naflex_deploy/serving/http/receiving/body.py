"""Receive the body of a request within limits, and notice when its sender leaves."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving.room import Room

Body = bytes | bytearray
"""What a request sent, in one part or in several."""


class Buffers:
    """Limits the memory that the bodies of all requests take together, and the share of each client.

    Attributes:
        room: Of the bytes that have arrived.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.room = Room(limits.buffered_bytes)

    def body(self, headers: Mapping[bytes, bytes], receive: Receive, client: str) -> Receiving:
        """A body, which ``async with`` receives. Room is taken as it arrives, and given back at the end of the block.

        Args:
            headers: Headers of the request, with names in lower case.
            receive: ASGI receive function of the request, from which nothing was received yet.
            client: Whose share of the room it takes.
        """
        return Receiving(self, headers, receive, client)


class Receiving:
    """A body while it is received and used; see `Buffers.body`. As a generator it would cost twice as much."""

    def __init__(self, buffers: Buffers, headers: Mapping[bytes, bytes], receive: Receive, client: str) -> None:
        self._room, self._limits, self._headers = buffers.room, buffers.limits, headers
        self._receive, self._client = receive, client
        self._share = Share(buffers.room, client)

    async def __aenter__(self) -> Body:
        """Receive it.

        Raises:
            Problem: The body is too large, too slow or in an unknown encoding, or the server has no room for it.
            ClientDisconnect: The sender left.
        """
        try:
            return await self._received()
        except BaseException:
            self._share.keep(0)
            raise

    async def __aexit__(self, *error: object) -> None:
        self._share.keep(0)

    async def _received(self) -> Body:
        limit, seconds = self._limits.body_bytes, self._limits.receive_seconds
        declared = self._headers.get(b"content-length")
        if declared is not None and (not declared.isdigit() or int(declared) > limit):
            raise _too_large(limit, declared.decode("latin-1"))
        encoding = self._headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding not in ("identity", "gzip", "deflate"):
            raise Problem(415, "unsupported_encoding", f"expected gzip or deflate, found {encoding[:40]!r}")
        if declared is not None and len(declared) > 5 and not self._room.fits(self._client, int(declared)):
            raise no_room()  # before it is sent; small ones are cheaper to receive
        try:
            async with asyncio.timeout(seconds):
                body = await _read(self._receive, limit, self._share)
        except TimeoutError:
            raise Problem(408, "too_slow", f"the body did not arrive within {seconds:g} s") from None
        if encoding != "identity":
            self._share.take(limit)
            body = await asyncio.to_thread(_inflated, body, encoding, limit)
            self._share.keep(len(body))
        return body


class Share:
    """What one body takes of the room."""

    def __init__(self, room: Room, client: str) -> None:
        self._room, self._client, self._taken = room, client, 0

    async def wait_for(self, amount: int) -> None:
        """Take so much once it fits."""
        await self._room.wait_for(self._client, amount)
        self._taken += amount

    def take(self, amount: int) -> None:
        if not self._room.take(self._client, amount):
            raise no_room()
        self._taken += amount

    def keep(self, amount: int) -> None:
        """Give back what is above ``amount``."""
        self._room.give_back(self._client, self._taken - amount)
        self._taken = amount


async def left(receive: Receive) -> None:
    """Wait until the sender leaves. Call it only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive, limit: int, share: Share) -> Body:
    whole = bytearray()
    while (message := await receive())["type"] == "http.request":
        part: bytes = message.get("body", b"")
        if len(whole) + len(part) > limit:
            raise _too_large(limit, str(len(whole) + len(part)))
        share.take(len(part))
        last = not message.get("more_body")
        if last and not whole:
            return part
        # It grows in its place. Joining parts at the end would hold the event loop for as long as it takes to copy all.
        whole += part
        if last:
            return whole
    raise ClientDisconnect


def _inflated(body: Body, encoding: str, limit: int) -> bytes:
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


def no_room() -> Problem:
    return Problem(
        429, "buffers_full", "the server has no room for another body", hint="send it again later", retry_after=1
    )
