"""LiveRecording: what cameras and grippers send now becomes an episode, on a thread of its own.

Whoever receives messages hands them over and never waits. A bounded queue stands between; what it
cannot take, what finds no partner and what cannot be used is counted by camera, and the counts are
kept in the episode. A camera may come late, fall silent and come back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.capture.growing_writer import GrowingWriter
from recon.capture.live_camera import LiveCamera, Picture, depth_pixels, rgb_pixels
from recon.capture.recording_report import RecordingReport
from recon.cdr import ImageMsg
from recon.episode_files import PARTIAL_SUFFIX
from recon.images import image_defect

__all__ = ["LiveRecording", "RecordingConfig"]

_HELD_MOTION = 100_000  # messages before the first picture: several minutes of a robot at 500 Hz
_NS = 1_000_000_000


@dataclass(frozen=True)
class RecordingConfig:
    """How live images become an episode.

    Attributes:
        queue_images: images that wait for the disk before any is lost; a VGA camera sends 60 a
            second (colour and depth), 46 MB.
        silence_s: a camera that sends nothing for this long has stopped [s].
        depth: whether every camera sends depth aligned to colour.
        compress: zstd chunks: a third of the disk for some 15 % of a core per VGA camera.
    """

    queue_images: int = 300
    silence_s: float = 1.0
    depth: bool = True
    compress: bool = True

    def __post_init__(self) -> None:
        """Refuse bounds that bound nothing.

        Raises:
            DataError: naming the field.
        """
        for name in ("queue_images", "silence_s"):
            if not getattr(self, name) > 0:
                raise DataError(
                    f"{name} is {getattr(self, name)}",
                    where=f"RecordingConfig.{name}",
                    expected="a number above zero",
                )


class LiveRecording:
    """Records until `stop`; every other method may be called from any thread and never waits.

    Args:
        path: the episode's folder; must not exist.
        config: bounds.
        expected: cameras that should send; one that never does is reported.
        metadata: anything that JSON can hold, kept beside the recording.

    Raises:
        DataError: if the folder, or an unfinished one of that name, exists.
    """

    def __init__(
        self,
        path: str | Path,
        config: RecordingConfig | None = None,
        *,
        expected: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        for taken in (self.path, self.path.with_name(self.path.name + PARTIAL_SUFFIX)):
            if taken.exists():
                raise DataError("it exists already", where=str(taken), expected="a new folder")
        self.config = config or RecordingConfig()
        self._metadata = dict(metadata or {})
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._waiting = 0
        self._cameras = {name: LiveCamera(name) for name in expected}
        self._closed: dict[int, bool] = {}
        self._motion: dict[str, int] = {}
        self._motion_refused: dict[str, str] = {}
        self._held_motion: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque(
            maxlen=_HELD_MOTION
        )
        self._writer: GrowingWriter | None = None
        self._problem = ""
        self._started_s = time.monotonic()
        self._final: RecordingReport | None = None
        self._thread = threading.Thread(target=self._run, name="episode", daemon=True)
        self._thread.start()

    def place(self, camera: PinholeCamera, *, is_placed: bool = True) -> None:
        """Say what a camera is and where it stands; its images are written from then on.

        Args:
            camera: by the name that its images come under.
            is_placed: whether its ``T_world_cam`` means anything; if not, the episode has none.
        """
        self._queue.put((self._on_place, (camera, is_placed)))

    def image(self, camera: str, image: ImageMsg, *, depth: bool = False) -> None:
        """Take one image.

        Args:
            camera: name of the camera.
            image: as it came; it must not be changed afterwards.
            depth: whether it is the depth image aligned to colour.
        """
        with self._lock:
            own = self._camera(camera)
            if not depth:
                own.arrive(image.stamp_ns / _NS, self.config.silence_s)
            if self._waiting >= self.config.queue_images:
                own.overflowed += 1
                return
            self._waiting += 1
        self._queue.put((self._on_image, (own, image, depth)))

    def refuse(self, camera: str, reason: str) -> None:
        """Count an image that could not even be read.

        Args:
            camera: name of the camera.
            reason: what was wrong.
        """
        with self._lock:
            self._camera(camera).refuse(reason)

    def gripper_pose(
        self, number: int, stamp_s: float, position: np.ndarray, quat_wxyz: np.ndarray
    ) -> None:
        """Take where a gripper is.

        Args:
            number: which gripper.
            stamp_s: [s], the cameras' clock.
            position: in the world [m], shape (3,).
            quat_wxyz: shape (4,).
        """
        self._queue.put((self._on_gripper, (number, stamp_s, position, quat_wxyz)))

    def gripper_closed(self, number: int, closed: bool) -> None:
        """Take whether a gripper holds on; a Bool has no stamp, so the next pose carries it.

        Args:
            number: which gripper.
            closed: the truth.
        """
        self._queue.put((self._on_closed, (number, closed)))

    def plate_pose(
        self, number: int, stamp_s: float, position: np.ndarray, quat_wxyz: np.ndarray
    ) -> None:
        """Take where a plate is.

        Args:
            number: which plate.
            stamp_s: [s], the cameras' clock.
            position: in the world [m], shape (3,).
            quat_wxyz: shape (4,).
        """
        self._queue.put((self._on_plate, (number, stamp_s, position, quat_wxyz)))

    def joints(
        self,
        stamp_s: float,
        names: Sequence[str],
        position: np.ndarray,
        velocity: np.ndarray,
        effort: np.ndarray,
    ) -> None:
        """Take the robot's joints; empty arrays where a message does not tell.

        Args:
            stamp_s: [s], the cameras' clock.
            names: of the joints.
            position: [rad] or [m].
            velocity: [rad/s] or [m/s].
            effort: [Nm] or [N].
        """
        self._queue.put((self._on_joints, (stamp_s, names, position, velocity, effort)))

    def refuse_motion(self, topic: str, reason: str) -> None:
        """Note a message about motion that could not be used.

        Args:
            topic: where it came.
            reason: what was wrong.
        """
        with self._lock:
            self._motion_refused[topic] = reason

    def report(self) -> RecordingReport:
        """What was recorded so far and what was not."""
        if self._final is not None:
            return self._final
        now_s, silence_s = time.monotonic(), self.config.silence_s
        with self._lock:
            cameras = {name: own.record(silence_s) for name, own in self._cameras.items()}
            written = self._writer.bytes_written if self._writer is not None else 0
            return RecordingReport(
                path=self.path,
                duration_s=now_s - self._started_s,
                cameras=cameras,
                motion=dict(self._motion),
                motion_refused=dict(self._motion_refused),
                waiting=self._waiting,
                bytes_written=written,
                problem=self._problem,
            )

    def stop(self) -> RecordingReport:
        """Write what has come, finish the episode; more calls only report.

        Returns:
            The last report; its path is the episode, or the partial folder after a failure.
        """
        if self._final is not None:
            return self._final
        self._queue.put(None)
        self._thread.join()
        if self._writer is None:
            self._problem = self._problem or "no picture with a known place came: nothing is kept"
            self._final = self.report()
            return self._final
        self._writer.add_metadata(**self._metadata, recording=self.report().plain())
        try:
            self.path = self._writer.close()  # after a full disk, too: what was written is whole
        except DataError as error:
            self._problem, self.path = str(error), self._writer.partial
        self._final = self.report()
        return self._final

    def _camera(self, name: str) -> LiveCamera:
        if name not in self._cameras:
            self._cameras[name] = LiveCamera(name)
        return self._cameras[name]

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            handle, arguments = item
            if self._problem:
                self._count_lost(handle, arguments)
                continue
            try:
                handle(*arguments)
            except DataError as error:
                self._on_error(error, handle, arguments)

    def _on_error(
        self, error: DataError, handle: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        with self._lock:
            if isinstance(error.__cause__, OSError):  # the disk; a wrong message stops nothing
                self._problem = str(error)
            elif handle == self._on_image:
                arguments[0].refuse(error.what)
            else:
                what = handle.__name__.rpartition("_")[2]
                number = "" if what == "joints" else arguments[0]
                self._motion_refused[f"{what}{number}"] = error.what

    def _count_lost(self, handle: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if handle == self._on_image:
            with self._lock:
                self._waiting -= 1
                arguments[0].overflowed += 1

    def _on_place(self, camera: PinholeCamera, is_placed: bool) -> None:
        with self._lock:
            own = self._camera(camera.name)
            if own.placed is not None:
                return
            own.placed, own.is_placed = camera, is_placed
        while own.held:
            self._write(own, own.held.popleft())

    def _on_image(self, own: LiveCamera, image: ImageMsg, depth: bool) -> None:
        with self._lock:
            self._waiting -= 1
        defect = image_defect(image, depth=depth)
        if defect:
            with self._lock:
                own.refuse(f"{'depth' if depth else 'colour'}: {defect}")
            return
        stamp_s = image.stamp_ns / _NS
        if not self.config.depth:
            self._keep(own, (stamp_s, image, None))
            return
        for pair in own.pairs.push("depth" if depth else "color", stamp_s, image):
            color = pair.frames["color"]
            self._keep(own, (color.stamp_ns / _NS, color, pair.frames["depth"]))

    def _keep(self, own: LiveCamera, picture: Picture) -> None:
        if own.placed is None:
            own.hold(picture)
        else:
            self._write(own, picture)

    def _write(self, own: LiveCamera, picture: Picture) -> None:
        assert own.placed is not None
        stamp_s, color, depth = picture
        if self._writer is None:
            compress, is_placed = self.config.compress, own.is_placed
            self._writer = GrowingWriter(
                self.path, own.placed, is_placed=is_placed, compress=compress
            )
            self._flush_motion()
        elif own.name not in self._writer.cameras:
            self._writer.add_camera(own.placed, stamp_s, is_placed=own.is_placed)
        deep = None if depth is None else depth_pixels(depth)
        self._writer.write_frame(own.name, stamp_s, rgb_pixels(color), deep)
        own.frames += 1

    def _flush_motion(self) -> None:
        while self._held_motion:
            handle, arguments = self._held_motion.popleft()
            try:
                handle(*arguments)
            except DataError as error:
                self._on_error(error, handle, arguments)

    def _is_held(self, handle: Callable[..., None], *arguments: Any) -> bool:
        """Hold motion that comes before the first picture, when there is no file yet."""
        if self._writer is None:
            self._held_motion.append((handle, arguments))
        return self._writer is None

    def _on_gripper(
        self, number: int, stamp_s: float, position: np.ndarray, quat_wxyz: np.ndarray
    ) -> None:
        self._write_gripper(number, stamp_s, position, quat_wxyz, self._closed.get(number))

    def _write_gripper(
        self,
        number: int,
        stamp_s: float,
        position: np.ndarray,
        quat_wxyz: np.ndarray,
        closed: bool | None,
    ) -> None:
        if self._is_held(self._write_gripper, number, stamp_s, position, quat_wxyz, closed):
            return
        assert self._writer is not None
        self._writer.write_gripper(number, stamp_s, position, quat_wxyz, closed=closed)
        self._count_motion(f"gripper{number}")

    def _on_closed(self, number: int, closed: bool) -> None:
        self._closed[number] = closed

    def _on_plate(
        self, number: int, stamp_s: float, position: np.ndarray, quat_wxyz: np.ndarray
    ) -> None:
        if self._is_held(self._on_plate, number, stamp_s, position, quat_wxyz):
            return
        assert self._writer is not None
        self._writer.write_plate(number, stamp_s, position, quat_wxyz)
        self._count_motion(f"plate{number}")

    def _on_joints(self, stamp_s: float, names: Sequence[str], *columns: np.ndarray) -> None:
        if self._is_held(self._on_joints, stamp_s, names, *columns):
            return
        assert self._writer is not None
        position, velocity, effort = (column if len(column) else None for column in columns)
        if position is None:
            position = np.full(len(names), np.nan)
        self._writer.write_joints(stamp_s, names, position, velocity=velocity, effort=effort)
        self._count_motion("joint_states")

    def _count_motion(self, name: str) -> None:
        with self._lock:
            self._motion[name] = self._motion.get(name, 0) + 1
