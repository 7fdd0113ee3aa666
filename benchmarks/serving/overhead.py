"""Measures the cost of the server, with engines whose cost is known.

    python -m benchmarks.serving.overhead http       small raw tensors, an engine of 0.3 ms: requests/s, CPU per request
    python -m benchmarks.serving.overhead decode     JPEG decoding on one and on two threads
    python -m benchmarks.serving.overhead load       open loop at 0.9x, 1x and 3x of the peak, against a simulation
    python -m benchmarks.serving.overhead goal [B]   open loop at 0.9x to 3x of the peak, with and without --slo
    python -m benchmarks.serving.overhead soak       memory over bounded requests, after warm-up
    python -m benchmarks.serving.overhead bundle B   a real bundle with and without HTTP; health under its full load

The server runs in a process of its own. Its CPU seconds are read from /proc, so that other work on the machine affects
them little.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt

from benchmarks.serving.fake_server import (
    SleepingSession,
    cpu_seconds,
    fake_server,
    jpeg,
    manifest,
    memory,
    raw_request,
    server,
)
from benchmarks.serving.load import Outcome, arrivals, closed_loop, open_loop
from naflex_deploy.bench.load.http import embedding_request
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.admission import MARGIN
from naflex_deploy.runtime.scheduling.queue import PackQueue, Policy, Ticket
from naflex_deploy.runtime.scheduling.scheduler import Scheduler

SLO = 0.5

TURNS = 6
"""Pairs of turns of `bundle`. The median lies between the lowest and the highest of six in 97 of 100 cases."""

Float = npt.NDArray[np.float32]


def http() -> None:
    with fake_server(1024, 0.0003) as (port, pid):
        asyncio.run(closed_loop(port, [raw_request(32)], 32, 2))
        before, started = cpu_seconds(pid), time.perf_counter()
        outcome = asyncio.run(closed_loop(port, [raw_request(32)], 32, 8))
        used, wall = cpu_seconds(pid) - before, time.perf_counter() - started
    done = outcome.statuses[200]
    print(f"{done / outcome.seconds:.0f} requests/s; statuses {dict(outcome.statuses)}")
    print(
        f"{1e6 * used / done:.0f} us of CPU a request: {done / used:.0f} requests/s per core ({used / wall:.2f} cores)"
    )
    print(f"latency p50 {1e3 * outcome.quantile(200, 0.5):.1f} ms, p99 {1e3 * outcome.quantile(200, 0.99):.1f} ms")


def decode() -> None:
    """Time decoding through the scheduler, with an engine that takes no time."""
    from naflex_deploy.serving.http.limits import Limits
    from naflex_deploy.serving.http.models import Model

    bundle, limits = manifest(1024, 256), Limits()
    images = [jpeg(1200, 1600, seed) for seed in range(4)]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(20):
        threads = 1 + turn % 2
        with ThreadPoolExecutor(threads) as pool:
            scheduler = Scheduler(
                SleepingSession(0), budget=1024, max_images=64, decoders=pool, policy=Policy(queue_tokens=10**6)
            )
            model = Model("fake", bundle, bundle.variants[0], scheduler, Preparer.of(bundle, bundle.variants[0]))
            started = time.perf_counter()
            futures = scheduler.submit([model.work(images[i % 4], limits) for i in range(120)], tokens=256)
            for future in futures:
                future.result()
            rates[threads].append(120 / (time.perf_counter() - started))
            scheduler.close()
    one, two = (statistics.median(found) for found in rates.values())
    ratios = sorted(b / a for a, b in zip(*rates.values(), strict=True))
    low, median, high = ratios[0], statistics.median(ratios), ratios[-1]
    print(f"1600x1200 JPEG: {one:.1f} images/s on 1 thread, {two:.1f} on 2")
    print(f"{len(ratios)} pairs of turns: median {median:.2f}x, {low:.2f} to {high:.2f}x")


def ideal(rate: float, seconds: float, *, tokens: int, budget: int, cost: float) -> float:
    """Goodput of the same queue with a simulated clock, on which nothing else takes time."""
    queue = PackQueue(budget, 64, Policy(max_wait=0.002))
    due = arrivals(rate, seconds, 0)
    now = free_at = 0.0
    good = index = admitted = running = 0
    while index < len(due) or queue.images:
        if index < len(due) and due[index] <= now:
            if not admitted or (admitted + tokens) * cost / budget <= (1 - MARGIN) * SLO:
                queue.put(Ticket(tokens, (), due[index], due[index] + SLO, due[index]), due[index])
                admitted += tokens
            index += 1
            continue
        admitted -= tokens * len(queue.expired(now))
        if free_at <= now:
            admitted -= running
            running = 0
        if free_at <= now and (pack := queue.take(now, idle=True)):
            free_at = now + cost
            running = tokens * len(pack)
            good += sum(free_at - ticket.arrival <= SLO for ticket in pack)
            continue
        events = [free_at] if free_at > now else [queue.next_event(True)]
        now = min([*events, due[index] if index < len(due) else math.inf])
    return good / seconds


def load() -> None:
    """Load an engine that takes 20 ms for 64 tokens with images of 16, which is at most 200 images/s."""
    budget, cost, tokens, seconds = 64, 0.02, 16, 10.0
    peak = budget / tokens / cost
    found: dict[float, tuple[Outcome, float]] = {}
    with fake_server(budget, cost) as (port, pid):
        asyncio.run(closed_loop(port, [raw_request(64)], 16, 1))
        for factor in (0.9, 1.0, 3.0):
            before = memory(pid)
            outcome = asyncio.run(open_loop(port, [raw_request(64, SLO)], factor * peak, seconds))
            found[factor] = outcome, ideal(factor * peak, seconds, tokens=tokens, budget=budget, cost=cost)
            goodput = outcome.goodput(SLO)
            print(
                f"{factor}x of {peak:.0f}/s: goodput {goodput:.1f}/s, ideal {found[factor][1]:.1f}/s "
                f"({goodput / found[factor][1]:.1%}); statuses {dict(outcome.statuses)}; p99 of 200 "
                f"{1e3 * outcome.quantile(200, 0.99):.0f} ms; p50, p99, max of 429 "
                f"{1e3 * outcome.quantile(429, 0.5):.1f}, {1e3 * outcome.quantile(429, 0.99):.1f}, "
                f"{1e3 * outcome.quantile(429, 1):.1f} ms; memory {before:.0f} to {memory(pid):.0f} MB"
            )
    best = max(outcome.goodput(SLO) for outcome, _ in found.values())
    print(f"goodput at 3x over the peak goodput: {found[3.0][0].goodput(SLO) / best:.1%}")


def goal(path: Path | None = None) -> None:
    """The same engine as `load`, or that of a bundle, and requests without a timeout, from another process."""
    budget, cost, tokens, seconds, slo = 64, 0.02, 16, 10.0, SLO
    peak, requests = budget / tokens / cost, [raw_request(64)]
    if path is not None:
        seconds, slo = 12.0, 2 * SLO
        requests = [image_request(jpeg(600, 800, seed)) for seed in range(16)]
        with served(path) as (port, _):
            asyncio.run(closed_loop(port, requests, 16, 4))
            outcome = asyncio.run(closed_loop(port, requests, 16, seconds))
        peak = outcome.statuses[200] / outcome.seconds
    for known in (0.0, slo):
        best = 0.0
        print(f"without a goal, {1e3 * slo:.0f} ms are wanted:" if not known else f"--slo {1e3 * known:.0f}:")
        for factor in (0.9, 1.0, 2.0, 3.0):
            with fake_server(budget, cost, known) if path is None else served(path, known) as (port, _):
                asyncio.run(closed_loop(port, requests, 16, 1 if path is None else 4))
                outcome = asyncio.run(open_loop(port, requests, factor * peak, seconds, patience=40))
            goodput = outcome.goodput(slo)
            best = max(best, goodput)
            print(
                f"  {factor}x of {peak:.1f}/s: goodput {goodput:.1f}/s, {goodput / best:.1%} of best; p50, p99, max "
                f"of 200 {1e3 * outcome.quantile(200, 0.5):.0f}, {1e3 * outcome.quantile(200, 0.99):.0f}, "
                f"{1e3 * outcome.quantile(200, 1):.0f} ms; statuses {dict(outcome.statuses)}",
                flush=True,
            )


def served(path: Path, goal: float = 0.0) -> AbstractContextManager[tuple[int, int]]:
    """A server of a bundle, under the name of the fake one."""
    options = ["--slo", str(round(1e3 * goal))] if goal else []
    arguments = [sys.executable, "-m", "naflex_deploy", "serve", f"fake={path}", "--port", "0", "--notice", "0"]
    return server(*arguments, *options)


def image_request(image: bytes) -> bytes:
    """A request for the vector of an encoded image."""
    return embedding_request(image, url="http://127.0.0.1", model="fake")


def soak() -> None:
    requests = [raw_request(side) for side in (16, 48, 96, 240)]
    with fake_server(1024, 0.0003) as (port, pid):
        asyncio.run(closed_loop(port, requests, 32, 15))
        sizes, served = [], 0
        for _ in range(16):
            outcome = asyncio.run(closed_loop(port, requests, 32, 2))
            served += outcome.statuses[200]
            sizes.append(memory(pid))
    # Halves are compared, because the allocator's fluctuations are larger than the growth to detect.
    growth = statistics.median(sizes[8:]) / statistics.median(sizes[:8]) - 1
    print(f"{served} requests; resident MB every 2 s: {[round(size, 1) for size in sizes]}: growth {growth:+.2%}")


def bundle(path: Path) -> None:
    """Run images of the model's full token count in process and through HTTP, in turns; then HTTP with health checks.

    Health is asked for in a turn of its own, because its requests would take time from HTTP alone.
    """
    import naflex_deploy
    from naflex_deploy.serving.client import Client

    images = [jpeg(600, 800, seed) for seed in range(48)]
    engine = naflex_deploy.load(path)
    engine.embed(images)

    def direct() -> tuple[float, float]:
        """Images per second, and CPU seconds per image."""
        started, used = time.perf_counter(), time.process_time()
        engine.embed(images)
        return len(images) / (time.perf_counter() - started), (time.process_time() - used) / len(images)

    arguments = [sys.executable, "-m", "naflex_deploy", "serve", f"m={path}", "--port", "0", "--notice", "0"]
    with server(*arguments) as (port, pid):
        url = f"http://127.0.0.1:{port}"
        with Client(url, model="m", batch=4, timeout=120) as client, ThreadPoolExecutor(8) as pool:

            def send() -> list[Future[Float]]:
                return [pool.submit(client.embed, images[i : i + 4]) for i in range(0, len(images), 4)]

            def through_http() -> tuple[float, float]:
                started, used = time.perf_counter(), cpu_seconds(pid)
                for done in send():
                    done.result()
                return len(images) / (time.perf_counter() - started), (cpu_seconds(pid) - used) / len(images)

            through_http()
            turns = []
            for number in range(TURNS):
                found = [run() for run in ((direct, through_http), (through_http, direct))[number % 2]]
                turns.append(found if number % 2 == 0 else found[::-1])
                (rate, _), (rate_http, _) = turns[-1]
                print(
                    f"images/s in process {rate:.2f}, through HTTP {rate_http:.2f}: {rate_http / rate:.3f}", flush=True
                )
            sent, health = send(), []
            with httpx.Client(base_url=url) as http:
                while not all(done.done() for done in sent):
                    asked = time.perf_counter()
                    http.get("/v2/health/ready")
                    health.append(time.perf_counter() - asked)
                    time.sleep(0.02)
    cpu, cpu_http = (statistics.median(turn[i][1] for turn in turns) for i in (0, 1))
    ratios = sorted(by_http[0] / in_process[0] for in_process, by_http in turns)
    print(
        f"HTTP has {statistics.median(ratios):.1%} of the throughput ({ratios[0]:.1%} to {ratios[-1]:.1%}); "
        f"CPU per image {cpu:.3f} s, by HTTP {cpu_http:.3f} s"
    )
    p50, p99 = (1e3 * float(np.quantile(health, q)) for q in (0.5, 0.99))
    print(f"health p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {1e3 * max(health):.1f} ms of {len(health)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["http", "decode", "load", "goal", "soak", "bundle"])
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    print(f"{cpu_name()}, load average {os.getloadavg()[0]:.1f}")
    {"http": http, "decode": decode, "load": load, "goal": goal, "soak": soak, "bundle": bundle}[options.what](
        *map(Path, options.arguments)
    )


if __name__ == "__main__":
    main()
