"""Measures how full packs are and how long packing takes, with one line per mixture of lengths.

    python -m benchmarks.host.packing [--images 1000000]

fill: useful tokens / tokens of all packs. of bound: lower bound of the number of packs / packs found.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from naflex_deploy.runtime.images.fit import plan_fit
from naflex_deploy.runtime.packing.packer import lower_bound, pack_lengths

Mixture = tuple[str, npt.NDArray[np.int64], int, int]


def photo_tokens(random: np.random.Generator, images: int) -> npt.NDArray[np.int64]:
    """Photos of common aspects, a third of them cropped, filled at 256 tokens of 16x16 pixels."""
    aspects = np.exp(random.normal(0, 0.25, 1000)) * random.choice([1, 4 / 3, 3 / 2, 16 / 9], 1000)
    aspects[::3] = 4 / 3
    aspects[1::3] = 3 / 2
    turned = np.where(random.random(1000) < 0.3, 1 / aspects, aspects)
    sizes = [(round(1200 / aspect**0.5), round(1200 * aspect**0.5)) for aspect in turned]
    tokens = np.array([plan_fit(size, patch_size=16, tokens=256).tokens for size in sizes])
    return random.choice(tokens, images)


def mixtures(images: int) -> Iterator[Mixture]:
    """Yield the name, lengths, budget and max_images of each mixture."""
    random = np.random.default_rng(0)
    heavy = 36 * (1 + random.pareto(1.1, images))
    photos = photo_tokens(random, images)
    yield "uniform 36-256", random.integers(36, 257, images), 4096, 64
    for share in (0.1, 0.5, 0.9):
        lengths = np.where(random.random(images) < share, 36, 256)
        yield f"{share:.0%} 36, else 256", lengths, 4096, 64
        yield f"{share:.0%} 36, else 256", lengths, 1024, 8
    yield "tiny, 1-16", random.integers(1, 17, images), 4096, 64
    yield "heavy tail from 36", heavy.clip(36, 4096).astype(np.int64), 4096, 64
    yield "heavy tail from 36", heavy.clip(36, 16384).astype(np.int64), 16384, 64
    yield "photos filled at 256", photos, 1024, 64
    yield "photos filled at 256", photos, 4096, 64
    for budget in (1024, 4096, 16384):
        yield "documents 256-1024", random.integers(256, 1025, images), budget, 64
    yield "36, 144, 256, 576, 1024", random.choice([36, 144, 256, 576, 1024], images), 4096, 64
    yield "36, 144, 256, 576, 1024", random.choice([36, 144, 256, 576, 1024], images), 4096, 16
    over = random.integers(2049, 2200, images)
    yield "just over half", over, 4096, 64
    yield "half of them over half", np.where(random.random(images) < 0.5, over, over - 2013), 4096, 64
    yield "just over a third", random.integers(1366, 1500, images), 4096, 64
    yield (
        "third-ish and quarter-ish",
        np.where(random.random(images) < 0.5, random.integers(1366, 1500, images), random.integers(600, 1366, images)),
        4096,
        64,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    images = parser.parse_args().images
    print(f"{'lengths':26} {'budget':>6} {'images':>6} {'packs':>8} {'bound':>8} {'fill':>7} {'of bound':>8} {'s':>5}")
    for name, lengths, budget, max_images in mixtures(images):
        start = time.perf_counter()
        packs = len(pack_lengths(lengths, budget, max_images))
        seconds = time.perf_counter() - start
        bound = lower_bound(lengths, budget, max_images)
        fill = lengths.sum() / (packs * budget)
        print(
            f"{name:26} {budget:6} {max_images:6} {packs:8} {bound:8} {fill:7.2%} {bound / packs:8.2%} {seconds:5.2f}"
        )
    window = np.random.default_rng(0).integers(36, 257, 64)
    times = []
    for _ in range(500):
        start = time.perf_counter()
        pack_lengths(window, 4096, 64)
        times.append(time.perf_counter() - start)
    print(f"a window of 64 images: median {np.median(times) * 1e6:.0f} us")


if __name__ == "__main__":
    main()
