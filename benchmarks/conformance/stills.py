"""Still images against libtiff's tools, Netpbm, OpenJPEG's and FFmpeg's command lines; tifffile for odd TIFF files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from benchmarks.conformance.probe import Pixels, Probe, pnm, run


def probes(folder: Path) -> Iterator[Probe]:
    values = smooth()
    image = Image.fromarray(values)
    yield from _tiffs(folder, values)
    yield from _deep(folder)
    grey, bits = image.convert("L"), image.convert("1")
    cases: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("jpeg 4:2:0", "a.jpg", image, {"quality": 90}),
        ("jpeg 4:4:4", "b.jpg", image, {"quality": 90, "subsampling": 0}),
        ("jpeg 4:2:2", "f.jpg", image, {"quality": 90, "subsampling": 1}),
        ("jpeg, progressive", "c.jpg", image, {"progressive": True}),
        ("jpeg, grey", "d.jpg", grey, {}),
        ("png", "a.png", image, {}),
        ("png, grey", "b.png", grey, {}),
        ("png, 1 bit", "c.png", bits, {}),
        ("png, palette", "d.png", image.quantize(64), {}),
        ("gif", "a.gif", image.quantize(64), {}),
        ("bmp", "a.bmp", image, {}),
        ("bmp, palette", "b.bmp", image.quantize(64), {}),
        ("webp, lossless", "a.webp", image, {"lossless": True}),
        ("webp, lossy", "b.webp", image, {"quality": 90}),
        ("jpeg 2000", "a.jp2", image, {}),
        ("jpeg 2000, lossy", "b.jp2", image, {"quality_mode": "dB", "quality_layers": [40]}),
        ("avif", "a.avif", image, {"quality": 90}),
        ("pnm", "a.ppm", image, {}),
        ("pgm", "a.pgm", grey, {}),
    ]
    for name, file, picture, options in cases:
        path = folder / file
        picture.save(path, **options)
        command = {"jpg": ["jpegtopnm"], "png": ["pngtopnm"], "gif": ["giftopnm"], "bmp": ["bmptopnm"]}.get(
            path.suffix[1:]
        )
        if command:
            yield Probe(name, path, _netpbm(command, path), f"Netpbm {command[0]}")
        elif path.suffix == ".webp":
            yield Probe(name, path, _dwebp(path), "libwebp dwebp")
        elif path.suffix == ".avif":
            yield Probe(name, path, _avifdec(path), "libavif avifdec", 1.2)
        elif path.suffix == ".jp2":
            yield Probe(name, path, openjpeg(path), "OpenJPEG opj_decompress")
        else:
            yield Probe(name, path, _ffmpeg(path), "FFmpeg", 1.2)


def _tiffs(folder: Path, pixels: Pixels) -> Iterator[Probe]:
    image = Image.fromarray(pixels)
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        path = folder / f"rgb-{compression}.tif"
        image.save(path, compression=compression)
        yield Probe(f"tiff, {compression or 'plain'}", path, _libtiff(path), "libtiff tiff2rgba")
    for compression in ("group3", "group4", "packbits"):
        path = folder / f"bits-{compression}.tif"
        image.convert("1").save(path, compression=compression)
        yield Probe(f"tiff, 1 bit, {compression}", path, _libtiff(path), "libtiff tiff2rgba")
    for name, picture in (
        ("grey", image.convert("L")),
        ("palette", image.quantize(64)),
        ("cmyk", image.convert("CMYK")),
    ):
        path = folder / f"{name}.tif"
        picture.save(path)
        yield Probe(f"tiff, {name}", path, _libtiff(path), "libtiff tiff2rgba", 3.0 if name == "cmyk" else 1.0)
    for name, options in (
        ("tiles", {"tile": (64, 64)}),
        ("planes", {"planarconfig": "separate"}),
        ("BigTIFF", {"bigtiff": True}),
        ("big endian", {"byteorder": ">"}),
        ("tiles, deflate, predictor", {"tile": (64, 64), "compression": "deflate", "predictor": 2}),
    ):
        path = folder / f"{name.replace(' ', '-').replace(',', '')}.tif"
        values = np.moveaxis(pixels, 2, 0) if name == "planes" else pixels
        tifffile.imwrite(path, values, photometric="rgb", metadata=None, **options)
        yield Probe(f"tiff, {name}", path, _libtiff(path), "libtiff tiff2rgba")
    for turn in range(2, 9):
        path = folder / f"turn-{turn}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, extratags=[(274, 3, 1, turn, True)])
        yield Probe(
            f"tiff, orientation {turn}", path, lambda _, turn=turn: _turned(pixels, turn), "TIFF 6.0, section 8"
        )
    page = folder / "fax.tif"
    bits = Image.fromarray(pixels[:, :, 0] > 100)
    bits.save(page, compression="group4", dpi=(204, 98))
    wide = np.asarray(
        bits.convert("RGB").resize((bits.width, round(bits.height * 204 / 98)), Image.Resampling.BILINEAR)
    )
    yield Probe("tiff, fax of 204x98 dots an inch", page, lambda _: wide, "its own dots an inch", 2.0)


def _deep(folder: Path) -> Iterator[Probe]:
    ramp = np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (64, 1))
    shown = np.rint(ramp / 4095 * 255).astype(np.uint8)
    by = "tifffile, NumPy"
    maximum = [(281, 3, 1, 4095, True)]
    cases: list[tuple[str, np.ndarray[Any, Any], dict[str, Any], Pixels, tuple[str, ...]]] = [
        ("16 bits", ramp * 16, {}, np.rint(ramp * 16 / 257).astype(np.uint8), ()),
        ("16 bits, white is zero", ramp * 16, {"photometric": "miniswhite"}, 255 - np.rint(ramp * 16 / 257), ()),
        ("12 bits by MaxSampleValue", ramp, {"extratags": maximum}, shown, ()),
        ("float, range 0..4095", ramp.astype(np.float32), {}, shown, ("image.range=[0, 4095]",)),
        ("signed, range of the frame", ramp.astype(np.int16) - 2000, {}, shown, ("image.range=frame",)),
        ("32 bits, range 0..4095", ramp.astype(np.uint32), {}, shown, ("image.range=[0, 4095]",)),
        ("float without a range", ramp.astype(np.float32) / 4095, {}, shown, ()),
        ("LERC", shown, {"compression": "lerc"}, shown, ()),
        ("JPEG XL", shown, {"compression": "jpegxl"}, shown, ()),
        ("ZSTD", shown, {"compression": "zstd"}, shown, ()),
        ("five channels", np.stack([shown] * 5, 2), {"planarconfig": "contig"}, shown, ()),
    ]
    for number, (name, values, options, expected, settings) in enumerate(cases):
        path = folder / f"deep-{number}.tif"
        tifffile.imwrite(path, values, **({"photometric": "minisblack", "metadata": None} | options))
        yield Probe(f"tiff, {name}", path, lambda _, e=expected: np.asarray(e, np.uint8), by, settings=settings)
    planes = np.stack([ramp * 16, ramp * 8, 65535 - ramp * 16])
    tifffile.imwrite(folder / "planes16.tif", planes, photometric="rgb", planarconfig="separate", metadata=None)
    colour = np.rint(np.moveaxis(planes, 0, 2) / 257).astype(np.uint8)
    yield Probe("tiff, planes of 16 bits", folder / "planes16.tif", lambda _: colour, by)


def smooth() -> Pixels:
    y, x = np.mgrid[:120, :160]
    return np.dstack([x * 255 // 160, y * 255 // 120, (x * y) % 256 // 2 + 60]).astype(np.uint8)


def _turned(values: Pixels, turn: int) -> Pixels:
    table: dict[int, Any] = {
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(values),
    }
    return np.asarray(table[turn])


def _libtiff(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("tiff2rgba", "-c", "none", path, folder / "rgba.tif")
        found = tifffile.imread(folder / "rgba.tif")
        return np.asarray(found[..., :3], np.uint8)

    return reference


def _netpbm(command: list[str], path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        found = run(*command, path)
        if found[:2] in (b"P1", b"P4"):
            (folder / "a.pbm").write_bytes(found)
            found = run("pamdepth", "255", folder / "a.pbm")
        return pnm(found)

    return reference


def openjpeg(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("opj_decompress", "-i", path, "-o", folder / "a.ppm")
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _dwebp(path: Path) -> Any:
    return lambda _: pnm(run("dwebp", "-quiet", path, "-ppm", "-o", "-"))


def _avifdec(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("avifdec", path, folder / "a.png")
        return pnm(run("pngtopnm", folder / "a.png"))

    return reference


def _ffmpeg(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run(
            "ffmpeg",
            "-v",
            "error",
            "-y",
            "-i",
            path,
            "-pix_fmt",
            "rgb24",
            "-f",
            "image2",
            "-frames:v",
            "1",
            folder / "a.ppm",
        )
        return pnm((folder / "a.ppm").read_bytes())

    return reference
