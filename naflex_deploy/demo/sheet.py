"""A sheet of paper to draw on, with its colours, its text size, and the strokes that all kinds of pages share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]


class Box(NamedTuple):
    """A region of the sheet, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def inset(self, margin: float) -> Box:
        """The region without a margin on each side."""
        return Box(self.left + margin, self.top + margin, self.right - margin, self.bottom - margin)

    def columns(self, count: int, gap: float = 0.0) -> list[Box]:
        """Equal columns, ``gap`` pixels apart."""
        step = (self.width + gap) / count
        return [
            Box(self.left + i * step, self.top, self.left + (i + 1) * step - gap, self.bottom) for i in range(count)
        ]

    def cut(self, top: float) -> tuple[Box, Box]:
        """The uppermost ``top`` pixels, and the rest."""
        edge = min(self.top + top, self.bottom)
        return self._replace(bottom=edge), self._replace(top=edge)


_SYLLABLES = ["ba", "co", "di", "en", "fu", "ga", "ha", "il", "jo", "ka", "li", "mo", "nu", "or", "pe"]
_SYLLABLES += ["qui", "ra", "so", "te", "un", "va", "wi", "xe", "yo", "za", "st", "in", "al", "er", "ton"]
_lexicon_rng = np.random.default_rng(7)
WORDS = tuple("".join(_lexicon_rng.choice(_SYLLABLES, _lexicon_rng.integers(1, 5))) for _ in range(400))


@lru_cache(maxsize=256)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's embedded font at a size in pixels."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=16384)
def text_width(text: str, size: int) -> float:
    """Advance of a text, in pixels."""
    return font(size).getlength(text)


@lru_cache(maxsize=8192)
def _glyph(character: str, size: int) -> np.ndarray:
    """One character centred in a cell of fixed width, [1.3·size, 0.62·size] uint8."""
    cell = Image.new("L", (max(3, round(size * 0.62)), round(size * 1.3)))
    ImageDraw.Draw(cell).text((cell.width / 2, size), character, 255, font(size), anchor="ms")
    return np.asarray(cell)


