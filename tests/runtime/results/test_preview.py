"""Previews: colours follow the principal directions of an SVD, and tiles and packs are where the results say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naflex_deploy.runtime.results.preview import BAR, GAP, SIDE, SPREAD, draw_preview, principal_colours, tile_colours
from naflex_deploy.runtime.results.result import Result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12), st.integers(3, 20))
def test_colours_are_the_first_three_directions(seed: int, height: int, width: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = (rng.standard_normal((height, width, depth)) * np.geomspace(9, 1, depth)).astype(np.float32)
    centred = tokens.reshape(-1, depth) - tokens.reshape(-1, depth).mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    colours = principal_colours(tokens).reshape(-1, 3).astype(float)
    for channel in range(3):
        if len(lengths) < 5 or np.diff(-lengths)[channel] < 0.05 * lengths[0]:
            continue  # Directions of nearly equal length may be mixed arbitrarily.
        projected = centred @ directions[channel]
        expected = np.clip(127.5 + projected / projected.std() * 127.5 / SPREAD, 0, 255)
        turned = np.clip(255 - expected, 0, 255)
        error = min(np.abs(colours[:, channel] - expected).max(), np.abs(colours[:, channel] - turned).max())
        assert error <= 1


def test_equal_tokens_have_no_direction_and_the_same_tokens_the_same_colours() -> None:
    assert np.unique(principal_colours(np.ones((3, 4, 6), np.float32))).tolist() in ([127], [128])
    tokens = np.random.default_rng(0).standard_normal((6, 5, 8)).astype(np.float32)
    assert np.array_equal(principal_colours(tokens), principal_colours(tokens.astype(np.float64)))
    assert principal_colours(tokens[..., :2]).shape == (6, 5, 3)


def results() -> list[Result]:
    """A page of 100 x 200 pixels: the whole, two tiles in one pack and a third in another."""
    page = {"input": 0, "frame": 0, "name": "a.png", "size": (100, 200), "tiles": 4}
    return [
        Result(**page, tile=0, box=(0, 0, 100, 200), grid_hw=(4, 2), pack=3, start=0, pack_tokens=60),
        Result(**page, tile=1, box=(0, 0, 100, 80), grid_hw=(5, 4), pack=3, start=8, pack_tokens=60),
        Result(**page, tile=2, box=(0, 60, 100, 140), grid_hw=(5, 4), pack=3, start=40, pack_tokens=60),
        Result(**page, tile=3, box=(0, 120, 100, 200), grid_hw=(5, 4), pack=4, start=10, pack_tokens=30),
    ]


def test_tiles_and_packs_are_drawn_where_they_are() -> None:
    budget = 100
    colours = tile_colours(4)
    assert len(set(colours)) == 4
    picture = draw_preview(Image.new("RGB", (100, 200), "white"), results(), budget)
    pixels = np.asarray(picture)
    assert picture.size[0] == SIDE, "as wide as the bars of packs need"
    scale = SIDE / 200
    for image, colour in zip(results()[1:], colours[1:], strict=True):
        left, top, _, _ = (GAP + side * scale for side in image.box)
        assert pixels[round(top) + 1, round(left) + 60].tolist() == list(colour)
    step = (picture.size[0] - 2 * GAP) / budget
    for row, pack in enumerate((3, 4)):
        middle = 2 * GAP + SIDE + row * (BAR + GAP) + BAR // 2
        line = pixels[middle]

        def at(token: float, line: np.ndarray = line) -> list[int]:
            return line[round(GAP + token * step)].tolist()

        own = [(image, colour) for image, colour in zip(results(), colours, strict=True) if image.pack == pack]
        for image, colour in own:
            tokens = image.grid_hw[0] * image.grid_hw[1]
            assert at(image.start + tokens / 2) == list(colour)
        assert at(own[0][0].pack_tokens + 5) == [255, 255, 255]
        if own[0][0].start:
            assert at(own[0][0].start / 2) == [205, 205, 205], "tokens of other images"


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000), (1, 1)])
def test_any_shape_is_drawn_with_its_tokens_beside_it(size: tuple[int, int]) -> None:
    whole = Result(0, 0, "a.png", size, box=(0, 0, *size), grid_hw=(2, 2), pack=0, pack_tokens=4)
    tokens = np.full((2, 2, 3), 77, np.uint8)
    picture = draw_preview(Image.new("RGB", size), [whole], 16, tokens)
    assert (np.asarray(picture) == 77).all(2).any()
