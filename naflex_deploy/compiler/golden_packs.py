"""Makes the golden packs: odd grids, tails, one image and many, each with the outputs of the reference model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.pack import Pack, Patches, in_blocks, on_grid
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.bundle.golden import Float, Golden, GoldenPack, Tolerance
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.results.figures import UNKNOWN

PACKS = 16
TOKEN_PACKS = 2
"""Number of packs of real images whose token outputs are recorded; these take far more space than image vectors."""
LONGEST = 2000
"""Tokens of the thin grids on which rotary angles are measured."""
WORK = 10**13
"""Operations that the reference model may take for the largest image: some minutes on two cores. The largest image of a
large tower has fewer tokens here; that the engine runs its largest pack is seen when the memory of it is measured."""
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
    a = checkpoint.architecture
    largest = _largest(a, affordable(a, image_tokens))
    grids = _grids(a, image_tokens) or largest
    packs = [_draw(rng, grids, checkpoint, min(budget, 512), tail=index % 2 == 1) for index in range(PACKS - 1)]
    packs += [_pack([grid], rng, checkpoint, 0) for grid in largest]
    model = checkpoint.model(outputs, ragged_attention)

    def run(pack: Pack) -> dict[str, Float]:
        with torch.inference_mode():
            found = model(*(torch.from_numpy(pack.view(role)) for role in model.roles))
        return {name: _trim(name, values.numpy(), pack, a.merge) for name, values in found.items()}

    most = min(map(profile.max_images, profile.engine.backends))  # any of them may run these packs
    recorded = [GoldenPack(pack, run(pack)) for pack in packs]
    recorded += image_packs(run, images, labels, prefix=a.prefix, budget=budget, max_images=most, merge=a.merge)
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


def affordable(a: Architecture, tokens: int) -> int:
    """Tokens of the largest image for which the reference model takes at most `WORK` operations, up to ``tokens``."""
    while operations(a, tokens) > WORK:
        tokens = tokens * 9 // 10
    return tokens


def operations(a: Architecture, tokens: int) -> int:
    """Multiplications and additions of the blocks for one image: those of the products, and of attention."""
    products = 8 * a.width + (6 if a.gated_mlp else 4) * a.mlp_width
    return a.depth * a.width * tokens * (products + 4 * tokens)


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
    merge: int = 1,
) -> list[GoldenPack]:
    """Packs of real images, on which 8-bit engines are judged.

    Args:
        run: Runs the reference model: returns a pack's outputs by name, with or without the rows of the tail.
        images: Images, prepared as the runtime prepares them.
        labels: Class of each image, `UNKNOWN` where it is not known; empty if no class is known.
        prefix: Prefix tokens of the model.
        budget: Largest number of tokens in a pack.
        max_images: Largest number of images in a pack.
        merge: Side of the blocks of tokens that a language model takes.
    """
    named = np.array([*labels, *[UNKNOWN] * (len(images) - len(labels))], np.int64)
    found: list[GoldenPack] = []
    for members in pack_lengths([len(image) + prefix for image in images], budget, max_images):
        pack = Pack.of([images[index] for index in members], prefix=prefix)
        outputs = {name: _trim(name, values, pack, merge) for name, values in run(pack).items()}
        vectors = {name: values for name, values in outputs.items() if not on_grid(name)}
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


def _trim(name: str, values: Float, pack: Pack, merge: int) -> Float:
    """The rows of the images, without those of the tail."""
    blocks = merge**2 if in_blocks(name) else 1
    return values[: pack.useful_tokens // blocks if on_grid(name) else pack.images]


def _grids(a: Architecture, image_tokens: int) -> list[tuple[int, int]]:
    """Grids of which packs are drawn, with sides that divide into the blocks of a language model."""
    side = a.merge
    even = {(-(-h // side) * side, -(-w // side) * side): None for h, w in GRIDS}
    return [(h, w) for h, w in even if h * w <= image_tokens]


def _largest(a: Architecture, image_tokens: int) -> list[tuple[int, int]]:
    """The largest grids of an image: square, and with a rotary embedding also thin ones, as far as `LONGEST` tokens.

    An angle that is rounded to 16 bits is wrong only far from the first row and column.
    """
    step = a.merge
    side = int(image_tokens**0.5) // step * step
    grids = [(side, image_tokens // side // step * step)] if side else []
    if a.rope is not None:
        length = min(image_tokens, LONGEST) // step // step * step
        grids += [(step, length), (length, step)] if length else []
    return grids or [(1, image_tokens)]
