"""Where a recording comes from: what every source gives, and RealSense cameras as one.

A source yields pictures and gripper poses in order of arrival. It says whether it can wait for a
slow disk (a simulation, a played-back file) or not (a camera), and afterwards what it lost itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.tracks import Tracks

if TYPE_CHECKING:
    from recon.capture.calibration_file import Calibration
    from recon.capture.realsense import RealSenseConfig, RealSenseRig

__all__ = ["GripperPose", "Item", "Picture", "RigSource", "Source"]

_PLAYED_OUT = ("end of the recording", "stopped")
_EARLY_S = 0.5  # files of one recording end within a few frames of each other


@dataclass(frozen=True, eq=False)
class Picture:
    """One camera at one instant.

    Attributes:
        camera: its name.
        stamp_s: time of exposure [s], on the clock of all cameras.
        rgb: shape (H, W, 3), uint8.
        depth: aligned to the colour, float [m] or uint16 [mm], shape (H, W); None without depth.
    """

    camera: str
    stamp_s: float
    rgb: np.ndarray
    depth: np.ndarray | None


@dataclass(frozen=True, eq=False)
class GripperPose:
    """Where a gripper is.

    Attributes:
        number: which gripper.
        stamp_s: [s], the cameras' clock.
        position: of the jaws' centre in the world [m], shape (3,).
        quat_wxyz: shape (4,).
        closed: whether its jaws are.
    """

    number: int
    stamp_s: float
    position: np.ndarray
    quat_wxyz: np.ndarray
    closed: bool


Item = Picture | GripperPose


class Source(ABC):
    """What can be recorded.

    Attributes:
        can_wait: it waits for a slow disk, and nothing is dropped.
        calibrated: ``T_world_cam`` of its cameras means something.
        metadata: kept beside the recording.
        watch: told (stage, step, steps or None) as it goes on.
    """

    can_wait = True
    calibrated = True

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.watch: Callable[[str, int, int | None], None] = lambda stage, step, steps: None
        self.stopped = False

    @abstractmethod
    def start(self) -> Mapping[str, PinholeCamera]:
        """Start it.

        Returns:
            Its cameras by name.
        """

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """What comes, until it ends or `stop`; once.

        Yields:
            Pictures and gripper poses.
        """

    def stop(self) -> None:
        """End soon; may be called from a signal handler."""
        self.stopped = True

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""

    def losses(self) -> list[str]:
        """What was lost before it came here, after `items` has ended.

        Returns:
            Sentences; none when all came.
        """
        return []

    def notes(self) -> list[str]:
        """What the user should know, but no loss.

        Returns:
            Sentences.
        """
        return []

    def ground_truth(self) -> Tracks | None:
        """True motion, where it is known."""
        return None


class RigSource(Source):
    """RealSense cameras, or recordings that librealsense made of them.

    A live rig stops when one of its cameras drops out; files are played to their end.

    Args:
        files: recordings (.db3, one per camera); none for the connected cameras.
        serials: which connected cameras; all when empty.
        calibration: where they are; without it the episode has no extrinsics.
        config: resolution, rate, exposure.
        duration_s: stop after this time [s]; None goes on until `stop` or the end of the files.
        settle_s: time in which a live camera finds its exposure, which is then locked [s].
        names: serial number by camera name, where names are given; ``cam0``, ``cam1``, ... else.
        live: play files as cameras send: in real time, and what finds no room is lost.
    """

    def __init__(
        self,
        files: Sequence[Path] = (),
        *,
        serials: Sequence[str] = (),
        calibration: Calibration | None = None,
        config: RealSenseConfig | None = None,
        duration_s: float | None = None,
        settle_s: float = 1.0,
        names: Mapping[str, str] | None = None,
        live: bool = False,
    ) -> None:
        super().__init__()
        from recon.capture.realsense import RealSenseConfig, RealSenseRig

        self.can_wait = bool(files) and not live
        self.calibrated = calibration is not None
        # Files need not be played in real time, and may lose frames when they are.
        playing: Literal["live", "fast"] = "live" if live else "fast"
        self.config = replace(config or RealSenseConfig(), playing=playing)
        self._calibration, self._duration_s = calibration, duration_s
        self._settle_s = 0.0 if files else settle_s
        wanted = dict(names) if names else {f"cam{i}": s for i, s in enumerate(serials)} or None
        self._rig: RealSenseRig = RealSenseRig(wanted, self.config, files=files)
        self._last_s: dict[str, float] = {}
        self._notes: list[str] = []
        self._dropouts: dict[str, str] = {}
        self.metadata = {"source": "librealsense recording" if files else "realsense"}
        if files:
            self.metadata["files"] = [file.name for file in files]

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`.

        Raises:
            DataError: if a camera is not in the calibration.
            DeviceError: if a camera is missing, cannot do what is asked, or a file does not play.
        """
        self._rig.__enter__()
        self._notes += self._rig.warnings
        if self._calibration is None:
            return self._rig.cameras
        self.metadata["calibration"] = {
            "status": self._calibration.status,
            "created": self._calibration.created,
            "world": self._calibration.world,
        }
        try:
            return self._calibration.applied_to(self._rig.cameras)
        except DataError:
            self._rig.stop()
            raise

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        first_s, begins_s = None, 0.0
        taken = 0
        for frame in self._rig.frames():
            if first_s is None:
                first_s = frame.stamp_s
                begins_s = first_s + self._settle_s
            if frame.stamp_s < begins_s:
                continue
            if taken == 0 and self._settle_s > 0:
                self._lock_exposure()
            if self._duration_s is not None and frame.stamp_s >= begins_s + self._duration_s:
                self._rig.request_stop()
                continue  # another camera's last frame may still be on its way
            self._last_s[frame.camera] = frame.stamp_s
            taken += 1
            self._watch(frame.stamp_s - begins_s)
            depth = frame.depth_m if frame.depth_mm is None else frame.depth_mm
            yield Picture(frame.camera, frame.stamp_s, frame.rgb, depth)
            if not self.can_wait and self._lost_a_camera(frame.stamp_s):
                self._rig.request_stop()

    def _lost_a_camera(self, now_s: float) -> bool:
        """Whether one has ended while this one goes on."""
        for name, reason in self._rig.ended().items():
            if now_s - self._last_s.get(name, now_s) > 0.5 * _EARLY_S:
                self._dropouts.setdefault(name, reason)
        return bool(self._dropouts)

    def stop(self) -> None:
        """See `Source.stop`."""
        super().stop()
        self._rig.request_stop()

    def close(self) -> None:
        """See `Source.close`."""
        self._rig.stop()

    def losses(self) -> list[str]:
        """See `Source.losses`."""
        found = []
        newest_s = max(self._last_s.values(), default=0.0)
        in_files = self._rig.frames_in_files()
        for name, report in self._rig.report().items():
            reason = self._dropouts.get(name, report.ended)
            if name in self._dropouts or reason not in _PLAYED_OUT:
                found.append(f"{name} dropped out: {reason}")
            elif name not in self._last_s:
                found.append(f"{name} sent no frame")
            elif (early_s := newest_s - self._last_s[name]) > _EARLY_S:
                found.append(f"{name} dropped out {early_s:.1f} s before the others ended")
            played = report.ended == "end of the recording"
            held = in_files.get(name, 0) if played else 0
            lost = max(report.lost, held - report.delivered)
            if lost:
                found.append(
                    f"{name}: {lost} frames lost before they came here "
                    f"({report.overflowed} of them because this machine was too slow)"
                )
        return found

    def notes(self) -> list[str]:
        """See `Source.notes`."""
        motion = (
            "cameras alone do not tell how a gripper moved: record /gripper0/pose with ROS 2 "
            "at the same time, or let perception follow the hand"
        )
        return [*self._notes, motion]

    def _lock_exposure(self) -> None:
        for name in self._rig.lock_exposure():
            self._notes.append(f"{name}: exposure could not be locked, brightness may pump")

    def _watch(self, time_s: float) -> None:
        fps = self.config.fps
        steps = None if self._duration_s is None else round(self._duration_s * fps)
        self.watch("record", round(time_s * fps), steps)
