"""Ask a server many things for hours at a modest rate, and watch its memory, descriptors, threads and answers.

    nice python -m benchmarks.attack.soak --minutes 120 --rate 140

The engine sums the pixels of an image, so that every answer is compared with its own image. There are raw tensors, PNG
and GIF in both protocols, damaged files, files of many frames, malformed JSON, unknown paths, and senders that leave in
the middle of a body. The first quarter is a warm-up, and the slope of the memory is that of the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serving.engine import formula
from benchmarks.serving.fake_server import cpu_seconds, memory, serve_fake, server
from benchmarks.serving.faults import infer_body
from benchmarks.serving.load import closed_loop
from naflex_deploy.bench.load.http import Connection, post
from naflex_deploy.bench.load.load import poisson
from naflex_deploy.runtime.images.patchify import patchify

INFER, EMBED = "/v2/models/fake/infer", "/v1/embeddings"
JSON = {"content-type": "application/json"}
CONNECTIONS = 16
REQUESTS = 600
"""Different ones, which are sent in turn."""


class SummingSession:
    """An engine whose results tell of which image they are."""

    def run(self, pack, outputs):
        return {"pooled": formula(pack.patches, pack.offsets.tolist())}


@dataclass(frozen=True)
class Request:
    """What is sent, and what may come back.

    Attributes:
        kind: What is counted.
        status: Expected; 429 is allowed too.
        vector: Expected with 200.
        leaves: Whether its sender leaves after half of it.
    """

    kind: str
    content: bytes
    status: int = 200
    vector: np.ndarray | None = None
    leaves: bool = False


def requests(seed: int) -> list[Request]:
    """A mixture of good and bad requests."""
    drawn = random.Random(seed)
    kinds = ["tensor", "oip", "openai", "gif", "damaged", "frames", "json", "path", "leaves"]
    return [
        _request(kind, number)
        for number, kind in enumerate(drawn.choices(kinds, [50, 15, 15, 4, 4, 2, 4, 4, 2], k=REQUESTS))
    ]


def _request(kind: str, number: int) -> Request:
    rng = np.random.default_rng(number)
    height, width = 16 * rng.integers(1, 6, 2)
    pixels = rng.integers(0, 250, (height, width, 3), dtype=np.uint8)
    patches = patchify(pixels, 16)
    vector = formula(patches.pixels, [0, len(patches)])[0]
    if kind in ("tensor", "leaves"):
        content = post(INFER, *infer_body("pixels", "UINT8", [1, *pixels.shape], pixels.tobytes()))
        return Request(kind, content, 200, vector, kind == "leaves")
    if kind == "json":
        return Request(kind, post(INFER, b'{"inputs":[' + b"7," * int(rng.integers(1, 9000)), JSON), 422)
    if kind == "path":
        return Request(kind, post(f"/v2/models/{number}/infer", bytes(100), {}), 404)
    image = Image.fromarray(pixels)
    if kind == "gif":
        image = image.convert("L").convert("P")
        patches = patchify(np.asarray(image.convert("RGB")), 16)
        vector = formula(patches.pixels, [0, len(patches)])[0]
    stream = BytesIO()
    more = {"save_all": True, "append_images": [image.rotate(90)] * 3} if kind == "frames" else {}
    image.save(stream, {"gif": "GIF", "frames": "TIFF"}.get(kind, "PNG"), **more)
    file = stream.getvalue()
    if kind == "damaged":
        file = file[:60] + bytes(20) + file[80:-30]
    if kind in ("oip", "frames"):
        content = post(INFER, *infer_body("images", "BYTES", [1], len(file).to_bytes(4, "little") + file))
    else:
        content = post(EMBED, json.dumps({"input": base64.b64encode(file).decode()}).encode(), JSON)
    return Request(kind, content, 422 if kind in ("damaged", "frames") else 200, vector)


class Asker(Connection):
    """A connection that keeps the answer."""

    def __init__(self, done: Callable[[Connection, int], None]) -> None:
        super().__init__(done)
        self.asked: Request | None = None
        self.answer = b""

    def ask(self, request: Request) -> None:
        self.asked, self.answer = request, b""
        self.send(request.content)

    def on_body(self, part: bytes) -> None:
        self.answer += part

    def problem(self, status: int) -> str:
        """What is wrong with the answer, if anything."""
        asked = self.asked
        assert asked is not None
        if status not in (asked.status, 429):
            return f"{asked.kind}: status {status}: {self.answer[:200]!r}"
        if status != 200 or asked.vector is None:
            return ""
        if self.answer.startswith(b'{"object"'):
            found = np.array(json.loads(self.answer)["data"][0]["embedding"], np.float32)
        else:
            found = np.frombuffer(self.answer[-4 * len(asked.vector) :], "<f4")
        return "" if np.array_equal(found, asked.vector) else f"{asked.kind}: another image's result"


@dataclass
class Seen:
    """What was answered.

    Attributes:
        counts: By kind and status.
        wrong: Problems, of which the first are kept.
        slow: Seconds of the answers of this minute.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    problems: int = 0

    @property
    def answered(self) -> int:
        return self.counts.total()


