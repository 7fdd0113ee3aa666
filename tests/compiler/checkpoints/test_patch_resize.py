"""FlexiViT's resize of the patch projection against timm's, and a packed model read back."""

from __future__ import annotations

import pytest
from timm.layers import resample_patch_embed

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.patch_resize import with_patch_size
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.core.errors import UsageError
from tests.support.naflexvit import configured, golden
from tests.support.packs import assert_parity, random_images, run


@pytest.mark.parametrize("size", [4, 7, 8, 12, 16, 30])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_projection_equals_timm(size, interpolation):
    checkpoint = random_checkpoint(Architecture(16, 1, 2, 16, 8, Positions((4, 4), interpolation)))
    resized = with_patch_size(checkpoint, size)
    kernel = checkpoint.weights["embed.weight"].view(16, 8, 8, 3).permute(0, 3, 1, 2)
    expected = resample_patch_embed(kernel, [size, size], interpolation=interpolation, antialias=True)
    expected = expected.permute(0, 2, 3, 1).flatten(1)
    found = resized.weights["embed.weight"]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert resized.architecture.patch_size == resized.preprocessing.patch_size == size
    assert resized.model(("tokens",)).embed.in_features == 3 * size * size


def test_model_equals_timm_with_its_interpolator():
    original = configured(enable_patch_interpolator=True)
    images = random_images([(3, 4), (1, 6)], 12)
    model = with_patch_size(read(original), 12).model()
    resampled = original.embeds.patch_interpolator.resample_linear_weight(original.embeds.proj.weight, (12, 12))
    other = configured(patch_size=12)
    state = original.state_dict() | {"embeds.proj.weight": resampled}
    other.load_state_dict(state)
    assert_parity(run(model, images), golden(other, images))


def test_sizes_out_of_range():
    checkpoint = random_checkpoint(Architecture(16, 1, 2, 16, 8, None))
    assert with_patch_size(checkpoint, 8) is checkpoint
    with pytest.raises(UsageError, match="expected 1 to 64, found 0"):
        with_patch_size(checkpoint, 0)


def test_a_packed_model_is_read_back():
    architecture = Architecture(16, 2, 2, 32, 4, Positions((4, 4), "learned_softmax"), coordinate_mlp=8, registers=2)
    model = random_checkpoint(architecture).model()
    images = random_images([(3, 5), (2, 2)], 4)
    assert_parity(run(read(model).model(), images), run(model, images), tolerance=1e-6)
