"""A load generator of its own process: HTTP/1.1 over kept-alive sockets, closed loop or open loop.

Open loop: seeded Poisson arrivals, latency counted from the scheduled time, so that a slow server cannot slow
down those who ask it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Outcome:
    """What became of the requests. Seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)

    def note(self, status: int, latency: float) -> None:
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency)

    def quantile(self, status: int, q: float) -> float:
        """0 where there is none; see the count before trusting a high quantile."""
        return float(np.quantile(self.latencies[status], q)) if self.latencies.get(status) else 0.0

    def goodput(self, within: float) -> float:
        """Requests a second answered with 200 within a time."""
        return sum(latency <= within for latency in self.latencies.get(200, [])) / self.seconds


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, free: Callable[[_Connection], None], note: Callable[[int, float], None]) -> None:
        self._free, self._note = free, note
        self._buffer = bytearray()
        self._due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self._due:
            self._note(0, time.perf_counter() - self._due)
        self.transport = None

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        assert self.transport is not None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        start = head.find(b"content-length:") + 15
        length = int(head[start : head.find(b"\r\n", start) if b"\r\n" in head[start:] else None])
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer.clear()
        due, self._due = self._due, 0.0
        self._note(int(head[9:12]), time.perf_counter() - due)
        self._free(self)


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Each connection sends its next request when the last is answered."""
    outcome, sent = Outcome(seconds), 0
    end = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()

    def free(connection: _Connection) -> None:
        nonlocal sent
        now = time.perf_counter()
        if now < end:
            sent += 1
            connection.send(requests[sent % len(requests)], now)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(free, outcome.note), "127.0.0.1", port)
        free(connection)
    await asyncio.sleep(max(0.0, end - time.perf_counter()) + 0.2)
    return outcome


async def open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, *, connections: int = 1000, seed: int = 0
) -> Outcome:
    """Requests at random times of a given rate, whatever the server does."""
    outcome = Outcome(seconds)
    times = arrivals(rate, seconds, seed)
    idle: deque[_Connection] = deque()
    late: deque[tuple[bytes, float]] = deque()
    loop = asyncio.get_running_loop()

    def free(connection: _Connection) -> None:
        if late:
            connection.send(*late.popleft())
        else:
            idle.append(connection)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(free, outcome.note), "127.0.0.1", port)
        idle.append(connection)
    start = time.perf_counter() + 0.05
    for number, offset in enumerate(times):
        if (wait := start + offset - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        request = requests[number % len(requests)]
        if idle:
            idle.popleft().send(request, start + offset)
        else:
            late.append((request, start + offset))
    until = time.perf_counter() + 10
    while sum(outcome.statuses.values()) < len(times) and time.perf_counter() < until:
        await asyncio.sleep(0.02)
    return outcome


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 2) + 20))
    return times[times < seconds].tolist()
