"""A picture of a frame with its tiles, their places in packs, and the principal directions of its tokens."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from naflex_deploy.runtime.images.media.frame import Picture
from naflex_deploy.runtime.results.result import Result

Colour = tuple[int, int, int]

SIDE = 640
"""The longer side of the frame in the preview, in pixels."""

GAP, BAR = 16, 22
"""The gap between panels and the height of a pack, in pixels."""

SPREAD = 2.5
"""A colour channel spans this many standard deviations of its direction on either side of the mean."""

_OTHERS, _EMPTY, _EDGE = (205, 205, 205), (255, 255, 255), (90, 90, 90)


def principal_colours(tokens: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Show the three directions in which tokens differ most as red, green and blue.

    Args:
        tokens: [h, w, D].

    Returns:
        [h, w, 3] uint8, where the mean of the tokens is 128. The largest component of each direction is positive,
        so that the same tokens always get the same colours.
    """
    height, width, depth = tokens.shape
    values = tokens.reshape(-1, depth).astype(np.float64)
    values = values - values.mean(0)
    directions = np.linalg.eigh(values.T @ values)[1][:, : -min(3, depth) - 1 : -1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])])
    projected = values @ directions
    deviation = projected.std(0)
    scaled = np.divide(projected, deviation, out=np.zeros_like(projected), where=deviation > 1e-6 * deviation.max())
    colours = np.full((height * width, 3), 128, np.uint8)
    colours[:, : scaled.shape[1]] = np.clip(127.5 + scaled * (127.5 / SPREAD), 0, 255).round()
    return colours.reshape(height, width, 3)


def tile_colours(count: int) -> list[Colour]:
    """Distinct colours for a frame's images; the first one, for the whole frame, is grey."""
    hues = [colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.85) for index in range(count - 1)]
    return [(110, 110, 110), *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)]


def draw_preview(
    picture: Picture, images: Sequence[Result], budget: int, tokens: npt.NDArray[np.uint8] | None = None
) -> Image.Image:
    """Draw a frame with its tiles, its tokens beside it, and below it the packs that its images ran in.

    Args:
        picture: The frame.
        images: Its results, as `by_frame` groups them; their outputs are not used.
        budget: Number of tokens of the largest pack, which is drawn as wide as the picture.
        tokens: [h, w, 3], from `principal_colours`.
    """
    width, height = picture.size
    scale = SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panels = [_outlined(picture, images, size)]
    if tokens is not None:
        panels.append(Image.fromarray(tokens).resize(size, Resampling.NEAREST))
    packs = sorted({image.pack for image in images})
    across = max(2 * GAP + len(panels) * (size[0] + GAP) - GAP, SIDE)
    canvas = Image.new("RGB", (across, 2 * GAP + size[1] + len(packs) * (BAR + GAP)), "white")
    for index, panel in enumerate(panels):
        canvas.paste(panel, (GAP + index * (size[0] + GAP), GAP))
    for index, pack in enumerate(packs):
        top = 2 * GAP + size[1] + index * (BAR + GAP)
        _draw_pack(ImageDraw.Draw(canvas), images, pack, budget, (GAP, top, across - GAP, top + BAR))
    return canvas


def _outlined(picture: Picture, images: Sequence[Result], size: tuple[int, int]) -> Image.Image:
    page = picture.resize(size, Resampling.BILINEAR)
    draw = ImageDraw.Draw(page, "RGBA")
    across, down = size[0] / picture.size[0], size[1] / picture.size[1]
    for image, colour in zip(images, tile_colours(len(images)), strict=True):
        if image.tile:
            left, top, right, bottom = image.box
            place = (left * across, top * down, min(right * across, size[0] - 1), min(bottom * down, size[1] - 1))
            draw.rectangle(place, (*colour, 40), (*colour, 255), 2)
            middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
            draw.text(middle, str(image.tile), colour, ImageFont.load_default(18), "mm")
    return page


def _draw_pack(
    draw: ImageDraw.ImageDraw, images: Sequence[Result], pack: int, budget: int, bar: tuple[int, int, int, int]
) -> None:
    """Draw a pack as a bar: the frame's images in their colours, other images grey, empty space white."""
    left, top, right, bottom = bar
    step = (right - left) / budget
    own = [(image, colour) for image, colour in zip(images, tile_colours(len(images)), strict=True)]
    own = [(image, colour) for image, colour in own if image.pack == pack]
    draw.rectangle(bar, _EMPTY, _EDGE)
    draw.rectangle((left, top, left + own[0][0].pack_tokens * step, bottom), _OTHERS, _EDGE)
    for image, colour in own:
        start = left + image.start * step
        end = start + image.grid_hw[0] * image.grid_hw[1] * step
        draw.rectangle((start, top, end, bottom), colour, _EDGE)
