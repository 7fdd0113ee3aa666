"""Towers of vision-language models that transformers lacks equal those written again from their publishers' code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.model.attention import masked_attention
from naflex_deploy.core.pack import Patches
from tests.compiler.checkpoints.doubles import isaac, kimi_vl, phi4_reasoning_vision
from tests.compiler.checkpoints.doubles.parts import Image
from tests.support.packs import Recording, random_images
from tests.support.vlms import outputs_of

GRIDS = ((2, 26), (22, 2), (18, 20), (4, 6))
"""Two rows, two columns, above the size of the position tables, below it."""
DOUBLES: dict[str, tuple[str, Callable[[Path], nn.Module], int, str]] = {
    "phi-4": ("Phi-4-reasoning-vision", phi4_reasoning_vision.make, phi4_reasoning_vision.PATCH_SIZE, "tokens:-2"),
    "isaac-0.1": ("Isaac", lambda directory: isaac.make(directory, "0.1"), isaac.PATCH_SIZE, "tokens"),
    "isaac-0.2": ("Isaac", lambda directory: isaac.make(directory, "0.2"), isaac.PATCH_SIZE, "tokens"),
    "kimi-vl": ("Kimi-VL", kimi_vl.make, kimi_vl.PATCH_SIZE, "tokens"),
}
"""The family, what writes its directory, the side of its patches, and which of our outputs its tokens are."""


def theirs(model: nn.Module, images: list[Patches], side: int) -> tuple[Tensor, Tensor]:
    """Tokens and projected tokens of all images, one after the other, in float64."""
    pixels = [(torch.from_numpy(image.pixels).double() / 255 - 0.5) / 0.5 for image in images]
    with torch.inference_mode():
        found = model.double()(
            [Image(rows.view(-1, side, side, 3), image.grid_hw) for rows, image in zip(pixels, images, strict=True)]
        )
    return torch.cat([outputs.tokens for outputs in found]), torch.cat([outputs.projected for outputs in found])


@pytest.mark.parametrize("name", DOUBLES)
def test_equals_the_double(name: str, tmp_path: Path) -> None:
    family, make, side, tokens = DOUBLES[name]
    images = random_images(GRIDS, side)
    expected = dict(zip((tokens, "vlm"), theirs(make(tmp_path), images, side), strict=True))
    recording = Recording(masked_attention)
    checkpoint = read(tmp_path)
    assert checkpoint.family == family
    ours = outputs_of(checkpoint.model(tuple(expected), recording), images)
    spread = min(recording.sigmas[: checkpoint.architecture.depth])  # the rest is the head, which no output here is of
    assert spread >= 2
    for output, values in expected.items():
        assert ours[output].shape == values.shape
        error = float((ours[output] - values).abs().max() / values.abs().max())
        assert error <= 1e-5, f"{output}: {error:.1e}"
        print(f"{name} {output}: {error:.1e}, σ {spread:.1f}")
