"""Checks under faults that every accepted request is answered exactly once, with its own result.

    python -m benchmarks.serving.faults [--requests 100000] [--tick 1.0] [--bundle DIR]

Kinds: good raw tensors and PNG files; corrupt files; too many pixels; unequal sides; a body too large; malformed
JSON; senders that leave at once, in the middle of the body, or before the answer; slow senders. The engine runs in
a child process, which is killed now and then, returns NaN for poisoned images, and is reloaded in the middle.
The expected result of an image is computed from that image alone, by the engine's formula.

With ``--bundle``, its engine runs in the server instead, with its workers and streams. A killed engine then is a pack
that fails, and results are compared by their cosine, as those of one image differ in the last bits from pack to pack.
The bundle has to take images of 1 to 16 patches of 16 pixels as they are (``image.fit = "shrink-only"``).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving.engine import POISON, ChildSession, FaultySession, formula
from benchmarks.serving.fake_server import manifest, memory
from naflex_deploy import load
from naflex_deploy.bench.load.http import post
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.results.figures import cosine
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Model, Models
from naflex_deploy.serving.http.server import Settings, serve_models

LIMITS = Limits(body_bytes=1 << 20, pixels=1 << 20, aspect=50, receive_seconds=2.0)
PATH = "/v2/models/fake/infer"
LEAST_COSINE = 0.99999
"""Between results of one image alone and in a pack, in bf16."""


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def infer_body(name: str, datatype: str, shape: list[int], content: bytes) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
    output = {"name": "pooled", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    return header + content, {"inference-header-content-length": str(len(header))}


Expect = Callable[[Patches], np.ndarray]


def same(found: np.ndarray, expected: np.ndarray, least_cosine: float) -> bool:
    """Whether two results are of one image; to the bit where the least cosine is 1."""
    if least_cosine == 1:
        return np.array_equal(found, expected)
    return bool(found.shape == expected.shape and cosine(found[None], expected[None])[0] >= least_cosine)


def expectation(bundle: Path | None) -> tuple[Expect, float]:
    """What computes the result of an image alone, and the least cosine of the same result in a pack."""
    if bundle is None:
        return lambda patches: formula(patches.pixels, [0, len(patches)])[0], 1.0
    engine = load(bundle)
    session = open_session(bundle, engine.variant)
    return lambda patches: np.asarray(session.run(Pack.of([patches]), ("pooled",))["pooled"][0]), LEAST_COSINE


class Mixture:
    """Seeded requests: their bytes, the allowed statuses, the result expected with 200, and the sender's behaviour."""

    def __init__(self, seed: int, expect: Expect) -> None:
        self.expect = expect
        self.random = random.Random(seed)
        self.number = seed << 32

    def next(self) -> tuple[str, bytes, set[int], np.ndarray | None, str]:
        kind = self.random.choices(
            ["raw", "png", "poison", "corrupt", "pixels", "aspect", "body", "json", "leave", "cut", "slow"],
            [60, 20, 2, 4, 2, 2, 1, 3, 4, 1.5, 0.5],
        )[0]
        self.number += 1
        h, w = self.random.randint(1, 4), self.random.randint(1, 4)
        pixels = np.random.default_rng(self.number).integers(0, POISON, (16 * h, 16 * w, 3), dtype=np.uint8)
        if kind == "poison":
            pixels[0, 0, 0] = POISON
        patches = patchify(pixels, 16)
        expected = None if kind == "poison" else self.expect(patches)
        allowed = {200, 429, 503}
        encoded = png(pixels)
        if kind in ("raw", "poison", "leave", "cut", "slow"):
            body, headers = infer_body("pixels", "UINT8", [1, *pixels.shape], pixels.tobytes())
            allowed = {500, 429, 503} if kind == "poison" else allowed
        elif kind == "json":
            body, headers = b'{"inputs": [' + bytes(str(self.number), "ascii"), {}
        elif kind == "body":
            body, headers = bytes(LIMITS.body_bytes + 1), {}
        else:
            content = {
                "png": lambda: encoded,
                "corrupt": lambda: encoded[:40] + bytes(20) + encoded[60:-30],
                "pixels": lambda: png(np.zeros((1100, 1100, 3), np.uint8)),
                "aspect": lambda: png(np.zeros((2, 110, 3), np.uint8)),
            }[kind]()
            body, headers = infer_body("images", "BYTES", [1], len(content).to_bytes(4, "little") + content)
        if kind in ("corrupt", "pixels", "aspect", "json"):
            allowed = {422, 429, 503}
        if kind == "body":
            allowed = {413}
        return kind, post(PATH, body, headers), allowed, expected, kind if kind in ("leave", "cut", "slow") else "waits"


