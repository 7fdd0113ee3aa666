"""Measures how full packs of video frames are, with 10-second clips of several shapes read and packed as at runtime.

    python -m benchmarks.host.video_packing [--clips 200] [--profile video-frames]

``full`` is tokens of frames over tokens of the budgets that the packs take up, including the last pack. The exit code
is 5 below 98 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import BenchmarkError
from naflex_deploy.core.pack import Pack
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.packing.packer import smallest_budget
from tests.support.clips import clip
from tests.support.manifests import a_manifest, a_variant

SIZES = ((320, 180), (320, 240), (180, 320), (240, 240))
SECONDS, RATE = 10, 25
LEAST = 0.98


class Counting:
    """A session that records the number of tokens in each pack, and returns zeros."""

    def __init__(self) -> None:
        self.packs: list[int] = []

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        self.packs.append(pack.useful_tokens)
        return {name: np.zeros((pack.images, 3), np.float32) for name in outputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--profile", default="video-frames")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = measure(Path(directory), options.clips, options.profile)
    print(json.dumps(report, indent=2))
    if min(found["full"] for found in report.values()) < LEAST:
        sys.exit(BenchmarkError.code)


def measure(folder: Path, clips: int, profile: str) -> dict[str, dict[str, float]]:
    """Count frames and packs for each backend, and measure how full the packs are."""
    ticks = range(SECONDS * RATE)
    shapes = []
    for width, height in SIZES:
        pictures = [np.full((height, width, 3), 100, np.uint8)] * len(ticks)
        path = folder / f"{width}x{height}.mp4"
        shapes.append(clip(path, ticks, Fraction(1, RATE), size=(width, height), pictures=pictures))
    paths = [shapes[number % len(shapes)] for number in range(clips)]
    return {backend: _pack(paths, profile, backend) for backend in ("tensorrt", "onnxruntime")}


def _pack(paths: Sequence[Path], profile: str, backend: str) -> dict[str, float]:
    config = resolve(profile, environment={}).profile
    manifest = a_manifest().model_copy(update={"config": config, "preprocessing": Preprocessing(patch_size=16)})
    budgets = config.budgets(backend)
    session = Counting()
    results = list(Engine(session, manifest, a_variant(backend=backend, budgets=list(budgets))).stream(paths))
    if any(result.error for result in results):
        raise BenchmarkError("a clip could not be read")
    room = sum(smallest_budget(tokens, budgets) for tokens in session.packs)
    return {"frames": len(results), "packs": len(session.packs), "full": round(sum(session.packs) / room, 4)}


if __name__ == "__main__":
    main()
