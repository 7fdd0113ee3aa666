"""Frames of clips encoded here: which are chosen and when they are shown, against the packets of the container."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
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


def encoded(
    path: Path,
    pictures: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    prepare: Callable[[object], None] = lambda stream: None,
    format: str | None = None,
) -> Path:
    """A clip of 25 frames a second."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        prepare(stream)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def plain(shade: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), shade, np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mpg"])
def test_pixels_of_anamorphic_clips_are_not_square(tmp_path: Path, suffix: str) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)

    codec = "mpeg2video" if suffix == ".mpg" else "mpeg4"
    (found,) = frames(encoded(tmp_path / f"a{suffix}", [plain(90, (576, 720))] * 3, codec, prepare=prepare))
    assert found.aspect == pytest.approx(64 / 45, rel=0.01)
    assert found.shown_size == (pytest.approx(1024, rel=0.01), 576)
    (square,) = frames(tmp_path / f"a{suffix}", "image.pixel_aspect=square")
    assert square.aspect == 1


TURNS = {
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (-1, 0, 0, -1): lambda a: a[::-1, ::-1],
    (0, 1, -1, 0): lambda a: np.rot90(a, -1),
    (0, -1, 1, 0): lambda a: np.rot90(a),
    (0, 1, 1, 0): lambda a: a.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda a: a[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_display_matrices_that_turn_and_mirror(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    picture = plain(0)
    picture[:16, :32] = 255
    content = clip(tmp_path / "a.mp4", range(3), Fraction(1, 25), pictures=[picture] * 3).read_bytes()
    (stored,) = frames(content)
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    other = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (found,) = frames(content[:place] + other + content[place + 36 :])
    assert np.array_equal(np.asarray(found.picture), TURNS[matrix](np.asarray(stored.picture)))


def test_untagged_clips_have_the_colours_of_their_size(tmp_path: Path) -> None:
    """Of the same stored values: BT.601 up to 576 lines, BT.709 above (ITU-R BT.601-7, BT.709-6)."""
    y, u, v = 100, 90, 200
    for lines, (red, blue) in ((64, (0.299, 0.114)), (720, (0.2126, 0.0722))):
        path = tmp_path / f"{lines}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, lines, "yuv444p"
            frame = av.VideoFrame(64, lines, "yuv444p")
            for plane, value in zip(frame.planes, (y, u, v), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
        r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
        g = (luma - red * r - blue * b) / (1 - red - blue)
        (found,) = frames(path)
        expected = np.clip([r * 255, g * 255, b * 255], 0, 255)
        assert np.abs(np.asarray(found.picture, float)[lines // 2, 32] - expected).max() <= 1.5


def test_interlaced_clips_are_made_whole(tmp_path: Path) -> None:
    """A bar that moves between the two fields of a frame has teeth; afterwards it has none."""

    def field(position: int) -> np.ndarray:
        picture = plain(20, (96, 128))
        picture[:, position : position + 30] = 220
        return picture

    combed = []
    for number in range(6):
        picture = field(8 * number)
        picture[1::2] = field(8 * number + 4)[1::2]
        combed.append(picture)

    options = {"flags": "+ildct+ilme", "top": "1", "q": "2"}
    path = encoded(tmp_path / "a.mpg", combed, "mpeg2video", options | {"field_order": "tt"})
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    found = frames(path, "video.rate=25")[3]
    rows = np.asarray(found.picture, float)[..., 0]
    teeth = np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()
    source = combed[3][..., 0].astype(float)
    assert np.abs(source[1:-1] - (source[:-2] + source[2:]) / 2).mean() > 5
    assert teeth < 1


def test_a_cover_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 96, 96, "yuvj420p"
        picture.disposition = int(Disposition.attached_pic)
        film = container.add_stream("mpeg4", rate=25)
        film.width, film.height = 64, 48
        frame = av.VideoFrame.from_ndarray(plain(0, (96, 96)), "rgb24")
        container.mux(picture.encode(frame.reformat(format="yuvj420p")))
        container.mux(picture.encode())
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(plain(200), "rgb24")
            frame.pts = number
            container.mux(film.encode(frame))
        container.mux(film.encode())
    (found,) = frames(path)
    assert found.picture is not None
    assert found.picture.size == (64, 48)


def test_scenes_hand_back_the_decoded_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(2)]
    path = encoded(tmp_path / "a.mkv", [scenes[0]] * 5 + [scenes[1]] * 5, "ffv1", pixels="bgr0")
    found = frames(path, "video.frames=scenes", "video.scene=0.1")
    assert [frame.time for frame in found] == [0, 0.2]
    for frame, scene in zip(found, scenes, strict=True):
        assert np.array_equal(np.asarray(frame.picture), scene), "not by way of 4:2:0"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("cam.h264", "libx264", {"bf": "0"}),
        ("cam.hevc", "libx265", {"x265-params": "log-level=none"}),
        ("bframes.avi", "libx264", {"bf": "2"}),
        ("mjpeg.avi", "mjpeg", {}),
        ("raw.mjpeg", "mjpeg", {}),
        ("a.ts", "libx264", {"bf": "2"}),
        ("a.flv", "flv1", {}),
    ],
)
def test_times_increase_in_every_container(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    shades = [plain(10 + 5 * number) for number in range(40)]
    path = encoded(tmp_path / name, shades, codec, options, pixels)
    found = frames(path, "video.rate=5")
    times = [frame.time for frame in found]
    steps = np.diff([time for time in times if time is not None])
    assert steps == pytest.approx([0.2] * 7, abs=0.003)
    assert numbers(found) == list(range(0, 40, 5))


def test_packets_of_camcorders(tmp_path: Path) -> None:
    """AVCHD puts 4 bytes before each packet of a transport stream."""
    content = encoded(tmp_path / "a.ts", [plain(10 + 5 * number) for number in range(10)]).read_bytes()
    packets = [b"\0\0\0\0" + content[at : at + 188] for at in range(0, len(content), 188)]
    (tmp_path / "a.mts").write_bytes(b"".join(packets))
    assert numbers(frames(tmp_path / "a.mts")) == [0]


def test_high_dynamic_range_is_toned_down(tmp_path: Path) -> None:
    """Grey of PQ at 100 cd/m² (code 0.508) is neither black nor burnt out, and the curve rises."""

    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        stream.codec_context.colorspace = 9

    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (48, 1, 3))
    path = encoded(tmp_path / "a.mkv", [ramp] * 2, "ffv1", {}, "yuv420p10le", prepare)
    (found,) = frames(path)
    assert any("PQ" in decision.value for decision in found.decisions)
    row = np.asarray(found.picture, float)[24].mean(-1)
    assert (np.diff(row[4:-4]) >= -2).all()
    assert row[4] < 5
    assert row[-4] > 245
    curve = [(x * (0.15 * x + 0.05) + 0.004) / (x * (0.15 * x + 0.5) + 0.06) - 1 / 15 for x in (1.0, 100.0)]
    assert row[round(0.508 * 255)] == pytest.approx(255 * (curve[0] / curve[1]) ** (1 / 2.4), abs=8)


def test_a_transport_stream_may_begin_inside_a_packet(tmp_path: Path) -> None:
    """As recorders cut it: the name says what it is, the bytes where its packets begin."""
    path = clip(tmp_path / "a.ts", list(range(0, 60, 2)), Fraction(1, 25))
    path.write_bytes(path.read_bytes()[100:])
    profile = resolve("video-frames", environment={}).profile
    found = list(read_frames(path, name=str(path), profile=profile))
    assert [frame.error for frame in found] == [None] * len(found)
    assert len(found) >= 2
