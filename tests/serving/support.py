"""A server in this process on a free port of 127.0.0.1, and images to send."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image

from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from naflex_deploy.serving.http.app import create_app
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.metrics import Metrics
from naflex_deploy.serving.http.models import Model, Models
from naflex_deploy.serving.http.server import Settings, configured
from naflex_deploy.serving.http.service import Service
from tests.support.bundles import PATCH, WIDTH, expected, projection, summing_manifest


class SummingSession:
    """What `tests.support.bundles` writes as a graph, in numpy.

    Args:
        scale: Of the weights, to tell models apart.
        seconds: That a pack takes.
    """

    def __init__(self, scale: float = 1.0, seconds: float = 0.0) -> None:
        self.weights, self.head = projection(scale)
        self.seconds = seconds

    def run(self, pack, outputs):
        if self.seconds:
            time.sleep(self.seconds)
        tokens = pack.patches.astype(np.float32) @ self.weights
        pooled = np.add.reduceat(tokens, pack.offsets[:-1])
        found = {"tokens": tokens, "pooled": pooled, "logits": pooled @ self.head}
        return {name: found[name] for name in outputs}


@dataclass
class Running:
    url: str
    service: Service
    models: Models
    metrics: Metrics
    server: uvicorn.Server


def summing_model(name: str, session=None, *, policy=None, on_pack=lambda report: None) -> Model:
    """A model of `summing_manifest`."""
    manifest = summing_manifest()
    variant = manifest.variants[0]
    scheduler = Scheduler(
        session or SummingSession(),
        budget=variant.budgets[-1],
        max_images=manifest.config.packing.max_images,
        policy=policy or Policy(queue_tokens=10**5),
        on_pack=on_pack,
    )
    return Model(name, manifest, variant, scheduler, Preparer.of(manifest, variant))


@contextmanager
def running(
    session=None, *, names=("sums",), policy=None, limits=None, keys=(), load=None, normalize=False, traces=None
) -> Iterator[Running]:
    """A server of `summing_manifest` on an engine of the test's own."""
    metrics = Metrics()

    def loaded(name: str, path: Path) -> Model:
        return summing_model(name, session, policy=policy, on_pack=metrics.pack_observer(name))

    models = Models({name: Path(name) for name in names}, load or loaded)
    app = create_app(models, limits=limits or Limits(), keys=keys, metrics=metrics, normalize=normalize, traces=traces)
    settings = Settings(port=0, limits=limits or Limits())
    config = configured(app, settings, metrics)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield Running(f"http://{host}:{port}", app.service, models, metrics, server)
    finally:
        server.should_exit = True
        thread.join(20)
        models.close(10)


def pixels(seed: int, height: int = 8, width: int = 12) -> np.ndarray:
    """[height, width, 3] uint8; sides that are multiples of the patch are not resized by the profile."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def vector(image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The answer that the server must give for an image that is not resized, [8]."""
    result = expected(patchify(image, PATCH), scale)
    assert result.shape == (WIDTH,)
    return result


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
