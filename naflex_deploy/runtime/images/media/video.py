"""Frames of clips, with the timestamps of their container: at a rate, or where the scene changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection, VideoSection
from naflex_deploy.runtime.images.media import density
from naflex_deploy.runtime.images.media.frame import Frame, mark_last
from naflex_deploy.runtime.images.media.video_picture import picture_of
from naflex_deploy.runtime.images.source import check_size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_UNTIMED = ("avi", "h264", "hevc", "mjpeg", "m4v")
"""Formats without timestamps of their own: FFmpeg gives frames those of packets, which are in another order."""


Timed = tuple["VideoFrame", Fraction]


def read_video(
    source: Path | bytes, *, name: str, image: ImageSection, video: VideoSection, done: Collection[int] = ()
) -> Iterator[Frame]:
    """The chosen frames of a clip, numbered from 0. The clip is decoded once, from its beginning.

    Of several streams the one that a player shows is taken; a cover is none. Interlaced clips are deinterlaced.

    Args:
        source: Path, or content.
        name: In messages.
        image, video: Of the profile.
        done: Numbers of chosen frames that are left out.

    Raises:
        ImageError: It is damaged, or has no video.
        MissingExtraError: PyAV is not installed.
    """
    with needs_extra("video"):
        import av
    form = "mjpeg" if is_motion_jpeg(source, name) else None
    try:
        opened = BytesIO(source) if isinstance(source, bytes) else str(source)
        with av.open(opened, "r", format=form, metadata_errors="replace") as container:
            stream = _shown_stream(container, name)
            check_size(stream.width, stream.height, name, image.max_pixels)
            total = 0
            if video.frames == "even":
                with av.open(BytesIO(source) if isinstance(source, bytes) else str(source), "r", format=form) as first:
                    total = _count(first, stream.index)
            yield from mark_last(_frames(container, stream, name, image, video, done, total))
    except av.FFmpegError as error:
        raise ImageError(f"{name}: damaged video: {error.strerror}", hint="replace the file") from None


def is_motion_jpeg(source: Path | bytes, name: str) -> bool:
    """Whether JPEG pictures follow one another, which the name alone says: they begin like a single one."""
    return str(source if isinstance(source, Path) else name).lower().endswith((".mjpeg", ".mjpg"))


def _shown_stream(container: InputContainer, name: str) -> VideoStream:
    from av.stream import Disposition

    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not films:
        raise ImageError(f"{name}: expected a video, found a clip without one", hint="leave it out")
    best = container.streams.best("video")
    shown = next((stream for stream in films if best is not None and stream.index == best.index), films[0])
    if shown.codec_context is None:
        raise ImageError(f"{name}: its video is of a codec that FFmpeg does not know", hint="encode it again")
    return shown


def _frames(
    container: InputContainer,
    stream: VideoStream,
    name: str,
    image: ImageSection,
    video: VideoSection,
    done: Collection[int],
    total: int,
) -> Iterator[Frame]:
    """Chosen frames; ``total`` is the number of all, where it decides which."""
    stream.thread_type = "AUTO"
    aspect = stream.sample_aspect_ratio
    said = None
    if aspect is not None and aspect.numerator:
        said = density.Density(aspect.denominator, aspect.numerator, False, "the sample aspect ratio")
    timed = _timed(_deinterlaced(container.decode(stream), stream), container, stream, name, image.max_pixels)
    spread = 0
    if video.frames == "scenes":
        chosen = _at_scenes(timed, stream, video.scene)
    elif video.frames == "even":
        places = even_places(total, float(stream.average_rate or stream.guessed_rate or 24), video)
        chosen, spread = _at_places(timed, places), len(places)
    else:
        chosen = _at_rate(timed, video.rate)
    for number, (frame, time) in enumerate(chosen):
        if number not in done:
            picture, swapped, decisions = picture_of(frame)
            ratio, _, told = density.resolve(said.turned() if said and swapped else said, image, name)
            yield Frame(number, picture, aspect=ratio, time=float(time), spread=spread, decisions=(*decisions, *told))


def _deinterlaced(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames whose two fields were taken at different times, made whole; others as they are."""
    first = next(frames, None)
    if first is None:
        return
    every = chain([first], frames)
    if not first.interlaced_frame:
        yield from every
        return
    yield from _filtered(every, stream, "bwdif", "mode=send_frame:deint=interlaced")


