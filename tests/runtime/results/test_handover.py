"""Tokens in the forms that language models and their servers take."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch

from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.runtime.results.handover import ImageTokens, check_placeholders, for_sglang, for_vllm
from naflex_deploy.runtime.results.result import Result


def part(tile: int, grid: tuple[int, int], taps: int = 2, scale: float = 1.0) -> Result:
    """An image whose values say what and where they are: tile, row, column, channel, output."""
    h, w = grid[0] // 2, grid[1] // 2
    values = np.arange(h * w * 3, dtype=np.float32).reshape(h, w, 3) + 100 * tile
    outputs = {"vlm": values * scale} | {f"deepstack:{k}": values + 1000 * (k + 1) for k in reversed(range(taps))}
    return Result(0, 0, "a.png", tile=tile, tiles=3, grid_hw=grid, outputs=outputs)


def test_an_image_is_its_rows_with_the_taps_beside_them() -> None:
    found = ImageTokens.of([part(0, (4, 6))])
    assert found.placeholders == 6
    assert found.grid_thw.tolist() == [[1, 4, 6]]
    rows = np.arange(18).reshape(6, 3)
    np.testing.assert_array_equal(found.features(), np.concatenate([rows, rows + 1000, rows + 2000], axis=1))
    assert found.features(np.float16).dtype == np.float16
    assert found.features("bfloat16").dtype == np.uint16


def test_tiles_come_first_and_the_whole_last() -> None:
    found = ImageTokens.of([part(0, (2, 4), 0), part(1, (4, 4), 0), part(2, (4, 4), 0)])
    assert found.grids == ((4, 4), (4, 4), (2, 4))
    assert found.placeholders == 10
    assert found.features()[:, 0].tolist() == [100, 103, 106, 109, 200, 203, 206, 209, 0, 3]


def test_an_image_that_failed_raises_its_error() -> None:
    with pytest.raises(ImageError, match=r"a\.png: no"):
        ImageTokens.of([Result(0, 0, "a.png", error=ImageError("a.png: no"))])


def test_vllm_reads_the_tensors() -> None:
    """As its ``ImageEmbeddingMediaIO`` does: base64, and ``torch.load`` of weights alone."""
    content = for_vllm(ImageTokens.of([part(0, (4, 6))]))
    assert content["type"] == "image_embeds"
    assert set(content["image_embeds"]) == {"image_embeds", "image_grid_thw"}
    decoded = {name: base64.b64decode(text, validate=True) for name, text in content["image_embeds"].items()}
    tensors = {name: torch.load(io.BytesIO(data), weights_only=True) for name, data in decoded.items()}
    assert tensors["image_embeds"].shape == (6, 9)
    assert tensors["image_embeds"].dtype == torch.float16
    assert tensors["image_grid_thw"].tolist() == [1, 4, 6]
    assert tensors["image_grid_thw"].dtype == torch.int64


def test_tiles_are_not_for_vllm() -> None:
    with pytest.raises(UsageError, match="expected one grid for vLLM, found 2: the image was cut into tiles"):
        for_vllm(ImageTokens.of([part(0, (2, 4)), part(1, (4, 4))]))


def test_an_item_for_sglang() -> None:
    found = for_sglang(ImageTokens.of([part(0, (4, 6))]), "float32")
    assert (found["format"], found["modality"]) == ("processor_output", "IMAGE")
    assert torch.from_numpy(found["precomputed_embeddings"]).shape == (6, 9)
    assert found["image_grid_thw"].tolist() == [[1, 4, 6]]


def test_values_beyond_half_precision_are_refused() -> None:
    image = ImageTokens.of([part(0, (4, 6), scale=1e5)])
    with pytest.raises(UsageError, match="beyond float16"):
        for_vllm(image)
    assert for_sglang(image, "float32")["precomputed_embeddings"].max() == 1.7e6


def test_placeholders_are_counted() -> None:
    images = [ImageTokens.of([part(0, (4, 6))]), ImageTokens.of([part(0, (2, 2))])]
    check_placeholders(7, images)
    with pytest.raises(
        UsageError, match=r"expected 7 placeholders in the prompt for 2 images of \[6, 1\] tokens, found 6"
    ):
        check_placeholders(6, images)
