"""A transport that closes as its connection does, and sends the headers of an answer with the start of its body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

JOINED = 64 << 10
"""Bytes of a body from which on copying it costs more than a system call."""


class Gentle:
    """Stands between uvicorn and a connection's transport.

    uvicorn writes headers and body one after the other: two system calls, two packets, and twice the work for whoever
    reads them.

    Args:
        transport: Of the connection.
        running: Gives the request that is being answered, if there is one.
        closing: Whether the connection is about to close.
        close: Closes it.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        running: Callable[[], RequestResponseCycle | None],
        closing: Callable[[], bool],
        close: Callable[[], None],
    ) -> None:
        self._transport, self._running = transport, running
        self._closing, self._close = closing, close
        self._begun: RequestResponseCycle | None = None
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        cycle = self._running()
        if cycle is not None and cycle is not self._begun and cycle.response_started:
            self._begun, self._head = cycle, data
        elif self._head and len(data) < JOINED:
            self._transport.write(self._head + data)
            self._head = b""
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Send headers that wait for a body."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def is_closing(self) -> bool:
        return self._closing()

    def close(self) -> None:
        self.flush()
        self._close()
