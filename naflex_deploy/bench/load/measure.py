"""Measures a bundle in each mode, and accounts for the tokens of its packs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.statistics import Interval, quantile_interval
from naflex_deploy.bench.load.accounting import Allocation, allocation, filled_share
from naflex_deploy.bench.load.latency import Latency, latency_of
from naflex_deploy.bench.load.load import Clock, Requests, Send, closed_loop, offline, open_loop, single_stream
from naflex_deploy.bench.load.stopping import Checks, Stopping
from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.packing.prepared import Prepared

MODES = ("single", "offline", "open-loop")

SWEEP = (0.5, 0.7, 0.85, 0.95, 1.1, 1.5)
"""Rates of the open loop, as shares of the offline throughput; the last ones are beyond saturation."""

SLO = 5.0
"""Default service level, as a multiple of the median latency of a single image."""

PACKS = 8
"""Fewest packs in a pass over the mix. Results arrive pack by pack, so a shorter pass could not be timed well."""

SERVER_REQUESTS = 64
"""Number of requests kept in flight to find a server's throughput."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class SingleFigures:
    """Figures of images run one after another.

    Attributes:
        latency: Latency over all images.
        typical: Median in seconds, however few samples there are.
        by_image: Tokens and median seconds of each image; empty for a server.
    """

    latency: Latency
    typical: float
    by_image: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Throughput:
    """Figures of all images at once.

    Attributes:
        images: Images per second with an interval; ``None`` if there were too few passes.
        images_estimate: Images per second without an interval.
        tokens: Useful tokens per second.
        passes: Number of passes over the mix, or over several copies of a small one.
    """

    images: Interval | None
    images_estimate: float
    tokens: float
    passes: int


@dataclass(frozen=True)
class BudgetFigures:
    """Figures of packs of one budget, one after another, as full as the mix allows.

    Attributes:
        budget: Largest number of tokens in a pack.
        fill: Share of the budget that packs fill.
        latency: Latency of a pack.
        images: Images per second.
        tokens: Tokens per second.
    """

    budget: int
    fill: float
    latency: Latency
    images: float
    tokens: float


@dataclass(frozen=True)
class Step:
    """Figures of the open loop at one rate.

    Attributes:
        rate: Intended requests per second.
        sent: Requests per second that were sent.
        completed: Results per second from the first to the last; the capacity of an engine that is overloaded.
        latency: Latency of the results, from when they were due.
        goodput: Results per second within the service level.
        rejected, late, errors: Shares of all requests.
        lag: Delay of the load generator itself.
        within: Share of all requests that were answered within the service level.
        goal_known: Whether the queue knew the service level, and refused what would have waited longer.
    """

    rate: float
    sent: float
    completed: float
    latency: Latency
    goodput: float
    rejected: float
    late: float
    errors: float
    lag: Latency
    within: float
    goal_known: bool = False


def measure_single(
    subject: Subject, sources: Sequence[Source], prepared: Sequence[Prepared], stopping: Stopping, seed: int
) -> SingleFigures:
    """Measure the latency of images run one after another, each from the encoded image to its result."""
    found = single_stream(subject.engine, sources, subject.outputs, stopping, seed=seed)
    tokens = np.zeros(len(sources), np.int64)
    for image in prepared:
        tokens[image.result.input] += tokens_of(image, subject)
    medians = [float(np.median(found.seconds[found.images == index])) for index in np.unique(found.images)]
    by_image = tuple(zip(tokens[np.unique(found.images)].tolist(), medians, strict=True))
    return SingleFigures(latency_of(found.seconds), float(np.median(found.seconds)), by_image)


