"""TIFF files as fax machines, scanners, microscopes, cameras and map makers write them."""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.images.decode import read_header
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames

RNG = np.random.default_rng(0)
BIG = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)
RAMP = np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (8, 1))


def frames(content: bytes | Path, *settings: str) -> list[Frame]:
    profile = resolve("photo", settings=settings, environment={}).profile
    return list(read_frames(content, name="a.tif", profile=profile))


def pixels(frame: Frame) -> np.ndarray:
    assert frame.picture is not None, frame.error
    return np.asarray(frame.picture)


def tiff(*images: tuple[np.ndarray, dict[int, object]], compression: str | None = "tiff_deflate") -> bytes:
    """Directories one after the other, each of an array and further tags."""
    stream = BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream, True) as writer:
        for array, tags in images:
            entries = TiffImagePlugin.ImageFileDirectory_v2()
            for tag, value in tags.items():
                entries[tag] = value
            Image.fromarray(array).save(writer, "TIFF", compression=compression, tiffinfo=entries)
            writer.newFrame()
    return stream.getvalue()


def shrunk(array: np.ndarray, factor: int) -> np.ndarray:
    return array[::factor, ::factor]


MASK = np.ones((40, 60), bool)


@pytest.mark.parametrize("compression", [None, "tiff_deflate", "tiff_lzw"])
@pytest.mark.parametrize("from_file", [True, False])
def test_what_is_no_page_is_left_out(tmp_path: Path, compression: str | None, from_file: bool) -> None:
    other = 255 - BIG
    content = tiff(
        (shrunk(BIG, 10), {254: 1}),
        (BIG, {254: 0}),
        (shrunk(BIG, 2), {254: 1}),
        (MASK, {254: 4}),
        (other, {254: 2}),
        (shrunk(other, 4), {254: 1}),
        compression=compression,
    )
    (tmp_path / "a.tif").write_bytes(content)
    found = frames(tmp_path / "a.tif" if from_file else content)
    assert [frame.number for frame in found] == [0, 1]
    assert [frame.last for frame in found] == [False, True]
    assert np.array_equal(pixels(found[0]), BIG)
    assert np.array_equal(pixels(found[1]), other)
    assert read_header(content) == (60, 40, 2)


def test_a_mask_by_its_photometric_kind_hides_no_page_behind_it() -> None:
    """Pillow cannot even step over it."""
    content = tiff((BIG, {}), (MASK, {}), (shrunk(BIG, 2), {}))
    places = [index for index in range(len(content) - 12) if content[index : index + 8] == b"\x06\x01\x03\0\x01\0\0\0"]
    masked = content[: places[1] + 8] + b"\x04\0" + content[places[1] + 10 :]
    assert [pixels(frame).shape for frame in frames(masked)] == [(40, 60, 3), (20, 30, 3)]


def test_the_older_tag_of_reduced_copies_counts_too() -> None:
    (found,) = frames(tiff((BIG, {255: 1}), (shrunk(BIG, 2), {255: 2}), compression=None))
    assert np.array_equal(pixels(found), BIG)


def test_a_file_of_reduced_copies_alone_gives_the_largest() -> None:
    (found,) = frames(tiff((shrunk(BIG, 4), {254: 1}), (shrunk(BIG, 2), {254: 1})))
    assert np.array_equal(pixels(found), shrunk(BIG, 2))


def test_a_pyramid_gives_its_largest_level_within_the_limit() -> None:
    content = tiff((BIG, {}), (shrunk(BIG, 2), {254: 1}), (shrunk(BIG, 4), {254: 1}), (BIG[:5], {254: 9}))
    (whole,) = frames(content, "image.max_pixels=2400")
    assert whole.picture is not None
    assert whole.picture.size == (60, 40)
    (level,) = frames(content, "image.max_pixels=2399")
    assert np.array_equal(pixels(level), shrunk(BIG, 2))
    (decision,) = [decision for decision in level.decisions if decision.about == "level"]
    assert decision.value.startswith("30x20, the largest level")
    (error,) = frames(content, "image.max_pixels=10")
    assert isinstance(error.error, ImageError)
    assert "found 60x40" in error.error.message


