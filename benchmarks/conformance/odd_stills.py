"""Stills that mean more than their pixels: ratios, depths, directories that are no pages, turns, profiles."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

from benchmarks.conformance.probe import Pixels, Probe, pnm, run
from benchmarks.conformance.stills import openjpeg, smooth

LIBTIFF = "libtiff tiffcp, tiff2rgba"


def probes(folder: Path) -> Iterator[Probe]:
    yield from _ratios(folder)
    yield from _depths(folder)
    yield from _pages(folder)
    yield from _phones(folder)
    yield from _profiles(folder)
    yield from _animations(folder)


def _ratios(folder: Path) -> Iterator[Probe]:
    image = Image.fromarray(smooth())
    stream = BytesIO()
    image.save(stream, "JPEG", quality=95)
    jfif, place = stream.getvalue(), stream.getvalue().index(b"JFIF\0") + 7
    (folder / "jfif.jpg").write_bytes(jfif[:place] + struct.pack(">BHH", 0, 2, 1) + jfif[place + 5 :])
    image.save(folder / "jfif-dpi.jpg", quality=95, dpi=(204, 98))
    (folder / "phys.png").write_bytes(_with_chunk(image, b"pHYs", struct.pack(">IIB", 1, 2, 0)))
    (folder / "phys-metre.png").write_bytes(_with_chunk(image, b"pHYs", struct.pack(">IIB", 8031, 3858, 1)))
    for name, resolution, unit in (
        ("204x196", (204, 196), "inch"),
        ("204x98", (204, 98), "inch"),
        ("80x40 a cm", (80, 40), "centimeter"),
        ("1:2 without a unit", (1, 2), "none"),
    ):
        path = folder / f"{resolution[0]}-{resolution[1]}.tif"
        tifffile.imwrite(path, smooth(), photometric="rgb", metadata=None, resolution=resolution, resolutionunit=unit)
        yield Probe(f"tiff, {name}", path, _square(path), "FFmpeg, its ratio", 2.0)
    # FFmpeg takes these densities for the ratio itself, which is their inverse, so the standards are the reference.
    for name, file, by, ratio in (
        ("JFIF 2:1", "jfif.jpg", "JFIF 1.02, its densities", 1 / 2),
        ("JFIF 204x98 dpi", "jfif-dpi.jpg", "JFIF 1.02, its densities", 98 / 204),
        ("PNG pHYs 1:2", "phys.png", "PNG 3, 11.3.4.3", 2),
        ("PNG pHYs 8031x3858 a metre", "phys-metre.png", "PNG 3, 11.3.4.3", 3858 / 8031),
    ):
        size = (round(160 * max(ratio, 1)), round(120 / min(ratio, 1)))
        command = "jpegtopnm" if file.endswith("jpg") else "pngtopnm"
        yield Probe(name, folder / file, _widened(command, folder / file, size), by, 1.0)
    turned = folder / "turned.tif"
    options: dict[str, Any] = {"resolution": (204, 98), "extratags": [(274, 3, 1, 6, True)]}
    tifffile.imwrite(turned, smooth(), photometric="rgb", metadata=None, **options)
    upright = np.rot90(smooth(), -1)
    page = Image.fromarray(upright).resize((round(120 * 204 / 98), 160), Image.Resampling.BILINEAR)
    yield Probe("tiff, 204x98, turned", turned, lambda _: np.asarray(page), "TIFF 6.0, section 8", 2.0)


def _depths(folder: Path) -> Iterator[Probe]:
    ramp = np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (64, 1))
    shown = np.rint(ramp / 4095 * 255).astype(np.uint8)
    deep = folder / "deep.png"
    Image.fromarray(ramp * 16).save(deep)
    yield Probe("png, 16 bits", deep, _netpbm(deep), "Netpbm pngtopnm, pamdepth")
    for name, values in (("at the top", (ramp << 4) | (ramp >> 8)), ("at the bottom", ramp)):
        path = folder / f"sbit-{name[-3:]}.png"
        path.write_bytes(_with_chunk(Image.fromarray(values), b"sBIT", b"\x0c"))
        yield Probe(f"png, sBIT 12, {name}", path, lambda _: shown, "PNG 3, 11.3.2.7")
    packed = folder / "packed.tif"
    pairs = ramp.reshape(-1, 2).astype(np.uint32)
    bits = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    packed.write_bytes(_tiff12(ramp.shape, bits.astype(np.uint8).tobytes()))
    yield Probe("tiff, 12 bits packed", packed, _ffmpeg(packed, 0), "FFmpeg")
    ome = folder / "ome.ome.tif"
    tifffile.imwrite(ome, ramp, photometric="minisblack", metadata={"axes": "YX", "SignificantBits": 12})
    yield Probe("tiff, OME SignificantBits 12", ome, lambda _: shown, "OME 2016-06")


def _pages(folder: Path) -> Iterator[Probe]:
    big = smooth()
    small, mask = big[::4, ::4], np.ones(big.shape[:2], bool)
    second = 255 - big
    layouts: dict[str, tuple[list[tuple[Any, dict[str, Any]]], int, int, int]] = {
        # Images with the options of tifffile; which of them, counted as libtiff does, is which page; how many pages.
        "thumbnail after it": ([(big, {}), (small, {"subfiletype": 1})], 0, 0, 1),
        "thumbnail before it": ([(small, {"subfiletype": 1}), (big, {})], 1, 0, 1),
        "mask before a page": ([(big, {}), (mask, {"subfiletype": 4}), (second, {})], 2, 1, 2),
        "pyramid": ([(big, {}), (big[::2, ::2], {"subfiletype": 1}), (small, {"subfiletype": 1})], 0, 0, 1),
        "two pages": ([(big, {"subfiletype": 2}), (second, {"subfiletype": 2})], 1, 1, 2),
    }
    for name, (images, directory, page, count) in layouts.items():
        path = folder / f"{name.replace(' ', '-')}.tif"
        with tifffile.TiffWriter(path) as writer:
            for values, options in images:
                kind = "rgb" if values.ndim == 3 else "mask"
                writer.write(values, photometric=kind, metadata=None, **options)
        yield Probe(f"tiff, {name}", path, _libtiff(path, directory), LIBTIFF, frame=page, pages=count)
    slide = folder / "slide.tif"
    with tifffile.TiffWriter(slide) as writer:
        text = "Aperio Image Library v12 |MPP = 0.5"
        tiles: dict[str, Any] = {"tile": (16, 16), "photometric": "rgb", "metadata": None}
        writer.write(big, description=text, **tiles)
        writer.write(small, photometric="rgb", metadata=None)
        writer.write(big[::2, ::2], description="Aperio level", **tiles)
        for kind, label in ((1, "label 10x10"), (9, "macro 10x10")):
            writer.write(second[:40, :40], photometric="rgb", metadata=None, subfiletype=kind, description=label)
    yield Probe("slide with thumbnail, label and macro", slide, _libtiff(slide, 0), LIBTIFF, pages=1)
    level = ("image.max_pixels=10000",)
    yield Probe("largest level within max_pixels", slide, _libtiff(slide, 2), LIBTIFF, settings=level, pages=1)
    cog, masked = folder / "cog.tif", folder / "masked.tif"
    large = folder / "large.tif"
    tifffile.imwrite(large, np.tile(big, (6, 5, 1)), photometric="rgb", metadata=None)
    options = ["-b", "1", "-b", "2", "-b", "3", "-mask", "1", "--config", "GDAL_TIFF_INTERNAL_MASK", "YES"]
    run("gdal_translate", "-q", "-of", "GTiff", *options, large, masked)
    run("gdal_translate", "-q", "-of", "COG", "-co", "BLOCKSIZE=128", masked, cog)
    yield Probe("cloud-optimised GeoTIFF with masks and overviews", cog, _libtiff(cog, 0), f"GDAL, {LIBTIFF}", pages=1)
    ome = folder / "levels.ome.tif"
    with tifffile.TiffWriter(ome, ome=True) as writer:
        writer.write(big, subifds=1, photometric="rgb", tile=(16, 16))
        writer.write(big[::2, ::2], subfiletype=1, photometric="rgb", tile=(16, 16))
    yield Probe("OME with levels in sub-directories", ome, _libtiff(ome, 0), LIBTIFF, pages=1)
    camera = folder / "camera.tif"
    with tifffile.TiffWriter(camera) as writer:
        writer.write(small, subifds=1, subfiletype=1, photometric="rgb", metadata=None)
        writer.write(big, photometric="rgb", metadata=None)
    yield Probe("picture in a sub-directory, as in DNG", camera, lambda _: big, "its own values", pages=1)
    unknown = folder / "unknown.tif"
    content = bytearray((folder / "large.tif").read_bytes())
    place = content.index(struct.pack("<HH", 259, 3))
    content[place + 8 : place + 10] = struct.pack("<H", 65000)
    unknown.write_bytes(bytes(content))
    yield Probe("tiff, compression 65000 that nothing reads", unknown, lambda _: big, LIBTIFF)


def _phones(folder: Path) -> Iterator[Probe]:
    source = folder / "source.png"
    Image.fromarray(smooth()).save(source)
    cases = {
        "avif, 4:4:4": ["-y", "444"],
        "avif, 4:2:2": ["-y", "422"],
        "avif, grey": ["-y", "400"],
        "avif, 10 bits": ["-d", "10"],
        "avif, turned by 90": ["--irot", "1"],
        "avif, turned by 180": ["--irot", "2"],
        "avif, turned by 270": ["--irot", "3"],
        "avif, mirrored": ["--imir", "1"],
        "avif, turned and mirrored": ["--irot", "1", "--imir", "0"],
    }
    for number, (name, options) in enumerate(cases.items()):
        path = folder / f"phone-{number}.avif"
        run("avifenc", *options, source, path)
        turn = int(options[1]) if options[0] == "--irot" else 0
        mirror = int(options[-1]) if "--imir" in options else None
        yield Probe(name, path, _avifdec(path, turn, mirror), "libavif avifdec", 1.2)
    for name, options in (("heic", ["-q", "80"]), ("heic, lossless", ["-L"]), ("heic, 10 bits", ["-b", "10"])):
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.heic"
        run("heif-enc", *options, source, "-o", path)
        yield Probe(name, path, _heif(path), "libheif heif-convert", 1.2)
    raw = folder / "raw.j2k"
    Image.fromarray(smooth()).save(raw, "JPEG2000", no_jp2=True)
    yield Probe("jpeg 2000, codestream alone", raw, openjpeg(raw), "OpenJPEG opj_decompress")


def _profiles(folder: Path) -> Iterator[Probe]:
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = plain.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    for name, image in (("tiff", Image.fromarray(smooth())), ("tiff, other colours", Image.fromarray(smooth()[::-1]))):
        path = folder / f"profile-{len(name)}.tif"
        image.save(path, icc_profile=exchanged)
        yield Probe(f"colour profile, {name}", path, _tificc(path), "Little CMS tificc", settings=("image.icc=true",))


def _animations(folder: Path) -> Iterator[Probe]:
    pictures = [Image.fromarray(np.roll(smooth(), 30 * turn, 1)).quantize(64) for turn in range(3)]
    path = folder / "moves.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    for number in range(3):
        settings = ("image.frames=all",)
        yield Probe(
            f"gif, frame {number + 1} of 3",
            path,
            _ffmpeg(path, number),
            "FFmpeg",
            settings=settings,
            frame=number,
            pages=3,
        )
    yield Probe("gif, first of 3", path, _ffmpeg(path, 0), "FFmpeg", pages=1)
    for name, content in (
        ("pbm, plain", b"P1\n# dots\n4 2\n1 0 1 0\n0 1 0 1\n"),
        ("pgm, plain", b"P2\n3 2\n15\n0 5 10\n15 1 2\n"),
        ("ppm, plain", b"P3\n2 1\n255\n255 0 9 1 2 3\n"),
        ("pbm, raw", b"P4\n8 2\n\xa5\x5a"),
        ("pgm, 16 bits", b"P5\n3 1\n65535\n\0\0\x80\0\xff\xff"),
        ("ppm, 16 bits", b"P6\n1 1\n65535\n\0\0\x80\0\xff\xff"),
    ):
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.{name[:3]}"
        path.write_bytes(content)
        yield Probe(name, path, _pnm(path), "Netpbm pamdepth")


def _with_chunk(image: Image.Image, kind: bytes, body: bytes) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    content, chunk = stream.getvalue(), kind + body
    return content[:33] + struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def _tiff12(shape: tuple[int, ...], strip: bytes) -> bytes:
    tags = [(256, shape[1]), (257, shape[0]), (258, 12), (259, 1), (262, 1)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, shape[0]), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


def _square(path: Path) -> Any:
    """FFmpeg's picture with square pixels, by the ratio that FFmpeg finds in the file."""

    def reference(folder: Path) -> Pixels:
        entries = ["-show_entries", "stream=width,height,sample_aspect_ratio", "-of", "csv=p=0"]
        words = run("ffprobe", "-v", "error", *entries, path).decode().strip().split(",")
        width, height, ratio = int(words[0]), int(words[1]), Fraction(words[2].replace(":", "/"))
        size = (round(width * ratio), height) if ratio >= 1 else (width, round(height / ratio))
        scaled = ["-vf", f"scale={size[0]}:{size[1]}:flags=bilinear", "-pix_fmt", "rgb24", "-f", "image2"]
        run("ffmpeg", "-v", "error", "-y", "-i", path, *scaled, "-frames:v", "1", folder / "a.ppm")
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _widened(command: str, path: Path, size: tuple[int, int]) -> Any:
    """Netpbm's picture at a size."""
    return lambda _: np.asarray(Image.fromarray(pnm(run(command, path))).resize(size, Image.Resampling.BILINEAR))


