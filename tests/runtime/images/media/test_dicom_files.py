"""DICOM files of every transfer syntax and form: compressed, deflated, damaged, cine, and folders of them."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, HTJ2KLossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.images.inputs import expand
from naflex_deploy.runtime.images.media.dicom.reader import is_dicom
from tests.support.clips import clip
from tests.support.dicoms import BIRTH, PATIENT, SLICE, dataset, dicom, frames, saved, shown

RNG = np.random.default_rng(0)


def test_frames_in_order_and_those_done_left_out() -> None:
    volume = RNG.integers(0, 256, (5, 6, 7), np.uint8)
    content = dicom(volume)
    found = frames(content)
    assert [(frame.number, frame.last) for frame in found] == [(n, n == 4) for n in range(5)]
    for frame, expected in zip(found, volume, strict=True):
        assert np.array_equal(np.asarray(frame.picture)[..., 0], expected)
    rest = frames(content, done=(0, 3))
    assert [(frame.number, frame.last) for frame in rest] == [(1, False), (2, False), (4, True)]
    assert np.array_equal(np.asarray(rest[1].picture)[..., 0], volume[2])


def test_compressed_pixels() -> None:
    header = dataset(SLICE, WindowCenter=1700, WindowWidth=900)
    expected = shown(saved(header))
    header.compress(RLELossless)
    assert np.array_equal(shown(saved(header)), expected)
    photo = dataset(np.asarray(Image.linear_gradient("L")))
    stream = BytesIO()
    Image.linear_gradient("L").save(stream, "JPEG", quality=95)
    photo.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    photo.PixelData = encapsulate([stream.getvalue()])
    assert np.array_equal(shown(saved(photo)), np.asarray(Image.open(stream)))


def test_bad_files_say_what_is_wrong_and_nothing_of_the_patient(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    header = dataset(SLICE)
    other_syntax = dataset(SLICE)
    other_syntax.file_meta.TransferSyntaxUID = JPEGLSLossless
    other_syntax.PixelData = encapsulate([b"\0" * 100])
    cut = saved(header)
    large_table = Dataset()
    large_table.LUTDescriptor, large_table.LUTData = [4096, 0, 16], np.arange(4096, dtype=np.uint16).tobytes()
    assert frames(dicom(SLICE, VOILUTSequence=Sequence([large_table])))[0].error is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for content, message in (
            (dicom(None), "expected pixels, found a DICOM file without any"),
            (dicom(None, Rows=3, Columns=3), "missing"),
            (cut[: len(cut) - 300], "damaged"),
            (cut[:140] + b"\xff" * 60, "a.dcm: "),
            (saved(other_syntax), "damaged"),
            (dicom(SLICE, Rows=20_000, Columns=20_000), "expected at most 120000000 pixels"),
        ):
            (frame,) = frames(content)
            assert isinstance(frame.error, ImageError), message
            assert message in frame.error.message
            assert not any(secret in repr(frame.error) for secret in (PATIENT, BIRTH, "Doe", "QUARTZ"))
        spoiled = dicom(SLICE).replace(BIRTH.encode(), b"Doe Jane")
        assert frames(spoiled)[0].error is None
    said = " ".join([*(str(item.message) for item in caught), caplog.text])
    assert not any(secret in said for secret in (PATIENT, BIRTH, "Doe", "Jane", "QUARTZ"))


def test_without_the_extra_the_file_alone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (frame,) = frames(dicom(SLICE))
    assert isinstance(frame.error, MissingExtraError)
    assert "naflex-deploy[dicom]" in frame.error.hint
    assert math.isclose(frame.error.code, 2)


def test_files_without_a_preamble_and_deflated_ones() -> None:
    header = dataset(SLICE, WindowCenter=1700, WindowWidth=900)
    expected = shown(saved(header))
    for implicit in (True, False):
        stream = BytesIO()
        bare = dataset(SLICE, WindowCenter=1700, WindowWidth=900)
        del bare.file_meta
        dcmwrite(stream, bare, implicit_vr=implicit, little_endian=True)
        assert np.array_equal(shown(stream.getvalue()), expected)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(shown(saved(header)), expected)


def test_other_files_are_not_taken_for_dicom() -> None:
    for start in (b"\x08\0 some text that is long enough", b"\x02\0\0\0\xff\xff\xff\xff" + bytes(20)):
        assert not is_dicom(start)


def test_one_bit_frames_that_end_inside_a_byte() -> None:
    masks = RNG.integers(0, 2, (3, 5, 7), np.uint8)
    header = dataset(masks, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    header.PixelData = packed + b"\0" * (len(packed) % 2)
    found = frames(saved(header))
    assert [np.asarray(frame.picture)[..., 0].tolist() for frame in found] == (masks * 255).tolist()


def test_jpeg_ls() -> None:
    pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed")
    header = dataset(SLICE, WindowCenter=1700, WindowWidth=900)
    expected = shown(saved(header))
    header.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
    assert np.array_equal(shown(saved(header)), expected)


def test_a_syntax_without_a_decoder_is_named() -> None:
    header = dataset(SLICE)
    header.file_meta.TransferSyntaxUID = HTJ2KLossless
    header.PixelData = encapsulate([b"\0" * 100])
    (frame,) = frames(saved(header))
    assert frame.error is not None
    assert "High-Throughput JPEG 2000" in frame.error.message


@pytest.mark.parametrize(
    ("elements", "message"),
    [({"BitsStored": 20}, "20 bits stored in 16"), ({"BitsStored": 12, "HighBit": 15}, "highest bit to be 11")],
)
def test_bits_that_cannot_be_are_refused(elements: dict[str, int], message: str) -> None:
    (frame,) = frames(dicom(SLICE, **elements))
    assert frame.error is not None
    assert message in frame.error.message


def test_a_clip_inside_is_a_clip(tmp_path: Path) -> None:
    movie = clip(tmp_path / "a.mp4", range(0, 3000, 100)).read_bytes()
    header = dataset(np.zeros((30, 48, 64, 3), np.uint8)[0], NumberOfFrames=30)
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    header.PixelData = encapsulate([movie + b"\0" * (len(movie) % 2)], has_bot=False)
    found = frames(saved(header))
    assert [frame.time for frame in found] == [0, 1, 2]


def test_slices_of_a_medium_come_in_the_order_of_the_body(tmp_path: Path) -> None:
    places = [30.0, 10.0, 20.0, 0.0]
    for index, place in enumerate(places):
        header = dataset(SLICE, SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2", InstanceNumber=index)
        header.ImageOrientationPatient, header.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [5, 5, place]
        (tmp_path / f"IM0000{index}").write_bytes(saved(header))
    (tmp_path / "DICOMDIR").write_bytes(dicom(None))
    (tmp_path / "REPORT").write_bytes(dicom(None))
    (tmp_path / "plan.dcm").write_bytes(dicom(None))
    (tmp_path / "A.JPG").write_bytes(b"")
    (tmp_path / "README").write_text("text")
    left: list[Path] = []
    found = [path.name for path in expand([tmp_path], left.append)]
    assert found == ["A.JPG", "IM00003", "IM00001", "IM00002", "IM00000"]
    assert sorted(path.name for path in left) == ["DICOMDIR", "README", "REPORT", "plan.dcm"]


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "GDCMJ2K_TextGBR.dcm"])
def test_files_that_one_decoder_or_a_stream_cannot_read_are_read_otherwise(name):
    path = get_testdata_file(name, download=False)
    (frame,) = frames(Path(path).read_bytes())
    assert frame.error is None
    np.testing.assert_array_equal(np.asarray(frame.picture), dcmread(path).pixel_array)
