"""Parse what a connection receives, within limits.

uvicorn bounds neither headers, trailers, chunks nor requests that come before earlier ones are answered, and a parser
that calls Python for each of these holds the event loop meanwhile. So parsing ends at the first one too many.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.problems import Problem

FIELDS = 256
"""Headers of a request, trailers included."""

WAITING = 16
"""Requests of a connection that wait for the answers to those before them."""

PARTS, PART = 4096, 64
"""Chunks of any size that a body may have, and bytes that each one more needs to have on average."""


class Parsing(HttpToolsProtocol):
    """uvicorn's protocol of a connection, with limits to what is parsed.

    Args:
        limits: Limits of requests.

    Attributes:
        running: The last request that was handed to the application.
        in_head: Whether the headers of a request have begun and not ended.
    """

    def __init__(self, limits: Limits, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.limits = limits
        self.running: RequestResponseCycle | None = None
        self.in_head = False
        self.url = b""
        self._within = self._again = False
        self._problem: Problem | None = None
        self._read = self._fields = self._parts = self._size = 0

    def feed(self, data: bytes) -> None:
        """Parse some bytes.

        Raises:
            Problem: They are no HTTP, or too much of something.
        """
        self._within = False
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserError:
                what = "expected a request of HTTP/1.1, found something else"
                hint = "there is no TLS and no HTTP/2 here: put a proxy in front"
                raise self._problem or Problem(400, "bad_request", what, hint=hint) from None
        if not self._within:  # headers that have only begun, trailers, or extensions of chunks
            self._read += len(data)
            if self._read > self.limits.head_bytes and not self.idle:
                raise self._too_large(f"{self.limits.head_bytes} bytes of headers", 431, "headers_too_large")

    @property
    def idle(self) -> bool:
        """Whether no request arrives or is answered."""
        return not self.in_head and (self.cycle is None or self.cycle.response_complete)

    def _too_large(self, most: str, status: int = 400, reason: str = "bad_request") -> Problem:
        self._problem = Problem(status, reason, f"expected at most {most}, found more", hint="send less at once")
        return self._problem

    def _ignore_upgrade(self) -> None:
        """Go on behind the headers of a request that offers another protocol, which RFC 9110, 7.8, lets servers ignore.

        The parser takes such a request for one without a body, but clients that offer HTTP/2 do send theirs. Another
        parser is told only how long the body is.
        """
        headers = dict(self.headers)
        name = b"transfer-encoding" if b"transfer-encoding" in headers else b"content-length"
        self.parser = httptools.HttpRequestParser(self)
        self._again = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % (name, headers.get(name, b"0")))
        self._again = False

    def on_message_begin(self) -> None:
        if self._again:
            return
        self.in_head = True
        self._read = self._fields = self._parts = self._size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._again:
            return
        self._fields += 1
        if self._fields > FIELDS:
            raise self._too_large(f"{FIELDS} headers", 431, "headers_too_large")
        if self.in_head:  # trailers are not used
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._again:
            return
        if len(self.pipeline) == WAITING:
            raise self._too_large(f"{WAITING} requests that wait for the answer to one")
        self.in_head, self._within = False, True
        self._read = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._within = True
        self._parts += 1
        self._size += len(body)
        if self._parts > PARTS + self._size // PART:
            raise self._too_large(f"{PARTS} small chunks")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in [self.running, *(cycle for cycle, _ in self.pipeline)]:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
