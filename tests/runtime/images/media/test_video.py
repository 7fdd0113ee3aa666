"""Frames of clips encoded here: which are chosen and when they are shown, against the packets of the container."""

from __future__ import annotations

import math
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
from tests.support.clips import clip, container_times, number_of, sound, tick


def frames(source: Path | bytes, *options: str, done: tuple[int, ...] = ()) -> list[Frame]:
    profile = resolve("video-frames", settings=options, environment={}).profile
    return list(read_frames(source, name="a.mp4", profile=profile, done=done))


def numbers(found: list[Frame]) -> list[int]:
    return [number_of(np.asarray(frame.picture)) for frame in found]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mov"])
def test_every_container_is_told_by_its_first_bytes(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"a{suffix}", range(50), Fraction(1, 25))
    found = frames(path, "video.rate=5")
    assert numbers(found) == list(range(0, 46, 5))
    times = container_times(path)
    assert [frame.time for frame in found] == [float(times[number]) for number in numbers(found)]
    assert [(frame.number, frame.last) for frame in found] == [(n, n == 9) for n in range(10)]
    again = frames(path.read_bytes(), "video.rate=5")
    assert [(frame.number, frame.time) for frame in again] == [(frame.number, frame.time) for frame in found]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 700), min_size=1, max_size=30),
    rate=st.sampled_from([0.5, 1.0, 3.0, 7.5, 30.0]),
    suffix=st.sampled_from([".mp4", ".mkv"]),
)
def test_variable_rates_give_the_first_frame_of_each_interval(
    tmp_path: Path, steps: list[int], rate: float, suffix: str
) -> None:
    ticks = np.cumsum([0, *steps]).tolist()
    path = clip(tmp_path / f"a{suffix}", ticks)
    times = container_times(path)
    assert times == [Fraction(tick, 1000) for tick in ticks], "the container has what was encoded"
    first_of: dict[int, int] = {}
    for number, time in enumerate(times):
        first_of.setdefault(math.floor((time + tick(path) / 2) * Fraction(rate)), number)
    found = frames(path, f"video.rate={rate}")
    assert numbers(found) == list(first_of.values())
    assert [frame.time for frame in found] == [float(times[number]) for number in numbers(found)]


def test_at_its_own_rate_no_frame_is_missed(tmp_path: Path) -> None:
    """Matroska rounds 1/30 s to 33 ms, which is before it is due."""
    path = clip(tmp_path / "a.mkv", [round(number * 1000 / 30) for number in range(40)])
    assert numbers(frames(path, "video.rate=30")) == list(range(40))


def test_times_are_those_of_a_container_that_starts_late(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", [5000 + 40 * number for number in range(40)])
    found = frames(path, "video.rate=2")
    assert [frame.time for frame in found] == [5.0, 5.52, 6.0, 6.52]


def test_one_frame_a_scene(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), np.uint8), 16, 0), 16, 1) for _ in range(3)]
    pictures = [scenes[0]] * 12 + [scenes[1]] * 17 + [scenes[2]] * 11
    path = clip(tmp_path / "a.mp4", [40 * n for n in range(40)], size=(128, 96), pictures=pictures)
    found = frames(path, "video.frames=scenes")
    times = container_times(path)
    assert [frame.time for frame in found] == [float(times[number]) for number in (0, 12, 29)]
    for frame, scene in zip(found, scenes, strict=True):
        assert np.abs(np.asarray(frame.picture, float) - scene).mean() < 12
    assert [frame.last for frame in found] == [False, False, True]


def test_frames_that_are_done_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", range(40), Fraction(1, 25))
    every = frames(path, "video.rate=5")
    rest = frames(path, "video.rate=5", done=(0, 1, 4))
    assert [(frame.number, frame.time) for frame in rest] == [
        (frame.number, frame.time) for frame in every if frame.number not in (0, 1, 4)
    ]


def test_clips_recorded_on_their_side_are_turned(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255  # the left half is white
    content = clip(tmp_path / "a.mp4", range(3), Fraction(1, 25), pictures=[picture] * 3).read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[place : place + 36] == upright
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)  # clockwise, as phones write
    found = frames(content[:place] + quarter + content[place + 36 :])
    turned = np.asarray(found[0].picture)
    assert turned.shape == (64, 48, 3)
    assert turned[:28].mean() > 240, "what was left is on top"
    assert turned[36:].mean() < 15


def test_bad_clips_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    good = clip(tmp_path / "good.mp4", range(20), Fraction(1, 25))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:2000])
    large = clip(tmp_path / "large.mkv", [0], size=(640, 480))
    for path, settings_, message in (
        (sound(tmp_path / "sound.mkv"), (), "expected a video, found a clip without one"),
        (cut, (), "damaged video"),
        (large, ("image.max_pixels=1000",), "expected at most 1000 pixels, found 640x480"),
    ):
        (frame,) = frames(path, *settings_)
        assert isinstance(frame.error, ImageError), message
        assert message in frame.error.message
        assert frame.error.message.startswith("a.mp4")


def test_without_the_extra_the_clip_alone_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "a.mp4", range(3), Fraction(1, 25))
    monkeypatch.setitem(sys.modules, "av", None)
    (frame,) = frames(path)
    assert isinstance(frame.error, MissingExtraError)
    assert "naflex-deploy[video]" in frame.error.hint
