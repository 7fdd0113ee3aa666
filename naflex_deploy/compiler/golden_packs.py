"""Makes the golden packs: odd grids, tails, one image and many, each with the outputs of the reference model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.bundle.golden import Float, Golden, GoldenPack, Tolerance
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.results.figures import UNKNOWN

PACKS = 16
TOKEN_PACKS = 2
"""Number of packs of real images whose token outputs are recorded; these take far more space than image vectors."""
# Grids on which ports tend to fail: one row or column, one patch, smaller and larger than the position table, square.
GRIDS = ((1, 1), (1, 23), (19, 1), (2, 5), (7, 4), (16, 16), (15, 17), (3, 40), (33, 2), (12, 9), (5, 5), (9, 14))


def make_golden(
    checkpoint: Checkpoint,
    profile: Profile,
    outputs: tuple[str, ...],
    budget: int,
    image_tokens: int,
    images: Sequence[Patches] = (),
    labels: Sequence[int] = (),
) -> Golden:
    """Run the reference model on seeded random packs, and on packs of real images.

    Args:
        checkpoint: The model.
        profile: The profile, whose gate applies to the quantised precisions.
        outputs: Names of the outputs to record.
        budget: Largest number of tokens in a pack.
        image_tokens: Largest number of patches in one image.
        images, labels: Real images and their classes, see `image_packs`.
    """
    rng = np.random.default_rng(0)
    grids = [grid for grid in GRIDS if grid[0] * grid[1] <= image_tokens]
    packs = [_draw(rng, grids, checkpoint, min(budget, 512), tail=index % 2 == 1) for index in range(PACKS - 1)]
    side = int(image_tokens**0.5)
    packs.append(_pack([(side, image_tokens // side)], rng, checkpoint, 0))
    model = checkpoint.model(outputs, ragged_attention)

    def run(pack: Pack) -> dict[str, Float]:
        with torch.inference_mode():
            found = model(*(torch.from_numpy(pack.view(role)) for role in model.roles))
        return {name: _trim(name, values.numpy(), pack) for name, values in found.items()}

    prefix, most = checkpoint.architecture.prefix, profile.packing.max_images
    recorded = [GoldenPack(pack, run(pack)) for pack in packs]
    recorded += image_packs(run, images, labels, prefix=prefix, budget=budget, max_images=most)
    quantized = quantized_tolerance(profile)
    return Golden(
        recorded,
        {
            "fp32": Tolerance(pooled=0.99999, tokens=0.99999, max_error=1e-5),
            "fp16": Tolerance(pooled=0.9999, tokens=0.9995),
            "bf16": Tolerance(pooled=0.9999, tokens=0.9995),
            "int8": quantized,
            "fp8": quantized,
        },
    )


def quantized_tolerance(profile: Profile) -> Tolerance:
    """The tolerance of 8-bit engines, which is the profile's gate."""
    gate = profile.gate
    return Tolerance(
        pooled=gate.min_cosine,
        tokens=gate.min_token_cosine,
        top1=gate.min_top1_agreement,
        margin=gate.max_margin_error,
        accuracy=gate.max_accuracy_loss,
        images=True,
    )


def image_packs(
    run: Callable[[Pack], Mapping[str, Float]],
    images: Sequence[Patches],
    labels: Sequence[int],
    *,
    prefix: int,
    budget: int,
    max_images: int,
) -> list[GoldenPack]:
    """Packs of real images, on which 8-bit engines are judged.

    Args:
        run: Runs the reference model: returns a pack's outputs by name, with or without the rows of the tail.
        images: Images, prepared as the runtime prepares them.
        labels: Class of each image, `UNKNOWN` where it is not known; empty if no class is known.
        prefix: Prefix tokens of the model.
        budget: Largest number of tokens in a pack.
        max_images: Largest number of images in a pack.
    """
    named = np.array([*labels, *[UNKNOWN] * (len(images) - len(labels))], np.int64)
    found: list[GoldenPack] = []
    for members in pack_lengths([len(image) + prefix for image in images], budget, max_images):
        pack = Pack.of([images[index] for index in members], prefix=prefix)
        outputs = {name: _trim(name, values, pack) for name, values in run(pack).items()}
        vectors = {name: values for name, values in outputs.items() if not name.startswith("tokens")}
        if recorded := outputs if len(found) < TOKEN_PACKS else vectors:
            found.append(GoldenPack(pack, recorded, named[members]))
    return found


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
    """Patches of varying brightness and contrast, [patches, values] uint8, so that flat and noisy ones both occur."""
    brightness = rng.uniform(0, 255, (patches, 1))
    contrast = rng.uniform(0, 80, (patches, 1))
    return np.clip(brightness + contrast * rng.standard_normal((patches, values)), 0, 255).astype(np.uint8)


def _trim(name: str, values: Float, pack: Pack) -> Float:
    return values[: pack.useful_tokens] if name.startswith("tokens") else values[: pack.images]
