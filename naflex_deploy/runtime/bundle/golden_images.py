"""Golden images: encoded pictures and their patches, which travel in a bundle and show a changed image library.

Golden packs start behind the reading of images. These start at the bytes of a file and go through decoding,
orientation, ranges, pixel aspect and resampling, so that a library that gives other pixels on the machine at hand is
seen there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import BundleError, ImageError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.cutting import Cutter
from naflex_deploy.runtime.images.media.read import read_pictures
from naflex_deploy.runtime.images.versions import pixel_versions

FILE = "golden-images.npz"
TOKENS = 16
"""Most patches of a golden image: enough to see a library, few enough to weigh little."""

TOLERANCE = 2
"""Levels of 255 by which a pixel may differ: decoders of lossy formats round differently, and no model notices."""


@dataclass(frozen=True, eq=False)
class GoldenImage:
    """One picture.

    Attributes:
        name: What is odd about it.
        content: The encoded file.
        grid_hw: Rows and columns of its patches.
        patches: [h·w, P·P·3] uint8.
    """

    name: str
    content: bytes
    grid_hw: tuple[int, int]
    patches: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PixelCheck:
    """How the machine at hand decodes and fits the golden images.

    Attributes:
        images: Number of golden images.
        worst: Largest difference of a pixel, in levels of 255; 255 where an image cannot be read or has another grid.
        changed: For the name of each image that differs, the size of the difference or the reason.
        versions: Versions of the libraries on this machine.
        made_with: Versions of the libraries with which the bundle was built.
    """

    images: int
    worst: int
    changed: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.worst <= TOLERANCE


@dataclass(frozen=True, eq=False)
class GoldenImages:
    """What ``golden-images.npz`` holds."""

    images: Sequence[GoldenImage]
    versions: dict[str, str]

    @classmethod
    def of(cls, contents: dict[str, bytes], model: Preprocessing) -> GoldenImages:
        """The patches that this machine makes of encoded pictures.

        Raises:
            ImageError: One cannot be read.
        """
        images = []
        for name, content in contents.items():
            grid_hw, patches = _patches(name, content, model)
            images.append(GoldenImage(name, content, grid_hw, patches))
        return cls(images, pixel_versions())

    def write(self, path: Path) -> None:
        arrays: dict[str, npt.NDArray[np.generic]] = {"versions": np.array(json.dumps(self.versions))}
        for index, image in enumerate(self.images):
            arrays[f"{index}/name"] = np.array(image.name)
            arrays[f"{index}/content"] = np.frombuffer(image.content, np.uint8)
            arrays[f"{index}/grid_hw"] = np.array(image.grid_hw, np.int32)
            arrays[f"{index}/patches"] = image.patches
        with path.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> GoldenImages:
        """Read ``golden-images.npz``; never unpickles.

        Raises:
            BundleError: It is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                count = sum(name.endswith("/grid_hw") for name in arrays.files)
                images = [
                    GoldenImage(
                        str(arrays[f"{index}/name"]),
                        arrays[f"{index}/content"].tobytes(),
                        (int(arrays[f"{index}/grid_hw"][0]), int(arrays[f"{index}/grid_hw"][1])),
                        arrays[f"{index}/patches"],
                    )
                    for index in range(count)
                ]
                return cls(images, json.loads(str(arrays["versions"])))
        except Exception as error:  # zipfile and numpy raise nearly any of them on damaged data
            raise BundleError(f"{path} is damaged: {error}", hint="copy or build the bundle again") from None

    def check(self, model: Preprocessing) -> PixelCheck:
        """Read every picture again, through the whole chain, and compare its patches."""
        changed: dict[str, str] = {}
        worst = 0
        for image in self.images:
            try:
                grid_hw, patches = _patches(image.name, image.content, model)
            except ImageError as error:
                changed[image.name], worst = error.message, 255
                continue
            if grid_hw != image.grid_hw or patches.shape != image.patches.shape:
                changed[image.name], worst = f"a grid of {grid_hw}, expected {image.grid_hw}", 255
                continue
            difference = int(np.abs(patches.astype(np.int16) - image.patches).max())
            if difference:
                changed[image.name] = f"{difference} levels"
                worst = max(worst, difference)
        return PixelCheck(len(self.images), worst, changed, pixel_versions(), self.versions)


def _patches(name: str, content: bytes, model: Preprocessing) -> tuple[tuple[int, int], npt.NDArray[np.uint8]]:
    """Of a profile of its own: the file checks libraries, whatever the settings of the bundle."""
    cutter = Cutter(ImageSection(tokens=TOKENS), model, TOKENS)
    frame = next(read_pictures(content, name, cutter.image))
    piece = cutter(frame, name)[1][0]
    return piece.patches.grid_hw, np.asarray(piece.patches.pixels, np.uint8)
