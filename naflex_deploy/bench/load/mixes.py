"""Images to measure with: seeded distributions of sizes, a list of sizes, or the user's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from naflex_deploy.core.errors import UsageError, nearest
from naflex_deploy.core.files import read_rows
from naflex_deploy.runtime.images.inputs import expand

T = TypeVar("T")
Size = tuple[int, int]
"""(width, height) in pixels."""

A4, LETTER = (8.27, 11.69), (8.5, 11.0)
"""(width, height) of pages in inches."""

JPEG_SIDE = 65_500
"""Longest side of a JPEG in pixels."""


@dataclass(frozen=True)
class Mix:
    """The images of a measurement.

    Attributes:
        name: Name in reports.
        about: Description for a person.
        sources: The encoded files.
        names: Name of each file in messages: its path or its size.
    """

    name: str
    about: str
    sources: tuple[bytes, ...]
    names: tuple[str, ...]


Draw = Callable[[np.random.Generator, int, int], Iterable[Size]]


@dataclass(frozen=True)
class Distribution:
    """A distribution of image sizes.

    Attributes:
        about: Description for a person.
        draw: Draws sizes, given a random generator, their number and the largest number of pixels in an image.
        codec: Codec of the files: JPEG or PNG.
    """

    about: str
    draw: Draw
    codec: str


def _photos(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    sizes = [(640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (375, 500), (612, 612), (640, 360)]
    shares = [0.32, 0.16, 0.2, 0.08, 0.09, 0.05, 0.05, 0.05]
    return [sizes[index] for index in random.choice(len(sizes), count, p=shares)]


def _web(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    area = np.exp(random.normal(np.log(5e5), 0.9, count)).clip(200 * 200, most)
    aspect = np.exp(random.normal(0.2, 0.4, count)).clip(1 / 3, 3)
    for side, ratio in zip(np.sqrt(area), np.sqrt(aspect), strict=True):
        yield max(200, int(side * ratio)), max(200, int(side / ratio))


def _documents(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    for _ in range(count):
        if random.random() < 0.2:
            width = int(random.integers(400, 800))
            yield width, int(width * random.uniform(3, 6))
            continue
        dots = int(random.choice([100, 150, 200, 300]))
        short, long = (round(inches * dots) for inches in (A4 if random.random() < 0.5 else LETTER))
        yield (short, long) if random.random() < 0.85 else (long, short)


def _screens(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    sizes = [(1280, 720), (1920, 1080), (2560, 1440), (1080, 2340), (1170, 2532), (720, 1560)]
    return [sizes[index] for index in random.integers(0, len(sizes), count)]


def _thumbnails(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    sizes = [(96, 96), (128, 96), (96, 128), (150, 150), (160, 120), (64, 64)]
    return [sizes[index] for index in random.integers(0, len(sizes), count)]


def _adversarial(random: np.random.Generator, count: int, most: int) -> Iterable[Size]:
    side = int(most**0.5)
    for number in range(count):
        long, tiny = int(random.integers(500, 4000)), int(random.integers(1, 16))
        yield [(side, side), (1, long), (tiny, tiny), (long, 1), (tiny, long), (1, 1), (long, tiny), (17, 16)][
            number % 8
        ]


DISTRIBUTIONS = {
    "photos": Distribution("photo-like: 640x480, 480x640 and 640x427 above all", _photos, "JPEG"),
    "web": Distribution("log-normal area around half a megapixel, short side from 200, sides up to 3:1", _web, "JPEG"),
    "documents": Distribution("Letter and A4 at 100-300 dpi, receipts of 1:3 to 1:6", _documents, "JPEG"),
    "ui": Distribution("screens of 16:9 and 9:19.5", _screens, "PNG"),
    "thumbnails": Distribution("64 to 160 pixels a side", _thumbnails, "JPEG"),
    "adversarial": Distribution("1xN, Nx1, tiny, as large as allowed", _adversarial, "PNG"),
}


PROFILES = {"doc-ocr": "documents"}
"""Mixes that suit profiles other than those of photos, by the names of built-in profiles."""


def mix_for(profile: str) -> str:
    """The mix that suits a profile; ``doc-ocr-tuned`` is one that was made from ``doc-ocr``."""
    return next((mix for name, mix in PROFILES.items() if profile == name or profile.startswith(f"{name}-")), "photos")


def draw_sizes(name: str, count: int, *, seed: int = 0, max_pixels: int = 40_000_000) -> list[Size]:
    """Draw sizes from a distribution. The same seed always gives the same sizes.

    Args:
        name: One of `DISTRIBUTIONS`.
        count: Number of sizes.
        seed: Seed of the draw.
        max_pixels: Largest number of pixels in an image.

    Raises:
        UsageError: There is no distribution of that name; the hint gives the nearest name.
    """
    if name not in DISTRIBUTIONS:
        raise UsageError(f"no mix named '{name}'", hint=nearest(name, DISTRIBUTIONS))
    return list(DISTRIBUTIONS[name].draw(np.random.default_rng(seed), count, max_pixels))


def choose_mix(name: str | None, path: Path | None, count: int, *, seed: int = 0, max_pixels: int = 40_000_000) -> Mix:
    """Make images from a distribution or from sizes listed in a file, or read those of a directory.

    Args:
        name: One of `DISTRIBUTIONS`; defaults to photos if there is no path.
        path: A file of ``w,h`` lines or a directory; if it has more than ``count`` images, a sample is drawn.
        count: Number of images.
        seed: Seed of sizes, pixels and sample.
        max_pixels: Largest number of pixels in an image.

    Raises:
        UsageError: The name is unknown, the path cannot be read, or a line is not a size.
    """
    if path is None:
        name = name or "photos"
        sizes = draw_sizes(name, count, seed=seed, max_pixels=max_pixels)
        found = DISTRIBUTIONS[name]
        return _made_up(name, found.about, sizes, found.codec, seed)
    if path.is_dir():
        files = list(expand([path]))
        chosen = _sample(files, count, seed)
        try:
            sources = tuple(file.read_bytes() for file in chosen)
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}", hint="check the file") from None
        return Mix(path.name, f"{len(chosen)} of {len(files)} files", sources, tuple(map(str, chosen)))
    listed = read_sizes(path)
    usable = [(width, height) for width, height in listed if width * height <= max_pixels]
    if not usable:
        raise UsageError(f"{path}: every size is above image.max_pixels = {max_pixels:,}", hint="raise it")
    picked = _sample(usable, count, seed)
    about = f"{len(picked)} of {len(listed)} sizes"
    if len(usable) < len(listed):
        about += f", {len(listed) - len(usable)} above image.max_pixels left out"
    return _made_up(path.name, about, picked, "JPEG", seed)


def _sample(items: Sequence[T], count: int, seed: int) -> list[T]:
    """A sample of ``count`` items, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.sort(np.random.default_rng(seed).choice(len(items), count, replace=False))]


