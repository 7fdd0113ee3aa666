"""Connections of clients within limits: how many there are, how long they idle, and how they end.

uvicorn does not bound the time before headers, and closes a connection as soon as it is answered. Bytes that
still arrive then make the kernel send a reset, which can take away the answer before its client has read it. So a
connection that is closed before its request has arrived is closed for writing first, and a bounded rest is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.problems import Problem
from naflex_deploy.serving.http.receiving.gentle import Gentle
from naflex_deploy.serving.http.receiving.parsing import Parsing
from naflex_deploy.serving.http.receiving.room import Room

LINGER = 5.0
"""Seconds for which the rest of a refused request is read."""

DRAINED = 1 << 20
"""Bytes that are read of what is no request; of the body of one, as many as a body may have."""

WRITE_SECONDS = 30.0
"""Seconds after which a client that reads nothing of its answer is cut off."""


def protocol(limits: Limits, on_refusal: Callable[[str], None]) -> Callable[..., Connection]:
    """What uvicorn makes a connection with; see `Connection`."""
    room, unread = Room(limits.connections), Room(limits.buffered_bytes)

    def connect(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        return Connection(limits, room, unread, on_refusal, config, server_state, app_state, _loop)

    return connect


class Connection(Parsing):
    """A connection with limits.

    Args:
        limits: Limits of requests.
        room: Of connections; all of them share it.
        unread: Room for answers that wait for their readers, which all of them share, too.
        on_refusal: Called with the reason of every refusal that no route sees.
    """

    def __init__(
        self, limits: Limits, room: Room, unread: Room, on_refusal: Callable[[str], None], *arguments: Any
    ) -> None:
        super().__init__(limits, *arguments)
        self._room, self._unread, self._on_refusal = room, unread, on_refusal
        self._socket: asyncio.Transport
        self._gentle: Gentle
        self._host = ""
        self._counted = self._lingering = False
        self._rest = self._waiting = 0
        self._most = limits.body_bytes
        self._refusal: Problem | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        self._gentle = Gentle(transport, lambda: self.running, lambda: self.closing, self.close)
        super().connection_made(cast(asyncio.Transport, self._gentle))
        self._host = self.client[0] if self.client else ""
        self._counted = self._room.take(self._host, 1)
        if not self._counted:
            self._refuse(
                Problem(503, "too_many_connections", "the server has no room for another connection", retry_after=1)
            )
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_back()
        if self._counted:
            self._room.give_back(self._host, 1)
            self._counted = False
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._gentle.flush()
        last = not self.pipeline
        super().on_response_complete()
        if last and self._refusal is not None and not self.closing:
            self._answer(self._refusal)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._count_rest(data)
        elif self._refusal is None:
            self._unset_keepalive_if_required()
            try:
                self.feed(data)
            except Problem as problem:
                self._refuse(problem)
                return
            if self._has_rest():
                self._count_rest(data)
            if self.in_head or self._has_rest():
                if self._timer is None:
                    self._timer = self.loop.call_later(self.limits.receive_seconds, self._too_slow)
            else:
                self._rest = 0
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        size = self._socket.get_write_buffer_size()
        if not self._unread.take(self._host, size):
            self._on_refusal("unread")
            self._socket.abort()
            return
        self._waiting = size
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._socket.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._give_back()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_back(self) -> None:
        self._unread.give_back(self._host, self._waiting)
        self._waiting = 0

    def close(self) -> None:
        """Close the connection once everything is written, and a request that still arrives is read or given up."""
        arriving = self.in_head or not self._counted or self._refusal is not None
        if self._lingering or not (arriving or (self.cycle and self.cycle.more_body)):
            self._socket.close()
            return
        self._lingering, self._rest = True, 0
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
        if self.idle and self.timeout_keep_alive_task is None and not self.closing:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _has_rest(self) -> bool:
        """Whether the body of a request that is answered still arrives."""
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _count_rest(self, data: bytes) -> None:
        """Bound what is read behind a request that is answered, or refused."""
        self._rest += len(data)
        if self._rest > self._most:
            self._socket.close()

    def _too_slow(self) -> None:
        self._timer = None
        if self._has_rest():
            self._socket.close()
        elif self.flow.read_paused:  # it is not read any faster
            self._timer = self.loop.call_later(self.limits.receive_seconds, self._too_slow)
        elif self.in_head:
            seconds = self.limits.receive_seconds
            self._refuse(Problem(408, "too_slow", f"the headers did not arrive within {seconds:g} s"))

    def _refuse(self, problem: Problem) -> None:
        """Answer what has not become a request, once those before it are answered; nothing more is parsed."""
        self._on_refusal(problem.reason)
        self._refusal, self._most = problem, min(DRAINED, self._most)
        if self._has_rest():
            self._socket.close()
            return
        if not self.in_head and self.cycle is not None and self.cycle.more_body:
            self._give_up(self.cycle)
        if self.running is None or self.running.response_complete or self.running.disconnected:
            self._answer(problem)

    def _give_up(self, cycle: RequestResponseCycle) -> None:
        """End a request whose body is refused, so that the refusal is its answer."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        else:
            cycle.disconnected = True
            cycle.message_event.set()

    def _answer(self, problem: Problem) -> None:
        content = json.dumps(problem.content("/v1" if self.url.startswith(b"/v1") else "/v2", "")).encode()
        headers = {**problem.headers(), "content-type": "application/json", "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "connection": "close"}.items())
        self._socket.write(STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + content)
        self.close()
