"""Making the golden packs: odd grids, tails, one image and many, and what the reference model says of them."""

from __future__ import annotations

import numpy as np
import torch

from naflex_deploy.build.attention import ragged_attention
from naflex_deploy.build.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.golden import Golden, GoldenPack, Tolerance

PACKS = 16
# Grids where ports go wrong: one row or column, one patch, shorter and longer than the position table, square.
GRIDS = ((1, 1), (1, 23), (19, 1), (2, 5), (7, 4), (16, 16), (15, 17), (3, 40), (33, 2), (12, 9), (5, 5), (9, 14))


def make_golden(
    checkpoint: Checkpoint, profile: Profile, outputs: tuple[str, ...], budget: int, image_tokens: int
) -> Golden:
    """Run the reference model on seeded packs.

    Args:
        checkpoint: The model.
        profile: Gives the gate of the quantised precisions.
        outputs: To record.
        budget: Tokens of a pack, at most.
        image_tokens: Patches of one image, at most.
    """
    model = checkpoint.model(outputs, ragged_attention)
    rng = np.random.default_rng(0)
    grids = [grid for grid in GRIDS if grid[0] * grid[1] <= image_tokens]
    packs = [_draw(rng, grids, checkpoint, min(budget, 512), tail=index % 2 == 1) for index in range(PACKS - 1)]
    side = int(image_tokens**0.5)
    packs.append(_pack([(side, image_tokens // side)], rng, checkpoint, 0))
    with torch.inference_mode():
        runs = [model(*(torch.from_numpy(pack.view(role)) for role in model.roles)) for pack in packs]
    recorded = [
        GoldenPack(pack, {name: _trim(name, values, pack).numpy() for name, values in run.items()})
        for pack, run in zip(packs, runs, strict=True)
    ]
    gate = profile.gate.min_cosine
    return Golden(
        recorded,
        {
            "fp32": Tolerance(pooled=0.99999, tokens=0.99999, max_error=1e-5),
            "fp16": Tolerance(pooled=0.9999, tokens=0.9995),
            "bf16": Tolerance(pooled=0.9999, tokens=0.9995),
            "int8": Tolerance(pooled=gate, tokens=gate),
            "fp8": Tolerance(pooled=gate, tokens=gate),
        },
    )


def _draw(
    rng: np.random.Generator, grids: list[tuple[int, int]], checkpoint: Checkpoint, budget: int, *, tail: bool
) -> Pack:
    prefix = checkpoint.architecture.prefix
    chosen: list[tuple[int, int]] = []
    room = budget
    for index in rng.permutation(len(grids))[: int(rng.integers(1, 6))]:
        h, w = grids[index]
        if h * w + prefix <= room:
            chosen.append((h, w))
            room -= h * w + prefix
    return _pack(chosen or [grids[0]], rng, checkpoint, int(rng.integers(1, 9)) if tail else 0)


def _pack(grids: list[tuple[int, int]], rng: np.random.Generator, checkpoint: Checkpoint, tail: int) -> Pack:
    a = checkpoint.architecture
    images = [Patches(_pixels(rng, h * w, a.patch_values), (h, w)) for h, w in grids]
    tokens = sum(len(image) + a.prefix for image in images)
    return Pack.of(images, prefix=a.prefix, tokens=tokens + tail)


def _pixels(rng: np.random.Generator, patches: int, values: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Patches of differing brightness and contrast, [patches, values] uint8: flat ones and noisy ones both occur."""
    brightness = rng.uniform(0, 255, (patches, 1))
    contrast = rng.uniform(0, 80, (patches, 1))
    return np.clip(brightness + contrast * rng.standard_normal((patches, values)), 0, 255).astype(np.uint8)


def _trim(name: str, values: torch.Tensor, pack: Pack) -> torch.Tensor:
    return values[: pack.useful_tokens] if name.startswith("tokens") else values[: pack.images]