async def client(
    port: int, count: int, seed: int, expected_of: tuple[Expect, float], seen: Counter[str], problems: list[str]
) -> None:
    expect, least_cosine = expected_of
    mixture = Mixture(seed, expect)
    reader = writer = None
    for _ in range(count):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert reader is not None
        kind, request, allowed, expected, manner = mixture.next()
        if manner == "cut":
            writer.write(request[: len(request) // 2])
        elif manner == "slow":
            writer.write(request[:-10])
            await asyncio.sleep(0.3)
            writer.write(request[-10:])
        else:
            writer.write(request)
        if manner in ("leave", "cut"):
            await asyncio.sleep(mixture.random.choice([0, 0.001, 0.01]))
            writer.transport.abort()
            reader = writer = None
            seen[manner] += 1
            continue
        try:
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
            content = await reader.readexactly(int(fields["content-length"]))
        except Exception as error:
            problems.append(f"{kind}: no answer: {error!r}")
            reader = writer = None
            continue
        status = int(head[9:12])
        seen[f"{kind} {status}"] += 1
        if status not in allowed:
            problems.append(f"{kind}: status {status}: {content[:200]!r}")
        if status == 200 and expected is not None:
            found = np.frombuffer(content[int(fields["inference-header-content-length"]) :], "<f4")
            if not same(found, expected, least_cosine):
                problems.append(f"{kind}: another image's result")
        if status in (429, 503):
            await asyncio.sleep(0.05)
    if writer is not None:
        writer.close()


def serve(pipe: Any, tick: float, path: Path | None) -> None:
    """The process of the server, which kills its engine every 7 ticks and reloads the bundle every 11."""
    metrics = Metrics()
    bundle = manifest(256, 64) if path is None else load(path).manifest
    sessions: list[ChildSession | FaultySession] = []

    def load_model(name: str, _: Path) -> Model:
        variant = bundle.variants[0]
        sessions.append(ChildSession() if path is None else FaultySession(open_session(path, variant)))
        scheduler = Scheduler(
            sessions[-1], budget=variant.budgets[-1], max_images=64, on_pack=metrics.pack_observer(name)
        )
        return Model(name, bundle, variant, scheduler, Preparer.of(bundle, variant))

    models = Models({"fake": Path()}, load_model)
    counts = Counter[str]()

    def disturb() -> None:
        for number in itertools.count():
            time.sleep(tick)
            if number % 7 == 3 and sessions[-1].kill():
                counts["killed"] += 1
            if number % 11 == 10:
                models.reload("fake")
                counts["reloaded"] += 1

    threading.Thread(target=disturb, daemon=True).start()

    def report() -> None:
        pipe.recv()
        scheduler, until = models.get().scheduler, time.monotonic() + 30
        while scheduler.admitted_tokens and time.monotonic() < until:  # whose senders left, while an engine starts
            time.sleep(0.05)
        pipe.send((dict(counts), scheduler.admitted_tokens, threading.active_count()))

    threading.Thread(target=report, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    serve_models(models, Settings(port=int(os.environ["PORT"]), limits=LIMITS, notice_seconds=0), metrics)


def run(
    requests: int, tick: float, bundle: Path | None = None, clients: int = 24, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Run the server under load and faults; returns what was seen, and a description of every problem."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["PORT"] = str(port)
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    server = context.Process(target=serve, args=(other, tick, bundle))
    server.start()
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    seen, problems = Counter[str](), list[str]()
    expected_of = expectation(bundle)

    async def all_clients() -> None:
        share = requests // clients
        await asyncio.gather(
            *(client(port, share, seed + number, expected_of, seen, problems) for number in range(clients))
        )

    started = time.perf_counter()
    asyncio.run(all_clients())
    seconds = time.perf_counter() - started
    size = memory(server.pid or 0)
    pipe.send(None)
    counts, admitted, threads = pipe.recv()
    server.terminate()
    server.join(60)
    if admitted:
        problems.append(f"{admitted} tokens stayed admitted")
    print(f"{sum(seen.values())} requests in {seconds:.0f} s; server {size:.0f} MB, {threads} threads", file=sys.stderr)
    seen.update({f"engine {what}": count for what, count in counts.items()})
    return seen, problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--tick", type=float, default=1.0, help="seconds")
    parser.add_argument("--bundle", type=Path, help="run its engine instead of the fake one")
    options = parser.parse_args()
    seen, problems = run(options.requests, options.tick, options.bundle)
    print(", ".join(f"{name}: {count}" for name, count in sorted(seen.items())))
    print(f"{len(problems)} problems {problems[:5]}")
    raise SystemExit(bool(problems))
