"""Recordings of robots: bags of ROS 1 and ROS 2 with pictures of several cameras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

SECOND = 10**9


def message(types: Any, values: np.ndarray, encoding: str | None = None, *, big: int = 0, pad: int = 0) -> Any:
    """A sensor_msgs/Image of [h, w] or [h, w, channels]; ``pad`` bytes without meaning end each row."""
    header = types.types["std_msgs/msg/Header"]
    time = types.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    extra = {"seq": 0} if "seq" in header.__dataclass_fields__ else {}
    rows = np.pad(np.ascontiguousarray(values).reshape(values.shape[0], -1).view(np.uint8), ((0, 0), (0, pad)))
    encoding = encoding or ("rgb8" if values.ndim == 3 else "mono8")
    shape = {"height": values.shape[0], "width": values.shape[1], "step": rows.shape[1]}
    head = header(stamp=time, frame_id="camera", **extra)
    image = types.types["sensor_msgs/msg/Image"]
    return image(header=head, encoding=encoding, is_bigendian=big, data=rows.ravel(), **shape)


def ros1(path: Path, pictures: Mapping[str, np.ndarray], turns: int = 2) -> Path:
    """A bag of ROS 1: in each of ``turns`` seconds, one picture of each topic."""
    types = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(path) as writer:
        connections = [writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=types) for topic in pictures]
        for turn in range(turns):
            for index, (connection, values) in enumerate(zip(connections, pictures.values(), strict=True)):
                content = types.serialize_ros1(message(types, values), "sensor_msgs/msg/Image")
                writer.write(connection, (5 + turn) * SECOND + index, content)
    return path


def ros2(folder: Path, pictures: Mapping[str, np.ndarray], kind: str = "mcap", turns: int = 2) -> Path:
    """The folder of a bag of ROS 2, in an MCAP file or an SQLite database (``db3``)."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
    with Writer2(folder, version=9, storage_plugin=plugin) as writer:
        connections = [writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=types) for topic in pictures]
        for turn in range(turns):
            for index, (connection, values) in enumerate(zip(connections, pictures.values(), strict=True)):
                content = types.serialize_cdr(message(types, values), "sensor_msgs/msg/Image")
                writer.write(connection, (5 + turn) * SECOND + index, content)
    return folder
