import contextlib
import itertools
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL import __version__ as Pillow

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.decode import decode
from naflex_deploy.runtime.images.media import colours
from naflex_deploy.runtime.images.media.read import read_pictures
from naflex_deploy.runtime.images.media.tiff import reader
from naflex_deploy.runtime.images.source import describe

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 11, 3)).astype(np.uint8)
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP"]


def encoded(image, format="PNG", **options):
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def only(source, **options):
    """The pixels of a source of one frame."""
    (image,) = decode(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(array):
    return np.repeat(np.asarray(array, np.uint8)[:, :, None], 3, axis=2)


def png_header(width, height):
    """A PNG of this size, as far as its header says; it has no pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_the_pixels(format):
    assert np.array_equal(only(encoded(Image.fromarray(PIXELS), format)), PIXELS)
    assert np.array_equal(only(encoded(Image.fromarray(PIXELS), "WEBP", lossless=True)), PIXELS)


def test_jpeg_is_what_pillow_decodes():
    content = encoded(Image.fromarray(PIXELS), "JPEG")
    assert np.array_equal(only(content), np.asarray(Image.open(BytesIO(content))))


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    content = encoded(Image.fromarray(PIXELS))
    path = tmp_path / "image.of.no.suffix"
    path.write_bytes(content)
    with path.open("rb") as stream:
        sources = [path, str(path), content, bytearray(content), memoryview(content), stream, BytesIO(content)]
        sources += [Image.open(path), Image.fromarray(PIXELS), PIXELS, PIXELS[:, ::-1][:, ::-1]]
        for source in sources:
            assert np.array_equal(only(source), PIXELS), describe(source)


def test_arrays():
    plane = PIXELS[:, :, 0]
    assert np.array_equal(only(plane), grey(plane))
    assert np.array_equal(only(plane[:, :, None]), grey(plane))
    assert np.array_equal(only(PIXELS.astype(np.uint16) * 257), PIXELS)
    assert np.array_equal(only(PIXELS.astype(">u2") * np.uint16(257)), PIXELS)
    opaque = np.dstack([PIXELS, np.full((7, 11), 255, np.uint8)])
    assert np.array_equal(only(opaque), PIXELS)
    assert only(np.zeros((2, 2, 4), np.uint8)).min() == 255


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (PIXELS / np.float32(127), "2.00787"),
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS > 3, "bool"),
        (PIXELS.transpose(2, 0, 1), "[3, 7, 11]"),
        (PIXELS[None], "[1, 7, 11, 3]"),
        (PIXELS[0, 0], "[3]"),
        (PIXELS[:0], "11x0"),
    ],
)
def test_refused_arrays_say_what_was_found(array, found):
    with pytest.raises(ImageError) as caught:
        only(array)
    assert found in caught.value.message.split("found")[-1]
    assert caught.value.hint


def test_sixteen_bits_map_by_their_full_range():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    expected = grey(np.rint(values * (255 / 65535)))
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for source in (values, image, encoded(image, "PNG"), encoded(image, "TIFF")):
        assert np.array_equal(only(source), expected)
    big_endian = Image.frombytes("I;16B", (8, 1), values.astype(">u2").tobytes())
    assert np.array_equal(only(big_endian), expected)
    assert np.array_equal(only(encoded(big_endian, "TIFF")), expected)
    assert np.array_equal(only(encoded(Image.fromarray(values.astype(np.int32)), "TIFF")), expected)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_outside_sixteen_bits_are_refused(value):
    with pytest.raises(ImageError, match=r"expected integer pixels in 0\.\.65535"):
        only(encoded(Image.fromarray(np.full((2, 2), value, np.int32)), "TIFF"))


@pytest.mark.parametrize(("mode", "kind"), [("F", "floating-point"), ("LAB", "CIELAB")])
def test_pixels_without_a_defined_range_are_refused(mode, kind):
    with pytest.raises(ImageError, match=f"found {kind}"):
        only(encoded(Image.new(mode, (2, 2)), "TIFF"))


def test_transparency_is_composited_over_white():
    half = only(encoded(Image.new("RGBA", (1, 1), (200, 0, 0, 128))))[0, 0]
    exact = [200 * 128 / 255 + 127, 127, 127]
    assert np.abs(half - exact).max() <= 1
    assert only(encoded(Image.new("LA", (1, 1), (0, 0)))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    assert only(encoded(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert only(encoded(palette, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    colour_key = encoded(Image.fromarray(PIXELS), transparency=tuple(PIXELS[0, 0].tolist()))
    assert only(colour_key)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("form", "mode"), [*itertools.product(["PNG", "TIFF"], ["RGB", "RGBA", "LA", "P"]), ("TIFF", "CMYK")]
)
def test_large_pictures_come_out_as_small_ones_do(form, mode, monkeypatch):
    """They are turned, composited and converted channel by channel; an image of the caller stays open."""
    pixels = np.dstack([PIXELS, PIXELS[:, ::-1, 0]])
    image = Image.fromarray(pixels[:, :, :3] if mode in ("P", "CMYK") else pixels).convert(mode)
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        content = encoded(image, form, exif=exif, **({"transparency": 7} if mode == "P" and form == "PNG" else {}))
        with monkeypatch.context() as patched:
            small = only(content)
            patched.setattr(colours, "LARGE", 0)
            patched.setattr(reader, "LARGE", 0)
            patched.setattr(colours, "_STRIP", 30)
            assert np.array_equal(only(content), small)
            opened = Image.open(BytesIO(content))
            assert np.array_equal(only(opened), small)
            assert opened.getpixel((0, 0)) is not None


def test_other_modes():
    bits = Image.fromarray(PIXELS[:, :, 0] > 127)
    assert bits.mode == "1"
    for format in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(only(encoded(bits, format)), grey((PIXELS[:, :, 0] > 127) * 255))
    red = (0, 255, 255, 0)
    for format in ("TIFF", "JPEG"):  # Pillow writes CMYK JPEGs inverted, with an Adobe marker
        pixel = only(encoded(Image.new("CMYK", (8, 8), red), format))[4, 4]
        assert np.abs(pixel - [255, 0, 0]).max() <= 3
    assert np.abs(only(Image.fromarray(PIXELS).convert("YCbCr")).astype(int) - PIXELS).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_orientation_is_applied_once(format, orientation):
    """Against the definition: which side of the scene the first row and the first column are (EXIF 2.32, 4.6.4)."""
    scene = np.zeros((16, 32, 3), np.uint8)
    scene[:8, :16] = 200
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: scene.transpose(1, 0, 2)[::-1],
        7: scene.transpose(1, 0, 2)[::-1, ::-1],
        8: scene.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(format, {})
    content = encoded(Image.fromarray(stored), format, exif=exif, **lossless)
    for source in (content, Image.open(BytesIO(content))):
        assert np.abs(only(source).astype(int) - scene).max() <= (8 if format == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_unreadable_exif_block_is_ignored():
    content = encoded(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert only(content).shape == PIXELS.shape


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_gives_every_frame(tmp_path, compression):
    frames = [Image.fromarray(np.roll(PIXELS, i)[: 7 - i]) for i in range(3)] + [Image.new("L", (3, 2), 9)]
    path = tmp_path / "pages.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:], compression=compression)
    for source in (path, path.read_bytes()):
        decoded = list(decode(source))
        assert len(decoded) == 4
        for image, frame in zip(decoded, frames, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(frame.convert("RGB")))
    image = Image.open(path)
    image.seek(3)
    assert only(image).shape == (2, 3, 3)


def test_frames_before_a_damaged_one_are_yielded(tmp_path):
    frames = [Image.fromarray(np.roll(PIXELS, i)) for i in range(3)]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    decoded = decode(content[: len(content) - 100])
    assert np.array_equal(np.asarray(next(decoded)), PIXELS)
    with pytest.raises(ImageError, match="frame"):
        list(decoded)


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format, options in (("WEBP", {"lossless": True}), ("PNG", {})):
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert only(content)[0, 0].tolist() == [255, 0, 0]


def test_pixel_limit_is_checked_before_decoding():
    bomb = png_header(100_000, 100_000)
    with pytest.raises(ImageError, match="found 100000x100000 = 10000000000"):
        only(bomb)
    with pytest.raises(ImageError, match="truncated"):  # the same file without the limit
        only(png_header(1000, 1000))
    for format in FORMATS:
        content = encoded(Image.fromarray(PIXELS), format)
        assert only(content, max_pixels=77).shape == PIXELS.shape
        with pytest.raises(ImageError, match="expected at most 76 pixels, found 11x7"):
            only(content, max_pixels=76)
    for source in (PIXELS, Image.fromarray(PIXELS)):
        with pytest.raises(ImageError, match="expected at most 76 pixels"):
            only(source, max_pixels=76)


def test_limit_holds_for_every_frame():
    content = encoded(Image.new("L", (2, 2)), "TIFF", save_all=True, append_images=[Image.new("L", (20, 20))])
    decoded = decode(content, max_pixels=100)
    next(decoded)
    with pytest.raises(ImageError, match="frame 2: expected at most 100 pixels, found 20x20"):
        next(decoded)


@pytest.mark.parametrize(
    ("format", "limit"),
    [(format, limit) for format in FORMATS for limit in (60, 30, None) if (format, limit) != ("WEBP", 30)],
)
def test_the_limit_of_the_process_plays_no_part(monkeypatch, format, limit):
    """Pillow warns above MAX_IMAGE_PIXELS and raises above twice that; 11x7 = 77 pixels are above both."""
    content = encoded(Image.fromarray(PIXELS), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert only(content).shape == PIXELS.shape
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(Pillow < "13", reason="earlier WebP readers have no check of their own")
def test_the_limit_that_the_webp_reader_enforces_is_named(monkeypatch):
    content = encoded(Image.fromarray(PIXELS), "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(ImageError, match=r"at most 60 pixels.*MAX_IMAGE_PIXELS"):
        only(content)


def test_extreme_sides_are_legal():
    assert only(encoded(Image.new("RGB", (100_000, 1)))).shape == (1, 100_000, 3)
    assert only(np.zeros((100_000, 1), np.uint8)).shape == (100_000, 1, 3)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"hello world, this is text", "b'hello world"),
        (b"GIF89a" + bytes(40), "damaged"),
        (png_header(0, 5), "damaged"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "damaged"),
        (b"II*\0" + bytes(4), "damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged"),
        (b"BM", "damaged"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, content, found):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        only(path)
    assert found in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert caught.value.code == 6


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_images_are_refused(format):
    content = encoded(Image.fromarray(np.tile(PIXELS, (20, 20, 1))), format)
    with pytest.raises(ImageError, match="damaged or truncated"):
        only(content[: len(content) * 2 // 3])


def test_paths_that_are_no_files(tmp_path):
    for path, found in ((tmp_path, "a directory"), (tmp_path / "none.png", "no file"), ("/dev/null", "a device")):
        with pytest.raises(ImageError, match=found):
            only(path)
    with pytest.raises(ImageError, match="cannot be opened"):
        only("x" * 5000)
    with pytest.raises(ImageError) as caught:
        only("two\nlines.png")
    assert "\n" not in str(caught.value)


def test_other_objects_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as stream, pytest.raises(ImageError, match="found a stream of str"):
        only(stream)
    with pytest.raises(ImageError, match="found list"):
        only([1, 2])
    with pytest.raises(ImageError, match="found 0x0"):
        only(Image.new("RGB", (0, 0)))


def test_a_pillow_image_is_left_as_it_was():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(BytesIO(encoded(Image.fromarray(PIXELS), exif=exif)))
    assert only(image).shape == (11, 7, 3)
    assert image.size == (11, 7)
    assert image.getexif()[0x0112] == 6


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_bytes_raise_nothing_but_image_errors(format, data):
    content = bytearray(encoded(Image.fromarray(PIXELS), format))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        for image in decode(bytes(content), max_pixels=10_000):
            assert image.mode == "RGB"


def test_each_picture_of_an_animation_is_bounded_as_readers_hold_several_of_them():
    stream = BytesIO()
    first, second = (Image.new("L", (8, 8), grey) for grey in (0, 255))
    first.save(stream, "GIF", save_all=True, append_images=[second], disposal=0)
    content = bytearray(stream.getvalue())
    at = content.rindex(b"\x2c\0\0\0\0\x08\0\x08\0")
    content[at + 5 : at + 9] = struct.pack("<HH", 30, 20)  # larger than the first, and than a quarter of the limit
    section = ImageSection(frames="all", max_pixels=1000)
    frames = read_pictures(bytes(content), "a.gif", section)
    assert next(frames).picture.size == (8, 8)
    with pytest.raises(ImageError, match=r"frame 2: expected at most 250 pixels, found 30x20"):
        next(frames)
