"""Pixels that are not square come to the patch grid in one resampling, at the aspect at which viewers show them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.Image import Resampling

from naflex_deploy.core.config import resolve
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)


def encoded(format: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def frame(content: bytes, *settings: str) -> Frame:
    (found,) = read_frames(content, name="a", profile=resolve("photo", settings=settings, environment={}).profile)
    return found


def jpeg(unit: int, across: int, down: int, **options: object) -> bytes:
    content = encoded("JPEG", **options)
    assert content[6:11] == b"JFIF\0"
    return content[:13] + struct.pack(">BHH", unit, across, down) + content[18:]


def png(unit: int, across: int, down: int) -> bytes:
    content = encoded("PNG")
    body = b"pHYs" + struct.pack(">IIB", across, down, unit)
    return content[:33] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + content[33:]


@pytest.mark.parametrize(
    ("content", "aspect", "dpi"),
    [
        (jpeg(0, 1, 1), 1, None),
        (jpeg(0, 2, 1), 0.5, None),
        (jpeg(1, 204, 98), 98 / 204, 204),
        (jpeg(2, 40, 80), 2, 203.2),
        (jpeg(0, 0, 0), 1, None),
        (jpeg(1, 300, 1), 1, None),
        (png(0, 1, 2), 2, None),
        (png(1, 8031, 3858), 3858 / 8031, 204),
        (png(1, 11811, 11811), 1, 300),
        (png(0, 0, 0), 1, None),
    ],
)
def test_what_files_say(content: bytes, aspect: float, dpi: float | None) -> None:
    found = frame(content)
    assert found.aspect == pytest.approx(aspect, rel=1e-3)
    assert found.dpi == (None if dpi is None else pytest.approx(dpi, rel=1e-3))
    assert frame(content, "image.pixel_aspect=square").aspect == 1


def test_nonsense_is_said() -> None:
    (decision,) = frame(jpeg(1, 300, 1)).decisions
    assert decision.warning
    assert "beyond 4 to 1" in decision.value


@pytest.mark.parametrize("content", [jpeg(0, 0, 1), jpeg(1, 72, 0), png(0, 0, 1), png(0, 1, 0)])
def test_a_ratio_of_zero_or_infinity_is_refused(content: bytes) -> None:
    found = frame(content)
    assert found.error is not None
    assert "expected pixels with a width and a height" in found.error.message
    assert frame(content, "image.pixel_aspect=square").error is None


def test_a_turned_photo_turns_its_ratio() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("PNG", exif=exif)
    body = b"pHYs" + struct.pack(">IIB", 1, 2, 0)
    content = content[:33] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + content[33:]
    found = frame(content)
    assert found.picture is not None
    assert (found.picture.size, found.aspect) == ((30, 50), 0.5)


def images(content: bytes, *settings: str) -> list[Prepared]:
    profile = resolve("photo", settings=settings, environment={}).profile
    (found,) = Preparer(Preprocessing(patch_size=16), profile, "onnxruntime")(0, content)
    return found


def whole(image: Prepared) -> np.ndarray:
    assert image.patches is not None, image.result.error
    h, w = image.patches.grid_hw
    return image.patches.pixels.reshape(h, w, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16 * h, 16 * w, 3)


def fax(dots: tuple[float, float]) -> Image.Image:
    """A circle of 3 inches in radius on a page of 8.47 by 11 inches."""
    page = Image.new("L", (round(8.47 * dots[0]), round(11 * dots[1])), 255)
    box = [(1.2 * dots[0], 2.5 * dots[1]), (7.2 * dots[0], 8.5 * dots[1])]
    ImageDraw.Draw(page).ellipse(box, fill=0)
    return page


@pytest.mark.parametrize("fit", ["fill", "shrink-only", "pad-to-patch"])
def test_a_fax_page_has_the_aspect_of_its_paper(fit: str) -> None:
    stream = BytesIO()
    fax((20.4, 9.8)).save(stream, "TIFF", dpi=(204, 98))
    (image,) = images(stream.getvalue(), f"image.fit={fit}", "image.tokens=256", "image.oversize=shrink")
    found = whole(image)
    rows, columns = (np.flatnonzero(found[..., 0].min(axis) < 128) for axis in (1, 0))
    assert (rows[-1] - rows[0]) / (columns[-1] - columns[0]) == pytest.approx(1, abs=0.08)
    assert image.result.size == (173, 108), "as stored"
    assert image.result.box == (0, 0, 173, 108)
    assert image.result.aspect == pytest.approx(98 / 204)


def test_one_resampling_brings_it_to_the_grid() -> None:
    stream = BytesIO()
    page = fax((20.4, 9.8)).convert("RGB")
    page.save(stream, "TIFF", dpi=(204, 98))
    (image,) = images(stream.getvalue(), "image.tokens=64")
    found = whole(image)
    size = (found.shape[1], found.shape[0])
    once = page.resize((size[0], page.height), Resampling.BILINEAR).resize(size, Resampling.BILINEAR)
    assert np.array_equal(found, np.asarray(once))
    square = fax((20.4, 20.4)).convert("RGB").resize(size, Resampling.BILINEAR)
    assert np.abs(found.astype(int) - np.asarray(square)).mean() < 3, "as a page scanned with square pixels"


def test_tiles_have_boxes_in_stored_pixels() -> None:
    stream = BytesIO()
    fax((102, 49)).save(stream, "TIFF", dpi=(102, 49))
    whole_page, *tiles = images(stream.getvalue(), "image.tokens=256", "image.oversize=tiles", "image.overlap=1")
    assert len(tiles) > 4
    assert whole_page.result.box == (0, 0, 864, 539)
    right, bottom = (max(tile.result.box[side] for tile in tiles) for side in (2, 3))
    assert right == pytest.approx(864, abs=8)
    assert bottom == pytest.approx(539, abs=8)
    left, top, right, bottom = tiles[0].result.box
    h, w = tiles[0].result.grid_hw
    across, down = (right - left) / w, (bottom - top) / h
    assert across / down == pytest.approx(102 / 49, rel=0.02), "a square patch is wider in stored pixels"


def significant(bits: int, values: np.ndarray) -> bytes:
    content = encoded("PNG", values)
    body = b"sBIT" + bytes([bits])
    return content[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + content[33:]


def test_significant_bits_of_png() -> None:
    """By the standard they are shifted to the top; cameras leave them at the bottom."""
    ramp = np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (4, 1))
    expected = np.rint(ramp / 4095 * 255)
    for values in (ramp, (ramp << 4) | (ramp >> 8), ramp << 4):
        found = frame(significant(12, values))
        assert np.abs(np.asarray(found.picture)[..., 0] - expected).max() <= 1
    dark = np.minimum(ramp, 200) << 4
    assert np.asarray(frame(significant(12, dark)).picture).max() == round(200 * 16 / 257), "shifted, if all are"
    assert "12 significant bits" in frame(significant(12, ramp)).decisions[0].value
    assert np.asarray(frame(encoded("PNG", ramp)).picture).max() == 16
    too_many = frame(significant(17, ramp))
    assert too_many.error is not None
    assert "sBIT says 17 of 16" in too_many.error.message


def test_arrays_may_have_a_range() -> None:
    ramp = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
    profile = resolve("photo", settings=["image.range=[-1, 1]"], environment={}).profile
    for array, channels in ((ramp, 1), (np.stack([ramp] * 3, 2), 3)):
        (found,) = read_frames(array, name="a", profile=profile)
        assert np.array_equal(np.asarray(found.picture)[..., channels - 1], np.rint((ramp + 1) * 127.5))


def test_alpha_of_nothing_in_a_bmp_hides_nothing() -> None:
    """Programs that save 32 bits leave the fourth byte 0."""
    rgba = np.dstack([PIXELS, np.zeros((30, 50), np.uint8)])
    header = struct.pack("<IiiHHIIiiII", 108, 50, -30, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<IIII", 255 << 16, 255 << 8, 255, 255 << 24) + b"BGRs" + bytes(48)
    body = rgba[..., [2, 1, 0, 3]].tobytes()
    content = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body
    found = frame(content)
    assert np.array_equal(np.asarray(found.picture), PIXELS)
    assert found.decisions[0].warning
