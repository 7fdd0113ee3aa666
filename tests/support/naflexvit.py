"""timm's NaFlexVit as golden model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import timm
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor

from naflex_deploy.core.pack import Patches
from tests.support.packs import Results
from tests.support.siglip2 import right_interpolation
from tests.support.weights import reseed

NARROW = {"embed_dim": 96, "depth": 2, "num_heads": 3, "patch_size": 8}


def named(name: str, scale: float = 1.0, **changes: object) -> NaFlexVit:
    """A registered architecture, narrow and shallow, with seeded weights."""
    return reseed(timm.create_model(name, **(NARROW | changes)), scale=scale)


def configured(classes: int = 0, scale: float = 1.0, **options: object) -> NaFlexVit:
    """A model of any config, narrow and shallow, with seeded weights."""
    return reseed(NaFlexVit(NaFlexVitCfg(**(NARROW | options)), num_classes=classes), scale=scale)


def golden(model: NaFlexVit, images: Sequence[Patches]) -> Results:
    """The original, in float64, on padded patches with a mask; a convolutional one, which takes none, on each image."""
    model = copy.deepcopy(model).double()
    pretrained = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(pretrained.get(key, (0.5,) * 3)).double() for key in ("mean", "std"))
    channels = len(mean)
    pixels = [
        (torch.from_numpy(image.pixels).double().view(len(image), -1, channels) / 255 - mean) / std for image in images
    ]
    with torch.inference_mode(), right_interpolation():
        if model.embeds.is_linear:
            return _padded(model, images, pixels)
        parts = [_whole(model, image, values) for image, values in zip(images, pixels, strict=True)]
    pooled = torch.cat([part.pooled for part in parts])
    logits = torch.cat([part.logits for part in parts]) if model.num_classes else None
    return Results(pooled, [token for part in parts for token in part.tokens], logits)


def _padded(model: NaFlexVit, images: Sequence[Patches], pixels: Sequence[Tensor]) -> Results:
    lengths = [len(image) for image in images]
    batch, longest = len(images), max(lengths)
    patches = torch.zeros(batch, longest, pixels[0][0].numel(), dtype=torch.float64)
    coords = torch.zeros(batch, longest, 2, dtype=torch.int64)
    valid = torch.zeros(batch, longest, dtype=torch.bool)
    for row, (image, values) in enumerate(zip(images, pixels, strict=True)):
        values = values if model.embeds.channels_last else values.transpose(1, 2)
        patches[row, : len(image)] = values.flatten(1)
        height, width = image.grid_hw
        coords[row, : len(image)] = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        valid[row, : len(image)] = True
    features = model.forward_features(patches, patch_coord=coords, patch_valid=valid)
    pooled, logits = _head(model, features["patches"], features["patch_valid"])
    prefix = model.num_prefix_tokens
    tokens = [row[: prefix + length] for row, length in zip(features["patches"], lengths, strict=True)]
    return Results(pooled, tokens, logits)


def _whole(model: NaFlexVit, image: Patches, values: Tensor) -> Results:
    (height, width), side = image.grid_hw, model.embeds.patch_size[0]
    picture = (
        values.view(height, width, side, side, -1).permute(4, 0, 2, 1, 3).reshape(1, -1, height * side, width * side)
    )
    tokens = model.forward_features(picture)
    pooled, logits = _head(model, tokens, None)
    return Results(pooled, [tokens[0]], logits)


def _head(model: NaFlexVit, tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    pooled = model.forward_head(tokens, pre_logits=True, patch_valid=valid)
    return pooled, model.head(pooled) if model.num_classes else None
