"""Chooses and reads the images to observe. Each file is read once, so that its digest matches the prepared image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naflex_deploy.core.errors import ImageError, NaflexError, UsageError
from naflex_deploy.core.files import read_rows
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.packing.prepare import Preparer

ONE_COLOUR = 8
"""Largest difference within a channel for an image to count as one colour; compression adds that much noise."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image file, or the reason why it cannot be used.

    Attributes:
        path: Path relative to the directory of images.
        stamp: Size in bytes, and time of the last change in nanoseconds.
        digest: SHA-256 of the file.
        size: (width, height) in pixels, as decoded.
        images: The images that the file's first frame becomes: one, or the whole and its tiles.
        error: The reason why the file cannot be used; ``None`` if it can.
    """

    path: str
    stamp: tuple[int, int] = (0, 0)
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    images: tuple[Patches, ...] = ()
    error: NaflexError | None = None

    @property
    def tokens(self) -> int:
        """Number of patches of all its images."""
        return sum(map(len, self.images))

    @property
    def one_colour(self) -> bool:
        """Whether the image has a single colour, so that it shows nothing."""
        return all(_spread(image) <= ONE_COLOUR for image in self.images)


def shuffled(files: Sequence[str], seed: int) -> list[str]:
    """The files in an order that the seed determines."""
    return [files[index] for index in np.random.default_rng(seed).permutation(len(files))]


def load(folder: Path, path: str, prepare: Preparer) -> Sample:
    """Read and prepare one file."""
    try:
        stamp = stamp_of(folder / path)
        content = (folder / path).read_bytes()
    except OSError as error:
        reason = ImageError(f"{folder / path}: cannot be read: {error.strerror}", hint="it existed a moment ago")
        return Sample(path, error=reason)
    digest = hashlib.sha256(content).hexdigest()
    found = next(prepare(0, Input(str(folder / path), content)))
    first = found[0].result
    images = tuple(image.patches for image in found if image.patches is not None)
    return Sample(path, stamp, digest, first.size, images, first.error)


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and modification time of a file, which change when the file does.

    Raises:
        OSError: The file does not exist.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def read_labels(path: Path, files: Sequence[str]) -> dict[str, str]:
    """Read the class of each file from lines of ``path,class``. Blank lines are skipped.

    Args:
        path: The file of labels.
        files: Paths of the images, relative to their directory.

    Raises:
        UsageError: The file cannot be read, a line does not name a file of the directory, or two lines name the same.
    """
    known = set(files)
    lines: dict[str, int] = {}
    classes: dict[str, str] = {}
    for number, row in read_rows(path, hint="pass a file of path,class lines"):
        if len(row) != 2 or row[0] not in known:
            raise UsageError(
                f"{path}: line {number}: expected path,class with the path of an image, found '{','.join(row)}'",
                hint="paths are relative to the directory of images",
            )
        if row[0] in classes:
            raise UsageError(
                f"{path}: line {number}: '{row[0]}' is already in line {lines[row[0]]}",
                hint="remove one of the two lines",
            )
        lines[row[0]], classes[row[0]] = number, row[1]
    return classes


def _spread(image: Patches) -> int:
    channels = image.pixels.reshape(-1, 3)
    return int(np.ptp(channels.astype(np.int16), axis=0).max())
