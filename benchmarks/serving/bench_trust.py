"""Checks whether figures of `naflex-deploy bench` are reliable; run it on a machine on which nothing else runs.

    python -m benchmarks.serving.bench_trust pairs BUNDLE [--runs 20]   is 1.0 in the interval of a bundle and itself?
    python -m benchmarks.serving.bench_trust queueing [BUNDLE]          waiting in the packer against the ideal queue
    python -m benchmarks.serving.bench_trust overhead BUNDLE            the cost of measuring
    python -m benchmarks.serving.bench_trust cost BUNDLE                the cost model on budgets not used to fit it

Each prints a line a measurement and a verdict, and exits 5 where the verdict is no.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.serving.ideal import simulate
from naflex_deploy.bench.compare.contenders import compare_engines, engine_of
from naflex_deploy.bench.cost.cost import fit_cost
from naflex_deploy.bench.load.load import offline, open_loop, single_stream
from naflex_deploy.bench.load.mixes import choose_mix
from naflex_deploy.bench.load.recording import recorded
from naflex_deploy.bench.load.stopping import Stopping
from naflex_deploy.bench.load.subject import open_subject
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome, PackReport
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler

LOADS = (0.5, 0.7, 0.85)
IMAGES = (1, 4, 16)


class SleepingSession:
    """A session that takes a fixed time per pack, but no CPU time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run(self, pack, outputs):
        time.sleep(self._seconds)
        return {name: np.zeros((pack.images, 8), np.float32) for name in outputs}


def pairs(options: argparse.Namespace) -> bool:
    sources = choose_mix(options.mix, None, options.count).sources
    held: dict[str, list[bool]] = defaultdict(list)
    for number in range(options.runs):
        make = engine_of(options.bundle)
        found = compare_engines(("A", make), ("A again", make), sources, width=0.02, seconds=options.seconds)
        for ratio in found.ratios:
            speed = ratio.speed
            held[ratio.workload].append(1.0 in speed)
            inside = "" if held[ratio.workload][-1] else "  OUTSIDE"
            print(f"run {number + 1}, {ratio.workload}: {speed.estimate:.4f} ({speed.low:.4f}-{speed.high:.4f}), "
                  f"{ratio.sittings} sittings{inside}", flush=True)  # fmt: skip
    for workload, inside in held.items():
        print(f"{workload}: 1.0 inside in {sum(inside)} of {len(inside)} runs")
    return all(sum(inside) >= 0.95 * len(inside) for inside in held.values())


def queueing(options: argparse.Namespace) -> bool:
    worst = 0.0
    for per_pack in IMAGES:
        session, image, prefix, service = _queue_engine(options, per_pack)
        for load in LOADS:
            measured, ideal, packs = _wait(session, image, prefix, per_pack, load / service, options.seconds)
            ratio = measured.mean() / np.mean(ideal)
            worst = max(worst, abs(ratio - 1))
            print(f"{per_pack} images a pack of {1e3 * service * per_pack:.1f} ms, load {load:.0%}: mean wait "
                  f"{1e3 * measured.mean():.2f} ms, ideal {1e3 * np.mean(ideal):.2f} ms: {ratio:.3f}; p99 "
                  f"{1e3 * np.quantile(measured, 0.99):.1f} and {1e3 * np.quantile(ideal, 0.99):.1f} ms; "
                  f"{len(measured)} images, {packs} packs", flush=True)  # fmt: skip
    print(f"furthest from the ideal: {worst:.1%}")
    return worst <= 0.15


def _queue_engine(options: argparse.Namespace, per_pack: int) -> tuple[Session, Patches, int, float]:
    """A session, an image, the number of prefix tokens, and the seconds per image of a full pack."""
    if options.bundle is None:
        image = Patches(np.zeros((16, 3), np.uint8), (4, 4))
        return SleepingSession(options.service), image, 0, options.service / per_pack
    subject = open_subject(options.bundle)
    width, prefix = int(subject.variant.inputs[0].shape[1]), subject.manifest.model.prefix
    image = Patches(np.random.default_rng(0).integers(0, 256, (64, width), dtype=np.uint8), (8, 8))
    pack, times = Pack.of([image] * per_pack, prefix=prefix), []
    for _ in range(12):
        start = time.perf_counter()
        subject.session.run(pack, ("pooled",))
        times.append(time.perf_counter() - start)
    return subject.session, image, prefix, float(np.median(times[2:])) / per_pack


