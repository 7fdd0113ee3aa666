"""The slices of one scan in the order of the body: names on media say nothing of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from naflex_deploy.runtime.images.media.dicom.reader import is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

_ELEMENTS = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
]
"""Identifiers and geometry; none names a patient."""

Place = tuple[float, float]


def is_dicom_file(path: Path) -> bool:
    """Whether the first bytes of a file are those of DICOM. The directory of a medium is none: it has no pixels."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(132))
    except OSError:
        return False


def in_slice_order(files: Iterable[Path]) -> list[Path]:
    """Put the slices of each series into the order of the body, at the place of the first of them.

    Files that are not DICOM stay where they are, and all do where pydicom is not installed, which reading them says.
    """
    series: dict[object, list[tuple[Place, int, Path]]] = {}
    for index, path in enumerate(files):
        key: object = index
        place: Place = (0.0, 0.0)
        if is_dicom_file(path):
            try:
                import pydicom  # here, as it takes as long to import as hundreds of small images to embed

                header = pydicom.dcmread(path, specific_tags=_ELEMENTS, stop_before_pixels=True, force=True)
                key, place = _series(header, path, index), _place(header)
            except Exception:
                key = index  # reading it says what is wrong with it
        series.setdefault(key, []).append((place, index, path))
    return [path for members in series.values() for _, _, path in sorted(members)]


def _series(header: Dataset, path: Path, index: int) -> object:
    """What the slices of one scan share, their folder included."""
    number = header.get("SeriesInstanceUID", None)
    return (path.parent, str(header.get("StudyInstanceUID", "")), str(number)) if number else index


def _place(header: Dataset) -> Place:
    """The distance along the normal of the slice, then the instance number.

    The normal is the cross product of the directions of rows and columns (DICOM PS3.3 C.7.6.2.1.1).
    """
    number = float(header.get("InstanceNumber", None) or 0)
    position, directions = header.get("ImagePositionPatient", None), header.get("ImageOrientationPatient", None)
    if position is None or directions is None or len(position) != 3 or len(directions) != 6:
        return 0.0, number
    along = np.cross(np.asarray(directions[:3], float), np.asarray(directions[3:], float))
    return round(float(along @ np.asarray(position, float)), 4), number
