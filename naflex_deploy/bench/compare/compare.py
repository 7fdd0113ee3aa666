"""Two ways to do the same work, taking turns: how many times as fast one is, with an interval that can be relied on.

A comparison is made of *sittings*. In each, both are loaded anew, in alternating order, as where memory happens to
lie makes one load faster than another; then they take turns at the same requests, first one, then the other, then
the other way round, so that what the machine does besides meets both. A sitting gives one ratio, of sums over
requests of each request's median; the interval is taken over sittings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.statistics import Interval, ratio_interval
from naflex_deploy.core.errors import BenchmarkError

LEAST_SITTINGS = 8
"""With fewer, no interval of 99 % exists."""

TURN = 0.2
"""Seconds of requests before the other takes over, about."""

MOST_ROUNDS = 10
"""Of a sitting: another load tells more than another round."""

Clock = Callable[[], float]
Call = Callable[[], object]


@dataclass(frozen=True)
class Loaded:
    """One of the two, ready to work.

    Attributes:
        workloads: By name, what answers each request of it.
    """

    workloads: Mapping[str, Sequence[Call]]


@dataclass(frozen=True)
class Contender:
    """One of the two.

    Attributes:
        name: In reports.
        load: Loads it.
    """

    name: str
    load: Callable[[], Loaded]


@dataclass(frozen=True)
class Ratio:
    """How the two did at one workload.

    Attributes:
        workload: Its name.
        speed: How many times as fast the first is as the second.
        first, second: Seconds of all requests, the median over sittings.
        requests: Of the workload.
        sittings: How many.
    """

    workload: str
    speed: Interval
    first: float
    second: float
    requests: int
    sittings: int


def compare(
    first: Contender,
    second: Contender,
    *,
    width: float = 0.02,
    seconds: float = 60.0,
    clock: Clock = time.perf_counter,
    report: Callable[[str], None] = lambda step: None,
) -> list[Ratio]:
    """Compare at every workload.

    Args:
        width: Of the widest interval at which to stop.
        seconds: After which to stop whatever the width, `LEAST_SITTINGS` being done in any case.

    Returns:
        One ratio a workload.
    """
    times: dict[str, list[npt.NDArray[np.float64]]] = {}
    requests: dict[str, int] = {}
    share = seconds / LEAST_SITTINGS
    begun = clock()
    while True:
        number = len(next(iter(times.values()), []))
        report(f"{first.name} against {second.name}: sitting {number + 1}")
        for name, found in _sitting(first, second, number, share, clock):
            times.setdefault(name, []).append(np.median(found, axis=0).sum(axis=-1))
            requests[name] = found.shape[-1]
        ratios = [_ratio(name, np.array(found), requests[name]) for name, found in times.items()]
        complete = [ratio for ratio in ratios if ratio is not None]
        narrow = all(ratio.speed.width <= width for ratio in complete)
        if number + 1 >= LEAST_SITTINGS and len(complete) == len(ratios) and (narrow or clock() - begun >= seconds):
            return complete


def _ratio(name: str, times: npt.NDArray[np.float64], requests: int) -> Ratio | None:
    """Of [sittings, 2] seconds."""
    speed = ratio_interval(times[:, 1] / times[:, 0])
    if speed is None:
        return None
    first, second = np.median(times, axis=0).tolist()
    return Ratio(name, speed, first, second, requests, len(times))


def _sitting(
    first: Contender, second: Contender, number: int, seconds: float, clock: Clock
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """For each workload, seconds [rounds, 2, requests]."""
    if number % 2:
        b, a = second.load(), first.load()
    else:
        a, b = first.load(), second.load()
    for name, calls in a.workloads.items():
        share = seconds / len(a.workloads)
        yield name, take_turns(calls, b.workloads[name], share, clock, swapped=bool(number % 2))


def take_turns(
    first: Sequence[Call], second: Sequence[Call], seconds: float, clock: Clock, *, swapped: bool = False
) -> npt.NDArray[np.float64]:
    """Both do all requests, by turns of about `TURN` seconds, round after round; a round before is not counted.

    Who begins changes from turn to turn, and for each request from round to round: one that follows itself finds its
    caches warm. A turn of several requests begins with its first one once more, uncounted.

    Args:
        seconds: To spend, about: from two rounds to `MOST_ROUNDS`, an even number.
        swapped: Let the second begin.

    Returns:
        [rounds, 2, requests] seconds.
    """
    sides = first, second
    untimed = _round(sides, len(first), 1 + swapped, clock)
    slower = float(untimed.sum(axis=1).max()) / len(first)
    size = int(np.clip(TURN / slower, 1, len(first))) if slower else len(first)
    rounds = 2 * int(np.clip(seconds / max(2 * float(untimed.sum()), 1e-9), 1, MOST_ROUNDS // 2))
    return np.stack([_round(sides, size, number + swapped, clock) for number in range(rounds)])


def _round(
    sides: tuple[Sequence[Call], Sequence[Call]], size: int, number: int, clock: Clock
) -> npt.NDArray[np.float64]:
    """[2, requests] seconds, ``size`` requests a turn; the second begins where round and turn add up to odd."""
    count = len(sides[0])
    found = np.zeros((2, count))
    for turn, start in enumerate(range(0, count, size)):
        for side in (0, 1) if (number + turn) % 2 == 0 else (1, 0):
            calls = sides[side][start : start + size]
            if len(calls) > 1:
                calls[0]()
            for index, call in enumerate(calls, start):
                begin = clock()
                call()
                found[side, index] = clock() - begin
    return found


def least_cosine(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float | None:
    """The least over images, of [N, D]; ``None`` where the two are of different width."""
    if found.shape != wanted.shape:
        return None
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def gate(ratio: Ratio, least: float) -> None:
    """Check that the first is fast enough.

    Raises:
        BenchmarkError: It is not.
    """
    if ratio.speed.estimate < least:
        raise BenchmarkError(
            f"{ratio.workload}: expected at least {least:g} times as fast, found {ratio.speed.estimate:.3f} "
            f"({ratio.speed.low:.3f} to {ratio.speed.high:.3f})",
            hint="the interval holds the limit: measure longer, on a quiet machine" if least in ratio.speed else "",
        )
