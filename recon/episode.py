"""Episode: one recording of calibrated RGB-D cameras and of what moved the object.

On disk it is a rosbag2 folder: PhysGym's own (`recon.episode_write`), or one that realsense-ros and
``ros2 bag record`` made, MCAP or sqlite, compressed or not, whole or damaged. Opening looks at the
beginning of every message once, for its stamp and size; pixels are decoded when they are asked for.
All times are seconds since the first camera image (`Episode.start_s` on the recording's own clock).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon import episode_scan
from recon.bags import Bag, BagDamagedError
from recon.episode_files import bag_folder, read_sidecar
from recon.episode_frames import Frame, FrameSet, FrameStore, Synchronized, span_of_one
from recon.episode_index import CameraTopics
from recon.episode_masks import mask_labels, read_mask
from recon.episode_motion import BoolTrack, JointTrack, PoseTrack, RecordedMotion
from recon.episode_write import EpisodeWriter
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["Episode", "EpisodeWriter", "Frame", "FrameSet", "Synchronized"]

_NS = 1_000_000_000


class Episode:
    """A recording that was opened for reading; a context manager.

    Attributes:
        path: the folder (or single storage file).
        name: what it is called.
        cameras: by name; intrinsics from CameraInfo, extrinsics from ``/tf_static`` or a
            calibration file.
        metadata: what the writer kept beside the recording.
        start_s: the recording's own clock at time 0 [s].
        losses: sentences on everything that is missing or left out; empty for a whole one.
        uncalibrated: cameras whose extrinsics are unknown (identity stands in for them).
    """

    def __init__(self, bag: Bag, scan: episode_scan.Scan, sidecar: Mapping[str, Any]) -> None:
        """Use `open`."""
        self.path = bag.path
        self.name = str(sidecar.get("name") or bag.path.name)
        self.cameras: dict[str, PinholeCamera] = scan.cameras
        self.metadata: dict[str, Any] = dict(sidecar.get("metadata", {}))
        self.uncalibrated = scan.uncalibrated
        self._bag, self._scan = bag, scan
        self._frames = FrameStore(bag, scan, self.name)
        self.start_s = self._frames.start_ns / _NS
        self.losses = (*bag.losses, *scan.losses, *self._frames.losses)

    def __enter__(self) -> Episode:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        calibration: str | Path | None = None,
        topics: Mapping[str, CameraTopics] | None = None,
        world_frame: str = "world",
        allow_uncalibrated: bool = False,
        verify: bool = False,
    ) -> Episode:
        """Open a recording.

        Args:
            path: a rosbag2 folder, a ``.mcap`` or ``.db3`` file, or a ``.partial`` folder that a
                killed writer left.
            calibration: a YAML file with ``T_world_cam`` of each camera, by name or serial number;
                None takes ``/tf_static``.
            topics: topics by camera name, for cameras that are not named as realsense-ros does.
            world_frame: the frame that extrinsics refer to. When ``/tf_static`` does not know it,
                the root of the cameras' common tree is used, and a warning says so.
            allow_uncalibrated: take the identity for extrinsics that are unknown, and warn.
            verify: check MCAP chunks that are not compressed, too, and leave out damaged ones;
                without this, that is found when their frames are read.

        Returns:
            The episode.

        Raises:
            DataError: if it is no recording, holds no usable image, or its extrinsics are unknown.
        """
        folder = bag_folder(Path(path).expanduser())
        sidecar = read_sidecar(folder)
        options = episode_scan.Options(
            calibration=None if calibration is None else Path(calibration).expanduser(),
            topics=topics,
            world_frame=world_frame,
            allow_uncalibrated=allow_uncalibrated,
            verify=verify,
            serials=sidecar.get("serials", {}),
        )
        bag = Bag(folder)
        try:
            scan = _scanned(bag, options)
            episode = cls(bag, scan, sidecar)
        except BaseException:
            bag.close()
            raise
        if episode.losses:
            text = f"{folder}: " + "; ".join(episode.losses)
            warnings.warn(text, PhysGymWarning, stacklevel=2)
        return episode

    @property
    def duration_s(self) -> float:
        """From the first camera image to the last [s]."""
        lasts = [stamps[-1] for name in self.cameras if len(stamps := self.stamps_s(name))]
        return max(lasts, default=0.0)

    def stamps_s(self, camera: str) -> np.ndarray:
        """Times of a camera's frames.

        Args:
            camera: its name.

        Returns:
            [s], shape (T,), float64, increasing.

        Raises:
            DataError: if there is no such camera.
        """
        return self._frames.stamps_s(camera)

    def frame_count(self, camera: str) -> int:
        """Number of frames (colour with its depth) of a camera.

        Args:
            camera: its name.

        Returns:
            T.

        Raises:
            DataError: if there is no such camera.
        """
        return len(self._frames.stamps_ns(camera))

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames from ``start`` up to, not including, ``stop``, read one at a time.

        Args:
            camera: its name.
            start: first frame.
            stop: one past the last; None for all.

        Yields:
            The frames, in the order of their stamps.

        Raises:
            DataError: if there is no such camera or no such frames.
        """
        count = self.frame_count(camera)
        last = count if stop is None else stop
        if not 0 <= start <= last <= count:
            raise DataError(
                f"frames {start} to {last}",
                where=f"{self.name}: {camera}",
                expected=f"0 <= start <= stop <= {count}",
            )
        for found in self._frames.read([[(camera, number)] for number in range(start, last)]):
            yield found[camera]

    def frame(self, camera: str, number: int) -> Frame:
        """One frame.

        Args:
            camera: its name.
            number: from 0; negative numbers count from the end.

        Returns:
            It.

        Raises:
            DataError: if there is no such camera or frame.
        """
        span = span_of_one(number, self.frame_count(camera), f"{self.name}: {camera}")
        return next(self.frames(camera, *span))

    def synchronized(self, slop_s: float = 0.017) -> Synchronized:
        """Framesets of all cameras.

        Each frame of the camera with the fewest frames is joined by the nearest frame of every
        other camera; a set counts when no camera is further than ``slop_s`` from that one.

        Args:
            slop_s: [s]; the default is half a frame at 30 Hz.

        Returns:
            The sets and what is in none of them.
        """
        return self._frames.synchronized(slop_s)

    @property
    def grippers(self) -> tuple[int, ...]:
        """Numbers of the grippers whose motion was recorded."""
        return self._scan.motion.numbers("gripper")

    @property
    def plates(self) -> tuple[int, ...]:
        """Numbers of the plates whose motion was recorded."""
        return self._scan.motion.numbers("plate")

    def gripper_pose(self, number: int) -> PoseTrack:
        """Where a gripper was in the world.

        Args:
            number: one of `grippers`.

        Returns:
            Time [s], position [m] and ``quat_wxyz``.

        Raises:
            DataError: if that was not recorded, or its frame is not connected to the world.
        """
        return self._motion.pose(f"/gripper{number}/pose", self._frames.start_ns)

    def plate_pose(self, number: int) -> PoseTrack:
        """Where a plate was in the world.

        Args:
            number: one of `plates`.

        Returns:
            Time [s], position [m] and ``quat_wxyz``.

        Raises:
            DataError: if that was not recorded, or its frame is not connected to the world.
        """
        return self._motion.pose(f"/plate{number}/pose", self._frames.start_ns)

    def gripper_closed(self, number: int) -> BoolTrack:
        """When a gripper was closed.

        Args:
            number: one of `grippers`.

        Returns:
            Time [s] and truth, one per message; none when it was not recorded.
        """
        return self._motion.closed(f"/gripper{number}/closed", self._frames.start_ns)

    def joint_states(self) -> JointTrack:
        """The robot's joints.

        Returns:
            Time [s], names, and values with NaN where a message left a joint out; no rows when
            none were recorded.
        """
        return self._motion.joints(self._frames.start_ns)

    def ground_truth(self) -> Tracks | None:
        """True motion, when the recording came with it, on the episode's clock."""
        path = self.path / "ground_truth.npz"
        if not path.is_file():
            return None
        tracks = Tracks.load(path)
        return dataclasses.replace(tracks, time_s=tracks.time_s - self.start_s)

    def mask_labels(self, camera: str) -> tuple[str, ...]:
        """Labels that a camera has recorded masks for.

        Args:
            camera: its name.

        Returns:
            Sorted.
        """
        return mask_labels(self.path, camera)

    def mask(self, camera: str, number: int, label: str = "object") -> np.ndarray | None:
        """A recorded mask.

        Args:
            camera: its name.
            number: of the frame.
            label: one of `mask_labels`.

        Returns:
            Shape (H, W), bool, or None when there is none for that frame.

        Raises:
            DataError: if there is no such camera or frame.
        """
        row, _ = span_of_one(number, self.frame_count(camera), f"{self.name}: {camera}")
        stamp_ns = int(self._frames.stamps_ns(camera)[row])
        return read_mask(self.path, camera, label, stamp_ns)

    def close(self) -> None:
        """Close the files."""
        self._bag.close()

    @property
    def _motion(self) -> RecordedMotion:
        return self._scan.motion


def _scanned(bag: Bag, options: episode_scan.Options) -> episode_scan.Scan:
    for _ in bag.files:  # each of them may be damaged
        try:
            return episode_scan.scan(bag, options)
        except BagDamagedError as error:
            bag.salvage(error.what)
    return episode_scan.scan(bag, options)
