"""The real transformers classes as reference models."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from naflex_deploy.core.pack import Patches
from tests.support.packs import Results
from tests.support.weights import reseed

SMALL = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "patch_size": 8,
    "num_patches": 256,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def small(kind: type[nn.Module], scale: float = 0.2, **changes: object) -> nn.Module:
    """A narrow model of one of the three classes, with seeded weights."""
    vision = SMALL | changes
    if kind is Siglip2VisionModel:
        return reseed(kind(Siglip2VisionConfig(**vision)), scale=scale, gain=2.0, probe=4.0)
    labels = {0: "cat", 1: "dog", 2: "newt"}
    return reseed(
        kind(Siglip2Config(vision_config=vision, text_config=TEXT, id2label=labels)), scale=scale, gain=2.0, probe=4.0
    )


@contextmanager
def right_interpolation() -> Iterator[None]:
    """Give one-column grids their right values.

    With antialias, ``F.interpolate`` of torch on CPU is wrong where the result has one column and the table is
    not in channels-last order. A one-row result is right, so a one-column one is made as its transpose.
    """
    interpolate = F.interpolate

    def turned(x: Tensor, size: tuple[int, int] | int, **options: object) -> Tensor:
        if isinstance(size, int) or size[1] > 1:
            return interpolate(x, size, **options)
        return interpolate(x.mT, size[::-1], **options).mT

    with patch.object(F, "interpolate", turned):
        yield


def golden(model: nn.Module, images: Sequence[Patches]) -> Results:
    """The original, in float64, on padded images with pixels of -1…1 and a mask."""
    model = copy.deepcopy(model).double()
    lengths = [len(image) for image in images]
    pixels = torch.zeros(len(images), max(lengths), images[0].pixels.shape[1], dtype=torch.float64)
    mask = torch.zeros(len(images), max(lengths), dtype=torch.int32)
    for row, image in enumerate(images):
        pixels[row, : len(image)] = (torch.from_numpy(image.pixels).double() / 255 - 0.5) / 0.5
        mask[row, : len(image)] = 1
    batch = {
        "pixel_values": pixels,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([image.grid_hw for image in images]),
    }
    vision = model if isinstance(model, Siglip2VisionModel) else model.vision_model
    with torch.inference_mode(), right_interpolation():
        features = vision(**batch)
        logits = model(**batch).logits if isinstance(model, Siglip2ForImageClassification) else None
        pooled = model.get_image_features(**batch) if isinstance(model, Siglip2Model) else features.pooler_output
    pooled = getattr(pooled, "pooler_output", pooled)
    hidden = features.last_hidden_state
    if logits is not None:
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return Results(pooled, [row[:length] for row, length in zip(hidden, lengths, strict=True)], logits)
