"""Messages of the capture side; with `conversions`, the only files that touch message fields.

Images that come in are not read here: the recorder takes them as bytes, `recon.cdr` reads those.
Shapes: H W image.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Transform, Vector3
from geometry_msgs.msg import TransformStamped as TransformStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Bool, Header
from std_srvs.srv import Trigger

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import quat_xyzw_from_matrix, quat_xyzw_from_wxyz
from physgym_ros.conversions import Report, time_message
from recon.cdr import TransformMsg
from recon.images import depth_mm

__all__ = [
    "answer",
    "bool_message",
    "camera_info_message",
    "depth_message",
    "diagnostics_message",
    "image_message",
    "pose_message",
    "reports",
    "static_message_type",
    "status",
    "status_report",
    "transform",
    "transform_message",
    "transforms_message",
]


def image_message(pixels: np.ndarray, encoding: str, *, stamp_s: float, frame_id: str) -> Image:
    """An uncompressed image.

    Args:
        pixels: shape (H, W) or (H, W, C), little-endian where a pixel has several bytes.
        encoding: ``rgb8``, ``16UC1`` or another that fits the pixels.
        stamp_s: time of exposure [s].
        frame_id: the optical frame.

    Returns:
        The message.

    Raises:
        DataError: if it is no image.
    """
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise DataError(f"pixels of shape {pixels.shape}", where="pixels", expected="(H, W, ...)")
    data = array.array("B")
    # A tenth of the time of tobytes(): nothing is copied on the way.
    data.frombytes(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return Image(
        header=Header(stamp=time_message(stamp_s), frame_id=frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=len(data) // pixels.shape[0],
        data=data,
    )


def depth_message(depth: np.ndarray, *, stamp_s: float, frame_id: str) -> Image:
    """A depth image as realsense-ros publishes it, ``16UC1`` in millimetres.

    Args:
        depth: float [m] or uint16 [mm], shape (H, W).
        stamp_s: time of exposure [s].
        frame_id: the optical frame that it is aligned to.

    Returns:
        The message.
    """
    return image_message(depth_mm(depth), "16UC1", stamp_s=stamp_s, frame_id=frame_id)


def camera_info_message(camera: PinholeCamera, *, stamp_s: float, frame_id: str) -> CameraInfo:
    """Intrinsics.

    Args:
        camera: what they are.
        stamp_s: of the image that they go with [s].
        frame_id: the optical frame.

    Returns:
        The message.
    """
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.K
    return CameraInfo(
        header=Header(stamp=time_message(stamp_s), frame_id=frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=camera.distortion.tolist(),
        k=camera.K.reshape(9),
        r=np.eye(3).reshape(9),
        p=projection.reshape(12),
    )


def pose_message(
    position: np.ndarray, quat_wxyz: np.ndarray, *, stamp_s: float, frame_id: str = "world"
) -> PoseStamped:
    """A pose.

    Args:
        position: [m], shape (3,).
        quat_wxyz: shape (4,).
        stamp_s: [s].
        frame_id: the frame that it is given in.

    Returns:
        The message.
    """
    x, y, z = (float(value) for value in position)
    turn = Quaternion(**_xyzw(quat_xyzw_from_wxyz(quat_wxyz)))
    header = Header(stamp=time_message(stamp_s), frame_id=frame_id)
    return PoseStamped(header=header, pose=Pose(position=Point(x=x, y=y, z=z), orientation=turn))


def bool_message(value: bool) -> Bool:
    """A truth.

    Args:
        value: it.

    Returns:
        The message.
    """
    return Bool(data=bool(value))


def transform_message(
    T_parent_child: np.ndarray, *, parent: str, child: str, stamp_s: float
) -> TransformStamped:
    """Where one frame is in another.

    Args:
        T_parent_child: shape (4, 4).
        parent: name of the frame that it is given in.
        child: name of the frame.
        stamp_s: [s].

    Returns:
        The message.
    """
    x, y, z = (float(value) for value in T_parent_child[:3, 3])
    turn = Quaternion(**_xyzw(quat_xyzw_from_matrix(T_parent_child[:3, :3])))
    return TransformStamped(
        header=Header(stamp=time_message(stamp_s), frame_id=parent),
        child_frame_id=child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=turn),
    )


def transform(message: TransformStamped) -> TransformMsg:
    """What `transform_message` made.

    Args:
        message: of a ``.../color/transform`` topic.

    Returns:
        Frames, position [m] and quaternion.
    """
    stamp, moved, turn = message.header.stamp, message.transform.translation, message.transform
    quat = turn.rotation
    return TransformMsg(
        stamp.sec * 1_000_000_000 + stamp.nanosec,
        message.header.frame_id,
        message.child_frame_id,
        np.array([moved.x, moved.y, moved.z]),
        np.array([quat.x, quat.y, quat.z, quat.w]),
    )


def static_message_type() -> type | None:
    """The type of ``/tf_static``; None without tf2_msgs, which comes with ROS and as no wheel."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return TFMessage  # type: ignore[no-any-return]


def transforms_message(transforms: Sequence[TransformStamped]) -> Any:
    """A message for ``/tf_static``.

    Args:
        transforms: what it holds.

    Returns:
        The TFMessage.

    Raises:
        DataError: if this machine has no tf2_msgs.
    """
    kind = static_message_type()
    if kind is None:
        raise DataError("no tf2_msgs", where="/tf_static", expected="a ROS 2 distribution")
    return kind(transforms=list(transforms))


def status(word: Report) -> DiagnosticStatus:
    """A component's word as one status.

    Args:
        word: what to say; its stamp has no place here.

    Returns:
        The message.
    """
    return DiagnosticStatus(
        level=bytes([word.level]),
        name=word.name,
        message=word.text,
        hardware_id="physgym",
        values=[KeyValue(key=key, value=value) for key, value in word.values.items()],
    )


def status_report(message: DiagnosticStatus, *, stamp_s: float = 0.0) -> Report:
    """What `status` made.

    Args:
        message: the status.
        stamp_s: when it was said [s].

    Returns:
        Name, level, text and values.
    """
    values: Mapping[str, str] = {pair.key: pair.value for pair in message.values}
    level = message.level[0] if isinstance(message.level, bytes) else int(message.level)
    return Report(stamp_s, message.name, level, message.message, values)


def diagnostics_message(words: Sequence[Report]) -> DiagnosticArray:
    """A message for ``/diagnostics``.

    Args:
        words: at least one; the first one's stamp counts.

    Returns:
        The message.
    """
    header = Header(stamp=time_message(words[0].stamp_s))
    return DiagnosticArray(header=header, status=[status(word) for word in words])


def reports(message: DiagnosticArray) -> dict[str, Report]:
    """What a message of ``/diagnostics`` says.

    Args:
        message: it.

    Returns:
        Reports by component.
    """
    stamp_s = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
    return {one.name: status_report(one, stamp_s=stamp_s) for one in message.status}


def answer(response: Trigger.Response, success: bool, text: str) -> Trigger.Response:
    """Fill in the answer of a trigger service.

    Args:
        response: as rclpy hands it to the callback.
        success: whether it was done.
        text: what came of it.

    Returns:
        The response.
    """
    response.success, response.message = success, text
    return response


def _xyzw(quat_xyzw: np.ndarray) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip("xyzw", quat_xyzw)}