@dataclass
class Sheet:
    """A page being drawn.

    Attributes:
        em: Size of body text, in pixels. It follows the page's area, so that after the resize to a
            token budget text is equally large on small and on large pages.
        ink: Colour of text and rules; ``accent`` colours logos, bands and bars.
    """

    rng: np.random.Generator
    image: Image.Image
    draw: ImageDraw.ImageDraw
    em: int
    paper: Color
    ink: Color
    accent: Color

    @classmethod
    def blank(cls, rng: np.random.Generator, width: int, height: int, density: float = 1.0) -> Sheet:
        """A blank sheet of light paper with dark ink; one sheet in ten has dark paper and light ink.

        Args:
            density: Times by which text is smaller than usual for the page.
        """
        light = rng.integers(225, 256) - rng.integers(0, 24, 3)
        dark = rng.integers(0, 50) + rng.integers(0, 30, 3)
        paper, ink = (dark, light) if rng.random() < 0.1 else (light, dark)
        image = Image.new("RGB", (width, height), tuple(paper.tolist()))
        em = max(6, round((width * height) ** 0.5 / density / rng.uniform(14, 25)))
        accent = rng.integers(20, 220, 3)
        return cls(rng, image, ImageDraw.Draw(image), em, *(tuple(c.tolist()) for c in (paper, ink, accent)))

    @property
    def hairline(self) -> int:
        """Width of a thin rule in pixels."""
        return max(1, round(self.em / 9))

    def mix(self, share: float) -> Color:
        """The colour of ink mixed with paper, with a ``share`` of ink."""
        red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(self.ink, self.paper, strict=True))
        return red, green, blue

    def size(self, ems: float) -> int:
        """A text size in whole pixels, from a size in ems."""
        return max(5, round(ems * self.em))

    def words(self, count: int) -> str:
        """A text of ``count`` random words."""
        return " ".join(WORDS[i] for i in self.rng.integers(len(WORDS), size=count))

    def number(self, decimals: bool = True) -> str:
        """A random amount of one to five digits."""
        value = int(10 ** self.rng.uniform(0, 4.5))
        return f"{value},{self.rng.integers(100):02d}" if decimals else str(value)

    def fit(self, text: str, width: float, size: int) -> str:
        """The longest start of a text that fits a width."""
        length = text_width(text, size)
        return text if length <= width else text[: max(1, int(len(text) * width / length))]

    def text(self, x: float, y: float, text: str, size: int, anchor: str = "lm", fill: Color | None = None) -> None:
        """Draw proportional text; ``anchor`` is Pillow's."""
        self.draw.text((round(x), round(y)), text, fill or self.ink, font(size), anchor=anchor)

    def mono(self, x: float, y: float, text: str, size: int, fill: Color | None = None) -> None:
        """Draw fixed-pitch text, vertically centred on ``y``."""
        if text:
            cells = np.concatenate([_glyph(character, size) for character in text], axis=1)
            self.draw.bitmap((round(x), round(y - size * 0.65)), Image.fromarray(cells), fill or self.ink)

    def rule(self, x0: float, y0: float, x1: float, y1: float, width: int = 0, fill: Color | None = None) -> None:
        """Draw a solid line, a hairline by default."""
        self.draw.line((x0, y0, x1, y1), fill or self.ink, width or self.hairline)

    def dashes(self, x0: float, y0: float, x1: float, y1: float, period: float, fill: Color | None = None) -> None:
        """Draw a dashed line, with half of each period drawn."""
        count = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / period))
        xs, ys = np.linspace(x0, x1, 2 * count + 1), np.linspace(y0, y1, 2 * count + 1)
        for i in range(0, 2 * count, 2):
            self.rule(xs[i], ys[i], xs[i + 1], ys[i + 1], fill=fill)

    def frame(self, box: Box, fill: Color | None = None, outline: Color | None = None, width: int = 0) -> None:
        """Draw a rectangle, unless the box is empty."""
        if box.width >= 1 and box.height >= 1:
            self.draw.rectangle(box, fill, outline, width or self.hairline)

    def prose(self, box: Box, leading: float, size: int, paragraph: int = 7, justified: bool = False) -> None:
        """Draw paragraphs of about so many lines, ``leading`` ems from line to line."""
        y, per_line = box.top + size / 2, max(1, int(box.width / (3.2 * size)))
        while y < box.bottom - size / 2:
            lines = int(self.rng.integers(2, paragraph + 1))
            for line in range(lines):
                if y > box.bottom - size / 2:
                    break
                words = self.fit(self.words(per_line + 1), box.width * self.rng.uniform(0.82, 1), size)
                if line == lines - 1:
                    words = words[: max(4, int(len(words) * self.rng.uniform(0.2, 0.8)))]
                elif justified:
                    self._justify(box, y, words.split(), size)
                    words = ""
                self.text(box.left, y, words, size)
                y += leading * size
            y += 0.6 * leading * size

    def _justify(self, box: Box, y: float, words: list[str], size: int) -> None:
        widths = [text_width(word, size) for word in words]
        gap = (box.width - sum(widths)) / max(1, len(words) - 1)
        x = box.left
        for word, width in zip(words, widths, strict=True):
            self.text(x, y, word, size)
            x += width + gap

    def scrawl(self, box: Box, y: float, size: float, fill: Color | None = None) -> None:
        """Draw a line of handwriting: loops of uneven height, joined within words, that lean to the right."""
        x, width = box.left, max(1, round(size / 11))
        while x < box.right - size:
            letters = min(int(self.rng.integers(2, 9)), int((box.right - x) / (0.55 * size)))
            if letters < 1:
                break
            turn = np.linspace(0, letters, 9 * letters + 1)
            tall = np.interp(turn, np.arange(letters + 1), self._letter_heights(letters + 1))
            ys = -np.sin(2 * np.pi * turn) * 0.3 * tall * size
            loops = self.rng.uniform(0.06, 0.16) * np.cos(2 * np.pi * turn) * size
            xs = turn * 0.5 * size + loops - 0.3 * ys
            wander = np.cumsum(self.rng.normal(0, 0.012 * size, len(turn)))
            points = np.stack([x + xs, y + ys + wander], axis=1)
            self.draw.line(points.ravel().tolist(), fill or self.ink, width, joint="curve")
            x += letters * 0.5 * size + self.rng.uniform(0.4, 0.9) * size

    def _letter_heights(self, count: int) -> np.ndarray:
        heights = self.rng.uniform(0.7, 1.1, count)
        return np.where(self.rng.random(count) < 0.25, heights * 2, heights)

    def barcode(self, box: Box, upright: bool = True) -> None:
        """Draw bars of uneven width, side by side across the box, or below each other if not upright."""
        x, unit = 0.0, max(1.0, self.em / 7)
        length = box.width if upright else box.height
        while x < length - 3 * unit:
            bar = unit * int(self.rng.integers(1, 4))
            if upright:
                self.frame(Box(box.left + x, box.top, box.left + x + bar - 1, box.bottom), self.ink)
            else:
                self.frame(Box(box.left, box.top + x, box.right, box.top + x + bar - 1), self.ink)
            x += bar + unit * int(self.rng.integers(1, 4))

    def matrix_code(self, left: float, top: float, side: float) -> None:
        """Draw a square of random dark cells."""
        cells = (self.rng.random((17, 17)) < 0.5).astype(np.uint8) * 255
        mask = Image.fromarray(cells).resize((max(17, int(side)),) * 2, Image.Resampling.NEAREST)
        self.draw.bitmap((round(left), round(top)), mask, self.ink)