def measure_offline(
    subject: Subject,
    sources: Sequence[Source],
    prepared: Sequence[Prepared],
    stopping: Stopping,
    *,
    clock: Clock = time.perf_counter,
) -> tuple[Throughput, Allocation]:
    """Measure the throughput of all images at once, and account for the tokens of the packs."""
    tokens = sum(tokens_of(image, subject) for image in prepared)
    copies = -(-PACKS * subject.variant.budgets[-1] // tokens)
    images = copies * len(prepared)
    subject.take_runs()
    found = offline(
        subject.engine, [*sources] * copies, subject.outputs, images, replace(stopping, tail=False), clock=clock
    )
    runs = [run for run in subject.take_runs() if found.start <= run.start and run.end <= found.end]
    median = float(np.median(found.seconds))
    interval = quantile_interval(found.seconds, 0.5)
    throughput = Throughput(
        interval.inverse(images) if interval else None, images / median, copies * tokens / median, len(found.seconds)
    )
    return throughput, allocation(runs, subject.variant, patch_share(subject, prepared))


def measure_budgets(subject: Subject, prepared: Sequence[Prepared], stopping: Stopping) -> list[BudgetFigures]:
    """Measure the latency and throughput of full packs of each budget."""
    lengths = np.array([tokens_of(image, subject) for image in prepared])
    most = subject.manifest.config.max_images(subject.variant.backend)
    share = replace(stopping, cap=stopping.cap / len(subject.variant.budgets))
    figures = []
    for budget in subject.variant.budgets:
        fitting = np.flatnonzero(lengths <= budget)
        if not len(fitting):
            continue
        groups = [fitting[pack] for pack in pack_lengths(lengths[fitting], budget, most)]
        groups.sort(key=lambda group: -int(lengths[group].sum()))
        figures.append(_of_budget(subject, prepared, budget, groups[: max(1, len(groups) // 2)], share))
    return figures


def _of_budget(
    subject: Subject, prepared: Sequence[Prepared], budget: int, groups: list[np.ndarray], stopping: Stopping
) -> BudgetFigures:
    prefix = subject.manifest.model.prefix
    packs = [Pack.of([p for i in group if (p := prepared[i].patches)], prefix=prefix) for group in groups]
    for pack in packs:
        subject.session.run(pack, subject.outputs)
    subject.take_runs()
    checks, seconds, number = Checks(stopping), list[float](), 0
    while not checks.enough(seconds, sum(seconds)):
        subject.session.run(packs[number % len(packs)], subject.outputs)
        number += 1
        seconds += [run.seconds for run in subject.take_runs()]
    done = [packs[index % len(packs)] for index in range(len(seconds))]
    total = sum(seconds)
    return BudgetFigures(
        budget,
        float(np.mean([pack.tokens for pack in packs])) / budget,
        latency_of(np.array(seconds)),
        sum(pack.images for pack in done) / total,
        sum(pack.tokens for pack in done) / total,
    )


def measure_open_loop(
    send: Send, rates: Sequence[float], slo: float, stopping: Stopping, seed: int, report: Report
) -> list[Step]:
    """Measure the open loop at each rate in turn.

    Args:
        send: Sends a request.
        rates: Requests per second.
        slo: Longest latency of a good answer, in seconds.
        stopping: When to stop at each rate.
        seed: Seed of the arrival times.
        report: Called with a line at the start of each rate.
    """
    steps = []
    for number, rate in enumerate(rates):
        report(f"open loop at {rate:.3g} images/s")
        steps.append(step_of(open_loop(send, rate, stopping, seed=seed + number), rate, slo))
    return steps


def step_of(requests: Requests, rate: float, slo: float) -> Step:
    """Summarise the requests at one rate."""
    ok = requests.ok
    completed = _a_second(requests.answered)
    return Step(
        rate,
        _a_second(requests.sent),
        completed,
        latency_of(ok),
        completed * float((ok <= slo).mean()) if len(ok) else 0.0,
        requests.share("rejected"),
        requests.share("late"),
        requests.share("error"),
        latency_of(requests.lag),
        float((ok <= slo).sum()) / max(len(requests.statuses), 1),
    )


def _a_second(times: npt.NDArray[np.float64]) -> float:
    """Events per second, from their [N] times; 0 for fewer than two."""
    return (len(times) - 1) / max(float(np.ptp(times)), 1e-9) if len(times) > 1 else 0.0


def measure_server_single(send: Send, stopping: Stopping) -> SingleFigures:
    """Measure the latency of a server, one request after another.

    Raises:
        NaflexError: The server returns no result.
    """
    alone = closed_loop(send, 1, stopping)
    if not len(alone.ok):
        raise NaflexError("the server answered no request with a result", hint="look into its log")
    return SingleFigures(latency_of(alone.ok), float(np.median(alone.ok)))


def measure_server_offline(send: Send, images: int, tokens: int, stopping: Stopping) -> Throughput:
    """Measure the throughput of a server with `SERVER_REQUESTS` in flight.

    Args:
        send: Sends a request.
        images: Number of images in the mix.
        tokens: Number of tokens of all images.
        stopping: When to stop.

    Raises:
        NaflexError: The server returns no result.
    """
    found = closed_loop(send, SERVER_REQUESTS, replace(stopping, tail=False))
    if not len(found.ok):
        raise NaflexError("the server answered no request with a result", hint="look into its log")
    rate = len(found.ok) / float(found.answered.max() - found.due[0])
    return Throughput(None, rate, rate * tokens / images, len(found.due) // images)


def sweep(throughput: float) -> tuple[float, ...]:
    """The rates of the open loop for an offline throughput."""
    return tuple(share * throughput for share in SWEEP)


def tokens_of(image: Prepared, subject: Subject) -> int:
    """Number of tokens that an image takes up in a pack."""
    return len(image.patches or ()) + subject.manifest.model.prefix


def patch_share(subject: Subject, prepared: Sequence[Prepared]) -> float:
    """The share of the images' patches that their pixels fill, see `filled_share`."""
    boxes = [image.result.box for image in prepared]
    sizes = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    grids = [image.result.grid_hw for image in prepared]
    enlarged = subject.manifest.config.image.fit == "fill"
    return filled_share(sizes, grids, subject.manifest.preprocessing.patch_size, enlarged=enlarged)
