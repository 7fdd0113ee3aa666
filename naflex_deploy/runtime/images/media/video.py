"""Frames of clips, with the timestamps of their container: at a rate, or where the scene changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection, VideoSection
from naflex_deploy.runtime.images.media.frame import Frame, mark_last
from naflex_deploy.runtime.images.source import check_size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


def read_video(
    source: Path | bytes, *, name: str, image: ImageSection, video: VideoSection, done: Collection[int] = ()
) -> Iterator[Frame]:
    """The chosen frames of a clip, numbered from 0. The clip is decoded once, from its beginning.

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
    try:
        with av.open(BytesIO(source) if isinstance(source, bytes) else str(source), "r") as container:
            if not container.streams.video:
                raise ImageError(f"{name}: expected a video, found a clip without one", hint="leave it out")
            stream = container.streams.video[0]
            check_size(stream.width, stream.height, name, image.max_pixels)
            yield from mark_last(_frames(container, stream, video, done))
    except av.FFmpegError as error:
        raise ImageError(f"{name}: damaged video: {error.strerror}", hint="replace the file") from None


def _frames(
    container: InputContainer, stream: VideoStream, video: VideoSection, done: Collection[int]
) -> Iterator[Frame]:
    stream.thread_type = "AUTO"
    decoded = container.decode(stream)
    chosen = _at_scenes(decoded, stream, video.scene) if video.frames == "scenes" else _at_rate(decoded, video.rate)
    for number, frame in enumerate(chosen):
        if number not in done:
            yield Frame(number, _upright(frame), time=float(_time(frame)))


def _time(frame: VideoFrame) -> Fraction:
    """In seconds, exactly as the container has it."""
    if frame.pts is None or frame.time_base is None:
        raise ImageError("expected a timestamp with every frame", hint="put the video into a container, such as MP4")
    return frame.pts * frame.time_base


def _at_rate(frames: Iterable[VideoFrame], rate: float) -> Iterator[VideoFrame]:
    """The first frame, and from there the first frame in each interval of 1 / rate seconds.

    Containers round timestamps to their time base, so a frame may be half a tick early.
    """
    start: Fraction | None = None
    due = Fraction(0)
    for frame in frames:
        time = _time(frame)
        start = time if start is None else start
        passed = time - start + (frame.time_base or 0) / 2
        if passed >= due:
            yield frame
            due = (math.floor(passed * Fraction(rate)) + 1) / Fraction(rate)


def _at_scenes(frames: Iterable[VideoFrame], stream: VideoStream, score: float) -> Iterator[VideoFrame]:
    """The first frame, and those of which FFmpeg's scene score is above ``score``."""
    import av
    from av.filter import Graph

    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream, time_base=stream.time_base),
        graph.add("select", f"eq(n,0)+gt(scene,{score})"),
        graph.add("buffersink"),
    ).configure()
    for frame in chain(frames, [None]):
        graph.vpush(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield graph.vpull()


def _upright(frame: VideoFrame) -> Image.Image:
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