def _filtered(frames: Iterable[VideoFrame], stream: VideoStream, name: str, options: str) -> Iterator[VideoFrame]:
    import av
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream, time_base=stream.time_base), graph.add(name, options), graph.add("buffersink")
    ).configure()
    for frame in chain(frames, [None]):
        graph.vpush(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield graph.vpull()


def _timed(
    frames: Iterable[VideoFrame], container: InputContainer, stream: VideoStream, name: str, max_pixels: int
) -> Iterator[Timed]:
    """Frames with their times in seconds, exactly as the container has them, and always increasing.

    Where a format has no times, frames are as far apart as its rate says. Frames of equal times are, too.

    Raises:
        ImageError: The times of the container run backwards, or a frame is too large.
    """
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    untimed = container.format.name in _UNTIMED
    start = Fraction(0)
    if untimed and stream.start_time is not None and stream.time_base is not None:
        start = stream.start_time * stream.time_base
    before: Fraction | None = None
    stated: Fraction | None = None
    for number, frame in enumerate(frames):
        check_size(frame.width, frame.height, name, max_pixels)
        if untimed:
            time = start + number / Fraction(rate)
        elif frame.pts is None or frame.time_base is None:
            time = Fraction(0) if before is None else before + 1 / Fraction(rate)
        else:
            time = frame.pts * frame.time_base
            if stated is not None and time < stated:
                raise ImageError(
                    f"{name}: its times run backwards, from {float(stated):.3f} s to {float(time):.3f} s",
                    hint="cut it there, or write it again with increasing times",
                )
            stated = time
        if before is not None and time <= before:
            time = before + 1 / Fraction(rate)
        before = time
        yield frame, time


def _at_rate(frames: Iterable[Timed], rate: float) -> Iterator[Timed]:
    """The first frame, and from there the first frame in each interval of 1 / rate seconds.

    Containers round timestamps to their time base, so a frame may be half a tick early.
    """
    start: Fraction | None = None
    due = Fraction(0)
    for frame, time in frames:
        start = time if start is None else start
        passed = time - start + (frame.time_base or 0) / 2
        if passed >= due:
            yield frame, time
            due = (math.floor(passed * Fraction(rate)) + 1) / Fraction(rate)


def even_places(total: int, rate: float, video: VideoSection) -> list[int]:
    """Which frames of a clip are taken: as many as the profile's rate gives, spread evenly from the first to the last.

    The steps are those of ``Qwen3VLVideoProcessor.sample_frames`` in transformers, which rounds halves to even.

    Args:
        total: Frames of the clip.
        rate: Frames per second of the clip.
        video: Of the profile.
    """
    count = min(max(int(total / rate * video.rate), video.min_frames), video.max_frames, total)
    return [int(place) for place in np.linspace(0, total - 1, count).round()] if count else []


def _count(container: InputContainer, index: int) -> int:
    """Frames of a stream, by its packets: what a container says of their number may be missing or wrong."""
    return sum(1 for packet in container.demux(container.streams[index]) if packet.size)


def _at_places(frames: Iterable[Timed], places: Sequence[int]) -> Iterator[Timed]:
    """The frames at ascending places; where the clip ends before them, its last frame stands for the rest."""
    wanted = iter(places)
    place = next(wanted, None)
    last: Timed | None = None
    for number, last in enumerate(frames):
        while place == number:
            yield last
            place = next(wanted, None)
    while place is not None and last is not None:
        yield last
        place = next(wanted, None)


def _at_scenes(frames: Iterable[Timed], stream: VideoStream, score: float) -> Iterator[Timed]:
    """The first frame, and those of which FFmpeg's scene score is above ``score``.

    The filter says which frames these are. The pictures are those decoded, as it hands back its own, in 4:2:0.
    """
    import av
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream, time_base=stream.time_base),
        graph.add("select", f"eq(n,0)+gt(scene,{score})"),
        graph.add("buffersink"),
    ).configure()
    for frame, time in frames:
        graph.vpush(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                graph.vpull()
                yield frame, time
