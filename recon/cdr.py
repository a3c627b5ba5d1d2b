"""ROS 2 messages from their bytes, tolerant of what real recorders leave behind.

Only the message types of an episode, read from CDR (OMG, "Common Data Representation", plain
little- or big-endian, as ROS 2 serializes). rclpy pads some messages (a JointState without velocity
or effort) with stale bytes at the end; readers that insist on the exact length refuse those, so
this one reads what the definition says and leaves the rest. An image stays a view into the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

__all__ = [
    "CameraInfoMsg",
    "CdrError",
    "CompressedMsg",
    "ImageMsg",
    "JointMsg",
    "PoseMsg",
    "TransformMsg",
    "read_bool",
    "read_camera_info",
    "read_compressed",
    "read_image",
    "read_joint_state",
    "read_pose",
    "read_stamp_ns",
    "read_transforms",
]

_LONGEST = 1 << 16  # of a list of joints or transforms; more means that the bytes are not that


class CdrError(ValueError):
    """The bytes end too early or cannot be such a message."""


@dataclass(frozen=True, eq=False)
class ImageMsg:
    """``sensor_msgs/Image``: pixels are a view of the message's bytes, not yet arranged.

    ``size`` is how many bytes of pixels there should be; ``data`` is shorter only when no more than
    the beginning of the message was given.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    encoding: str
    big_endian: bool
    step: int
    size: int
    data: memoryview


@dataclass(frozen=True, eq=False)
class CompressedMsg:
    """``sensor_msgs/CompressedImage``; ``size`` and ``data`` as in `ImageMsg`."""

    stamp_ns: int
    frame_id: str
    format: str
    size: int
    data: memoryview


@dataclass(frozen=True, eq=False)
class CameraInfoMsg:
    """``sensor_msgs/CameraInfo``: size, model, distortion and K [pixels].

    ``P`` projects into the rectified image, shape (3, 4).
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    distortion_model: str
    distortion: np.ndarray
    K: np.ndarray
    P: np.ndarray


@dataclass(frozen=True, eq=False)
class PoseMsg:
    """``geometry_msgs/PoseStamped``: position [m], shape (3,), and ``quat_xyzw``, shape (4,)."""

    stamp_ns: int
    frame_id: str
    position: np.ndarray
    quat_xyzw: np.ndarray


@dataclass(frozen=True, eq=False)
class TransformMsg:
    """``geometry_msgs/TransformStamped``: the child's pose in the frame ``frame_id``."""

    stamp_ns: int
    frame_id: str
    child_frame_id: str
    position: np.ndarray
    quat_xyzw: np.ndarray


@dataclass(frozen=True, eq=False)
class JointMsg:
    """``sensor_msgs/JointState`` [rad or m, per second, N or Nm]; empty where not given."""

    stamp_ns: int
    name: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray


class _Cursor:
    """A place in the bytes; alignment counts from after the four bytes of encapsulation."""

    def __init__(self, raw: bytes | memoryview) -> None:
        self.raw = memoryview(raw)
        if len(self.raw) < 4 or self.raw[0] != 0 or self.raw[1] not in (0, 1):
            raise CdrError("no CDR encapsulation header")
        self.order = "<" if self.raw[1] == 1 else ">"
        self.at = 4

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        self.at += -(self.at - 4) % size
        if self.at + size > len(self.raw):
            raise CdrError(f"ends at byte {len(self.raw)}")
        value = struct.unpack_from(self.order + code, self.raw, self.at)[0]
        self.at += size
        return int(value)

    def bytes(self, count: int) -> memoryview:
        if self.at + count > len(self.raw):
            raise CdrError(f"ends at byte {len(self.raw)}, {count} more were announced")
        part = self.raw[self.at : self.at + count]
        self.at += count
        return part

    def blob(self, whole: int | None) -> tuple[int, memoryview]:
        """A sequence of bytes and its length, cut off where only ``whole`` bytes were promised."""
        count = self.number("I")
        if whole is None or whole == len(self.raw):
            return count, self.bytes(count)
        if self.at + count > whole:
            raise CdrError(f"ends at byte {whole}, {count} more were announced")
        return count, self.raw[self.at : self.at + count]

    def text(self) -> str:
        return bytes(self.bytes(self.number("I"))).rstrip(b"\0").decode("utf-8", "replace")

    def doubles(self, count: int) -> np.ndarray:
        if count:
            self.at += -(self.at - 4) % 8
        return np.frombuffer(self.bytes(8 * count), self.order + "f8").astype(np.float64)

    def count(self) -> int:
        count = self.number("I")
        if count > _LONGEST:
            raise CdrError(f"a list of {count} elements")
        return count

    def stamp_ns(self) -> int:
        return self.number("i") * 1_000_000_000 + self.number("I")


