"""Draws pages of ten kinds, each from a seed, using only numpy and Pillow.

Only local features tell the kinds apart (line spacing, columns, rules, boxes, glyphs, strokes). Sizes and aspect ratios
overlap between kinds, and headings, barcodes, stamps and paragraphs appear on all of them, so that neither the shape of
a page nor any such part gives its kind away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from naflex_deploy.demo.degrade import degrade
from naflex_deploy.demo.furniture import furnish
from naflex_deploy.demo.kinds import BODIES
from naflex_deploy.demo.sheet import Sheet

KINDS: tuple[str, ...] = tuple(BODIES)

MIN_SIDE, MAX_SIDE = 150, 1600

# Usual height / width of each kind. Half of the pages ignore it and take any shape from 1:6 to 6:1.
USUAL_ASPECT = {
    "invoice": (0.9, 1.7),
    "receipt": (2.0, 6.0),
    "letter": (0.9, 1.7),
    "table": (0.4, 1.6),
    "form": (0.6, 1.7),
    "code": (0.5, 1.8),
    "chart": (0.4, 1.3),
    "id-card": (0.5, 0.9),
    "ticket": (0.2, 0.6),
    "note": (0.6, 2.0),
}


@dataclass(frozen=True)
class Page:
    """A drawn page.

    Attributes:
        image: RGB image with sides of 150 to 1600 pixels, times the density.
        kind: One of ``KINDS``.
    """

    image: Image.Image
    kind: str


def draw_page(seed: int | tuple[int, ...], kind: str | None = None, density: float = 1.0) -> Page:
    """Draw one page; the same seed gives the same pixels.

    Args:
        seed: A non-negative seed; a tuple ``(stream, index)`` identifies a page in a stream.
        kind: One of ``KINDS``; ``None`` leaves the choice to the seed.
        density: Factor on the sides of the page. The text keeps its size, so that a larger page holds more of it.

    Raises:
        KeyError: ``kind`` is not one of ``KINDS``.
    """
    rng = np.random.default_rng(seed)
    chosen = KINDS[rng.integers(len(KINDS))]
    kind = chosen if kind is None else kind
    width, height = _size(rng, USUAL_ASPECT[kind])
    sheet = Sheet.blank(rng, round(width * density), round(height * density), density)
    BODIES[kind](sheet, furnish(sheet, kind))
    return Page(degrade(sheet, rng), kind)


def draw_pages(seed: int, count: int, density: float = 1.0) -> Iterator[Page]:
    """Draw the first ``count`` pages of a stream, where page i is ``draw_page((seed, i))``."""
    for index in range(count):
        yield draw_page((seed, index), density=density)


def _size(rng: np.random.Generator, usual: tuple[float, float]) -> tuple[int, int]:
    """(width, height) in pixels."""
    low, high = usual if rng.random() < 0.5 else (1 / 6, 6.0)
    aspect = np.exp(rng.uniform(np.log(low), np.log(high)))
    root = np.exp(rng.uniform(np.log(220), np.log(720)))
    width, height = np.clip([root / aspect**0.5, root * aspect**0.5], MIN_SIDE, MAX_SIDE)
    return int(width), int(height)
