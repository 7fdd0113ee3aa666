"""Digests of the patches that the training code makes of images, under a Pillow of that time.

Run once with Pillow 12.3, whose resize goes through the width first, as that of every earlier version:
``python -m tests.support.training_pixels tests/runtime/images/recorded/training_pixels.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL import __version__ as pillow

SIZES = [(640, 480), (480, 640), (333, 777), (777, 333), (37, 21), (21, 37), (256, 256), (1200, 60), (60, 1200)]
SIZES += [(5, 1), (1, 5), (17, 16), (901, 300), (300, 901), (512, 129), (129, 512), (1000, 1000), (64, 640)]
SIZES += [(1023, 767), (255, 1025), (800, 200), (150, 950), (31, 33), (720, 576)]
BUDGETS = [36, 128, 256]


def picture(width: int, height: int) -> Image.Image:
    """Blocks of colour with noise, from integers alone, so that it is the same on every machine."""
    rng = np.random.default_rng(width * 10_007 + height)
    coarse = rng.integers(0, 200, (-(-height // 9), -(-width // 7), 3))
    blocks = coarse.repeat(9, 0).repeat(7, 1)[:height, :width]
    return Image.fromarray((blocks + rng.integers(0, 56, (height, width, 3))).astype(np.uint8))


def summary(patches: np.ndarray, grid: Sequence[int]) -> str:
    """The grid, and a digest of [L, P] uint8 patches."""
    return f"{grid[0]}x{grid[1]} {hashlib.sha256(np.ascontiguousarray(patches, np.uint8).tobytes()).hexdigest()[:16]}"


def cases() -> Iterator[tuple[str, tuple[int, int], int]]:
    """Name, (width, height) and budget of each pair."""
    for width, height in SIZES:
        for budget in BUDGETS:
            yield f"{width}x{height} in {budget}", (width, height), budget


def by_transformers(image: Image.Image, budget: int) -> tuple[np.ndarray, list[int]]:
    """[L, 768] uint8 and the grid of the PIL backend, bilinear."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    found = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=budget)(image, return_tensors="np")
    rows, columns = (int(side) for side in found["spatial_shapes"][0])
    return np.rint(found["pixel_values"][0, : rows * columns] * 127.5 + 127.5).astype(np.uint8), [rows, columns]


def by_timm(image: Image.Image, budget: int) -> tuple[np.ndarray, list[int]]:
    """[L, 768] uint8 and the grid of timm's eval transform, bicubic."""
    from timm.data import create_transform

    half = (0.5, 0.5, 0.5)
    transform = create_transform(
        224, interpolation="bicubic", mean=half, std=half, naflex=True, patch_size=16, max_seq_len=budget, patchify=True
    )
    found = transform(image)
    rows, columns = (int(side) + 1 for side in found["patch_coord"].max(0).values)
    return np.rint(found["patches"].numpy() * 127.5 + 127.5).astype(np.uint8), [rows, columns]


def record(path: Path) -> None:
    digests = {}
    for name, size, budget in cases():
        image = picture(*size)
        for reader, found in (("transformers", by_transformers(image, budget)), ("timm", by_timm(image, budget))):
            digests[f"{reader}: {name}"] = summary(*found)
    path.write_text(json.dumps({"pillow": pillow, "digests": digests}, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tests.support.imports  # noqa: F401  # torchvision beside any build of torch

    record(Path(sys.argv[1]))
