"""Compares two ways to do the same work in turns: how many times as fast one is, with a reliable interval.

A comparison consists of *sittings*. In each, both contenders are loaded again, in alternating order, because the same
engine can be faster after one load than after another, depending on where its memory lies. They then take turns at the
same requests, in an order that alternates too, so that other activity on the machine affects both. A sitting gives one
ratio, of each contender's median time per request summed over requests; the interval is taken over sittings.
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
"""Fewest sittings, without which no 99 % interval exists."""

TURN = 0.2
"""Approximate length of a turn in seconds."""

MOST_ROUNDS = 10
"""Largest number of rounds in a sitting; beyond it, loading again yields more information than another round."""

Clock = Callable[[], float]
Call = Callable[[], object]


@dataclass(frozen=True)
class Loaded:
    """A contender that is loaded and ready to run.

    Attributes:
        workloads: For each workload by name, the functions that answer its requests.
    """

    workloads: Mapping[str, Sequence[Call]]


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: Name in reports.
        load: Loads the contender.
    """

    name: str
    load: Callable[[], Loaded]


@dataclass(frozen=True)
class Ratio:
    """The outcome of a comparison for one workload.

    Attributes:
        workload: Name of the workload.
        speed: How many times as fast the first contender is as the second.
        first, second: Seconds that each contender takes for all requests, as the median over sittings.
        requests: Number of requests in the workload.
        sittings: Number of sittings.
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
    """Compare two contenders on every workload.

    Args:
        first, second: The contenders.
        width: Relative width of the widest interval at which to stop.
        seconds: Time after which to stop whatever the width, though never before `LEAST_SITTINGS`.
        clock: Clock that measures seconds.
        report: Called with a line at the start of each sitting.

    Returns:
        One ratio per workload.
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
    """The ratio of [sittings, 2] seconds; ``None`` if there are too few sittings."""
    speed = ratio_interval(times[:, 1] / times[:, 0])
    if speed is None:
        return None
    first, second = np.median(times, axis=0).tolist()
    return Ratio(name, speed, first, second, requests, len(times))


def _sitting(
    first: Contender, second: Contender, number: int, seconds: float, clock: Clock
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yield each workload's name with its times in seconds, [rounds, 2, requests]."""
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
    """Run all requests on both sides, in turns of about `TURN` seconds, for several rounds after an uncounted one.

    The side that begins alternates from turn to turn, and for each request from round to round, because a side that
    follows itself finds its caches warm. A turn of several requests first runs its first request once, uncounted.

    Args:
        first, second: Functions that answer each request, on either side.
        seconds: Approximate time to spend. The number of rounds is even, from two to `MOST_ROUNDS`.
        clock: Clock that measures seconds.
        swapped: Whether the second side begins.

    Returns:
        Times in seconds, [rounds, 2, requests].
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
    """Times [2, requests] in seconds, in turns of ``size`` requests; the second side begins if round + turn is odd."""
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
    """The smallest cosine of any image between two [N, D] results; ``None`` if their shapes differ."""
    if found.shape != wanted.shape:
        return None
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / np.maximum(norms, 1e-30)).min())


def gate(ratio: Ratio, least: float) -> None:
    """Check that the first contender is fast enough.

    Args:
        ratio: Outcome of the comparison.
        least: Smallest ratio to accept.

    Raises:
        BenchmarkError: The ratio is smaller.
    """
    if ratio.speed.estimate < least:
        raise BenchmarkError(
            f"{ratio.workload}: expected at least {least:g} times as fast, found {ratio.speed.estimate:.3f} "
            f"({ratio.speed.low:.3f} to {ratio.speed.high:.3f})",
            hint="the interval contains the limit: measure longer, on a quiet machine" if least in ratio.speed else "",
        )
