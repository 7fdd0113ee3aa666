"""Pictures of recordings of robots and cars: MCAP files and ROS bags, with the times at which they were recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError, nearest, needs_extra
from naflex_deploy.core.profile import ImageSection, RosSection
from naflex_deploy.runtime.images.media.colours import from_array
from naflex_deploy.runtime.images.media.frame import Decision, Frame, mark_last
from naflex_deploy.runtime.images.media.stills import read_still
from naflex_deploy.runtime.images.source import check_size, damage

_MARKS = (b"\x89MCAP0\r\n", b"#ROSBAG V2.0\n")
_DATABASE = b"SQLite format 3\0"
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3}
_BAYER = {"bayer_rggb8": "RGGB", "bayer_bggr8": "BGGR", "bayer_gbrg8": "GBRG", "bayer_grbg8": "GRBG"}
_YUV = {"yuv422": (1, 0, 2), "uyvy": (1, 0, 2), "yuv422_yuy2": (0, 1, 3), "yuyv": (0, 1, 3)}
"""By encoding: places of the first luma, of U and of V in four bytes of two pixels."""


def is_recording(start: bytes, file: Path | bytes) -> bool:
    """Whether a file or a folder is a recording: MCAP, a bag of ROS 1, or the folder of a bag of ROS 2."""
    return start.startswith((*_MARKS, _DATABASE)) or (isinstance(file, Path) and is_bag_folder(file))


def is_bag_folder(path: Path) -> bool:
    """Whether a folder is a bag of ROS 2: its description names the files of messages."""
    try:
        with (path / "metadata.yaml").open("rb") as stream:
            return b"rosbag2_bagfile_information" in stream.read(1024)
    except OSError:
        return False


def read_recording(
    source: Path | bytes, *, name: str, image: ImageSection, ros: RosSection, done: Collection[int] = ()
) -> Iterator[Frame]:
    """The pictures of the chosen topics, those of all cameras in the order of their times.

    Args:
        source: Path, or content.
        name: In messages.
        image, ros: Of the profile.
        done: Numbers of pictures that are left out.

    Raises:
        ImageError: It is damaged, a topic is not in it or has no pictures.
        MissingExtraError: rosbags is not installed.
    """
    if _is_database(source):
        raise ImageError(
            f"{name}: expected a recording, found the database of a ROS 2 bag without its description",
            hint="pass the folder that holds it and metadata.yaml",
        )
    with needs_extra("ros"):
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    with _as_path(source) as path, damage(name):
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
        try:
            yield from mark_last(_pictures(reader, name, image, ros, done))
        finally:
            reader.close()


def _is_database(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return source.startswith(_DATABASE)
    if not source.is_file():
        return False
    with source.open("rb") as stream:
        return stream.read(len(_DATABASE)) == _DATABASE


@contextmanager
def _as_path(source: Path | bytes) -> Iterator[Path]:
    """rosbags reads files alone."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as folder:
        path = Path(folder) / ("a.bag" if source.startswith(_MARKS[1]) else "a.mcap")
        path.write_bytes(source)
        yield path


def _pictures(reader: Any, name: str, image: ImageSection, ros: RosSection, done: Collection[int]) -> Iterator[Frame]:
    topics = {connection.topic for connection in reader.connections if connection.msgtype in _IMAGES}
    for topic in ros.topics:
        if topic not in topics:
            raise ImageError(f"{name}: no topic '{topic}' of pictures is in it", hint=nearest(topic, topics))
    if not topics:
        raise ImageError(f"{name}: expected topics of pictures, found none", hint="leave it out")
    wanted = set(ros.topics) or topics
    chosen = [item for item in reader.connections if item.topic in wanted and item.msgtype in _IMAGES]
    start, due, number = None, dict.fromkeys(wanted, 0.0), 0
    for connection, stamp, raw in reader.messages(connections=chosen):
        start = stamp if start is None else start
        passed = (stamp - start) / 1e9
        if ros.rate and passed + 1e-6 < due[connection.topic]:
            continue
        due[connection.topic] = (int(passed * ros.rate + 1e-6) + 1) / ros.rate if ros.rate else 0.0
        if number not in done:
            yield _frame(reader.deserialize(raw, connection.msgtype), connection, number, stamp / 1e9, name, image)
        number += 1


