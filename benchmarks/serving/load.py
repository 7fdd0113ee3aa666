"""A load generator in a process of its own, with a closed or an open loop over kept-alive HTTP/1.1 connections.

The open loop has seeded Poisson arrivals and counts latency from the scheduled time, so that a slow server cannot
reduce the load.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from naflex_deploy.bench.load.http import Connection
from naflex_deploy.bench.load.load import poisson


@dataclass
class Outcome:
    """The outcomes of requests. All times are in seconds."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)

    def note(self, status: int, latency: float) -> None:
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency)

    def quantile(self, status: int, q: float) -> float:
        """Quantile of latencies; 0 if there are none. Check their number before trusting a high quantile."""
        return float(np.quantile(self.latencies[status], q)) if self.latencies.get(status) else 0.0

    def goodput(self, within: float) -> float:
        """Requests per second that were answered with 200 within a time."""
        return sum(latency <= within for latency in self.latencies.get(200, [])) / self.seconds


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Let each connection send its next request as soon as the previous one is answered."""
    outcome, sent = Outcome(seconds), 0
    opened: list[Connection] = []
    due: dict[Connection, float] = {}
    end = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()

    def next_on(connection: Connection) -> None:
        nonlocal sent
        now = time.perf_counter()
        if now < end:
            sent += 1
            due[connection] = now
            connection.send(requests[sent % len(requests)])

    def done(connection: Connection, status: int) -> None:
        outcome.note(status, time.perf_counter() - due[connection])
        if status:
            next_on(connection)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(done), "127.0.0.1", port)
        opened.append(connection)
        next_on(connection)
    await asyncio.sleep(max(0.0, end - time.perf_counter()) + 0.2)
    close(opened)
    return outcome


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    connections: int = 1000,
    seed: int = 0,
    patience: float = 10,
) -> Outcome:
    """Send requests at random times of a given rate, whatever the server does; wait ``patience`` seconds at the end."""
    outcome = Outcome(seconds)
    times = arrivals(rate, seconds, seed)
    opened: list[Connection] = []
    idle: deque[Connection] = deque()
    late: deque[tuple[bytes, float]] = deque()
    due: dict[Connection, float] = {}
    loop = asyncio.get_running_loop()

    def send(connection: Connection, request: bytes, at: float) -> None:
        due[connection] = at
        connection.send(request)

    def done(connection: Connection, status: int) -> None:
        outcome.note(status, time.perf_counter() - due[connection])
        if status and late:
            send(connection, *late.popleft())
        elif status:
            idle.append(connection)

    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: Connection(done), "127.0.0.1", port)
        opened.append(connection)
        idle.append(connection)
    start = time.perf_counter() + 0.05
    for number, offset in enumerate(times):
        if (wait := start + offset - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        request = requests[number % len(requests)]
        if idle:
            send(idle.popleft(), request, start + offset)
        else:
            late.append((request, start + offset))
    until = time.perf_counter() + patience
    while sum(outcome.statuses.values()) < len(times) and time.perf_counter() < until:
        await asyncio.sleep(0.02)
    close(opened)
    return outcome


def close(connections: Sequence[Connection]) -> None:
    """Close connections, so that the server does not have to wait for them to time out."""
    for connection in connections:
        if connection.transport is not None:
            connection.transport.close()


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The times of a Poisson process."""
    return list(takewhile(lambda due: due < seconds, poisson(rate, seed)))
