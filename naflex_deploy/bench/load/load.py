"""Asking an engine or a server for results: one after another, many at once, or at random times whatever it does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.load.stopping import Checks, Stopping
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.source import Source

Status = Literal["ok", "rejected", "late", "error"]
"""``rejected`` for want of room, ``late`` by its deadline."""

Send = Callable[[int, Callable[[Status], None]], None]
"""Sends the request of that number, counted from 0, and returns at once; calls back once, from any thread."""

Clock = Callable[[], float]

DRAIN = 30.0
"""Seconds that requests under way are waited for."""


@dataclass(frozen=True, eq=False)
class Requests:
    """What became of requests, in the order they were due. Seconds.

    Attributes:
        numbers: [N] which request.
        due: [N] when it was to be sent.
        sent: [N] when it was.
        latency: [N] from due to the answer; infinite where none came.
        statuses: [N]
    """

    numbers: npt.NDArray[np.int64]
    due: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    statuses: tuple[Status, ...]

    @property
    def ok(self) -> npt.NDArray[np.float64]:
        """Latencies of those with a result."""
        return self.latency[[status == "ok" for status in self.statuses]]

    @property
    def answered(self) -> npt.NDArray[np.float64]:
        """When those with a result were answered."""
        return (self.due + self.latency)[[status == "ok" for status in self.statuses]]

    @property
    def lag(self) -> npt.NDArray[np.float64]:
        """[N] by how much the load generator itself was late."""
        return self.sent - self.due

    def share(self, *statuses: Status) -> float:
        """Of all requests."""
        return sum(status in statuses for status in self.statuses) / max(1, len(self.statuses))


class _Log:
    """Collects answers from any thread."""

    def __init__(self, clock: Clock) -> None:
        self.due: list[float] = []
        self.sent: list[float] = []
        self.answered: list[float] = []
        self.statuses: list[Status] = []
        self.latencies: list[float] = []
        self._clock = clock
        self._open = 0
        self._changed = threading.Condition()

    def send(self, send: Send, number: int, due: float) -> None:
        index = len(self.due)
        self.due.append(due)
        self.answered.append(np.inf)
        self.statuses.append("error")
        with self._changed:
            self._open += 1
        self.sent.append(self._clock())
        send(number, lambda status: self._note(index, status))

    def _note(self, index: int, status: Status) -> None:
        now = self._clock()
        self.answered[index] = now
        self.statuses[index] = status
        if status == "ok":
            self.latencies.append(now - self.due[index])
        with self._changed:
            self._open -= 1
            self._changed.notify()

    def wait(self, most: int, seconds: float) -> bool:
        """Until at most so many requests are under way; whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open <= most, seconds)

    def requests(self, numbers: Sequence[int]) -> Requests:
        due, answered = np.array(self.due), np.array(self.answered)
        return Requests(np.array(numbers), due, np.array(self.sent), answered - due, tuple(self.statuses))


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process of ``rate`` a second, for ever; a seed always gives the same."""
    random = np.random.default_rng(seed)
    now = 0.0
    while True:
        for gap in random.exponential(1 / rate, 256).tolist():
            now += gap
            yield now


def open_loop(
    send: Send,
    rate: float,
    stopping: Stopping,
    *,
    seed: int = 0,
    drain: float = DRAIN,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Requests:
    """Requests at random times of a given rate, whatever becomes of those before.

    Latency counts from when a request was due, so that a generator that falls behind, or a server that makes it
    fall behind, hides nothing. A generator that is hopelessly late gives up after twice ``stopping.cap``.

    Args:
        send: Gets 0, 1, 2, …
        rate: Requests a second.
        seed: Of the times.
        drain: Seconds that requests under way are waited for in the end.
    """
    log, checks = _Log(clock), Checks(stopping)
    start = clock() + 0.01
    for number, offset in enumerate(poisson(rate, seed)):
        if checks.enough(log.latencies, offset) or clock() - start > 2 * stopping.cap:
            break
        if (wait := start + offset - clock()) > 0:
            sleep(wait)
        log.send(send, number, start + offset)
    log.wait(0, drain)
    return log.requests(range(len(log.due)))


def closed_loop(
    send: Send, at_once: int, stopping: Stopping, *, drain: float = DRAIN, clock: Clock = time.perf_counter
) -> Requests:
    """Always ``at_once`` requests under way: the next is sent when one is answered."""
    log, checks = _Log(clock), Checks(stopping)
    start = clock()
    for number in itertools.count():
        if not log.wait(at_once - 1, drain) or checks.enough(log.latencies, clock() - start):
            break
        log.send(send, number, clock())
    log.wait(0, drain)
    return log.requests(range(len(log.due)))


@dataclass(frozen=True, eq=False)
class Single:
    """One image after another through an engine.

    Attributes:
        images: [N] which one.
        seconds: [N] from an encoded image to its result.
    """

    images: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]


def single_stream(
    engine: Engine,
    sources: Sequence[Source],
    outputs: Sequence[str],
    stopping: Stopping,
    *,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Single:
    """Each image alone, in random order, each as often as the others."""
    random = np.random.default_rng(seed)
    images: list[int] = []
    seconds: list[float] = []
    checks, begun = Checks(stopping), clock()
    while True:
        for index in random.permutation(len(sources)).tolist():
            start = clock()
            for _ in engine.stream([sources[index]], outputs):
                pass
            end = clock()
            images.append(index)
            seconds.append(end - start)
            if checks.enough(seconds, end - begun):
                return Single(np.array(images), np.array(seconds))


@dataclass(frozen=True, eq=False)
class Offline:
    """All images at once, over and over.

    Attributes:
        seconds: [N] of each pass over the mix, one running into the next.
        start, end: When the first began and the last ended.
    """

    seconds: npt.NDArray[np.float64]
    start: float
    end: float


def offline(
    engine: Engine,
    sources: Sequence[Source],
    outputs: Sequence[str],
    results: int,
    stopping: Stopping,
    *,
    clock: Clock = time.perf_counter,
) -> Offline:
    """An endless stream of the images; the first pass, in which it fills, is not counted.

    Args:
        results: Of one pass, more than there are sources where some have several frames.
    """
    passes: list[float] = []
    checks = Checks(stopping)
    stream = engine.stream(itertools.cycle(sources), outputs)
    begun = last = 0.0
    for number, _ in enumerate(stream, 1):
        if number % results:
            continue
        now = clock()
        if number == results:
            begun = last = now
            continue
        passes.append(now - last)
        last = now
        if checks.enough(passes, now - begun):
            break
    assert isinstance(stream, Generator)
    stream.close()
    return Offline(np.array(passes), begun, last)
