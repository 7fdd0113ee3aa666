"""The image processors of vision-language models of transformers: their files, and their patches in raster order.

Run once with Pillow 12.3, whose resize goes through the width first, as torchvision's and that of earlier versions:
``python -m tests.support.families tests/compiler/checkpoints/hf/recorded/family_pixels.json``.
"""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from PIL import __version__ as pillow

from tests.support.training_pixels import picture, summary

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
QWEN_SIZE = {"size": {"shortest_edge": 65_536, "longest_edge": 1_048_576}}
PATCH_16 = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "qwen3_vl": {"image_processor_type": "Qwen2VLImageProcessorFast", **HALF, **QWEN_SIZE, **PATCH_16},
    "paddleocr_vl": {
        "image_processor_type": "PaddleOCRVLImageProcessor",
        "patch_size": 14,
        "min_pixels": 384**2,
        "max_pixels": 600_000,
    },
    "cosmos3_edge": {"image_processor_type": "Cosmos3EdgeImageProcessor", "patch_size": 16},
    "video_llama_3": {
        "image_processor_type": "VideoLlama3ImageProcessor",
        "patch_size": 14,
        "merge_size": 1,
        "min_pixels": 3136,
        "max_pixels": 300_000,
    },
    "kimi_k25": {"image_processor_type": "Kimi_K25ImageProcessor", "patch_size": 14, "max_patches": 2048},
    "lfm2_vl": {"image_processor_type": "Lfm2VlImageProcessor", "encoder_patch_size": 16},
}
"""What ``preprocessor_config.json`` holds, by model type, with limits that keep images small."""

PIL = ("qwen3_vl", "paddleocr_vl", "cosmos3_edge", "video_llama_3")
"""Those that have a class of Pillow's; the others have torchvision's alone."""

SIZES = [(640, 480), (333, 777), (777, 333), (37, 21), (21, 37), (1200, 60), (60, 1200), (5, 1), (17, 16)]
SIZES += [(901, 300), (512, 1024), (1251, 1000), (150, 950), (31, 33)]


def processor(kind: str, *, backend: str, **options: Any) -> Any:
    """The class of transformers, with the settings of the file."""
    settings = {name: value for name, value in PROCESSORS[kind].items() if name != "image_processor_type"}
    name = PROCESSORS[kind]["image_processor_type"].removesuffix("Fast") + ("Pil" if backend == "pil" else "")
    return getattr(transformers, name)(**settings | options)


def pixels(kind: str, image: Image.Image, *, backend: str) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """[h·w, P·P·3] raw levels in raster order and the grid of each image that a processor makes."""
    raw = {"do_rescale": False, "do_normalize": False}
    found = processor(kind, backend=backend, **raw)(image, return_tensors="np")
    return raster(kind, found)


def raster(kind: str, found: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """The patches of a processor in raster order, (row, column, channel) within each."""
    values = found["pixel_values"]
    if kind == "lfm2_vl":
        grids = [(int(h), int(w)) for h, w in found["spatial_shapes"]]
        return [(patches[: h * w], (h, w)) for patches, (h, w) in zip(values, grids, strict=True)]
    ((_, h, w),) = found["image_grid_thw"].tolist()
    if kind == "cosmos3_edge":
        return [(_unblocked(values, h, w, 2), (h, w))]
    side = int(PROCESSORS[kind]["patch_size"])
    first = values.reshape(h * w, 3, -1, side, side)[:, :, 0].transpose(0, 2, 3, 1).reshape(h * w, -1)
    return [(_unblocked(first, h, w, 2) if kind.startswith("qwen") else first, (h, w))]


def _unblocked(patches: np.ndarray, h: int, w: int, side: int) -> np.ndarray:
    blocks = patches.reshape(h // side, w // side, side, side, -1).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(h * w, -1)


def cases(kinds: Sequence[str]) -> list[tuple[str, str, tuple[int, int]]]:
    """Name, family and (width, height) of each."""
    return [(f"{kind}: {size[0]}x{size[1]}", kind, size) for kind in kinds for size in SIZES]


def record(path: Path) -> None:
    digests = {}
    for name, kind, size in cases(PIL):
        ((patches, grid),) = pixels(kind, picture(*size), backend="pil")
        digests[name] = summary(patches, grid)
    path.write_text(json.dumps({"pillow": pillow, "digests": digests}, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
