"""DICOM against DCMTK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from benchmarks.conformance.probe import Pixels, Probe, pnm, run

BY = "DCMTK dcm2pnm"


def probes(folder: Path) -> Iterator[Probe]:
    rng = np.random.default_rng(0)
    wave = (np.sin(np.arange(120)[:, None] / 9) + np.cos(np.arange(160) / 7)) * 900 + 2000
    slices = (wave + rng.normal(0, 20, wave.shape)).clip(0, 4095)
    twelve, signed = slices.astype(np.uint16), (slices - 1024).astype(np.int16)
    eight = (slices / 16).astype(np.uint8)
    window = {"WindowCenter": 1500, "WindowWidth": 2000}
    ct = {"WindowCenter": 300, "WindowWidth": 1500, "RescaleSlope": 1, "RescaleIntercept": -1024}
    cases: list[tuple[str, np.ndarray[Any, Any], dict[str, Any], list[str]]] = [
        ("window", twelve, window, ["+Wi", "1"]),
        ("window, MONOCHROME1", twelve, window | {"PhotometricInterpretation": "MONOCHROME1"}, ["+Wi", "1"]),
        ("window, rescaled to Hounsfield units", twelve, ct, ["+Wi", "1"]),
        ("window, signed", signed, {"WindowCenter": 200, "WindowWidth": 1000}, ["+Wi", "1"]),
        ("window, slope of a half", twelve, ct | {"RescaleSlope": 0.5}, ["+Wi", "1"]),
        ("first of two windows", twelve, {"WindowCenter": [1500, 100], "WindowWidth": [2000, 50]}, ["+Wi", "1"]),
        ("sigmoid window", twelve, window | {"VOILUTFunction": "SIGMOID"}, ["+Wi", "1"]),
        ("narrow window", twelve, {"WindowCenter": 2000, "WindowWidth": 100}, ["+Wi", "1"]),
        ("no window, 12 bits", twelve, {}, ["+Wm"]),
        ("no window, signed", signed, {}, ["+Wm"]),
        ("no window, 8 bits", eight, {}, []),
        ("8 bits, MONOCHROME1", eight, {"PhotometricInterpretation": "MONOCHROME1"}, []),
        ("identity rescale, 8 bits", eight, {"RescaleSlope": 1, "RescaleIntercept": 0}, []),
        ("presentation LUT INVERSE", twelve, window | {"PresentationLUTShape": "INVERSE"}, ["+Wi", "1"]),
        ("VOI table of 12 bits", twelve, {"VOILUTSequence": _table(4095, 12)}, ["+Wl", "1"]),
        ("PixelSpacing 1\\2", twelve, window | {"PixelSpacing": [1, 2]}, ["+Wi", "1", "+Sxv", "320"]),
        ("PixelSpacing 2\\1", twelve, window | {"PixelSpacing": [2, 1]}, ["+Wi", "1", "+Sxv", "160"]),
        ("PixelAspectRatio 1\\2", twelve, window | {"PixelAspectRatio": [1, 2]}, ["+Wi", "1", "+Sxv", "320"]),
        ("ImagerPixelSpacing 1\\2", twelve, window | {"ImagerPixelSpacing": [1, 2]}, ["+Wi", "1", "+Sxv", "320"]),
        ("RGB", np.dstack([eight, eight[::-1], 255 - eight]), {}, []),
        ("RGB, planes", np.dstack([eight, eight[::-1], 255 - eight]), {"PlanarConfiguration": 1}, []),
        ("palette", eight, {"PhotometricInterpretation": "PALETTE COLOR"} | _palette(), []),
        ("one value everywhere", np.full((20, 30), 7, np.uint8), {}, []),
    ]
    for number, (name, values, elements, options) in enumerate(cases):
        path = folder / f"d{number}.dcm"
        _dataset(values, elements).save_as(path, enforce_file_format=True)
        mean = 2.0 if any(word in name for word in ("Spacing", "AspectRatio")) else 0.6
        yield Probe(name, path, _shown(path, options), BY, mean)
    for name, syntax in (
        ("implicit VR", ImplicitVRLittleEndian),
        ("big endian", ExplicitVRBigEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
        ("RLE", RLELossless),
        ("JPEG-LS", JPEGLSLossless),
    ):
        path, data = folder / f"{name.replace(' ', '-')}.dcm", _dataset(twelve, window)
        if syntax in (RLELossless, JPEGLSLossless):
            data.compress(syntax)
            data.save_as(path, enforce_file_format=True)
        elif syntax == ExplicitVRBigEndian:
            plain = folder / "plain.dcm"
            data.save_as(plain, enforce_file_format=True)
            run("dcmconv", "+tb", plain, path)
        else:
            data.file_meta.TransferSyntaxUID = syntax
            data.save_as(path, enforce_file_format=True)
        shown = path
        if syntax == JPEGLSLossless:
            shown = folder / "jls-plain.dcm"
            run("dcmdjpls", path, shown)
        yield Probe(name, path, _shown(shown, ["+Wi", "1"]), BY, 0.6)
    plain = folder / "d0.dcm"
    for name, options in (
        ("JPEG Lossless SV1", ["+e1"]),
        ("JPEG Lossless process 14", ["+el"]),
        ("JPEG 12 bits", ["+ee"]),
    ):
        path = folder / f"{name.replace(' ', '-')}.dcm"
        run("dcmcjpeg", *options, plain, path)
        yield Probe(name, path, _decoded(folder, path), f"{BY}, dcmdjpeg", 0.6)
    path = folder / "jpeg8.dcm"
    run("dcmcjpeg", "+eb", folder / "d10.dcm", path)
    yield Probe("JPEG 8 bits", path, _decoded(folder, path, ["+Wm"]), f"{BY}, dcmdjpeg", 0.6)
    several = np.stack([twelve, twelve[::-1]])
    path = folder / "frames.dcm"
    _dataset(several, window).save_as(path, enforce_file_format=True)
    for frame in (0, 1):
        yield Probe(
            f"frame {frame + 1} of 2", path, _shown(path, ["+Wi", "1", "+F", str(frame + 1)]), BY, 0.6, frame=frame
        )


def _shown(path: Path, options: list[str]) -> Any:
    return lambda folder: _pnm(path, folder, options)


def _decoded(work: Path, path: Path, options: list[str] | None = None) -> Any:
    def reference(folder: Path) -> Pixels:
        plain = work / "decoded.dcm"
        run("dcmdjpeg", path, plain)
        return _pnm(plain, folder, ["+Wi", "1"] if options is None else options)

    return reference


def _pnm(path: Path, folder: Path, options: list[str]) -> Pixels:
    run("dcm2pnm", "-q", *options, path, folder / "a.pnm")
    return _read(folder / "a.pnm")


def _read(path: Path) -> Pixels:
    content = path.read_bytes()
    if content[:2] in (b"P2", b"P3"):
        words = [word for line in content.splitlines() if not line.startswith(b"#") for word in line.split()]
        width, height = int(words[1]), int(words[2])
        values = np.array(words[4:], np.uint8)
        return values.reshape(height, width, 3) if content[:2] == b"P3" else values.reshape(height, width)
    return pnm(content)


def _table(white: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, bits]
    item.LUTData = (white * (np.linspace(0, 1, 4096) ** 0.7)).astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return Sequence([item])


def _palette() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for channel, power in (("Red", 1.0), ("Green", 2.0), ("Blue", 0.5)):
        found[f"{channel}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        values = (65535 * np.linspace(0, 1, 256) ** power).astype("<u2")
        found[f"{channel}PaletteColorLookupTableData"] = values.tobytes()
    return found


def _dataset(pixels: np.ndarray[Any, Any], elements: dict[str, Any]) -> Dataset:
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    found.StudyInstanceUID, found.SeriesInstanceUID, found.Modality = generate_uid(), generate_uid(), "CT"
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    found.Rows, found.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    if pixels.ndim == 3 and not colour:
        found.NumberOfFrames = len(pixels)
    found.SamplesPerPixel = 3 if colour else 1
    found.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        found.PlanarConfiguration = 0
    found.BitsAllocated = 8 * pixels.itemsize
    found.BitsStored = 12 if pixels.dtype == np.uint16 else found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    planes = np.moveaxis(pixels, 2, 0) if elements.get("PlanarConfiguration") else pixels
    found.PixelData = np.ascontiguousarray(planes).tobytes()
    found["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(found, name, value)
    return found