def _frame(message: Any, connection: Any, number: int, time: float, name: str, image: ImageSection) -> Frame:
    """One message as a frame; one that cannot be shown is a frame with its error, and the others follow."""
    label = f"{name}, {connection.topic} at {time:.3f} s"
    told = Decision("reader", f"topic {connection.topic}")
    try:
        if connection.msgtype == _IMAGES[1]:
            found = next(read_still(BytesIO(bytes(message.data)), name=label, image=image))
            if found.error is not None:
                raise found.error
            return Frame(number, found.picture, aspect=found.aspect, time=time, decisions=(told, *found.decisions))
        rgb, decisions = _picture(message, label, image)
        return Frame(number, rgb, time=time, decisions=(told, *decisions))
    except ImageError as error:
        return Frame(number, time=time, error=error)


def _picture(message: Any, name: str, image: ImageSection) -> tuple[Image.Image, tuple[Decision, ...]]:
    """Rows are ``step`` bytes long, of which the last may mean nothing (sensor_msgs/Image)."""
    height, width, encoding = int(message.height), int(message.width), str(message.encoding)
    check_size(width, height, name, image.max_pixels)
    size = {"mono16": 2, "16UC1": 2, "32FC1": 4}.get(encoding, _CHANNELS.get(encoding, 2 if encoding in _YUV else 1))
    rows = np.frombuffer(bytes(message.data), np.uint8)
    if int(message.step) < width * size or rows.size < int(message.step) * height:
        raise ImageError(
            f"{name}: expected {height} rows of {width * size} bytes, found {rows.size}", hint="leave it out"
        )
    rows = rows[: int(message.step) * height].reshape(height, int(message.step))[:, : width * size]
    if encoding in _CHANNELS:
        values = rows.reshape(height, width, -1)
        if encoding.startswith("bgr"):
            values = values[..., [2, 1, 0, 3][: values.shape[2]]]
        return from_array(np.ascontiguousarray(values), name, image)
    if encoding in ("mono16", "16UC1", "32FC1"):
        order = ">" if message.is_bigendian else "<"
        kind = f"{order}f4" if encoding == "32FC1" else f"{order}u2"
        return from_array(np.ascontiguousarray(rows).view(kind), name, image)
    if encoding in _YUV:
        return Image.fromarray(_from_yuv(rows, *_YUV[encoding])), ()
    if encoding in _BAYER:
        told = Decision("colour", f"{encoding} made whole from neighbours")
        return Image.fromarray(_from_bayer(rows, _BAYER[encoding])), (told,)
    raise ImageError(f"{name}: pictures of encoding '{encoding}' are not read", hint="record rgb8, bgr8 or mono8")


def _from_yuv(rows: npt.NDArray[np.uint8], luma: int, u: int, v: int) -> npt.NDArray[np.uint8]:
    """Two pixels in four bytes, limited range, by BT.601."""
    quads = rows.reshape(rows.shape[0], -1, 4).astype(np.float32)
    light = 1.164 * (quads[..., [luma, luma + 2]].reshape(rows.shape[0], -1) - 16)
    blue, red = (quads[..., place].repeat(2, 1) - 128 for place in (u, v))
    colours = (light + 1.596 * red, light - 0.813 * red - 0.391 * blue, light + 2.018 * blue)
    return np.asarray(np.rint(np.clip(np.stack(colours, 2), 0, 255)), np.uint8)


def _from_bayer(rows: npt.NDArray[np.uint8], pattern: str) -> npt.NDArray[np.uint8]:
    """Each missing colour as the mean of its neighbours in the 3x3 square, weighted 1 2 1 either way."""
    height, width = rows.shape
    found = np.empty((height, width, 3), np.uint8)
    for channel, letter in enumerate("RGB"):
        known = np.zeros((height, width), np.float32)
        for place, own in enumerate(pattern):
            if own == letter:
                known[place // 2 :: 2, place % 2 :: 2] = 1
        total, weight = _smooth(rows * known), _smooth(known)
        mixed = np.where(known > 0, rows, total / np.maximum(weight, 1e-6))
        found[..., channel] = np.rint(mixed)
    return found


def _smooth(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    padded = np.pad(values, 1)
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray(down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:], np.float32)
