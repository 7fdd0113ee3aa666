"""JPEG decoded at a half, a quarter or an eighth, against Pillow's own means of blocks and against decoding in full."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection, Profile
from naflex_deploy.runtime.images.cutting import Cutter
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.images.media.scaled import ScaledJpeg

SCALED = Profile(name="scaled", image=ImageSection(decode="scaled"))


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **({"quality": 95} if form == "JPEG" else {}), **options)
    return stream.getvalue()


def frame_of(content: bytes, profile: Profile = SCALED) -> Frame:
    (frame,) = read_frames(content, name="x", profile=profile)
    return frame


@pytest.mark.parametrize(("size", "scale"), [((80, 60), 8), ((81, 60), 4), ((150, 200), 2), ((500, 20), 1)])
def test_the_smallest_scale_with_enough_pixels_is_decoded(size, scale, monkeypatch):
    loaded = []
    plain = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loaded.append(self.size) or plain(self))
    picture = frame_of(encoded(smooth(800, 600))).picture
    assert isinstance(picture, ScaledJpeg)
    assert picture.size == (800, 600)
    assert not loaded
    assert picture.resize(size, Image.Resampling.BILINEAR).size == size
    assert set(loaded) == {(800 // scale, 600 // scale)}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turn", [1, 3, 6, 7])
def test_pixels_are_close_to_those_of_decoding_in_full(mode, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    content = encoded(smooth(800, 600, mode), exif=exif)
    cutter = Cutter(ImageSection(), Preprocessing(patch_size=16), 64)
    (layout, (exact,)), (_, (scaled,)) = (
        cutter(frame_of(content, profile), "x") for profile in (Profile(name="exact"), SCALED)
    )
    assert exact.box == scaled.box
    assert layout.whole.grid_hw == ((9, 7) if turn in (6, 7) else (7, 9))
    difference = np.abs(exact.patches.pixels.astype(int) - scaled.patches.pixels)
    assert 0 < difference.mean() < 1.5
    assert difference.max() <= 8


def test_a_fit_that_does_not_shrink_gives_the_same_pixels():
    content = encoded(smooth(160, 96))
    cutter = Cutter(ImageSection(), Preprocessing(patch_size=16), 256)
    (_, (exact,)), (_, (scaled,)) = (
        cutter(frame_of(content, profile), "x") for profile in (Profile(name="exact"), SCALED)
    )
    assert np.array_equal(exact.patches.pixels, scaled.patches.pixels)


def test_a_model_without_antialiasing_reads_pixels_of_the_full_picture():
    content = encoded(smooth(800, 600))
    fit = plan_fit((600, 800), patch_size=16, tokens=64)
    exact, scaled = (
        apply_fit(frame_of(content, profile).picture, fit, antialias=False)
        for profile in (Profile(name="exact"), SCALED)
    )
    assert np.array_equal(exact, scaled)


@pytest.mark.parametrize(("form", "mode"), [("PNG", "RGB"), ("JPEG", "CMYK")])
def test_what_cannot_be_decoded_scaled_says_so(form, mode):
    frame = frame_of(encoded(smooth(80, 60, mode), form))
    assert isinstance(frame.picture, Image.Image)
    (decision,) = (item for item in frame.decisions if item.about == "reader")
    assert decision.value.startswith("decoded in full")
    assert not frame_of(encoded(smooth(8, 8)), Profile(name="exact")).decisions


def test_damage_and_limits_are_named():
    content = encoded(smooth(800, 600))
    frame = frame_of(content[: len(content) // 2])
    with pytest.raises(ImageError, match="x: damaged or truncated"):
        frame.picture.resize((100, 75), Image.Resampling.BILINEAR)
    profile = Profile(name="small", image=ImageSection(decode="scaled", max_pixels=800 * 600 - 1))
    assert "800x600" in str(frame_of(content, profile).error)
