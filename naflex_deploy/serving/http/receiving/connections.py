"""Connections of clients within limits: how many there are, how long they idle, and how they end.

uvicorn bounds neither headers nor the time before them, and closes a connection as soon as it is answered. Bytes that
still arrive then make the kernel send a reset, which can take away the answer before its client has read it. So a
connection that is closed before its request has arrived is closed for writing first, and a bounded rest is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving.room import Room

LINGER = 5.0
"""Seconds for which the rest of a refused request is read."""

JOINED = 64 << 10
"""Bytes of a body from which on copying it costs more than a system call."""

WRITE_SECONDS = 30.0
"""Seconds after which a client that reads nothing of its answer is cut off."""


def protocol(limits: Limits, on_refusal: Callable[[str], None]) -> Callable[..., Connection]:
    """What uvicorn makes a connection with; see `Connection`."""
    room = Room(limits.connections)

    def connect(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        return Connection(limits, room, on_refusal, config, server_state, app_state, _loop)

    return connect


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits.

    Args:
        limits: Limits of requests.
        room: Shared by all connections.
        on_refusal: Called with the reason of every refusal that no route sees.
    """

    def __init__(self, limits: Limits, room: Room, on_refusal: Callable[[str], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._limits, self._room, self._on_refusal = limits, room, on_refusal
        self._socket: asyncio.Transport
        self._gentle: _Gentle
        self._host = ""
        self._counted = self._in_head = self._lingering = False
        self._read = 0
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        self._gentle = _Gentle(transport, self)
        super().connection_made(cast(asyncio.Transport, self._gentle))
        self._host = self.client[0] if self.client else ""
        self._counted = self._room.take(self._host, 1)
        if not self._counted:
            self._refuse(
                Problem(503, "too_many_connections", "the server has no room for another connection", retry_after=1)
            )
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self._room.give_back(self._host, 1)
            self._counted = False
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_head, self._read = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._read = False, 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._gentle.flush()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._count(data)
            return
        super().data_received(data)
        if self._in_head or self._has_rest():
            self._count(data)
            if self._timer is None:
                self._timer = self.loop.call_later(self._limits.receive_seconds, self._too_slow)
        else:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._socket.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def close(self) -> None:
        """Close the connection once everything is written, and a request that still arrives is read or given up."""
        if self._lingering or not (self._in_head or not self._counted or (self.cycle and self.cycle.more_body)):
            self._socket.close()
            return
        self._lingering, self._read = True, 0
        self._unset_keepalive_if_required()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(LINGER, self._socket.close)
        if self._socket.can_write_eof():
            self._socket.write_eof()
        self._socket.resume_reading()

    @property
    def closing(self) -> bool:
        return self._lingering or self._socket.is_closing()

    def _wait(self) -> None:
        """Close the connection later if no request has begun by then."""
        idle = not self._in_head and (self.cycle is None or self.cycle.response_complete)
        if idle and self.timeout_keep_alive_task is None and not self.closing:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _has_rest(self) -> bool:
        """Whether the body of a request that is answered still arrives."""
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _count(self, data: bytes) -> None:
        """Bound the headers, and what is read of a body after its answer."""
        self._read += len(data)
        if self._lingering or not self._in_head:
            if self._read > self._limits.body_bytes:
                self._socket.close()
        elif self._read > self._limits.head_bytes:
            what = f"expected at most {self._limits.head_bytes} bytes of headers, found more"
            self._refuse(Problem(431, "headers_too_large", what, hint="send fewer or shorter headers"))

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_head:
            seconds = self._limits.receive_seconds
            self._refuse(Problem(408, "too_slow", f"the headers did not arrive within {seconds:g} s"))
        else:
            self._socket.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer what has not become a request."""
        self._on_refusal(problem.reason)
        content = json.dumps(problem.content("/v2", "")).encode()
        headers = {**problem.headers(), "content-type": "application/json", "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "connection": "close"}.items())
        self._socket.write(STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + content)
        self.close()


class _Gentle:
    """A transport that closes as its connection does, and sends the headers of an answer with the start of its body.

    uvicorn writes them one after the other: two system calls, two packets, and twice the work for whoever reads them.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection
        self._begun: RequestResponseCycle | None = None
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        cycle = self._connection.cycle
        if cycle is not self._begun and cycle.response_started:
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
        return self._connection.closing

    def close(self) -> None:
        self.flush()
        self._connection.close()
