"""Load generators: requests one after another, many at once, or at random times regardless of the answers."""

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
"""``rejected`` because the queue was full, ``late`` because the deadline passed."""

Send = Callable[[int, Callable[[Status], None]], None]
"""Sends the request with a number, counted from 0, and returns at once; calls back once, from any thread."""

Clock = Callable[[], float]

DRAIN = 30.0
"""Longest time to wait for requests in flight, in seconds."""


@dataclass(frozen=True, eq=False)
class Requests:
    """The outcomes of requests, in the order in which they were due. All times are in seconds.

    Attributes:
        numbers: Number of each request, [N].
        due: Time at which each request was due, [N].
        sent: Time at which each request was sent, [N].
        latency: Time from when each request was due to its answer, [N]; infinite without an answer.
        statuses: Status of each request, [N].
    """

    numbers: npt.NDArray[np.int64]
    due: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    statuses: tuple[Status, ...]

    @property
    def ok(self) -> npt.NDArray[np.float64]:
        """Latencies of the requests that returned a result."""
        return self.latency[[status == "ok" for status in self.statuses]]

    @property
    def answered(self) -> npt.NDArray[np.float64]:
        """Times at which the requests that returned a result were answered."""
        return (self.due + self.latency)[[status == "ok" for status in self.statuses]]

    @property
    def lag(self) -> npt.NDArray[np.float64]:
        """Delay of the load generator itself for each request, [N]."""
        return self.sent - self.due

    def share(self, *statuses: Status) -> float:
        """The share of all requests that have one of these statuses."""
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
        """Wait until at most ``most`` requests are in flight; returns whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open <= most, seconds)

    def requests(self, numbers: Sequence[int]) -> Requests:
        due, answered = np.array(self.due), np.array(self.answered)
        return Requests(np.array(numbers), due, np.array(self.sent), answered - due, tuple(self.statuses))


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Yield the times of a Poisson process with ``rate`` events per second, without end, as the seed determines."""
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
    """Send requests at random times of a given rate, regardless of earlier requests.

    Latency counts from when a request was due, so that no delay is hidden if the generator falls behind, whether by
    itself or because of the server. A generator that is hopelessly late gives up after twice ``stopping.cap``.

    Args:
        send: Called with the request numbers 0, 1, 2, …
        rate: Requests per second.
        stopping: When to stop.
        seed: Seed of the times.
        drain: Longest time to wait for requests in flight at the end, in seconds.
        clock: Clock that measures seconds.
        sleep: Sleeps for a number of seconds.
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
    """Keep ``at_once`` requests in flight: the next one is sent as soon as one is answered."""
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
    """Times of single images through an engine, one after another.

    Attributes:
        images: Index of each image, [N].
        seconds: Seconds from the encoded image to its result, [N].
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
    """Run images one at a time, in random order, each as often as the others."""
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
    """Times of all images at once, over and over.

    Attributes:
        seconds: Seconds of each pass over the mix, [N]; passes follow each other without a pause.
        start, end: Time at which the first pass began and the last one ended.
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
    """Run an endless stream of the images. The first pass, which fills the pipeline, is not counted.

    Args:
        engine: The engine.
        sources: The images.
        outputs: Names of the outputs to compute.
        results: Number of results in a pass, which exceeds that of sources if some have several frames.
        stopping: When to stop.
        clock: Clock that measures seconds.
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
