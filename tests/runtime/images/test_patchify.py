import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from naflex_deploy.runtime.images.patchify import patchify


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 7, 16]), st.sampled_from([1, 3]))
def test_patches_are_those_of_transformers(rows, columns, patch_size, channels):
    image = np.random.default_rng(0).integers(0, 256, (rows * patch_size, columns * patch_size, channels), np.uint8)
    patches = patchify(image, patch_size)
    assert patches.grid_hw == (rows, columns)
    assert patches.pixels.dtype == np.uint8
    assert np.array_equal(patches.pixels, convert_image_to_patches(image.transpose(2, 0, 1), patch_size))


def test_rows_are_patches_in_row_column_channel_order():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3).astype(np.float32)
    patches = patchify(image, 2)
    assert patches.pixels.dtype == np.float32
    assert patches.pixels[4].tolist() == image[2:4, 2:4].ravel().tolist()


@pytest.mark.parametrize("shape", [(17, 16, 3), (16, 8, 3)])
def test_sides_must_be_multiples(shape):
    with pytest.raises(ValueError, match="multiples of the patch size 16"):
        patchify(np.zeros(shape, np.uint8), 16)
