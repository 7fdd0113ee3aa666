"""The shortcut for raw pixels gives the same patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.bundles import summing_manifest


def preparer(**image) -> Preparer:
    profile = Profile.parse(
        {"name": "test", "outputs": ["pooled"], "image": {"tokens": 16, **image}, "packing": {"budgets": [16, 64]}},
        source=lambda path: "test",
    )
    return Preparer(summing_manifest().preprocessing, profile, "onnxruntime")


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    fit=st.sampled_from(["fill", "shrink-only", "pad-to-patch"]),
    whole=st.booleans(),
)
@settings(deadline=None)
def test_raw_pixels_give_the_patches_of_the_same_image(height, width, fit, whole):
    height, width = (4 * -(-height // 4), 4 * -(-width // 4)) if whole else (height, width)
    pixels = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prepare = preparer(fit=fit, oversize="shrink")
    ((expected,),) = prepare(0, pixels)
    found = prepare.pixels(pixels)
    assert found.grid_hw == expected.patches.grid_hw
    np.testing.assert_array_equal(found.pixels, expected.patches.pixels)


def test_raw_pixels_are_refused_as_the_same_image_is():
    with pytest.raises(ImageError, match="at most 16 patches"):
        preparer(fit="pad-to-patch", oversize="error").pixels(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ImageError, match="at most 100 pixels"):
        preparer(fit="fill", max_pixels=100).pixels(np.zeros((40, 40, 3), np.uint8))
