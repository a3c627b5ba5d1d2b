"""What is known of cameras that publish now: intrinsics from CameraInfo, places from transforms."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import apply_T, matrix_from_quat_xyzw, quat_wxyz_from_matrix
from recon.capture.calibration_file import Calibration
from recon.cdr import CameraInfoMsg, PoseMsg, TransformMsg
from recon.episode_index import StaticFrames
from recon.episode_place import camera_of

__all__ = ["LiveRig", "camera_roots"]

_COLOR = re.compile(r"(?P<root>/.+)/color/image_raw")


def camera_roots(topics: Sequence[str]) -> list[str]:
    """Cameras among the topics of a running system, named as realsense-ros names them.

    Args:
        topics: names of all topics.

    Returns:
        What stands before ``/color/image_raw``, sorted.
    """
    found = (_COLOR.fullmatch(topic) for topic in topics)
    return sorted(match["root"] for match in found if match)


class LiveRig:
    """Cameras by name, as far as they are known; grows as messages come.

    Args:
        calibration: where the cameras are, by name; it wins over transforms.
        world_frame: the frame that places refer to.
        allow_uncalibrated: take the identity for the place of a camera that nobody knows.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        *,
        world_frame: str = "world",
        allow_uncalibrated: bool = False,
    ) -> None:
        self.world_frame, self.allow_uncalibrated = world_frame, allow_uncalibrated
        self._calibration = calibration
        self._names: dict[str, str] = {}
        self._infos: dict[str, CameraInfoMsg] = {}
        self._transforms: dict[str, TransformMsg] = {}
        self._frames = StaticFrames()

    @property
    def names(self) -> tuple[str, ...]:
        """Every camera that was named so far."""
        return tuple(self._names.values())

    def name_of(self, root: str) -> str:
        """The name of a camera: the end of its topics' namespace that is its own; it stays.

        Args:
            root: what stands before ``/color/image_raw``.

        Returns:
            The name.
        """
        if root not in self._names:
            # A ROS name may begin with _, a camera's may not.
            tokens = [token.lstrip("_") or "camera" for token in root.split("/") if token]
            ends = ["_".join(tokens[-length:]) for length in range(1, len(tokens) + 1)]
            taken = set(self._names.values())
            name = next((end for end in ends if end not in taken), f"camera_{len(taken)}")
            self._names[root] = name
        return self._names[root]

    def note_info(self, name: str, info: CameraInfoMsg) -> None:
        """Take a camera's intrinsics; the newest count.

        Args:
            name: of the camera.
            info: the message.
        """
        self._infos[name] = info

    def note_transforms(self, transforms: Sequence[TransformMsg]) -> None:
        """Take static transforms; a newer one of the same child counts.

        Args:
            transforms: of ``/tf_static`` or the like.
        """
        for transform in transforms:
            self._transforms[transform.child_frame_id.lstrip("/")] = transform
        self._frames = StaticFrames(list(self._transforms.values()))

    def camera(self, name: str) -> PinholeCamera | None:
        """A camera with its place.

        Args:
            name: of the camera.

        Returns:
            The camera, or None while `missing` names what has not come.

        Raises:
            DataError: if its distortion is none that PhysGym knows.
        """
        if self.missing(name):
            return None
        serial = ""
        if self._calibration is not None and name in self._calibration.cameras:
            serial = self._calibration.cameras[name].serial
        T = self._place(name)
        where = np.eye(4) if T is None else T
        return camera_of(name, serial, self._infos[name], where, rectified=False)

    def missing(self, name: str) -> str:
        """What is still unknown of a camera.

        Args:
            name: of the camera.

        Returns:
            A phrase that says what to do; empty when nothing is missing.
        """
        if name not in self._infos:
            return "no color/camera_info has come"
        if self._place(name) is None and not self.allow_uncalibrated:
            frame = self._infos[name].frame_id
            return (
                f"its place is unknown: no transform from {self.world_frame!r} to {frame!r} has "
                "come; publish /tf_static, give a calibration file, or set allow_uncalibrated"
            )
        return ""

    def is_placed(self, name: str) -> bool:
        """Whether the place of a known camera is more than the identity that stands in.

        Args:
            name: of the camera.

        Returns:
            The truth.
        """
        return self._place(name) is not None

    def pose_in_world(self, message: PoseMsg) -> tuple[np.ndarray, np.ndarray]:
        """A pose in the world, whatever frame it was given in.

        Args:
            message: the pose.

        Returns:
            Position [m], shape (3,), and ``quat_wxyz``, shape (4,).

        Raises:
            DataError: if its frame is not connected to the world.
        """
        T = np.eye(4)
        if message.frame_id.lstrip("/") not in ("", "world", self.world_frame):
            known = self._frames.transform(self.world_frame, message.frame_id)
            if known is None:
                raise DataError(
                    f"a pose in frame {message.frame_id!r}",
                    where="PoseStamped.header.frame_id",
                    expected=f"{self.world_frame!r}, or a frame that /tf_static connects to it",
                    fix=f"publish a static transform from {self.world_frame!r}",
                )
            T = known
        turn = T[:3, :3] @ matrix_from_quat_xyzw(message.quat_xyzw)
        return apply_T(T, message.position[None])[0], quat_wxyz_from_matrix(turn)

    def _place(self, name: str) -> np.ndarray | None:
        if self._calibration is not None and name in self._calibration.cameras:
            return self._calibration.cameras[name].T_world_cam
        if name not in self._infos:
            return None
        return self._frames.transform(self.world_frame, self._infos[name].frame_id)