async def ask(port: int, rate: float, seconds: float, seen: Seen, seed: int) -> None:
    """Send requests at random times, over a fixed number of connections that are opened again where they end."""
    sent, late, idle = requests(seed), deque[tuple[Request, float]](), deque[Asker]()
    due: dict[Asker, float] = {}
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    opened: set[Asker] = set()

    def start(task) -> None:
        tasks.add(task := loop.create_task(task))
        task.add_done_callback(tasks.discard)

    def done(connection: Asker, status: int) -> None:
        problem = connection.problem(status)
        seen.counts[f"{connection.asked.kind} {status}"] += 1
        seen.slow.append(time.perf_counter() - due[connection])
        if problem:
            seen.problems += 1
            seen.wrong = [*seen.wrong, problem][:20]
        if connection.transport is None or connection.transport.is_closing():
            opened.discard(connection)
            start(connect())
        else:
            free(connection)

    async def connect() -> None:
        _, connection = await loop.create_connection(lambda: Asker(done), "127.0.0.1", port)
        opened.add(connection)
        free(connection)

    def free(connection: Asker) -> None:
        if late:
            send(connection, *late.popleft())
        else:
            idle.append(connection)

    def send(connection: Asker, request: Request, at: float) -> None:
        due[connection] = at
        connection.ask(request)

    async def leave(request: Request) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.content[: len(request.content) // 2])
        await writer.drain()
        writer.close()
        seen.counts["leaves"] += 1

    await asyncio.gather(*(connect() for _ in range(CONNECTIONS)))
    began = time.perf_counter()
    for number, offset in enumerate(poisson(rate, seed)):
        if offset > seconds:
            break
        if (wait := began + offset - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        request = sent[number % len(sent)]
        while idle and (idle[0].transport is None or idle[0].transport.is_closing()):
            opened.discard(idle.popleft())  # which the server closed while it was idle
            start(connect())
        if request.leaves:
            start(leave(request))
        elif idle:
            send(idle.popleft(), request, began + offset)
        else:
            late.append((request, began + offset))
    until = time.perf_counter() + 10
    while len(idle) < CONNECTIONS and time.perf_counter() < until:
        await asyncio.sleep(0.02)
    if len(idle) < CONNECTIONS:
        seen.problems += CONNECTIONS - len(idle)
        seen.wrong.append(f"{CONNECTIONS - len(idle)} requests without an answer")
    for connection in opened:
        if connection.transport is not None:
            connection.transport.close()


def many_threads() -> list[bytes]:
    """Requests that keep every thread and process busy, which start when they are needed, and stay."""
    large, pages = BytesIO(), BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large, "PNG")
    Image.fromarray(noise).save(pages, "GIF")
    bodies = [json.dumps({"input": base64.b64encode(one.getvalue()).decode()}) for one in (large, pages)]
    return [post(EMBED, body.encode(), JSON) for body in bodies]


@dataclass(frozen=True)
class State:
    """Of the server: MB of memory, and of the processes in which it reads; descriptors; threads."""

    memory: float
    readers: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> State:
        folder = Path(f"/proc/{pid}")
        children = [int(name) for name in (folder / f"task/{pid}/children").read_text().split()]
        for thread in (folder / "task").iterdir():
            if thread.name != str(pid):
                children += [int(name) for name in (thread / "children").read_text().split()]
        threads = len(os.listdir(folder / "task"))
        return cls(memory(pid), sum(memory(child) for child in children), len(os.listdir(folder / "fd")), threads)


def slope(seconds: list[float], values: list[float]) -> tuple[float, float]:
    """Growth an hour, and its standard error where the residuals were independent."""
    hours = np.array(seconds) / 3600
    (growth, _), covariance = np.polyfit(hours, values, 1, cov="unscaled" if len(values) < 4 else True)
    return float(growth), float(np.sqrt(covariance[0, 0]))


def soak(minutes: float, rate: float, seed: int = 0) -> dict[str, object]:
    """Run the server for so long. Prints a line a minute, and returns what was found."""
    seen = Seen()
    with server(sys.executable, "-m", "benchmarks.attack.soak", "--serve") as (port, pid):
        asyncio.run(ask(port, rate, min(20.0, 15 * minutes), Seen(), seed))
        asyncio.run(closed_loop(port, many_threads(), 64, 5))
        time.sleep(2)
        first, used, started = State.of(pid), cpu_seconds(pid), time.perf_counter()
        print(f"before: {first}", flush=True)
        at: list[float] = []
        states: list[State] = []

        async def watch() -> None:
            asking = asyncio.create_task(ask(port, rate, 60 * minutes, seen, seed))
            while not asking.done():
                await asyncio.wait([asking], timeout=min(60.0, 2 * minutes))
                at.append(time.perf_counter() - started)
                states.append(State.of(pid))
                slow, seen.slow = seen.slow, []
                p99 = 1e3 * float(np.quantile(slow, 0.99)) if slow else 0.0
                print(f"{at[-1]:.0f} s: {seen.answered} answers, {seen.problems} wrong, p99 {p99:.0f} ms, {states[-1]}",
                      flush=True)  # fmt: skip
            await asking

        asyncio.run(watch())
        wall, used = time.perf_counter() - started, cpu_seconds(pid) - used
        time.sleep(2)
        last = State.of(pid)
    kept = [index for index, second in enumerate(at[:-1]) if second >= wall / 4]
    times = [at[index] for index in kept]
    growth = slope(times, [states[index].memory for index in kept])
    readers = slope(times, [states[index].readers for index in kept])
    return {
        "hours": round(wall / 3600, 3),
        "answers": seen.answered,
        "counts": dict(sorted(seen.counts.items())),
        "wrong": seen.problems,
        "problems": seen.wrong,
        "MB an hour after warm-up, standard error": [round(value, 3) for value in growth],
        "the same of readers": [round(value, 3) for value in readers],
        "before": str(first),
        "after": str(last),
        "cores of the server": round(used / wall, 3),
        "cores of the asker": round(time.process_time() / wall, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--rate", type=float, default=140, help="Requests per second.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_fake(SummingSession(), 256)
    else:
        print(json.dumps(soak(options.minutes, options.rate, options.seed), indent=1))
