"""The slices of one scan in the order of the body: names on media say nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.core.worker import WorkerError, stream
from naflex_deploy.runtime.images.media.dicom.reader import PYDICOM, is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

_ELEMENTS = [
    "Rows",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
]
"""Identifiers and geometry; none names a patient."""

Place = tuple[float, float]

Slice = tuple[tuple[str, str] | None, Place, bool]
"""The identifiers of study and series, where it is in them, and whether it has pixels."""


def is_dicom_file(path: Path) -> bool:
    """Whether the first bytes of a file are those of DICOM. The directory of a medium is none: it has no pixels."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(132))
    except OSError:
        return False


def in_slice_order(
    files: Iterable[Path], limits: LimitsSection, left_out: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """Put the slices of each series into the order of the body, at the place of the first of them.

    Reports, plans and other DICOM files without pixels are left out. Files that are not DICOM stay where they are, and
    all do where pydicom is not installed, which reading them says.

    Args:
        files: Of a folder.
        limits: Of headers, which are read in another process: a deflated file may inflate to any size.
        left_out: Called with each file without pixels.
    """
    found = list(files)
    slices = dict(_in_another_process([path for path in found if is_dicom_file(path)], limits))
    series: dict[object, list[tuple[Place, int, Path]]] = {}
    for index, path in enumerate(found):
        number, place, shown = slices.get(path) or (None, (0.0, 0.0), True)
        if not shown:
            left_out(path)
            continue
        key: object = index if number is None else (path.parent, *number)
        series.setdefault(key, []).append((place, index, path))
    return [path for members in series.values() for _, _, path in sorted(members)]


def _in_another_process(paths: list[Path], limits: LimitsSection) -> Iterator[tuple[Path, Slice | None]]:
    """Each path with its slice; ``None`` where its reader failed or had to be ended, which reading it explains."""
    while paths:
        done = 0
        try:
            for slice in stream(read_slices, paths, seconds=limits.seconds, memory=limits.memory, modules=(PYDICOM,)):
                yield paths[done], slice
                done += 1
        except (TimeoutError, WorkerError):
            yield paths[done], None
            done += 1
        paths = paths[done:]


def read_slices(paths: list[Path]) -> Iterator[Slice | None]:
    """Of each file, its study and series with its place among their slices; ``None`` where it cannot be told."""
    try:
        import pydicom
    except ModuleNotFoundError:
        yield from (None for _ in paths)
        return
    for path in paths:
        try:
            header = pydicom.dcmread(path, specific_tags=_ELEMENTS, stop_before_pixels=True, force=True)
            series = header.get("SeriesInstanceUID", None)
            numbers = (str(header.get("StudyInstanceUID", "")), str(series)) if series else None
            yield numbers, _place(header), "Rows" in header
        except Exception:
            yield None  # reading it says what is wrong with it


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
