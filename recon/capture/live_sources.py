"""What the camera node can show without hardware: a recording, or the simulated soft cell."""

from __future__ import annotations

import dataclasses
import heapq
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.capture.sources import GripperPose, Picture, Source

if TYPE_CHECKING:
    from physgym.cell.soft_config import SoftCellConfig
    from recon.episode import Episode

__all__ = ["EpisodeSource", "JointValues", "LiveItem", "LiveSource", "PlatePose", "SoftCellSource"]


@dataclass(frozen=True, eq=False)
class PlatePose:
    """Where a plate is; see `recon.capture.sources.GripperPose`."""

    number: int
    stamp_s: float
    position: np.ndarray
    quat_wxyz: np.ndarray


@dataclass(frozen=True, eq=False)
class JointValues:
    """The robot's joints: stamp [s], names, and values [rad or m, per s, Nm or N]."""

    stamp_s: float
    names: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray


LiveItem = Picture | GripperPose | PlatePose | JointValues


class LiveSource(Source):
    """A source that also knows, once started, what moves.

    Attributes:
        motion: ``gripper0``, ``plate1``, ``joint_states``, ...: what comes besides pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.motion: tuple[str, ...] = ()

    @abstractmethod
    def items(self) -> Iterator[LiveItem]:  # type: ignore[override]
        """See `Source.items`."""


class EpisodeSource(LiveSource):
    """Everything that a recording holds, in the order of its stamps.

    Args:
        path: what `recon.episode.Episode.open` opens.
        loop: start again at the end; stamps go on.
        calibration: cameras from this file instead of those in the recording.
    """

    def __init__(
        self, path: str | Path, *, loop: bool = False, calibration: Path | None = None
    ) -> None:
        super().__init__()
        self._path, self._loop, self._calibration = Path(path), loop, calibration
        self._open = ExitStack()
        self._episodes: dict[str, Episode] = {}
        self._period_s = 0.0

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`.

        Raises:
            DataError: if it cannot be opened.
        """
        first = self._opened()
        # A handle each: a recording is read from its beginning to its end, and cameras in turns.
        self._episodes = {name: self._opened() for name in first.cameras}
        self.calibrated = not first.uncalibrated
        steps = [np.diff(first.stamps_s(name)) for name in first.cameras]
        usual = [float(np.median(step)) for step in steps if len(step)]
        self._period_s = first.duration_s + (max(usual) if usual else 1.0)
        self._first = first
        grippers = [f"gripper{number}" for number in first.grippers]
        plates = [f"plate{number}" for number in first.plates]
        joints = ["joint_states"] if len(first.joint_states().time_s) else []
        self.motion = (*grippers, *plates, *joints)
        return first.cameras

    def items(self) -> Iterator[LiveItem]:  # type: ignore[override]
        """See `Source.items`; stamps are on the recording's own clock."""
        rounds = 0
        while not self.stopped and (self._loop or rounds == 0):
            shift_s = self._first.start_s + rounds * self._period_s
            streams = [self._pictures(name) for name in self._first.cameras]
            for item in heapq.merge(*streams, self._motion(), key=lambda item: item.stamp_s):
                if self.stopped:
                    return
                yield dataclasses.replace(item, stamp_s=item.stamp_s + shift_s)
            rounds += 1

    def close(self) -> None:
        """See `Source.close`."""
        self._open.close()

    def _opened(self) -> Episode:
        from recon.episode import Episode

        options = {"calibration": self._calibration, "allow_uncalibrated": True}
        return self._open.enter_context(Episode.open(self._path, **options))  # type: ignore[arg-type]

    def _pictures(self, camera: str) -> Iterator[LiveItem]:
        for frame in self._episodes[camera].frames(camera):
            yield Picture(camera, frame.stamp_s, frame.rgb, frame.depth_m)

    def _motion(self) -> Iterator[LiveItem]:
        """Motion while the cameras ran; it is small, so it is read at once."""
        episode, found = self._first, list[LiveItem]()
        for number in episode.grippers:
            track = episode.gripper_pose(number)
            closed = episode.gripper_closed(number).at(track.time_s)
            rows = zip(track.time_s, track.position, track.quat_wxyz, closed)
            found += [GripperPose(number, float(t), p, q, bool(c)) for t, p, q, c in rows]
        for number in episode.plates:
            track = episode.plate_pose(number)
            found += [PlatePose(number, float(t), p, q) for t, p, q in zip(*track)]
        joints = episode.joint_states()
        for row, time_s in enumerate(joints.time_s):
            values = joints.position[row], joints.velocity[row], joints.effort[row]
            found.append(JointValues(float(time_s), joints.names, *values))
        inside = [item for item in found if -0.5 <= item.stamp_s <= episode.duration_s + 0.5]
        yield from sorted(inside, key=lambda item: item.stamp_s)


class SoftCellSource(LiveSource):
    """The simulated soft cell at play; draw it in one thread only.

    Args:
        config: body, cameras and grippers.
        interaction: what the grippers do (`physgym.cell.soft_config.INTERACTIONS`).
        duration_s: of one interaction [s].
        fps: pictures per second.
        seed: of the first interaction; each further one takes the next.
        loop: play another when one ends; stamps go on.
    """

    def __init__(
        self,
        config: SoftCellConfig,
        *,
        interaction: str = "lift",
        duration_s: float = 3.0,
        fps: float = 30.0,
        seed: int = 0,
        loop: bool = False,
    ) -> None:
        super().__init__()
        if not duration_s > 0 or not fps > 0:
            raise DataError(
                f"{duration_s} s at {fps} pictures a second",
                where="SoftCellSource",
                expected="numbers above zero",
            )
        from physgym.cell.soft import SoftCell

        self._cell = SoftCell(config)
        self._play = (interaction, duration_s, fps)
        self._seed, self._loop = seed, loop
        self.metadata = {"source": "simulated", "kind": config.kind, "interaction": interaction}

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`."""
        self.motion = tuple(f"gripper{k}" for k in range(self._cell.config.gripper_count))
        return {camera.name: camera for camera in self._cell.cameras}

    def items(self) -> Iterator[LiveItem]:  # type: ignore[override]
        """See `Source.items`; stamps begin at 0."""
        interaction, duration_s, fps = self._play
        names = [camera.name for camera in self._cell.cameras]
        rounds = 0
        while not self.stopped and (self._loop or rounds == 0):
            shift_s = rounds * max(1, round(duration_s * fps)) / fps
            seed = self._seed + rounds
            for frame in self._cell.record(interaction, duration_s, fps=fps, seed=seed):
                if self.stopped:
                    return
                stamp_s = frame.time_s + shift_s
                poses = zip(frame.gripper_position, frame.gripper_quat_wxyz, frame.gripper_closed)
                for number, (position, quat, closed) in enumerate(poses):
                    yield GripperPose(number, stamp_s, position, quat, bool(closed))
                for name, image in zip(names, frame.images):
                    yield Picture(name, stamp_s, image.rgb, image.depth_m)
            rounds += 1

    def close(self) -> None:
        """See `Source.close`."""
        self._cell.close()
