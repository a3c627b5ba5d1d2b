"""ROS 2 messages of an episode as bytes, made with `rosbags` and without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_typestore

from physgym.camera import PinholeCamera
from physgym.frames import quat_xyzw_from_matrix

__all__ = [
    "BOOL",
    "CAMERA_INFO",
    "COMPRESSED",
    "IMAGE",
    "JOINTS",
    "LATCHED",
    "POSE",
    "TRANSFORMS",
    "MessageFactory",
]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
JOINTS = "sensor_msgs/msg/JointState"
POSE = "geometry_msgs/msg/PoseStamped"
BOOL = "std_msgs/msg/Bool"

# What /tf_static is published with: `ros2 bag play` repeats it, so that late listeners get it.
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    QosTime(9223372036, 854775807),
    QosTime(9223372036, 854775807),
    QosLiveliness.AUTOMATIC,
    QosTime(9223372036, 854775807),
    False,
)


class MessageFactory:
    """Serializes messages; the constructors of ROS 2 Jazzy's types.

    Attributes:
        store: the types.
    """

    def __init__(self) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)

    def image(self, stamp_ns: int, frame_id: str, encoding: str, pixels: np.ndarray) -> bytes:
        """An uncompressed image.

        Args:
            stamp_ns: [ns].
            frame_id: the optical frame.
            encoding: ``rgb8``, ``16UC1`` or another that fits the pixels.
            pixels: shape (H, W) or (H, W, C).

        Returns:
            The serialized message.
        """
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        step = len(data) // height
        header = self._header(stamp_ns, frame_id)
        return self._bytes(IMAGE, header, height, width, encoding, 0, step, data)

    def camera_info(self, stamp_ns: int, frame_id: str, camera: PinholeCamera) -> bytes:
        """Intrinsics.

        Args:
            stamp_ns: [ns].
            frame_id: the optical frame.
            camera: what they are.

        Returns:
            The serialized message.
        """
        projection = np.zeros((3, 4))
        projection[:, :3] = camera.K
        region = self.store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        return self._bytes(
            CAMERA_INFO, self._header(stamp_ns, frame_id), camera.height, camera.width,
            "plumb_bob", camera.distortion, camera.K.reshape(9), np.eye(3).reshape(9),
            projection.reshape(12), 0, 0, region,
        )  # fmt: skip

    def transforms(self, stamp_ns: int, parent: str, children: Mapping[str, np.ndarray]) -> bytes:
        """Frames in one parent frame.

        Args:
            stamp_ns: [ns].
            parent: name of the parent frame.
            children: ``T_parent_child`` by the child's name, shape (4, 4).

        Returns:
            The serialized message.
        """
        found = []
        for child, T in children.items():
            moved = self._typed("geometry_msgs/msg/Vector3", T[:3, 3])
            turned = self._typed("geometry_msgs/msg/Quaternion", quat_xyzw_from_matrix(T[:3, :3]))
            transform = self.store.types["geometry_msgs/msg/Transform"](moved, turned)
            stamped = self.store.types["geometry_msgs/msg/TransformStamped"]
            found.append(stamped(self._header(stamp_ns, parent), child, transform))
        return self._bytes(TRANSFORMS, found)

    def pose(
        self, stamp_ns: int, frame_id: str, position: np.ndarray, quat_xyzw: np.ndarray
    ) -> bytes:
        """A pose.

        Args:
            stamp_ns: [ns].
            frame_id: the frame that it is given in.
            position: [m], shape (3,).
            quat_xyzw: shape (4,).

        Returns:
            The serialized message.
        """
        place = self._typed("geometry_msgs/msg/Point", position)
        turn = self._typed("geometry_msgs/msg/Quaternion", quat_xyzw)
        pose = self.store.types["geometry_msgs/msg/Pose"](place, turn)
        return self._bytes(POSE, self._header(stamp_ns, frame_id), pose)

    def joints(
        self,
        stamp_ns: int,
        names: Sequence[str],
        position: np.ndarray,
        velocity: np.ndarray,
        effort: np.ndarray,
    ) -> bytes:
        """Joint states.

        Args:
            stamp_ns: [ns].
            names: of the joints.
            position: one per joint, or none.
            velocity: one per joint, or none.
            effort: one per joint, or none.

        Returns:
            The serialized message.
        """
        header = self._header(stamp_ns, "")
        return self._bytes(JOINTS, header, list(names), position, velocity, effort)

    def boolean(self, value: bool) -> bytes:
        """A truth value.

        Args:
            value: it.

        Returns:
            The serialized message.
        """
        return self._bytes(BOOL, value)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        return self.store.types["std_msgs/msg/Header"](stamp, frame_id)

    def _typed(self, kind: str, numbers: np.ndarray) -> Any:
        return self.store.types[kind](*(float(number) for number in numbers))

    def _bytes(self, kind: str, *fields: Any) -> bytes:
        # a memoryview, which the bag's writer takes as it is
        return self.store.serialize_cdr(self.store.types[kind](*fields), kind)  # type: ignore[return-value]
