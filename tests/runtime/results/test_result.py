"""The results of a page's images are joined."""

from __future__ import annotations

import random

import numpy as np

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.results.result import Result, by_frame, join


def page(frame: int, tiles: int) -> list[Result]:
    return [
        Result(0, frame, "a.pdf", tile=tile, tiles=tiles, outputs={"pooled": np.full(2, tile, np.float32)})
        for tile in range(tiles)
    ]


def test_images_of_a_frame_come_together_once_all_are_there() -> None:
    results = [*page(0, 4), *page(1, 1), *page(2, 3)]
    random.Random(0).shuffle(results)
    frames = list(by_frame(results))
    assert sorted(images[0].frame for images in frames) == [0, 1, 2]
    for images in frames:
        assert [image.tile for image in images] == list(range(images[0].tiles))
    assert list(by_frame(page(0, 4)[:3])) == []


def test_the_whole_counts_as_much_as_its_tiles_and_an_error_is_that_of_the_page() -> None:
    images = page(0, 4)
    assert join(images).outputs["pooled"].tolist() == [1.0, 1.0], "of 0, and of the mean of 1, 2 and 3"
    assert join(images).outputs["pooled"].dtype == np.float32
    assert join(images[:1]) is images[0]
    error = ImageError("bad")
    images[2] = Result(0, 0, "a.pdf", tile=2, tiles=4, error=error)
    assert (join(images).error, join(images).outputs) == (error, {})