def test_subdirectories() -> None:
    """A thumbnail whose sub-directory is the image, as DNG has it; and one of which that is sensor values."""
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(shrunk(BIG, 8), subifds=2, subfiletype=1, photometric="rgb")
        writer.write(BIG, subfiletype=0, photometric="rgb")
        writer.write(shrunk(BIG, 2), subfiletype=1, photometric="rgb")
    (found,) = frames(stream.getvalue())
    assert np.array_equal(pixels(found), BIG)
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(shrunk(BIG, 8), subifds=2, subfiletype=1, photometric="rgb")
        writer.write(RAMP, subfiletype=0, photometric=32803)
        writer.write(shrunk(BIG, 2), subfiletype=1, photometric="rgb")
    (found,) = frames(stream.getvalue())
    assert np.array_equal(pixels(found), shrunk(BIG, 2))
    assert any(decision.warning for decision in found.decisions)


def test_a_slide_of_aperio_is_one_page_with_levels() -> None:
    """Thumbnail and levels of such a slide are not marked as reduced; label and macro are."""
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    slide = RNG.integers(0, 256, (256, 512, 3)).astype(np.uint8)
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(slide, tile=(64, 64), photometric="rgb", description="Aperio Image Library v12", metadata=None)
        writer.write(shrunk(slide, 4), photometric="rgb", metadata=None)
        writer.write(shrunk(slide, 2), tile=(64, 64), photometric="rgb", metadata=None)
        writer.write(BIG, subfiletype=1, photometric="rgb", metadata=None)
        writer.write(BIG, subfiletype=9, photometric="rgb", metadata=None)
    (found,) = frames(stream.getvalue())
    assert np.array_equal(pixels(found), slide)
    (found,) = frames(stream.getvalue(), "image.max_pixels=40000")
    assert np.array_equal(pixels(found), shrunk(slide, 2))


@pytest.mark.parametrize("big", [False, True])
def test_pages_of_both_kinds_of_tiff_and_byte_orders(big: bool) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    for order in "<>":
        for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
            stream = BytesIO()
            with tifffile.TiffWriter(stream, bigtiff=big, byteorder=order) as writer:
                for page in (BIG, 255 - BIG):
                    writer.write(page, photometric="rgb", contiguous=False, **options)
            found = frames(stream.getvalue())
            assert [np.array_equal(pixels(f), page) for f, page in zip(found, (BIG, 255 - BIG), strict=True)] == [
                True
            ] * 2


def test_a_loop_of_directories_ends() -> None:
    content = bytearray(tiff((BIG, {}), (BIG, {})))
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    (second,) = struct.unpack_from("<I", content, first + 2 + 12 * count)
    (count,) = struct.unpack_from("<H", content, second)
    struct.pack_into("<I", content, second + 2 + 12 * count, first)
    *good, bad = frames(bytes(content))
    assert len(good) == 2
    assert bad.error is not None
    assert "form a loop" in bad.error.message


@pytest.mark.parametrize(
    ("resolution", "unit", "dpi", "aspect"),
    [
        ((204, 98), 2, 204, 98 / 204),
        ((204, 196), 2, 204, 196 / 204),
        ((80, 40), 3, 203.2, 0.5),
        ((1, 2), 1, None, 2),
        ((300, 300), 2, 300, 1),
        ((300, 301), 2, 300, 1),
        ((300, 3), 2, None, 1),
    ],
)
def test_pixels_that_are_not_square(
    resolution: tuple[float, float], unit: int, dpi: float | None, aspect: float
) -> None:
    content = tiff((BIG, {282: float(resolution[0]), 283: float(resolution[1]), 296: unit}))
    (found,) = frames(content)
    assert found.aspect == pytest.approx(aspect, rel=1e-3)
    assert found.dpi == (None if dpi is None else pytest.approx(dpi, rel=1e-3))
    assert np.array_equal(pixels(found), BIG), "the picture stays as stored"
    (square,) = frames(content, "image.pixel_aspect=square")
    assert square.aspect == 1
    told = [decision for decision in found.decisions if decision.about == "ratio"]
    assert bool(told) == (resolution[0] != resolution[1] and resolution != (300, 301))


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_ratio_turns_with_the_picture(turn: int) -> None:
    (found,) = frames(tiff((BIG, {274: turn, 282: 204.0, 283: 98.0, 296: 2})))
    assert found.picture is not None
    assert found.picture.size == ((60, 40) if turn < 5 else (40, 60))
    assert found.aspect == pytest.approx(98 / 204 if turn < 5 else 204 / 98)