def read_stamp_ns(raw: bytes | memoryview) -> int:
    """The header's stamp of any message that begins with a header.

    Args:
        raw: the serialized message.

    Returns:
        [ns].

    Raises:
        CdrError: if the bytes end too early.
    """
    return _Cursor(raw).stamp_ns()


def read_image(raw: bytes | memoryview, whole: int | None = None) -> ImageMsg:
    """A ``sensor_msgs/Image``; nothing is copied.

    Args:
        raw: the serialized message.
        whole: its size [bytes], when ``raw`` is only its beginning.

    Returns:
        The image.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    stamp, frame = cursor.stamp_ns(), cursor.text()
    height, width, encoding = cursor.number("I"), cursor.number("I"), cursor.text()
    big, step = cursor.number("B") != 0, cursor.number("I")
    return ImageMsg(stamp, frame, height, width, encoding, big, step, *cursor.blob(whole))


def read_compressed(raw: bytes | memoryview, whole: int | None = None) -> CompressedMsg:
    """A ``sensor_msgs/CompressedImage``.

    Args:
        raw: the serialized message.
        whole: its size [bytes], when ``raw`` is only its beginning.

    Returns:
        The compressed image.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    stamp, frame, kind = cursor.stamp_ns(), cursor.text(), cursor.text()
    return CompressedMsg(stamp, frame, kind, *cursor.blob(whole))


def read_camera_info(raw: bytes | memoryview) -> CameraInfoMsg:
    """A ``sensor_msgs/CameraInfo`` up to its P.

    Args:
        raw: the serialized message.

    Returns:
        The intrinsics.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    stamp, frame = cursor.stamp_ns(), cursor.text()
    height, width, model = cursor.number("I"), cursor.number("I"), cursor.text()
    distortion = cursor.doubles(cursor.count())
    K, _ = cursor.doubles(9).reshape(3, 3), cursor.doubles(9)
    P = cursor.doubles(12).reshape(3, 4)
    return CameraInfoMsg(stamp, frame, height, width, model, distortion, K, P)


def read_pose(raw: bytes | memoryview) -> PoseMsg:
    """A ``geometry_msgs/PoseStamped``.

    Args:
        raw: the serialized message.

    Returns:
        The pose.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    stamp, frame = cursor.stamp_ns(), cursor.text()
    return PoseMsg(stamp, frame, cursor.doubles(3), cursor.doubles(4))


def read_bool(raw: bytes | memoryview) -> bool:
    """A ``std_msgs/Bool``.

    Args:
        raw: the serialized message.

    Returns:
        Its value.

    Raises:
        CdrError: if the bytes end too early.
    """
    return _Cursor(raw).number("B") != 0


def read_transforms(raw: bytes | memoryview) -> list[TransformMsg]:
    """A ``tf2_msgs/TFMessage``.

    Args:
        raw: the serialized message.

    Returns:
        Its transforms.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    found = []
    for _ in range(cursor.count()):
        stamp, frame, child = cursor.stamp_ns(), cursor.text(), cursor.text()
        found.append(TransformMsg(stamp, frame, child, cursor.doubles(3), cursor.doubles(4)))
    return found


def read_joint_state(raw: bytes | memoryview) -> JointMsg:
    """A ``sensor_msgs/JointState``.

    Args:
        raw: the serialized message.

    Returns:
        The joints.

    Raises:
        CdrError: if the bytes end too early.
    """
    cursor = _Cursor(raw)
    stamp, _ = cursor.stamp_ns(), cursor.text()
    names = tuple(cursor.text() for _ in range(cursor.count()))
    position, velocity, effort = (cursor.doubles(cursor.count()) for _ in range(3))
    return JointMsg(stamp, names, position, velocity, effort)
