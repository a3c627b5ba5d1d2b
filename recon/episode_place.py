"""Where cameras stood and how they see: ``/tf_static``, ``/tf``, calibration files, CameraInfo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.cdr import CameraInfoMsg, TransformMsg
from recon.episode_index import StaticFrames

__all__ = [
    "camera_of",
    "no_extrinsics",
    "read_calibration",
    "still_transforms",
    "world_frame",
]

# A transform on /tf that stays within these is as good as one on /tf_static.
_STILL_M, _STILL_QUAT = 1e-3, 1e-3
_DRIVER_ROOTS = ("_link", "_bottom_screw_frame")  # of realsense-ros, by its driver and by its URDF


def camera_of(
    name: str, serial: str, info: CameraInfoMsg, T_world_cam: np.ndarray, *, rectified: bool
) -> PinholeCamera:
    """A camera from its CameraInfo and its place.

    Args:
        name: of the camera.
        serial: of the device.
        info: its intrinsics.
        T_world_cam: shape (4, 4).
        rectified: whether its images are: then P holds for them, and no distortion.

    Returns:
        The camera.

    Raises:
        DataError: if its lens is no pinhole with Brown's distortion.
    """
    if rectified:
        K = info.P[:, :3] if info.P[0, 0] > 0 else info.K
        return PinholeCamera(name, serial, info.width, info.height, K, T_world_cam)
    given, distortion = info.distortion, np.zeros(5)
    distortion[: min(len(given), 5)] = given[:5]
    pinhole = info.distortion_model in ("", "plumb_bob", "rational_polynomial")
    # Models that bend nothing at zero; a fisheye's bends even then.
    unbent = not given.any() and info.distortion_model not in ("equidistant", "fisheye")
    if not unbent and (not pinhole or given[5:].any()):
        raise DataError(
            f"distortion model {info.distortion_model!r} with {given.tolist()}",
            where=f"{name}: CameraInfo",
            expected="plumb_bob (k1, k2, p1, p2, k3)",
            fix="rectify the images first (image_proc), or calibrate with plumb_bob",
        )
    return PinholeCamera(name, serial, info.width, info.height, info.K, T_world_cam, distortion)


def world_frame(frames: StaticFrames, wanted: str, optical: Sequence[str]) -> str:
    """The frame that extrinsics refer to.

    Args:
        frames: the static transforms.
        wanted: what the user asked for.
        optical: the cameras' frames.

    Returns:
        The wanted one, or, where nobody published it, the root of the cameras' common tree.
    """
    wanted, cameras = wanted.lstrip("/"), {frame.lstrip("/") for frame in optical}
    if wanted in frames.names:
        return wanted
    roots = {frames.root_of(frame) for frame in cameras}
    if len(roots) != 1 or roots & cameras:
        return wanted
    (root,) = roots
    # A camera's own tree tells how it is built, not where it stood or which way is up.
    own = {root.removesuffix(end) + "_color_optical_frame" for end in _DRIVER_ROOTS}
    return wanted if cameras <= own else root


def still_transforms(messages: Sequence[TransformMsg]) -> tuple[list[TransformMsg], list[str]]:
    """Transforms of ``/tf`` that never change, and the frames that do.

    Args:
        messages: in the order of recording.

    Returns:
        The first message of each frame that stood still, and the names of the others, sorted.
    """
    first: dict[tuple[str, str], TransformMsg] = {}
    moved: set[tuple[str, str]] = set()
    for message in messages:
        edge = (message.frame_id, message.child_frame_id)
        start = first.setdefault(edge, message)
        # q and -q are one rotation
        turn = min(np.abs(message.quat_xyzw - s * start.quat_xyzw).max() for s in (1, -1))
        if not (np.abs(message.position - start.position).max() < _STILL_M and turn < _STILL_QUAT):
            moved.add(edge)
    still = [message for edge, message in first.items() if edge not in moved]
    return still, sorted({child.lstrip("/") for _, child in moved})


def no_extrinsics(
    where: str,
    unknown: Sequence[str],
    frames: StaticFrames,
    *,
    calibration: Path | None,
    world: str,
    moving: Sequence[str],
) -> DataError:
    """The error for cameras whose place nobody told.

    Args:
        where: the recording.
        unknown: names of the cameras.
        frames: the static transforms.
        calibration: the file that should have told it, if one was given.
        world: the frame that was asked for.
        moving: frames that move on ``/tf``.

    Returns:
        The error, to raise.
    """
    if calibration is not None:
        return DataError(
            f"no T_world_cam of {', '.join(unknown)}",
            where=str(calibration),
            expected="cameras: NAME or serial number: T_world_cam: 4 x 4",
            fix="calibrate all cameras of this recording together: physgym calibrate",
        )
    known = f"frames: {', '.join(frames.names) or '-'}"
    if moving:
        known += f"; moving on /tf: {', '.join(moving)}"
    return DataError(
        f"nothing says where {', '.join(unknown)} stood; {known}",
        where=f"{where}: /tf_static",
        expected=f"transforms from {world!r} to each camera's optical frame, which stand still",
        fix="record /tf_static, name its root with world_frame=, or give the file from `physgym "
        "calibrate`: --calibration FILE.yaml, in Python calibration=FILE.yaml",
    )


def read_calibration(path: Path | None) -> dict[str, np.ndarray]:
    """``T_world_cam`` by camera name and by serial number.

    Args:
        path: a YAML file; None for none.

    Returns:
        The transforms, shape (4, 4) each.

    Raises:
        DataError: if it cannot be read, or a transform is none.
    """
    if path is None:
        return {}
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"it cannot be read: {error}", where=str(path), expected="YAML") from error
    entries = content.get("cameras") if isinstance(content, dict) else None
    if isinstance(entries, list):
        entries = {str(e.get("name")): e for e in entries if isinstance(e, dict)}
    if not isinstance(entries, dict):
        raise DataError("no cameras", where=str(path), expected="cameras: NAME: T_world_cam: 4 x 4")
    found = {}
    for name, entry in entries.items():
        T = entry.get("T_world_cam") if isinstance(entry, dict) else None
        try:
            matrix = np.array(T, dtype=np.float64)
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        if matrix.shape != (4, 4):
            raise DataError(f"{T!r}", where=f"{path}: {name}: T_world_cam", expected="4 x 4")
        found[str(name)] = matrix
        if entry.get("serial"):
            found[str(entry["serial"])] = matrix
    return found