def read_sizes(path: Path) -> list[Size]:
    """Read the sizes from a file of ``w,h`` lines; a first line without a number is a header.

    Raises:
        UsageError: The file cannot be read, or a line is not a size; names the line.
    """
    rows = read_rows(path, hint="pass a file of w,h lines")
    if rows and not any(cell.strip().lstrip("-").isdigit() for cell in rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise UsageError(f"{path}: expected w,h lines, found none", hint="write one image per line, such as 640,480")
    return [_size(path, line, row) for line, row in rows]


def _size(path: Path, line: int, row: list[str]) -> Size:
    cells = [cell.strip() for cell in row]
    if len(cells) == 2 and all(cell.isascii() and cell.isdigit() and 0 < int(cell) < 10**6 for cell in cells):
        return int(cells[0]), int(cells[1])
    raise UsageError(
        f"{path}, line {line}: expected width,height in pixels, found '{','.join(row)[:60]}'",
        hint="write one image per line, such as 640,480",
    )


def _made_up(name: str, about: str, sizes: Sequence[Size], codec: str, seed: int) -> Mix:
    files = tuple(encode(size, codec, seed + number) for number, size in enumerate(sizes))
    return Mix(name, about, files, tuple(f"{width}x{height}" for width, height in sizes))


def encode(size: Size, codec: str, seed: int = 0) -> bytes:
    """Make a synthetic image: a JPEG of smooth noise, about as dense as a photo, or a PNG of flat tiles."""
    width, height = size
    if max(size) > JPEG_SIDE:
        codec = "PNG"
    random = np.random.default_rng(seed)
    block, smooth = (8, Image.Resampling.BICUBIC) if codec == "JPEG" else (32, Image.Resampling.NEAREST)
    rows, columns = -(-height // block), -(-width // block)
    small = Image.fromarray(random.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
    stream = BytesIO()
    options = {"quality": 88} if codec == "JPEG" else {"compress_level": 1}
    small.resize(size, smooth).save(stream, codec, **options)
    return stream.getvalue()
