"""Small bags of a robot, written by rosbags in each of the formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CUSTOM = "float32 level\nfloat64[3] force\nstring[] names\nRange[] ranges\n" + "=" * 80 + "\n"
CUSTOM += "MSG: tank_msgs/Range\nuint8 kind\nfloat64 distance\n"
TANK = "tank_msgs/msg/Tank"
SECOND = 10**9


def typestore(ros1: bool) -> Any:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(CUSTOM, TANK))
    return store


def odometry(store: Any, x: float, speed: float) -> Any:
    kinds = {kind.rpartition("/")[2]: made for kind, made in store.types.items()}
    zero, empty = kinds["Vector3"](0.0, 0.0, 0.0), np.zeros(36)
    time = store.types["builtin_interfaces/msg/Time"](7, 8)
    header = _header(store, time)
    pose = kinds["Pose"](kinds["Point"](x, -x, 2 * x), kinds["Quaternion"](0.0, 0.0, 0.0, 1.0))
    twist = kinds["Twist"](kinds["Vector3"](speed, 0.0, 0.0), zero)
    return kinds["Odometry"](
        header,
        "base",
        kinds["PoseWithCovariance"](pose, empty),
        kinds["TwistWithCovariance"](twist, empty),
    )


def _header(store: Any, time: Any) -> Any:
    made = store.types["std_msgs/msg/Header"]
    names = made.__dataclass_fields__
    values = {"seq": 3, "stamp": time, "frame_id": "odd"}
    return made(**{name: value for name, value in values.items() if name in names})


def twist(store: Any, speed: float, turn: float) -> Any:
    vector = store.types["geometry_msgs/msg/Vector3"]
    made = store.types["geometry_msgs/msg/Twist"]
    return made(vector(speed, 0.0, 0.0), vector(0.0, 0.0, turn))


def tank(store: Any, level: float) -> Any:
    distance = store.types["tank_msgs/msg/Range"]
    force = np.array([level, 2 * level, 3 * level])
    ranges = [distance(1, level), distance(2, level + 1)]
    return store.types[TANK](level, force, ["a", "bcd"], ranges)


def image(store: Any, pixels: np.ndarray, encoding: str = "bgr8") -> Any:
    """A raw image whose rows are padded by a byte."""
    height, width, channels = pixels.shape
    padded = np.pad(pixels.reshape(height, -1), ((0, 0), (0, 1)))
    time = store.types["builtin_interfaces/msg/Time"](0, 0)
    return store.types["sensor_msgs/msg/Image"](
        _header(store, time), height, width, encoding, 0, width * channels + 1, padded.reshape(-1)
    )


def jpeg(store: Any, pixels: np.ndarray) -> Any:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    time = store.types["builtin_interfaces/msg/Time"](0, 0)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    return store.types["sensor_msgs/msg/CompressedImage"](_header(store, time), "png", data)


Message = tuple[str, float, Any]  # topic, seconds, message


def write(folder: Path, kind: str, messages: list[Message], store: Any = None) -> Path:
    """Writes a bag of ROS 1 (`bag`), or of ROS 2 (`sqlite3`, `mcap`); returns what to read."""
    from rosbags import rosbag1, rosbag2

    ros1 = kind == "bag"
    store = store or typestore(ros1)
    path = folder / ("log.bag" if ros1 else "log")
    if ros1:
        writer: Any = rosbag1.Writer(path)
    else:
        plugin = rosbag2.StoragePlugin[kind.upper()]
        writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
    with writer:
        connections: dict[str, Any] = {}
        for topic, seconds, message in messages:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            dump = store.serialize_ros1 if ros1 else store.serialize_cdr
            writer.write(connections[topic], round(seconds * SECOND) + SECOND, dump(message, name))
    return path


def drive(store: Any, seconds: float = 2.0) -> list[Message]:
    """Odometry of 20 Hz that shows its time, and a command of 7 Hz that begins 0.3 s later."""
    rows = [("/odom", t, odometry(store, t, 10 * t)) for t in np.arange(0, seconds, 0.05)]
    rows += [("/cmd_vel", t, twist(store, t, -t)) for t in np.arange(0.3, seconds, 1 / 7)]
    return sorted(rows, key=lambda row: row[1])
