"""Packs of random images, and packed models run on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naflex_deploy.compiler.model.attention import Attention
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.pack import Pack, Patches

GRIDS = ((1, 37), (29, 1), (17, 23), (70, 3), (3, 66), (16, 16), (5, 9), (1, 1))
"""One row, one column, sides above 16 and above 64, a table's own size, small ones, one patch."""


def random_images(grids: Sequence[tuple[int, int]], patch_size: int, seed: int = 0) -> list[Patches]:
    generator = np.random.default_rng(seed)
    return [Patches(generator.integers(0, 256, (h * w, patch_size**2 * 3), dtype=np.uint8), (h, w)) for h, w in grids]


def inputs(model: PackedNaFlexViT, pack: Pack) -> list[Tensor]:
    """What the model's forward takes, in its order."""
    return [torch.from_numpy(np.ascontiguousarray(pack.view(role))) for role in model.roles]


@dataclass(frozen=True, eq=False)
class Results:
    """Outputs of a model on several images.

    Attributes:
        pooled: [M, D].
        tokens: One [prefix + h·w, D] an image.
        logits: [M, classes], or None.
    """

    pooled: Tensor
    tokens: list[Tensor]
    logits: Tensor | None = None


def run(model: PackedNaFlexViT, images: Sequence[Patches], tail: int = 3) -> Results:
    """All images in one pack, with a tail."""
    prefix = model.architecture.prefix
    length = sum(len(image) + prefix for image in images)
    pack = Pack.of(images, prefix=prefix, tokens=length + tail)
    with torch.inference_mode():
        outputs = model(*inputs(model, pack))
    tokens = [outputs["tokens"][a:b] for a, b in zip(pack.offsets, pack.offsets[1:], strict=False)]
    return Results(outputs["pooled"], tokens, outputs.get("logits"))


def assert_parity(found: Results, golden: Results, tolerance: float = 1e-5) -> float:
    """max |Δ| ≤ tolerance · max |ref| on every output; returns the worst ratio."""
    pairs = {"pooled": (found.pooled, golden.pooled), "tokens": (torch.cat(found.tokens), torch.cat(golden.tokens))}
    if golden.logits is not None:
        pairs["logits"] = (found.logits, golden.logits)
    worst = 0.0
    for name, (ours, theirs) in pairs.items():
        assert ours.shape == theirs.shape, name
        ratio = float((ours - theirs).abs().max() / theirs.abs().max())
        assert ratio <= tolerance, f"{name}: max |Δ| is {ratio:.1e} of max |ref|"
        worst = max(worst, ratio)
    return worst


class Recording:
    """An attention that also notes the standard deviation of the logits inside segments."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.sigmas: list[float] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
        scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
        same = (query_segment[:, None] == segment[None, :]).expand(len(query_segment), -1)
        self.sigmas.append(float(scores.expand(-1, len(same), -1)[:, same].std()))
        return self.attention(query, key, value, query_segment, segment)
