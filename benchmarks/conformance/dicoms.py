"""DICOM against DCMTK."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG4HP41,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from benchmarks.conformance.clips import frame_of
from benchmarks.conformance.probe import Pixels, Probe, pnm, run
from tests.support import dicoms

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
        dataset(values, elements).save_as(path, enforce_file_format=True)
        mean = 2.0 if any(word in name for word in ("Spacing", "AspectRatio")) else 0.6
        yield Probe(name, path, shown(path, options), BY, mean)
    for name, syntax in (
        ("implicit VR", ImplicitVRLittleEndian),
        ("big endian", ExplicitVRBigEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
        ("RLE", RLELossless),
        ("JPEG-LS", JPEGLSLossless),
    ):
        path, data = folder / f"{name.replace(' ', '-')}.dcm", dataset(twelve, window)
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
        decoded = path
        if syntax == JPEGLSLossless:
            decoded = folder / "jls-plain.dcm"
            run("dcmdjpls", path, decoded)
        yield Probe(name, path, shown(decoded, ["+Wi", "1"]), BY, 0.6)
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
    dataset(several, window).save_as(path, enforce_file_format=True)
    for frame in (0, 1):
        yield Probe(
            f"frame {frame + 1} of 2", path, shown(path, ["+Wi", "1", "+F", str(frame + 1)]), BY, 0.6, frame=frame
        )
    yield from _odd(folder, twelve, eight)


def _odd(folder: Path, twelve: Any, eight: Any) -> Iterator[Probe]:
    """Kinds of files that DCMTK does not show, by the formula of the standard, and those that take a tool besides."""
    plain = folder / "d0.dcm"
    bare = folder / "IM000001"
    run("dcmconv", "-F", plain, bare)
    yield Probe("no preamble, no suffix", bare, shown(plain, ["+Wi", "1"]), BY, 0.6)
    wide = folder / "table8.dcm"
    dataset(twelve, {"VOILUTSequence": _table(255, 8)}).save_as(wide, enforce_file_format=True)
    yield Probe("VOI table of 4096 entries of 8 bits", wide, shown(wide, ["+Wl", "1"]), BY, 1.0)
    lung = folder / "lung.dcm"
    dataset(twelve, {"RescaleSlope": 1, "RescaleIntercept": -1024}).save_as(lung, enforce_file_format=True)
    for preset, centre, width in (("lung", -600, 1500), ("soft", 40, 400), ("bone", 400, 1800)):
        options = ["+Ww", str(centre), str(width)]
        yield Probe(f"preset {preset}", lung, shown(lung, options), BY, 0.6, settings=(f"dicom.window={preset}",))
    yield Probe(
        "window of the profile", plain, shown(plain, ["+Ww", "1000", "500"]), BY, 0.6, ("dicom.window=[1000, 500]",)
    )
    yield from _formulas(folder, twelve, eight)
    data, colours = dataset(np.dstack([eight, eight[::-1], 255 - eight]), {}), folder / "colour.dcm"
    data.save_as(colours, enforce_file_format=True)
    path = folder / "colour-jpeg.dcm"
    run("dcmcjpeg", "+eb", colours, path)
    yield Probe("JPEG in colour, YBR_FULL_422", path, _decoded(folder, path, []), f"{BY}, dcmdjpeg", 1.0)
    for name, syntax, suffix in (("JPEG 2000", JPEG2000Lossless, "j2k"), ("JPEG 2000, lossy", JPEG2000, "j2k")):
        stream = BytesIO()
        lossy = {"quality_mode": "dB", "quality_layers": [40]} if syntax == JPEG2000 else {}
        Image.fromarray(eight).save(stream, "JPEG2000", no_jp2=True, irreversible=bool(lossy), **lossy)
        codestream = folder / f"{syntax.keyword}.{suffix}"
        codestream.write_bytes(stream.getvalue())
        data = dataset(eight, {})
        data.PixelData = encapsulate([stream.getvalue()])
        data.file_meta.TransferSyntaxUID = syntax
        path = folder / f"{syntax.keyword}.dcm"
        data.save_as(path, enforce_file_format=True)
        yield Probe(name, path, _openjpeg(codestream), "OpenJPEG opj_decompress")
    yield from _clip(folder, eight)


def _formulas(folder: Path, twelve: Any, eight: Any) -> Iterator[Probe]:
    by = "DICOM PS3.3"
    ramp = (twelve.astype(np.float64) - 500) / 2000
    padded = twelve.copy()
    padded[:, :20] = 4095
    body = twelve[:, 20:].astype(float)
    black = np.zeros(twelve.shape)
    black[:, 20:] = np.rint((body - body.min()) / (body.max() - body.min()) * 255)
    cine = np.stack([twelve // 4, twelve])
    low, high = int(cine.min()), int(cine.max())
    bits = eight > 127
    data = dataset(eight, {})
    del data.PixelData, data.PixelRepresentation
    data.FloatPixelData = ramp.astype("<f4").tobytes()
    data.BitsAllocated = 32
    del data.BitsStored, data.HighBit
    one = dataset(eight, {})
    one.BitsAllocated, one.BitsStored, one.HighBit = 1, 1, 0
    one.PixelData = np.packbits(bits, bitorder="little").tobytes()
    segmented = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, power in (("Red", 1), ("Green", 2), ("Blue", 3)):
        segmented |= {  # from 0 linearly to 65535, or half of it, or a third
            f"{channel}PaletteColorLookupTableDescriptor": [256, 0, 16],
            f"Segmented{channel}PaletteColorLookupTableData": struct.pack("<6H", 0, 1, 0, 1, 255, 65535 // power),
        }
    colours = np.stack([np.rint(eight / 255 * (65535 // power) / 65535 * 255) for power in (1, 2, 3)], 2)
    cases: list[tuple[str, Dataset, Any, int]] = [
        ("padding out of the range, and black", dataset(padded, {"PixelPaddingValue": 4095}), black, 0),
        ("cine, one range for all frames", dataset(cine, {}), np.rint((cine[0] - low) / (high - low) * 255.0), 0),
        ("float pixels", data, np.rint((ramp - ramp.min()) / (ramp.max() - ramp.min()) * 255), 0),
        ("one bit", one, bits * 255, 0),
        ("segmented palette", dataset(eight, segmented), colours, 0),
        ("12 bits stored at the top of 16", dataset(twelve << 4, {"HighBit": 15}), black, 0),
    ]
    for number, (name, item, expected, frame) in enumerate(cases):
        path = folder / f"formula-{number}.dcm"
        item.save_as(path, enforce_file_format=True)
        yield Probe(name, path, lambda _, e=expected: np.asarray(e, np.uint8), by, frame=frame)


def _clip(folder: Path, eight: Any) -> Iterator[Probe]:
    raw, path = folder / "a.h264", folder / "clip.dcm"
    source = "testsrc2=size=160x120:rate=25:duration=0.4"
    run("ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264", raw)
    data = dataset(np.dstack([eight] * 3), {"NumberOfFrames": 10})
    data.PixelData = encapsulate([raw.read_bytes()])
    data.file_meta.TransferSyntaxUID = MPEG4HP41
    data.save_as(path, enforce_file_format=True)
    yield Probe("MPEG-4 inside", path, frame_of(raw, 4), "FFmpeg", settings=("video.rate=25",), frame=4)


def _openjpeg(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("opj_decompress", "-i", path, "-o", folder / "a.pgm")
        return pnm((folder / "a.pgm").read_bytes())

    return reference


def shown(path: Path, options: list[str]) -> Any:
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


def dataset(pixels: np.ndarray[Any, Any], elements: dict[str, Any]) -> Dataset:
    bits = 12 if pixels.dtype == np.uint16 else 8 * pixels.itemsize
    series = {"SOPClassUID": CTImageStorage, "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    found = dicoms.dataset(pixels, **series, Modality="CT", BitsStored=bits, HighBit=bits - 1)
    found.file_meta.MediaStorageSOPClassUID = CTImageStorage
    if elements.get("PlanarConfiguration"):
        found.PixelData = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)).tobytes()
    for name, value in elements.items():
        setattr(found, name, value)
    return found
