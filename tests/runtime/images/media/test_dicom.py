"""Slices of real DICOM files, against pydicom's own windowing and the formulas of the standard."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import DeflatedExplicitVRLittleEndian, HTJ2KLossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.images.inputs import expand
from naflex_deploy.runtime.images.media.dicom.reader import is_dicom
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
from tests.support.clips import clip
from tests.support.dicoms import BIRTH, PATIENT, dataset, dicom, saved

PROFILE = resolve("medical", environment={}).profile
RNG = np.random.default_rng(0)
SLICE = RNG.integers(0, 4096, (24, 40), np.uint16)


def frames(content: bytes, done: tuple[int, ...] = ()) -> list[Frame]:
    return list(read_frames(content, name="a.dcm", profile=PROFILE, done=done))


def shown(content: bytes) -> np.ndarray:
    """[h, w], the three channels being equal."""
    (frame,) = frames(content)
    assert isinstance(frame.picture, Image.Image), frame.error
    found = np.asarray(frame.picture)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@settings(max_examples=25, deadline=None)
@given(
    centre=st.floats(-1500, 3000),
    width=st.floats(1, 4000),
    slope=st.sampled_from([1.0, 0.5, 2.5]),
    intercept=st.sampled_from([0.0, -1024.0]),
    inverted=st.booleans(),
)
def test_rescale_and_window_follow_the_standard(
    centre: float, width: float, slope: float, intercept: float, inverted: bool
) -> None:
    centre, width = round(centre, 2), round(width, 2)
    window = {"WindowCenter": centre, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    found = shown(dicom(SLICE, **window, PhotometricInterpretation=kind))

    def expected(stored: int) -> float:
        """DICOM PS3.3 C.11.2.1.2.1."""
        x = stored * slope + intercept
        if x <= centre - 0.5 - (width - 1) / 2:
            y = 0.0
        elif x > centre - 0.5 + (width - 1) / 2:
            y = 255.0
        else:
            y = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
        return 255 - y if inverted else y

    for place in [(0, 0), (3, 7), (23, 39), (11, 20)]:
        assert found[place] == pytest.approx(expected(int(SLICE[place])), abs=0.51)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(function: str) -> None:
    header = dataset(SLICE, WindowCenter=1700, WindowWidth=900, VOILUTFunction=function, BitsStored=12, HighBit=11)
    expected = apply_windowing(SLICE, header) / 4095 * 255
    assert np.abs(shown(saved(header)) - expected).max() <= 0.51


def test_the_first_of_several_windows_is_taken() -> None:
    two = dicom(SLICE, WindowCenter=[1000, 50], WindowWidth=[500, 10])
    assert np.array_equal(shown(two), shown(dicom(SLICE, WindowCenter=1000, WindowWidth=500)))


def test_without_a_window_16_bits_are_spread_and_8_bits_kept() -> None:
    found = shown(dicom(SLICE))
    span = float(SLICE.max() - SLICE.min())
    assert np.abs(found - (SLICE - float(SLICE.min())) / span * 255).max() <= 0.51
    signed = SLICE.astype(np.int16) - 2000
    assert np.array_equal(shown(dicom(signed)), found)
    photo = RNG.integers(20, 100, (8, 9), np.uint8)
    assert np.array_equal(shown(dicom(photo)), photo)
    assert shown(dicom(np.full((4, 4), 700, np.uint16))).max() == 0, "a single value has no range"


def test_a_table_of_values_of_interest_is_applied() -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]
    table.LUTData = np.array([0, 50, 100, 255], np.uint16).tobytes()
    found = shown(dicom(np.array([[9, 10, 11, 12, 13, 99]], np.uint16), VOILUTSequence=Sequence([table])))
    assert found.tolist() == [[0, 0, 50, 100, 255, 255]]


def test_colour_and_palettes() -> None:
    colour = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    (frame,) = frames(dicom(colour))
    assert isinstance(frame.picture, Image.Image)
    assert np.array_equal(np.asarray(frame.picture), colour)
    palette: dict[str, object] = {}
    for channel, values in (("Red", [0, 65535]), ("Green", [0, 32768]), ("Blue", [65535, 0])):
        palette[f"{channel}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        palette[f"{channel}PaletteColorLookupTableData"] = np.array(values, np.uint16).tobytes()
    indices = np.array([[0, 1]], np.uint8)
    (frame,) = frames(dicom(indices, PhotometricInterpretation="PALETTE COLOR", **palette))
    assert isinstance(frame.picture, Image.Image), frame.error
    assert np.asarray(frame.picture).tolist() == [[[0, 0, 255], [255, 128, 0]]]


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


def test_windows_of_enhanced_files_are_of_each_frame() -> None:
    def group(sequence: str, **elements: float) -> Dataset:
        item, holder = Dataset(), Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        setattr(holder, sequence, Sequence([item]))
        return holder

    volume = np.stack([SLICE, SLICE])
    rescale = group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=-100)
    windows = [group("FrameVOILUTSequence", WindowCenter=c, WindowWidth=700) for c in (1000, 3000)]
    found = frames(
        dicom(
            volume,
            SharedFunctionalGroupsSequence=Sequence([rescale]),
            PerFrameFunctionalGroupsSequence=Sequence(windows),
        )
    )
    for frame, centre in zip(found, (1000, 3000), strict=True):
        single = dicom(SLICE, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=centre, WindowWidth=700)
        assert np.array_equal(np.asarray(frame.picture)[..., 0], shown(single))


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


def test_a_rescale_of_one_and_zero_rescales_nothing() -> None:
    photo = RNG.integers(20, 100, (8, 9), np.uint8)
    assert np.array_equal(shown(dicom(photo, RescaleSlope=1, RescaleIntercept=0)), photo)


def test_the_frames_of_a_cine_share_one_range() -> None:
    cine = np.stack([SLICE // 4, SLICE, SLICE // 2])
    low, high = float(cine.min()), float(cine.max())
    for frame, values in zip(frames(dicom(cine)), cine, strict=True):
        assert np.abs(np.asarray(frame.picture)[..., 0] - (values - low) / (high - low) * 255).max() <= 0.51
    (rest,) = frames(dicom(cine), done=(1, 2))
    assert np.asarray(rest.picture).max() < 70, "of the whole cine, also where frames are left out"


def test_padding_is_no_part_of_the_picture() -> None:
    body = RNG.integers(-100, 100, (24, 40), np.int16)
    outside = np.zeros(body.shape, bool)
    outside[:, :5] = True
    values = np.where(outside, np.int16(-2000), body)
    found = shown(dicom(values, PixelPaddingValue=-2000))
    expected = (body - float(body[~outside].min())) / float(np.ptp(body[~outside])) * 255
    assert np.abs(found - expected)[~outside].max() <= 0.51
    assert (found[outside] == 0).all()
    inverted = shown(dicom(values, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1"))
    assert (inverted[outside] == 0).all(), "black in either polarity"
    values[:, 5:7] = -1990
    ranged = shown(dicom(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1900))
    assert (ranged[:, :7] == 0).all()
    assert shown(dicom(np.full((4, 4), -2000, np.int16), PixelPaddingValue=-2000)).max() == 0


def test_the_greatest_entry_of_a_table_is_white() -> None:
    """Of 16 bits that are claimed 12 are used; and a table of 8 bits with more than 256 entries does not wrap."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (4095 - ramp).tobytes()
    found = shown(dicom(ramp, VOILUTSequence=Sequence([table])))
    assert np.abs(found - (4095 - ramp) / 4095 * 255).max() <= 0.51
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], (np.arange(4096) // 16).astype(np.uint8).tobytes()
    found = shown(dicom(ramp, VOILUTSequence=Sequence([table])))
    assert np.array_equal(found, ramp // 16)


def test_low_values_are_white_once() -> None:
    plain = shown(dicom(SLICE))
    for elements in (
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
    ):
        assert np.array_equal(shown(dicom(SLICE, **elements)), 255 - plain)
    assert np.array_equal(shown(dicom(SLICE, PresentationLUTShape="IDENTITY")), plain)


def test_floating_point_pixels() -> None:
    header = dataset(SLICE)
    values = SLICE.astype(np.float32) / 7 - 5
    del header.PixelData, header.BitsStored, header.HighBit, header.PixelRepresentation
    header.BitsAllocated, header.FloatPixelData = 32, values.tobytes()
    found = shown(saved(header))
    assert np.array_equal(found, shown(dicom(SLICE)))


def test_segmented_palettes() -> None:
    """Two discrete entries, then a line to a third (C.7.9.2): 0, 1 … of 16 entries."""
    palette: dict[str, object] = {}
    for channel, end in (("Red", 255), ("Green", 128), ("Blue", 0)):
        palette[f"{channel}PaletteColorLookupTableDescriptor"] = [16, 0, 16]
        segments = np.array([0, 2, 0, 0, 1, 14, end * 257], np.uint16)
        palette[f"Segmented{channel}PaletteColorLookupTableData"] = segments.tobytes()
    indices = np.array([[0, 1, 8, 15]], np.uint8)
    (frame,) = frames(dicom(indices, PhotometricInterpretation="PALETTE COLOR", **palette))
    assert isinstance(frame.picture, Image.Image), frame.error
    found = np.asarray(frame.picture)[0]
    assert found[[0, 1, 3]].tolist() == [[0, 0, 0], [0, 0, 0], [255, 128, 0]]
    assert abs(int(found[2, 0]) - 127.5) <= 1.5


@pytest.mark.parametrize(
    ("elements", "aspect"),
    [
        ({}, 1),
        ({"PixelSpacing": [1, 2]}, 2),
        ({"PixelSpacing": [0.5, 0.5]}, 1),
        ({"PixelAspectRatio": [1, 2]}, 2),
        ({"ImagerPixelSpacing": [2, 1]}, 0.5),
        ({"ImagerPixelSpacing": [2, 1], "PixelSpacing": [1, 1]}, 1),
        ({"PixelSpacing": [1, 0]}, 1),
        ({"PixelSpacing": [1, 9]}, 1),
    ],
)
def test_pixels_that_are_not_square(elements: dict[str, object], aspect: float) -> None:
    """Rows are named first: 1 mm between rows and 2 mm between columns make a pixel twice as wide as high."""
    (frame,) = frames(dicom(SLICE, **elements))
    assert frame.aspect == pytest.approx(aspect)


def test_presets_are_for_ct() -> None:
    body = SLICE.astype(np.int16) - 1024
    for window, centre, width in (("lung", -600, 1500), ("soft", 40, 400), ("bone", 400, 1800), ([100, 50], 100, 50)):
        profile = resolve("medical", settings=[f"dicom.window={window!r}"], environment={}).profile
        content = dicom(body, Modality="CT", WindowCenter=0, WindowWidth=10)
        (frame,) = read_frames(content, name="a.dcm", profile=profile)
        expected = shown(dicom(body, WindowCenter=centre, WindowWidth=width))
        assert np.array_equal(np.asarray(frame.picture)[..., 0], expected)
        (other,) = read_frames(dicom(body, Modality="MR"), name="a.dcm", profile=profile)
        applied = np.array_equal(np.asarray(other.picture)[..., 0], expected)
        assert applied == isinstance(window, list)
        assert any(decision.warning for decision in other.decisions) != applied


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
