"""Slices of NIfTI volumes in the orientation in which radiologists look at them."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection, VolumeSection
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.depth import scale
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.source import check_size, damage

_AXES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
"""Of right-anterior-superior axes: those along the slices, along a row and along a column."""

_MOST_VALUES = 1 << 28
"""Values of a volume: 1 GiB in float32."""


def is_volume(start: bytes, name: str) -> bool:
    """Whether a file is NIfTI, by its magic number or, where it is compressed, by its name."""
    header = start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")
    return header or (start.startswith(b"\x1f\x8b") and name.lower().endswith(".nii.gz"))


def read_volume(
    source: Path | bytes, *, name: str, image: ImageSection, volume: VolumeSection, done: Collection[int] = ()
) -> Iterator[Frame]:
    """The slices of a volume, the patient's right at the left of the picture and its front or head at the top.

    Values go to 8 bits by ``image.range``: of all slices together, from the least to the greatest where that names
    no range. The first of several volumes over time is taken.

    Args:
        source: Path, or content.
        name: In messages.
        image, volume: Of the profile.
        done: Numbers of slices that are left out.

    Raises:
        ImageError: It is damaged, has no affine to say what lies where, or is too large.
        MissingExtraError: nibabel is not installed.
    """
    with needs_extra("nifti"):
        import nibabel
    with damage(name):
        content = source if isinstance(source, bytes) else source.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        kind = nibabel.Nifti2Image if content[4:8] in (b"n+2\0", b"ni2\0") else nibabel.Nifti1Image
        loaded: Any = kind.from_bytes(content)
        if not int(loaded.header["sform_code"]) and not int(loaded.header["qform_code"]):
            raise ImageError(
                f"{name}: expected an affine that says what lies where, found none", hint="write it with sform or qform"
            )
        if int(np.prod(loaded.shape)) > _MOST_VALUES or len(loaded.shape) < 3:
            raise ImageError(
                f"{name}: expected three dimensions of at most {_MOST_VALUES} values, found {loaded.shape}",
                hint="cut it into parts",
            )
        upright: Any = nibabel.as_closest_canonical(loaded)  # type: ignore[no-untyped-call, unused-ignore]
        every: npt.NDArray[np.float32] = np.asarray(upright.dataobj, np.float32)
        values: npt.NDArray[np.float32] = every if every.ndim == 3 else every.reshape(*every.shape[:3], -1)[:, :, :, 0]
        spacing = [float(size) for size in upright.header.get_zooms()[:3]]
    along, across, down = _AXES[volume.axis]
    known = values[np.isfinite(values)]
    if not known.size:
        raise ImageError(f"{name}: expected numbers, found NaN or infinity alone", hint="leave it out")
    low, high = image.range if isinstance(image.range, tuple) else (float(known.min()), float(known.max()))
    of = "image.range" if isinstance(image.range, tuple) else "least to greatest of the volume"
    check_size(values.shape[across], values.shape[down], name, image.max_pixels)
    said = density.Density(spacing[down], spacing[across], False, "voxel spacing", extreme=20)
    aspect, _, ratio = density.resolve(said, image)
    wanted = range(0, values.shape[along], volume.step)
    told = Decision("orientation", f"{volume.axis}, every {volume.step}: by the affine, right at the left")
    for number, place in enumerate(wanted):
        if number in done:
            continue
        plane = np.moveaxis(values, along, 0)[place]
        if image.range == "frame":
            seen = plane[np.isfinite(plane)]
            low, high, of = (
                (float(seen.min()), float(seen.max()), "the frame's own") if seen.size else (0.0, 0.0, "none")
            )
        shown = scale(plane.T[::-1, ::-1], low, high)
        picture = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
        decisions = (told, Decision("range", f"{low:g}..{high:g}: {of}"), *ratio)
        yield Frame(number, picture, aspect=aspect, last=number == len(wanted) - 1, decisions=decisions)
