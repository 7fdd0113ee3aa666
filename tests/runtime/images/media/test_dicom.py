"""Grey values and colours of DICOM files, against pydicom's own windowing and the formulas of the standard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.pixels.processing import apply_windowing

from naflex_deploy.core.config import resolve
from naflex_deploy.runtime.images.media.read import read_frames
from tests.support.dicoms import SLICE, dataset, dicom, frames, saved, shown

RNG = np.random.default_rng(0)


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