def shown(content: bytes, *settings: str) -> tuple[np.ndarray, Frame]:
    """[h, w], the channels being equal."""
    (found,) = frames(content, *settings)
    values = pixels(found)
    assert (values == values[..., :1]).all()
    return values[..., 0], found


def written(array: np.ndarray, **options: object) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    stream = BytesIO()
    tifffile.imwrite(stream, array, **({"metadata": None} | options))
    return stream.getvalue()


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def test_the_file_says_which_bits_count() -> None:
    maximum = written(RAMP, photometric="minisblack", extratags=[(281, 3, 1, 4095, True)])
    ome = written(RAMP, photometric="minisblack", ome=True, metadata={"axes": "YX", "SignificantBits": 12})
    for content in (maximum, ome):
        values, _ = shown(content)
        assert np.array_equal(values, expected(RAMP, 0, 4095))
    plain, found = shown(written(RAMP, photometric="minisblack"))
    assert np.array_equal(plain, expected(RAMP, 0, 65535))
    (told,) = [decision for decision in found.decisions if decision.about == "range"]
    assert told.warning, "a frame of 16 bits that uses a sixteenth"
    values, _ = shown(maximum, "image.range=full")
    assert np.array_equal(values, expected(RAMP, 0, 65535))
    values, _ = shown(maximum, "image.range=[1000, 2000]")
    assert np.array_equal(values, expected(RAMP, 1000, 2000))


def test_twelve_packed_bits() -> None:
    flat = RAMP.ravel().astype(int)
    packed = np.stack([flat[::2] >> 4, (flat[::2] & 15) << 4 | flat[1::2] >> 8, flat[1::2] & 255], 1).astype(np.uint8)
    tags = [(256, 4, 256), (257, 4, 8), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 4, 8)]
    tags.append((279, 4, packed.size))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    values, _ = shown(content.ljust(200, b"\0") + packed.tobytes())
    assert np.array_equal(values, expected(RAMP, 0, 4095))


def test_what_says_nothing_needs_a_range() -> None:
    for array in (RAMP.astype(np.float32) / 4095, RAMP.astype(np.int16) - 2000, RAMP.astype(np.uint32) << 18):
        content = written(array, photometric="minisblack")
        (refused,) = frames(content)
        assert isinstance(refused.error, ImageError)
        assert "image.range" in refused.error.hint
        values, _ = shown(content, "image.range=frame")
        assert np.array_equal(values, expected(RAMP, 0, 4095))
    holes = np.where(RAMP == 0, np.nan, RAMP / 4095).astype(np.float32)
    values, _ = shown(written(holes, photometric="minisblack"), "image.range=[0, 1]")
    assert np.array_equal(values, expected(RAMP, 0, 4095))
    values, _ = shown(written(RAMP.astype(np.uint32) << 20, photometric="minisblack"), "image.range=full")
    assert np.array_equal(values, expected(RAMP, 0, 4096)), "no sign in the upper half"