def _ffmpeg(path: Path, number: int) -> Any:
    def reference(folder: Path) -> Pixels:
        chosen = ["-vf", f"select=eq(n\\,{number})", "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "image2"]
        run("ffmpeg", "-v", "error", "-y", "-i", path, *chosen, folder / "a.ppm")
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _netpbm(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        (folder / "a.pnm").write_bytes(run("pngtopnm", path))
        return pnm(run("pamdepth", "255", folder / "a.pnm"))

    return reference


def _pnm(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        found = run("pamdepth", "255", path)
        (folder / "a.pnm").write_bytes(found)
        return pnm(run("pnmtopnm", folder / "a.pnm") if found[:2] in (b"P1", b"P2", b"P3") else found)

    return reference


def _libtiff(path: Path, number: int) -> Any:
    def reference(folder: Path) -> Pixels:
        run("tiffcp", "-c", "none", f"{path},{number}", folder / "one.tif")
        run("tiff2rgba", "-c", "none", folder / "one.tif", folder / "rgba.tif")
        return np.asarray(tifffile.imread(folder / "rgba.tif")[..., :3], np.uint8)

    return reference


def _avifdec(path: Path, turn: int, mirror: int | None) -> Any:
    """Of libavif 0.11, which leaves turning and mirroring to the caller (HEIF, 6.5.10 and 6.5.12)."""

    def reference(folder: Path) -> Pixels:
        run("avifdec", "-d", "8", path, folder / "a.png")
        found = pnm(run("pngtopnm", folder / "a.png"))
        found = np.rot90(found, turn)
        return found if mirror is None else np.asarray(np.flip(found, mirror))

    return reference


def _heif(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("heif-convert", path, folder / "a.png")
        return _netpbm(folder / "a.png")(folder)

    return reference


def _tificc(path: Path) -> Any:
    def reference(folder: Path) -> Pixels:
        run("tificc", path, folder / "a.tif")
        return np.asarray(tifffile.imread(folder / "a.tif"), np.uint8)

    return reference
