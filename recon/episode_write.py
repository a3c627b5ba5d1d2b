"""EpisodeWriter: a recording as a rosbag2 folder that any ROS 2 tool opens.

The folder holds one MCAP file (chunks of zstd, or none), ``metadata.yaml``, and what ROS has no
message for:
``physgym.json`` (format, name, serial numbers), ``ground_truth.npz`` (a tracks file) and masks
(`recon.episode_masks`). It grows inside ``NAME.partial`` and is renamed when it is
whole; a writer that was killed leaves that folder, and `recon.episode.Episode.open` reads it.
Topics are those of realsense-ros with aligned depth.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import quat_xyzw_from_wxyz
from recon import episode_messages as messages
from recon.episode_bag import BagWriter
from recon.episode_files import PARTIAL_SUFFIX, write_sidecar
from recon.episode_masks import write_mask
from recon.episode_messages import MessageFactory
from recon.images import depth_mm
from recon.tracks import Tracks

__all__ = ["EpisodeWriter"]

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class EpisodeWriter:
    """Records one episode; a context manager, and safe to call from several threads.

    Leaving the block normally finishes the episode. Leaving it by an exception keeps what was
    recorded, readable, in the ``.partial`` folder. After a write that failed (a full disk), `close`
    still makes a whole episode of what was written before.
    """

    def __init__(
        self,
        path: str | Path,
        cameras: Sequence[PinholeCamera],
        *,
        name: str = "",
        namespace: str = "camera",
        compress: bool = True,
        calibrated: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the recording and write where the cameras are.

        Args:
            path: the episode's folder; must not exist.
            cameras: at least one; names differ and are ROS names.
            name: what the episode is called; the folder's name when empty.
            namespace: first part of the cameras' topics.
            compress: zstd chunks; without it, recording takes less time and more disk, and no
                checksum tells a damaged pixel.
            calibrated: whether ``T_world_cam`` means anything; if not, no transform is written, and
                opening asks for a calibration.
            metadata: anything that JSON can hold, kept beside the recording.

        Raises:
            DataError: if the folder exists, or a camera cannot be named so.
        """
        self.path = Path(path).expanduser().absolute()
        self.partial = self.path.with_name(self.path.name + PARTIAL_SUFFIX)
        self.name = name or self.path.name
        self.cameras = {camera.name: camera for camera in cameras}
        self.bytes_written, self.compress = 0, compress
        self.failure: DataError | None = None
        self._metadata = dict(metadata or {})
        self._check(cameras, namespace)
        self._namespace = namespace
        self._lock = threading.RLock()
        self._make = MessageFactory()
        self._calibrated, self._begun, self._closed = calibrated, False, False
        self._folder = self.partial / self.path.name
        try:
            self.partial.mkdir(parents=True)
            self._bag = BagWriter(self._folder, self._make, compress=compress)
            self._write_sidecar(complete=False)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic that are kept so far."""
        return self._bag.counts

    def add_metadata(self, **entries: Any) -> None:
        """Add to what is kept beside the recording; written when it is closed.

        Args:
            entries: by key; anything that JSON can hold.
        """
        with self._lock:
            self._metadata.update(entries)

    def write_frame(
        self, camera: str, stamp_s: float, rgb: np.ndarray, depth: np.ndarray | None = None
    ) -> None:
        """Write one colour image and the depth aligned to it.

        Args:
            camera: its name.
            stamp_s: time of exposure [s], on one clock for the whole episode.
            rgb: shape (H, W, 3), uint8.
            depth: float [m] or uint16 [mm], shape (H, W); 0 or NaN where nothing was measured.
                None for a camera without depth.

        Raises:
            DataError: if the camera is unknown, a shape is wrong or the disk is full.
        """
        if camera not in self.cameras:
            raise self._refused(
                f"no camera {camera!r}", "write_frame", f"one of {sorted(self.cameras)}"
            )
        own = self.cameras[camera]
        size, stamp_ns = (own.height, own.width), self._stamp_ns(stamp_s)
        if rgb.shape != (*size, 3) or rgb.dtype != np.uint8:
            raise self._refused(
                f"a colour image of shape {rgb.shape}, {rgb.dtype}", camera, f"{(*size, 3)}, uint8"
            )
        if depth is not None and depth.shape != size:
            raise self._refused(f"a depth image of shape {depth.shape}", camera, f"{size}")
        root, frame = f"/{self._namespace}/{camera}", _optical_frame(camera)
        images = [("color", "rgb8", rgb)]
        if depth is not None:
            images.append(("aligned_depth_to_color", "16UC1", depth_mm(depth)))
        info = self._make.camera_info(stamp_ns, frame, own)
        raws = [
            (part, self._make.image(stamp_ns, frame, encoding, pixels))
            for part, encoding, pixels in images
        ]
        with self._lock:  # one frame's messages stay together
            for part, raw in raws:
                self._write(f"{root}/{part}/image_raw", messages.IMAGE, stamp_ns, raw)
                self._write(f"{root}/{part}/camera_info", messages.CAMERA_INFO, stamp_ns, info)

    def write_gripper(
        self,
        number: int,
        stamp_s: float,
        position: ArrayLike,
        quat_wxyz: ArrayLike,
        *,
        closed: bool | None = None,
    ) -> None:
        """Write where a gripper is.

        Args:
            number: which gripper.
            stamp_s: [s], the cameras' clock.
            position: of the grasp point in the world [m], shape (3,).
            quat_wxyz: its orientation in the world, shape (4,).
            closed: whether it holds on; None leaves that out.

        Raises:
            DataError: if a number is not finite or the disk is full.
        """
        self._write_pose(f"/gripper{int(number)}/pose", stamp_s, position, quat_wxyz)
        if closed is not None:
            topic, raw = f"/gripper{int(number)}/closed", self._make.boolean(bool(closed))
            self._write(topic, messages.BOOL, self._stamp_ns(stamp_s), raw)

    def write_plate(
        self, number: int, stamp_s: float, position: ArrayLike, quat_wxyz: ArrayLike
    ) -> None:
        """Write where a plate (a pusher, a press) is.

        Args:
            number: which plate.
            stamp_s: [s], the cameras' clock.
            position: in the world [m], shape (3,).
            quat_wxyz: its orientation in the world, shape (4,).

        Raises:
            DataError: if a number is not finite or the disk is full.
        """
        self._write_pose(f"/plate{int(number)}/pose", stamp_s, position, quat_wxyz)

    def write_joints(
        self,
        stamp_s: float,
        names: Sequence[str],
        position: ArrayLike,
        *,
        velocity: ArrayLike | None = None,
        effort: ArrayLike | None = None,
    ) -> None:
        """Write the robot's joints.

        Args:
            stamp_s: [s], the cameras' clock.
            names: of the joints.
            position: [rad] or [m], one per joint.
            velocity: [rad/s] or [m/s], one per joint, or None.
            effort: [Nm] or [N], one per joint, or None.

        Raises:
            DataError: if a length does not fit or the disk is full.
        """
        stamp_ns = self._stamp_ns(stamp_s)
        columns = []
        for key, value in (("position", position), ("velocity", velocity), ("effort", effort)):
            column = np.zeros(0) if value is None else np.asarray(value, np.float64)
            if value is not None and column.shape != (len(names),):
                raise self._refused(f"{key} of shape {column.shape}", "joints", f"({len(names)},)")
            columns.append(column)
        raw = self._make.joints(stamp_ns, names, *columns)
        self._write("/joint_states", messages.JOINTS, stamp_ns, raw)

    def write_mask(self, camera: str, stamp_s: float, label: str, mask: np.ndarray) -> None:
        """Keep a mask of one frame beside the recording.

        Args:
            camera: its name.
            stamp_s: the frame's stamp [s].
            label: ``object``, ``hand`` or another word.
            mask: shape (H, W), bool.

        Raises:
            DataError: if the label is no word, or the shape is wrong.
        """
        own = self.cameras.get(camera)
        if own is None or mask.shape != (own.height, own.width):
            raise self._refused(f"a mask of shape {mask.shape}", camera, "the camera's (H, W)")
        if not _TOKEN.fullmatch(label):
            raise self._refused(f"label {label!r}", camera, "letters, digits and _")
        try:
            write_mask(self._folder, camera, label, self._stamp_ns(stamp_s), mask)
        except OSError as error:
            raise self._failed(error) from error

    def set_ground_truth(self, tracks: Tracks) -> None:
        """Keep true motion beside the recording; for simulated cells and motion capture.

        Args:
            tracks: stamps on the cameras' clock, as given to `write_frame`.
        """
        tracks.save(self._folder / "ground_truth.npz")

    def hurry(self, active: bool) -> None:
        """Leave compression out while ``active``: there is more to write than time."""
        with self._lock:
            self._bag.hurry(active)

    def flush(self) -> None:
        """Hand everything to the disk; a disk that takes no more is told by `failure`."""
        with self._lock:
            try:
                self._bag.flush()
            except OSError as error:
                self.failure = self._failed(error)

    def close(self) -> Path:
        """Finish the episode and give it its name.

        Returns:
            The episode's folder.

        Raises:
            DataError: if it cannot be finished; what was recorded stays in the partial folder.
        """
        with self._lock:
            if self._closed:
                return self.path
            self._closed = True
            try:
                self._bag.close()
                self._write_sidecar(complete=True)
                if self.path.exists():
                    raise FileExistsError(f"{self.path} appeared meanwhile")
                self._folder.rename(self.path)
                self.partial.rmdir()
            except OSError as error:
                raise self._failed(error) from error
            return self.path

    def abort(self) -> Path:
        """Stop, and keep what was recorded, readable, without giving it its name.

        Returns:
            The partial folder; `recon.episode.Episode.open` reads it.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(OSError):  # a full disk: the chunks that fitted are whole
                    self._bag.close()
        return self.partial

    def _write_pose(
        self, topic: str, stamp_s: float, position: ArrayLike, quat_wxyz: ArrayLike
    ) -> None:
        stamp_ns = self._stamp_ns(stamp_s)
        place = np.asarray(position, np.float64)
        quat = quat_xyzw_from_wxyz(quat_wxyz)
        norm = float(np.linalg.norm(quat))
        if place.shape != (3,) or not np.isfinite(place).all() or not 0.5 < norm < 2.0:
            raise self._refused(
                f"position {place}, quat_wxyz {np.asarray(quat_wxyz)}",
                topic,
                "3 metres and a unit quaternion",
            )
        raw = self._make.pose(stamp_ns, "world", place, quat / norm)
        self._write(topic, messages.POSE, stamp_ns, raw)

    def _write(self, topic: str, kind: str, stamp_ns: int, raw: bytes) -> None:
        with self._lock:
            if self._closed or self._bag.failed:
                raise self.failure or self._refused("the writer is closed", topic, "an open writer")
            try:
                if not self._begun and self._calibrated:
                    poses = self._poses(stamp_ns)
                    self._bag.write("/tf_static", messages.TRANSFORMS, stamp_ns, poses)
                self._begun = True
                self._bag.write(topic, kind, stamp_ns, raw)
            except OSError as error:
                self.failure = self._failed(error)
                raise self.failure from error
            self.bytes_written += len(raw)

    def _poses(self, stamp_ns: int) -> bytes:
        cameras = self.cameras.values()
        frames = {_optical_frame(camera.name): camera.T_world_cam for camera in cameras}
        return self._make.transforms(stamp_ns, "world", frames)

    def _write_sidecar(self, *, complete: bool) -> None:
        content = {
            "name": self.name,
            "complete": complete,
            "serials": {camera.name: camera.serial for camera in self.cameras.values()},
            "metadata": self._metadata,
        }
        write_sidecar(self._folder, content)

    def _stamp_ns(self, stamp_s: float) -> int:
        # int32 seconds is what a ROS header holds
        if not (np.isfinite(stamp_s) and 0 <= stamp_s < 2**31):
            raise self._refused(f"a stamp of {stamp_s} s", "stamp", "seconds from 0 to 2^31")
        return round(float(stamp_s) * 1e9)

    def _check(self, cameras: Sequence[PinholeCamera], namespace: str) -> None:
        for path in (self.path, self.partial):
            if path.exists():
                raise DataError(
                    "it exists already",
                    where=str(path),
                    expected="a new folder",
                    fix="choose another name, or move the old recording away",
                )
        if not cameras or len(self.cameras) != len(cameras):
            names = [camera.name for camera in cameras]
            raise self._refused(f"cameras {names}", "cameras", "at least one, with different names")
        for token in (namespace, *self.cameras):
            if not _TOKEN.fullmatch(token):
                raise self._refused(
                    f"{token!r} is no ROS name",
                    "cameras",
                    "a letter, then letters, digits and _ (put a letter before a serial number)",
                )

    def _refused(self, what: str, field: str, expected: str) -> DataError:
        return DataError(what, where=f"{self.path.name}: {field}", expected=expected)

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            f"the recording stopped: {error.strerror or error}",
            where=str(self.partial),
            expected="a disk with room for about 100 MB/s",
            fix=f"what was recorded is kept; read it with Episode.open({str(self.partial)!r})",
        )


def _optical_frame(camera: str) -> str:
    return f"{camera}_color_optical_frame"
