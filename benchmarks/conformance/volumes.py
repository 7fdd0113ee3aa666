"""NIfTI against the DICOM slices that dcm2niix made it of, as DCMTK shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.uid import generate_uid

from benchmarks.conformance.dicoms import dataset, shown
from benchmarks.conformance.probe import Probe, run

BY = "DCMTK dcm2pnm, dcm2niix"
WINDOW = "image.range=[500, 2499]"
"""What DICOM calls a centre of 1500 and a width of 2000."""

COUNT = 5


def probes(folder: Path) -> Iterator[Probe]:
    rng = np.random.default_rng(1)
    series = folder / "series"
    series.mkdir()
    study = generate_uid()
    rows, columns = np.mgrid[:60, :80]
    for number in range(COUNT):
        values = (columns * 30 + rows * 10 + number * 200 + rng.normal(0, 20, rows.shape)).clip(0, 4095)
        elements: dict[str, Any] = {
            "WindowCenter": 1500,
            "WindowWidth": 2000,
            "PixelSpacing": [1.0, 1.0],
            "SliceThickness": 3,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-40, -30, 3 * number],
            "InstanceNumber": number + 1,
            "SeriesNumber": 1,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study[:60]}.1",
            "SeriesDescription": "head",
        }
        dataset(values.astype(np.uint16), elements).save_as(series / f"{number}.dcm", enforce_file_format=True)
    for option, suffix in (("n", "nii"), ("y", "nii.gz")):
        made = folder / suffix.replace(".", "-")
        made.mkdir()
        run("dcm2niix", "-z", option, "-o", made, "-f", "a", "-b", "n", series)
        for number in (0, 2, COUNT - 1):
            yield _probe(f"{suffix}, slice {number + 1}", made / f"a.{suffix}", series, number)
    plain: Any = nibabel.load(folder / "nii" / "a.nii")
    values, affine = np.asarray(plain.dataobj), plain.affine
    turned = folder / "turned.nii"
    _save(turned, nibabel.Nifti1Image, values[::-1, ::-1, ::-1], affine @ _flips(values.shape))
    yield _probe("stored the other way round", turned, series, 1)
    exchanged = folder / "exchanged.nii"
    order = affine[:, [2, 1, 0, 3]]
    _save(exchanged, nibabel.Nifti1Image, np.moveaxis(values, 2, 0).swapaxes(1, 2), order)
    yield _probe("slices as its first axis", exchanged, series, 1)
    second = folder / "second.nii"
    _save(second, nibabel.Nifti2Image, values, affine)
    yield _probe("NIfTI-2", second, series, 3)
    floats = folder / "floats.nii"
    _save(floats, nibabel.Nifti1Image, values.astype(np.float32), affine)
    yield _probe("floating point", floats, series, 3)
    several = folder / "several.nii"
    _save(several, nibabel.Nifti1Image, np.stack([values, values[::-1]], 3), affine)
    yield _probe("first of two volumes over time", several, series, 3)
    nowhere = folder / "nowhere.nii"
    _save(nowhere, nibabel.Nifti1Image, values, None)
    yield _probe("without an affine", nowhere, series, 0)


def _probe(name: str, path: Path, series: Path, number: int) -> Probe:
    reference = shown(series / f"{number}.dcm", ["+Wi", "1"])
    return Probe(name, path, reference, BY, 0.6, settings=(WINDOW,), frame=number)


def _save(path: Path, kind: Any, values: Any, affine: Any) -> None:
    kind(values, affine).to_filename(path)


def _flips(shape: tuple[int, ...]) -> Any:
    found = np.diag([-1.0, -1.0, -1.0, 1.0])
    found[:3, 3] = np.array(shape) - 1
    return found
