"""Slices of NIfTI volumes in the orientation in which radiologists look at them."""

from __future__ import annotations

import gzip
import math
from collections.abc import Collection, Iterator
from io import BytesIO
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

_MOST_BYTES = 1 << 30
"""Of a volume as stored."""

_PART = 1 << 22
"""Bytes that are inflated at once."""


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
        values, slope, intercept, spacing, affine = _stored(_inflated(source, name), name, image)
        turned: npt.NDArray[Any] = nibabel.apply_orientation(values, nibabel.io_orientation(affine))  # type: ignore[no-untyped-call, unused-ignore]
        order = np.argsort(nibabel.io_orientation(affine)[:, 0])  # type: ignore[no-untyped-call, unused-ignore]
        spacing = [spacing[int(place)] for place in order]
    along, across, down = _AXES[volume.axis]
    check_size(turned.shape[across], turned.shape[down], name, image.max_pixels)
    planes = np.moveaxis(turned, along, 0)
    if isinstance(image.range, tuple):
        (low, high), of = image.range, "image.range"
    else:
        (low, high), of = _limits(planes, slope, intercept, name), "least to greatest of the volume"
    said = density.Density(spacing[down], spacing[across], False, "voxel spacing", extreme=20)
    aspect, _, ratio = density.resolve(said, image, name)
    wanted = range(0, len(planes), volume.step)
    told = Decision("orientation", f"{volume.axis}, every {volume.step}: by the affine, right at the left")
    for number, place in enumerate(wanted):
        if number in done:
            continue
        plane = planes[place].astype(np.float32) * slope + intercept
        if image.range == "frame":
            seen = plane[np.isfinite(plane)]
            (low, high), of = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0), "the frame's own"
        shown = scale(plane.T[::-1, ::-1], low, high)
        picture = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
        decisions = (told, Decision("range", f"{low:g}..{high:g}: {of}"), *ratio)
        yield Frame(number, picture, aspect=aspect, last=number == len(wanted) - 1, decisions=decisions)


def _inflated(source: Path | bytes, name: str) -> bytes:
    content = source if isinstance(source, bytes) else source.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    found = bytearray()
    with gzip.open(BytesIO(content)) as stream:
        while part := stream.read(_PART):  # one large read would take all of it at once, however small the file is
            found += part
            if len(found) > _MOST_BYTES:
                raise ImageError(f"{name}: expected at most {_MOST_BYTES} bytes of values", hint="cut it into parts")
    return bytes(found)


def _stored(
    content: bytes, name: str, image: ImageSection
) -> tuple[npt.NDArray[Any], np.float32, np.float32, list[float], npt.NDArray[np.float64]]:
    """Values [i, j, k] as they lie in a file, slope and intercept, the three spacings, and the affine."""
    import nibabel

    kind: Any = nibabel.Nifti2Image if content[4:8] in (b"n+2\0", b"ni2\0") else nibabel.Nifti1Image
    stated: Any = kind.header_class(content[: kind.header_class.sizeof_hdr], check=False)
    spacing = [abs(float(size)) for size in stated["pixdim"][1:4]]  # nibabel would take 1 for 0
    if image.pixel_aspect == "file" and not all(0 < size < np.inf for size in spacing):
        raise ImageError(
            f"{name}: expected voxels with three sides, found a voxel spacing of {spacing}",
            hint='correct the metadata, or set image.pixel_aspect = "square" to ignore it',
        )
    loaded: Any = kind.from_bytes(content)
    if not int(loaded.header["sform_code"]) and not int(loaded.header["qform_code"]):
        raise ImageError(
            f"{name}: expected an affine that says what lies where, found none", hint="write it with sform or qform"
        )
    shape = loaded.shape
    size = math.prod(shape) * loaded.header.get_data_dtype().itemsize  # NumPy's product of so many would wrap round
    if not 0 <= size <= _MOST_BYTES or len(shape) < 3 or min(shape) < 0:
        raise ImageError(
            f"{name}: expected three dimensions of at most {_MOST_BYTES} bytes, found {shape}", hint="cut it into parts"
        )
    if loaded.header.get_data_dtype().kind not in "iuf":
        raise ImageError(
            f"{name}: expected one number a voxel, found {loaded.header.get_value_label('datatype')}",
            hint="save its channels as volumes of their own",
        )
    there = max(len(content) - int(loaded.dataobj.offset), 0)
    if size > there:  # before room is made for them
        raise ImageError(
            f"{name}: damaged or truncated image: expected {size} bytes of values, found {there}",
            hint="replace the file",
        )
    values = np.asarray(loaded.dataobj.get_unscaled())
    first = values if values.ndim == 3 else values.reshape(*values.shape[:3], -1)[..., 0]
    slope, intercept = (np.float32(value) for value in (loaded.dataobj.slope, loaded.dataobj.inter))
    return first, slope, intercept, spacing, loaded.affine


def _limits(planes: npt.NDArray[Any], slope: np.float32, intercept: np.float32, name: str) -> tuple[float, float]:
    """Least and greatest value of a volume."""
    ends = []
    for plane in planes:
        known = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        ends += [known.min(), known.max()] if known.size else []
    if not ends:
        raise ImageError(f"{name}: expected numbers, found NaN or infinity alone", hint="leave it out")
    scaled = np.array([min(ends), max(ends)], np.float32) * slope + intercept
    return float(scaled.min()), float(scaled.max())
