"""Slices of real DICOM files, against pydicom's own windowing and the formulas of the standard."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
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
            (saved(other_syntax), "transfer syntax that cannot be decoded"),
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