@pytest.mark.parametrize(("kind", "nothing"), [("f4", -3.4028234663852886e38), ("i2", -9999), ("u2", 65535)])
def test_pixels_that_hold_nothing_are_no_part_of_the_range_of_a_frame(kind: str, nothing: float) -> None:
    values = RAMP.astype(kind)
    values[:2, :3] = nothing
    tag = (42113, 2, None, f"{nothing} ", True)  # GDAL's; its text may end with a space
    seen, _ = shown(written(values, photometric="minisblack", extratags=[tag]), "image.range=frame")
    hole = np.zeros(values.shape, bool)
    hole[:2, :3] = True
    right = expected(RAMP, RAMP[~hole].min(), RAMP[~hole].max())
    assert np.array_equal(seen, np.where(hole, 0, right))


@pytest.mark.parametrize("order", "<>")
def test_white_may_be_zero_in_sixteen_bits_too(order: str) -> None:
    content = written((RAMP * 16).astype(order + "u2"), photometric="miniswhite", byteorder=order)
    values, _ = shown(content)
    assert np.array_equal(values, 255 - expected(RAMP * 16, 0, 65535))


def test_planes_of_sixteen_bits() -> None:
    planes = np.stack([RAMP * 16, RAMP * 8, 65535 - RAMP * 16])
    for options in ({}, {"compression": "zlib"}):
        (found,) = frames(written(planes, photometric="rgb", planarconfig="separate", **options))
        assert np.array_equal(pixels(found), expected(np.moveaxis(planes, 0, 2), 0, 65535))


def test_compressions_beyond_pillow() -> None:
    pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")
    grey = (RAMP >> 4).astype(np.uint8)
    for compression in ("lerc", "jpegxl", "jpeg2000"):
        values, _ = shown(written(grey, photometric="minisblack", compression=compression))
        assert np.abs(values.astype(int) - grey).max() <= 2


def test_what_no_reader_decodes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(tiff((BIG, {})))
    place = content.index(b"\x03\x01\x03\0\x01\0\0\0") + 8
    content[place : place + 2] = struct.pack("<H", 34887)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (found,) = frames(bytes(content))
    assert isinstance(found.error, MissingExtraError)
    assert "naflex-deploy[tiff]" in found.error.hint
    monkeypatch.undo()
    pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    content[place : place + 2] = struct.pack("<H", 61234)
    (found,) = frames(bytes(content))
    assert found.error is not None
    assert "TIFF compression 61234" in found.error.message
    five = written(np.stack([RAMP >> 4] * 5, -1).astype(np.uint8), photometric="minisblack", planarconfig="contig")
    (found,) = frames(five)
    assert found.error is not None
    assert "5 samples a pixel" in found.error.message


def test_bits_above_the_container_are_refused() -> None:
    content = written(RAMP, photometric="minisblack", ome=True, metadata={"axes": "YX", "SignificantBits": 20})
    (found,) = frames(content)
    assert found.error is not None
    assert "exceed the 16 bits" in found.error.message


def test_channels_that_are_no_colours_are_said_to_be_left_out() -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    four = np.dstack([BIG, BIG[..., 0]])
    for kind, said in (("unspecified", True), ("unassalpha", False)):
        stream = BytesIO()
        tifffile.imwrite(stream, four, photometric="rgb", extrasamples=[kind], metadata=None)
        (found,) = frames(stream.getvalue())
        assert found.error is None
        assert any("1 of 4 channels left out" in decision.value for decision in found.decisions) == said


def test_strips_that_are_missing_are_no_black_picture() -> None:
    """In a file that Pillow does not read; 278 says how many rows a strip has."""
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    stream = BytesIO()
    deep = np.moveaxis(BIG.astype(np.uint16), 2, 0)
    tifffile.imwrite(stream, deep, photometric="rgb", planarconfig="separate", metadata=None)
    content = stream.getvalue()
    place = content.index(struct.pack("<H", 278)) + 8
    rows = struct.pack("<I", BIG.shape[0])
    assert content[place : place + 4] == rows
    (found,) = frames(content[:place] + struct.pack("<I", 1) + content[place + 4 :])
    assert found.error is not None
    assert "strips or tiles" in found.error.message
