"""Measures the cost of decoding for `embed`: JPEG files against the same images already decoded and resized.

    python -m benchmarks.host.embed [--model random:siglip2-base] [--profile photo] [--images 24] [--rounds 5]

Measures ``image.decode = "scaled"`` beside it, and how far vectors change by that.

If the host takes h core seconds per image and the model m, an ideal stream loses h / (h + m) of the throughput that the
model alone reaches on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.support.timing import interleaved
from naflex_deploy import build, load
from naflex_deploy.core.machine import cores, cpu_name
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.prepare import Preparer

SIZE = (1600, 1200)
GOALS = {"host_ms": 16.0, "loss_over_ideal": 1.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:siglip2-base")
    parser.add_argument("--profile", default="photo")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        build(options.profile, options.model, folder / "bundle")
        print(json.dumps(measure(load(folder / "bundle"), photos(folder, options.images), options.rounds)))


def measure(engine: Engine, files: list[Path], rounds: int) -> dict[str, object]:
    """Measure the core milliseconds per image of host and model, and the loss of throughput of a stream of files."""
    fitted = [_fitted(engine, file) for file in files]
    image = engine.manifest.config.image
    decoders: dict[str, Preparer] = {}
    for decode in ("exact", "scaled"):
        config = engine.manifest.config.model_copy(update={"image": image.model_copy(update={"decode": decode})})
        decoders[decode] = Preparer.of(engine.manifest.model_copy(update={"config": config}), engine.variant)

    def host(decode: str) -> list[Patches]:
        frames = [frame for index, file in enumerate(files) for frame in decoders[decode](index, file)]
        return [image.patches for frame in frames for image in frame if image.patches]

    def embed(images: Sequence[Source]) -> None:
        assert all(result.error is None for result in engine.stream(images))

    timings = interleaved({"files": lambda: embed(files), "fitted": lambda: embed(fitted)}, rounds)
    spent: dict[str, list[float]] = {decode: [] for decode in decoders}
    for _ in range(rounds):
        for decode, times in spent.items():
            start = time.process_time()
            assert len(host(decode)) == len(files)
            times.append((time.process_time() - start) / len(files) * 1e3)
    host_core, scaled_core = (statistics.median(times) for times in spent.values())
    exact, scaled = (engine.embed(host(decode)) for decode in decoders)
    cosines = (exact * scaled).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(scaled, axis=1))
    model_core = timings["fitted"].median * cores() / len(files) * 1e3
    losses = [1 - b / a for a, b in zip(timings["files"].rounds, timings["fitted"].rounds, strict=True)]
    loss = statistics.median(losses)
    ideal = host_core / (host_core + model_core)
    return {
        "cpu": cpu_name(),
        "load": round(os.getloadavg()[0], 1),
        "host_ms": round(host_core, 2),
        "scaled_host_ms": round(scaled_core, 2),
        "scaled_least_cosine": round(float(cosines.min()), 6),
        "model_core_ms": round(model_core, 2),
        "images_per_second": round(len(files) / timings["files"].median, 2),
        "of_engine_rate": round(1 - loss, 4),
        "loss": round(loss, 4),
        "losses": [round(min(losses), 4), round(max(losses), 4)],
        "ideal_loss": round(ideal, 4),
        "loss_over_ideal": round(loss / ideal, 3),
        "goals": GOALS,
    }


def photos(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of smooth colour with some grain, as a camera writes them at quality 90."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 6, (*SIZE[::-1], 1))
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def _fitted(engine: Engine, file: Path) -> np.ndarray:
    """The pixels that the model sees; fitting them again changes nothing."""
    with Image.open(file) as image:
        fit = plan_fit(
            (image.height, image.width),
            patch_size=engine.manifest.preprocessing.patch_size,
            tokens=engine.manifest.config.image_tokens(engine.variant.backend, engine.manifest.model.prefix),
        )
        return np.asarray(apply_fit(image.convert("RGB"), fit))


if __name__ == "__main__":
    main()
