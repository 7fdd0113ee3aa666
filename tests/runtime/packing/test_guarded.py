"""What an input is, is decided once; readers without a limit of their own run in a process that is ended."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.runtime.images.decode import read_header
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.media.tame import PARTS, SCANS, is_tame, pixels_of
from naflex_deploy.runtime.packing import prepare
from naflex_deploy.runtime.packing.guarded import SlowError, decided, guarded
from naflex_deploy.runtime.packing.pack_stream import threads
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result
from tests.support.worker_calls import Reading, accepts, refuses

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def encoded(form: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(PIXELS).save(stream, form, **options)
    return stream.getvalue()


def preparer() -> Preparer:
    return Preparer(Preprocessing(patch_size=16), resolve("photo", environment={}).profile, "onnxruntime")


def pages(index: int, item: Input, slow: int) -> Iterator[list[Prepared]]:
    for number in range(4):
        if number == slow:
            time.sleep(60)
        yield [Prepared(Result(index, number, item.name))]


def test_the_page_that_takes_too_long_is_an_error_and_those_before_it_are_not():
    found = [image.result for (image,) in guarded(pages, 3, Input("a.pdf", b""), LimitsSection(seconds=0.5), 2)]
    assert [(result.input, result.frame, result.error is None) for result in found] == [
        (3, 0, True),
        (3, 1, True),
        (3, 2, False),
    ]
    assert found[-1].last
    assert isinstance(found[-1].error, SlowError)
    assert "took more than 0.5 s" in found[-1].error.message
    assert "limits.seconds" in found[-1].error.hint


def test_a_stream_that_is_interrupted_waits_for_no_reader():
    read = Reading()

    def interrupted() -> None:
        with threads() as pool:
            pool.submit(read)
            assert read.started.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read.errors == ["its process ended with -9"]


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP"])
def test_another_process_sees_the_same_pixels(form):
    content = encoded(form)
    prepare = preparer()
    ((found,),) = prepare(5, Input("x", content))
    ((here,),) = prepare.here(5, Input("x", content))
    assert found.patches is not None
    assert here.patches is not None
    np.testing.assert_array_equal(found.patches.pixels, here.patches.pixels)
    assert (found.result.input, found.result.name, found.result.size) == (5, "x", (64, 48))
    (first,) = prepare.first(decided(Input("x", content)), accepts, 20)
    assert first.patches is not None
    np.testing.assert_array_equal(first.patches.pixels, here.patches.pixels)
    (first,) = prepare.first(decided(Input("x", content)), refuses, 20)
    assert str(first.result.error) == "refused"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_are_read_by_another_process(form, monkeypatch):
    """The others are not, and each comes out the same."""
    calls: list[int] = []

    def spied(prepare, index, *arguments):
        calls.append(index)
        return guarded(prepare, index, *arguments)

    monkeypatch.setattr(prepare, "guarded", spied)
    found = []
    for index, largest in enumerate([48 * 64, 48 * 64 - 1]):
        monkeypatch.setattr(prepare, "LARGEST", largest)
        ((image,),) = preparer()(index, Input("x", encoded(form)))
        assert image.patches is not None
        found.append(image.patches.pixels)
    assert calls == [1]
    np.testing.assert_array_equal(*found)


def test_photos_of_all_programs_stay_in_this_process(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    photos = [
        encoded("JPEG"),
        encoded("JPEG", progressive=True, exif=exif, icc_profile=bytes(300_000)),
        encoded("PNG"),
        encoded("PNG", compress_level=0),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
    ]
    for number, photo in enumerate(photos):
        assert is_tame(photo), number
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(photo)
        item = decided(Input("photo", path))
        assert (item.source, item.kind, item.tame) == (photo, "picture", True)
    for form in ("GIF", "TIFF", "BMP", "PPM", "JPEG2000"):
        assert not decided(Input("other", encoded(form))).tame
    assert decided(Input("pixels", PIXELS)).tame
    assert decided(Input("none", tmp_path / "none")).tame  # reading it says what is wrong


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
     ("WEBP", {"icc_profile": bytes(10)})],
)  # fmt: skip
def test_pixels_are_counted_by_the_header(form, options):
    assert pixels_of(encoded(form, **options)) == 48 * 64


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8L"]), st.binary(max_size=200))
def test_damaged_headers_are_counted_without_an_error(start, rest):
    assert pixels_of(start + rest) >= 0


def test_pictures_of_endless_parts_do_not():
    photo = encoded("JPEG")
    comment = b"\xff\xfe\0\2"
    assert is_tame(photo[:2] + comment * 100 + photo[2:])
    assert not is_tame(photo[:2] + comment * PARTS + photo[2:])
    scan = photo.index(b"\xff\xda")
    assert not is_tame(photo[:scan] + b"\xff\xda" * SCANS + photo[scan:])
    picture = encoded("PNG")
    chunk = struct.pack(">I4sI", 0, b"teXt", 0)
    assert is_tame(picture[:33] + chunk * 100 + picture[33:])
    assert not is_tame(picture[:33] + chunk * PARTS + picture[33:])


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBP", b""]), st.binary(max_size=200))
def test_damaged_pictures_are_looked_at_without_an_error(start, rest):
    assert is_tame(start + rest) in (True, False)


def test_what_looks_like_two_kinds_is_one_of_them_for_limits_and_reader_alike():
    photo = encoded("JPEG")
    both = photo[:2] + b"\xff\xfe\0\x0b%PDF-1.7\n" + photo[2:]
    assert Image.open(BytesIO(both)).size == (64, 48)
    assert decided(Input("both", both)).kind == "PDF document"
    with pytest.raises(ImageError, match=r"expected JPEG, PNG.*found a PDF document"):
        preparer().first(decided(Input("both", both)), accepts, 20)


def test_frames_are_counted_until_the_second():
    pages = [Image.fromarray(PIXELS)] * 5
    content = encoded("TIFF", save_all=True, append_images=pages)
    assert read_header(content) == (64, 48, 2)
    last = content.rindex(struct.pack("<HHII", 257, 4, 1, 48))
    assert read_header(content[:last]) == (64, 48, 2)  # nothing behind the second is looked at
