"""Clips encoded on the fly, in which the grey level of each frame identifies it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 5
"""Levels of grey between frames, so that lossy coding cannot confuse them; up to 47 frames."""


def clip(
    path: Path,
    ticks: Sequence[int],
    time_base: Fraction = Fraction(1, 1000),
    *,
    size: tuple[int, int] = (64, 48),
    pictures: Sequence[np.ndarray] | None = None,
) -> Path:
    """A clip whose frames are shown at given ticks of a time base. The suffix of the path names the container.

    Args:
        size: (width, height).
        pictures: [height, width, 3] uint8 each; grey levels where there are none.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = size
        stream.codec_context.time_base = time_base
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for number, tick in enumerate(ticks):
            shade = (size[1], size[0], 3), 10 + STEP * number, np.uint8
            frame = av.VideoFrame.from_ndarray(pictures[number] if pictures else np.full(*shade), "rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(pixels: np.ndarray) -> int:
    """Which frame of a clip of grey levels it is."""
    return round((float(pixels.mean()) - 10) / STEP)


def sound(path: Path) -> Path:
    """A file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def container_times(path: Path) -> list[Fraction]:
    """Timestamps of the packets of a container, ascending, in seconds."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        return sorted(packet.pts * packet.time_base for packet in packets)


def tick(path: Path) -> Fraction:
    """Seconds that a container rounds timestamps to."""
    with av.open(str(path)) as container:
        return Fraction(container.streams.video[0].time_base)
