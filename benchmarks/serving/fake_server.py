"""A server whose engine only sleeps, in a process of its own, and the requests that it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from naflex_deploy.bench.load.http import post
from naflex_deploy.core.manifest import InputSpec, Manifest, OutputSpec, Variant
from naflex_deploy.core.manifest import Model as ModelEntry
from naflex_deploy.core.pack import Role
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.scheduler import Scheduler

WIDTH = 64


class SleepingSession:
    """A session that takes a fixed time per pack, but no CPU time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def run(self, pack, outputs):
        time.sleep(self._seconds)
        return {"pooled": np.zeros((pack.images, WIDTH), np.float32)}


def manifest(budget: int, tokens: int) -> Manifest:
    outputs = [OutputSpec(name="pooled", dtype="float32", shape=["images", WIDTH])]
    inputs = [InputSpec(role=Role.PATCHES, dtype="uint8", shape=["tokens", 768])]
    variant = Variant(
        name="fake", backend="onnxruntime", target="cpu", precision="fp32", budgets=[budget],
        model="variants/fake/model.onnx", inputs=inputs, outputs=outputs,
    )  # fmt: skip
    profile = {
        "name": "benchmark",
        "image": {"tokens": tokens, "fit": "shrink-only"},
        "packing": {"budgets": [budget], "max_images": 64},
    }
    return Manifest(
        tool="", created="", model=ModelEntry(source="fake", digest="", architecture={}, parameters=0),
        preprocessing=Preprocessing(patch_size=16), inputs=inputs, outputs=outputs, variants=[variant], files={},
        config=Profile.parse(profile, source=str), schema=1,
    )  # fmt: skip


def serve_fake(session: Any, budget: int, goal: float = 0.0) -> None:
    """The process of the server."""
    from naflex_deploy.serving.http.limits import Limits
    from naflex_deploy.serving.http.metrics import Metrics
    from naflex_deploy.serving.http.models import Model, Models
    from naflex_deploy.serving.http.server import Settings, serve_models

    metrics, bundle = Metrics(), manifest(budget, min(budget, 256))

    def load(name: str, path: Path) -> Model:
        scheduler = Scheduler(session, budget=budget, max_images=64, on_pack=metrics.pack_observer(name))
        return Model(name, bundle, bundle.variants[0], scheduler, Preparer.of(bundle, bundle.variants[0]))

    limits = Limits(goal_seconds=goal)
    serve_models(Models({"fake": Path()}, load), Settings(port=0, notice_seconds=0, limits=limits), metrics)


@contextmanager
def server(*arguments: str) -> Iterator[tuple[int, int]]:
    """Start a server in a process; yields its port and its process id."""
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["event"] == "ready":
            port = int(json.loads(line)["url"].rpartition(":")[2])
            break
    pool = ThreadPoolExecutor(1)
    pool.submit(lambda: [None for _ in process.stderr or ()])  # The log is read, as it would be in production.
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)
        pool.shutdown()


def fake_server(budget: int, seconds: float, goal: float = 0.0):
    return server(sys.executable, "-m", "benchmarks.serving.fake_server", str(budget), str(seconds), str(goal))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def raw_request(side: int, seconds: float = 0.0) -> bytes:
    """An image of this side as a raw tensor."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    tensor = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "parameters": {"binary_data_size": pixels.size},
    }
    output = {"name": "pooled", "parameters": {"binary_data": True}}
    parameters = {"parameters": {"timeout": int(seconds * 1e6)}} if seconds else {}
    header = json.dumps({"inputs": [tensor], "outputs": [output], **parameters}).encode()
    headers = {"inference-header-content-length": str(len(header))}
    return post("/v2/models/fake/infer", header + pixels.tobytes(), headers)


def jpeg(height: int, width: int, seed: int = 0) -> bytes:
    """A JPEG of smooth noise, about as dense as a photo."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    stream = BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88)
    return stream.getvalue()


if __name__ == "__main__":
    serve_fake(SleepingSession(float(sys.argv[2])), int(sys.argv[1]), *map(float, sys.argv[3:]))
