"""Pictures of ROS messages against FFmpeg, which is given their bytes as raw video; compressed ones against Netpbm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from benchmarks.conformance.probe import Pixels, Probe, pnm, run
from tests.support.recordings import SECOND, message

BY = "FFmpeg rawvideo"
FORMATS = {
    "rgb8": "rgb24",
    "bgr8": "bgr24",
    "rgba8": "rgb0",
    "bgra8": "bgr0",
    "mono8": "gray",
    "mono16": "gray16le",
    "yuv422": "uyvy422",
    "yuv422_yuy2": "yuyv422",
    "bayer_rggb8": "bayer_rggb8",
    "bayer_bggr8": "bayer_bggr8",
    "bayer_gbrg8": "bayer_gbrg8",
    "bayer_grbg8": "bayer_grbg8",
}


def probes(folder: Path) -> Iterator[Probe]:
    y, x = np.mgrid[:120, :160]
    colour = np.dstack([x * 255 // 160, y * 255 // 120, 255 - x * 255 // 160]).astype(np.uint8)
    pictures = {encoding: _stored(colour, encoding) for encoding in FORMATS}
    types = get_typestore(Stores.ROS2_HUMBLE)
    for kind, plugin in (("mcap", StoragePlugin.MCAP), ("db3", StoragePlugin.SQLITE3)):
        with Writer2(folder / kind, version=9, storage_plugin=plugin) as writer:
            for encoding, values in pictures.items():
                connection = writer.add_connection(f"/{encoding}", "sensor_msgs/msg/Image", typestore=types)
                content = message(types, values, encoding, pad=4)
                writer.write(connection, SECOND, types.serialize_cdr(content, "sensor_msgs/msg/Image"))
            _compressed(writer, types, colour, folder)
    (recording,) = (folder / "mcap").glob("*.mcap")
    for encoding, values in pictures.items():
        yield _raw(f"MCAP, {encoding}", recording, encoding, values)
    settings = ("ros.topics=['/jpeg']",)
    yield Probe("MCAP, compressed", recording, _netpbm(folder), "Netpbm jpegtopnm", settings=settings)
    yield _raw("folder of ROS 2, SQLite", folder / "db3", "rgb8", pictures["rgb8"])
    yield _raw("folder of ROS 2, MCAP", folder / "mcap", "rgb8", pictures["rgb8"])
    old = get_typestore(Stores.ROS1_NOETIC)
    bag = folder / "old.bag"
    with Writer1(bag) as writer:
        for encoding in ("rgb8", "mono8"):
            connection = writer.add_connection(f"/{encoding}", "sensor_msgs/msg/Image", typestore=old)
            content = message(old, pictures[encoding], encoding)
            writer.write(connection, SECOND, old.serialize_ros1(content, "sensor_msgs/msg/Image"))
    for encoding in ("rgb8", "mono8"):
        yield _raw(f"bag of ROS 1, {encoding}", bag, encoding, pictures[encoding])
    none = ("ros.topics=['/rear']",)
    yield Probe("a topic that is not in it", bag, lambda _: colour, BY, settings=none)


def _raw(name: str, path: Path, encoding: str, values: np.ndarray[Any, Any]) -> Probe:
    mean = 3.0 if encoding.startswith("bayer") else 1.0  # FFmpeg takes fewer neighbours
    settings = (f"ros.topics=['/{encoding}']",)
    return Probe(name, path, _ffmpeg(values, FORMATS[encoding]), BY, mean, settings=settings)


def _stored(colour: Pixels, encoding: str) -> np.ndarray[Any, Any]:
    grey = colour[..., 0]
    if encoding in ("bgr8", "bgra8"):
        colour = colour[..., ::-1]
    if encoding in ("rgba8", "bgra8"):
        return np.dstack([colour, np.full_like(grey, 255)])
    if encoding in ("rgb8", "bgr8"):
        return np.ascontiguousarray(colour)
    if encoding == "mono16":
        return grey.astype("<u2") * 257
    if encoding.startswith("yuv422"):
        luma, chroma = 16 + grey // 2, 90 + colour[..., 1] // 4
        return np.dstack([chroma, luma] if encoding == "yuv422" else [luma, chroma])
    if encoding.startswith("bayer"):
        found = np.empty_like(grey)
        for place, letter in enumerate(encoding.split("_")[1][:4]):
            found[place // 2 :: 2, place % 2 :: 2] = colour[place // 2 :: 2, place % 2 :: 2, "rgb".index(letter)]
        return found
    return grey


def _compressed(writer: Any, types: Any, colour: Pixels, folder: Path) -> None:
    path = folder / "a.jpg"
    Image.fromarray(colour).save(path, quality=90)
    kind = types.types["sensor_msgs/msg/CompressedImage"]
    header = message(types, colour).header
    content = kind(header, "rgb8; jpeg compressed bgr8", np.frombuffer(path.read_bytes(), np.uint8))
    connection = writer.add_connection("/jpeg", kind.__msgtype__, typestore=types)
    writer.write(connection, SECOND, types.serialize_cdr(content, kind.__msgtype__))


def _netpbm(folder: Path) -> Any:
    return lambda _: pnm(run("jpegtopnm", folder / "a.jpg"))


def _ffmpeg(values: np.ndarray[Any, Any], form: str) -> Any:
    def reference(folder: Path) -> Pixels:
        (folder / "a.raw").write_bytes(np.ascontiguousarray(values).tobytes())
        given = ["-f", "rawvideo", "-pix_fmt", form, "-s", f"{values.shape[1]}x{values.shape[0]}"]
        wanted = ["-sws_flags", "bilinear+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24", "-f", "image2"]
        run("ffmpeg", "-v", "error", "-y", *given, "-i", folder / "a.raw", *wanted, folder / "a.ppm")
        return pnm((folder / "a.ppm").read_bytes())

    return reference