def _wait(
    session: Session, image: Patches, prefix: int, per_pack: int, rate: float, seconds: float
) -> tuple[np.ndarray, list[float], int]:
    """Seconds that each image waited, those in an ideal queue with the same arrivals, and the number of packs."""
    reports: list[PackReport] = []
    tokens = len(image) + prefix
    scheduler = Scheduler(
        session, budget=per_pack * tokens, max_images=per_pack, prefix=prefix, runs=1,
        policy=Policy(queue_tokens=10**9), on_pack=reports.append,
    )  # fmt: skip
    served: list[tuple[float, ImageOutcome]] = []

    def send(number: int, done: Callable[[str], None]) -> None:
        (future,) = scheduler.submit([image])
        sent = time.perf_counter()

        def note(future) -> None:
            served.append((sent, future.result()))
            done("ok")

        future.add_done_callback(note)

    open_loop(send, rate, Stopping(width=1e-9, floor=0.0, cap=seconds))
    scheduler.close(10)
    served.sort(key=lambda item: item[0])
    runs: dict[int, list[float]] = defaultdict(list)
    for report in reports:
        runs[report.images].append(report.ran)
    sizes = sorted(runs)
    medians = [float(np.median(runs[size])) for size in sizes]
    ideal = simulate(
        [sent for sent, _ in served], [tokens] * len(served), budget=per_pack * tokens, max_images=per_pack,
        service=lambda pack: float(np.interp(len(pack), sizes, medians)),
    )  # fmt: skip
    return np.array([item.waited for _, item in served]), ideal, len(reports)


def overhead(options: argparse.Namespace) -> bool:
    sources = choose_mix(options.mix, None, options.count).sources
    engine = engine_of(options.bundle)()
    rounds = 0
    start = time.process_time()
    while not rounds or time.process_time() - start < options.seconds:
        for _ in engine.stream(sources, ("pooled",)):
            pass
        rounds += 1
    per_image = (time.process_time() - start) / (rounds * len(sources))
    print(f"the engine: {1e3 * per_image:.2f} ms of CPU time per image")
    costs = _own_costs()
    for name, seconds in costs.items():
        print(f"{name}: {1e6 * seconds:.1f} us of the CPU, {seconds / per_image:.3%} of an image's")
    return max(costs.values()) <= 0.01 * per_image


class Instant:
    """An engine and a session that answer immediately."""

    def stream(self, images, outputs):
        yield from images

    def run(self, pack, outputs):
        return {}


def _own_costs() -> dict[str, float]:
    """CPU seconds that measuring itself takes: per image in each mode, and per recorded pack."""
    stopping = Stopping(width=1e-9, floor=0.0, cap=2.0)
    images, packs = list(range(32)), 100_000
    pack, noted = Pack.of([Patches(np.zeros((16, 3), np.uint8), (4, 4))]), recorded(Instant(), [].append)

    def note() -> int:
        for _ in range(packs):
            noted.run(pack, ())
        return packs

    loops: dict[str, Callable[[], int]] = {
        "single stream": lambda: len(single_stream(Instant(), images, (), stopping).seconds),
        "offline": lambda: 32 * len(offline(Instant(), images, (), 32, stopping).seconds),
        "open loop": lambda: len(open_loop(lambda number, done: done("ok"), 2000.0, stopping).due),
        "noting a pack": note,
    }
    costs = {}
    for name, loop in loops.items():
        start = time.process_time()
        count = loop()
        costs[name] = (time.process_time() - start) / count
    return costs


def cost(options: argparse.Namespace) -> bool:
    subject = open_subject(options.bundle)
    config = subject.manifest.config
    longest = config.image_tokens(subject.variant.backend, subject.manifest.model.prefix)
    most = options.most or subject.variant.budgets[-1]
    found = fit_cost(subject, most, longest, config.packing.max_images, seconds=options.seconds)
    print(found.model)
    for tokens, seconds, predicted in zip(found.tokens, found.seconds, found.predicted, strict=True):
        off = predicted / seconds - 1
        print(f"{tokens:6.0f} tokens: {1e3 * seconds:8.2f} ms, predicted {1e3 * predicted:8.2f}: {off:+.1%}")
    print(f"furthest off on budgets not fitted on: {found.error:.1%}")
    return found.error <= 0.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pairs", "queueing", "overhead", "cost"])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one comparison, one rate, or the probes")
    parser.add_argument("--service", type=float, default=0.05, help="seconds of a pack, without a bundle")
    parser.add_argument("--most", type=int, help="tokens of the largest pack probed")
    parser.add_argument("--mix", default="thumbnails")
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    if options.bundle is None and options.what != "queueing":
        parser.error(f"{options.what} needs a bundle")
    print(f"{cpu_name()}, load average {os.getloadavg()[0]:.1f}")
    held = {"pairs": pairs, "queueing": queueing, "overhead": overhead, "cost": cost}[options.what](options)
    print("holds" if held else "DOES NOT HOLD")
    sys.exit(0 if held else 5)


if __name__ == "__main__":
    main()
