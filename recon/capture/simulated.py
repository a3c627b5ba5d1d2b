"""The simulated cell as a source: straight to the episode, or through librealsense on the way.

Through the driver, the rendered frames go into librealsense's software device and its recorder;
the files are then played back by an unmodified pipeline, as those of real cameras would be.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.capture.calibration_file import Calibration
from recon.capture.librealsense import frames_in_file
from recon.capture.sources import GripperPose, Item, Picture, RigSource, Source
from recon.tracks import Tracks

if TYPE_CHECKING:
    from physgym.cell.soft import SoftCell
    from physgym.cell.soft_config import SoftCellConfig

__all__ = ["DriverSource", "SimSource", "SimulatedRecording"]

_SHUT_GAP_M = 0.001  # half of what is left between closed fingers
_JAW_OVER_TIPS_M = 0.010  # the jaws' centre over the fingertips


@dataclass(frozen=True)
class SimulatedRecording:
    """What the simulated cell plays.

    Attributes:
        cell: body, cameras, grippers.
        interaction: one of `physgym.cell.soft_config.INTERACTIONS`.
        duration_s: [s].
        fps: frames per second.
        seed: of turn, shift, script and depth noise.
        silent_from_s: for rehearsing faults: a camera that sends nothing from this time on [s].
    """

    cell: SoftCellConfig
    interaction: str = "lift"
    duration_s: float = 3.0
    fps: int = 30
    seed: int = 0
    silent_from_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a script that cannot be played.

        Raises:
            DataError: naming the field.
        """
        from physgym.cell.soft_config import INTERACTIONS

        if self.interaction not in INTERACTIONS:
            raise _bad("interaction", self.interaction, f"one of {', '.join(INTERACTIONS)}")
        if not 1.0 <= self.duration_s <= 120:
            raise _bad("duration_s", self.duration_s, "from 1 to 120 s")
        if not 1 <= self.fps <= 1 / self.cell.timestep_s:
            raise _bad("fps", self.fps, f"from 1 to {1 / self.cell.timestep_s:.0f}")

    @property
    def frame_count(self) -> int:
        """Frames of each camera."""
        return max(1, round(self.duration_s * self.fps))


class SimSource(Source):
    """The simulated cell, with grippers and true vertices.

    Args:
        recording: what it plays.
    """

    def __init__(self, recording: SimulatedRecording) -> None:
        super().__init__()
        self.recording = recording
        self._cell: SoftCell | None = None
        self._time_s: list[float] = []
        self._vertices: list[np.ndarray] = []
        self._held: set[int] = set()

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`.

        Raises:
            DeviceError: if MuJoCo or off-screen OpenGL is missing.
        """
        from physgym.cell.soft import SoftCell

        self._cell = SoftCell(self.recording.cell)
        self.metadata = _metadata(self.recording, self._cell)
        return {camera.name: camera for camera in self._cell.cameras}

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        recording, cell = self.recording, self._started
        self.watch("simulate", 0, recording.frame_count)
        frames = cell.record(
            recording.interaction,
            recording.duration_s,
            fps=recording.fps,
            seed=recording.seed,
        )
        for number, frame in enumerate(frames):
            if self.stopped:
                return
            self._time_s.append(frame.time_s)
            self._vertices.append(frame.vertices)
            for k in range(len(frame.gripper_closed)):
                self._held.update(cell.gripped_vertices(k).tolist())
                yield GripperPose(
                    k,
                    frame.time_s,
                    frame.gripper_position[k],
                    frame.gripper_quat_wxyz[k],
                    bool(frame.gripper_closed[k]),
                )
            for camera, image in zip(cell.cameras, frame.images):
                if frame.time_s < recording.silent_from_s.get(camera.name, np.inf) - 1e-6:
                    yield Picture(camera.name, frame.time_s, image.rgb, image.depth_m)
            self.watch("simulate", number + 1, recording.frame_count)

    def losses(self) -> list[str]:
        """See `Source.losses`."""
        last_s = self._time_s[-1] if self._time_s else 0.0
        return [
            f"{name} dropped out after {from_s:.1f} s"
            for name, from_s in self.recording.silent_from_s.items()
            if from_s <= last_s
        ]

    def ground_truth(self) -> Tracks | None:
        """Every vertex at every frame; driven are those that a gripper ever held."""
        if not self._time_s:
            return None
        body = self._started.body
        position = np.stack(self._vertices).astype(np.float32)
        return Tracks(
            time_s=np.array(self._time_s),
            position=position,
            visible=np.ones(position.shape[:2], bool),
            driven_index=np.array(sorted(self._held), dtype=np.int64),
            name=f"{self.recording.cell.kind} {self.recording.interaction}, true vertices",
            rest_position=body.vertices,
            radius_m=body.radius_m if body.dim < 3 else None,
        )

    def close(self) -> None:
        """See `Source.close`."""
        if self._cell is not None:
            self._cell.close()

    @property
    def _started(self) -> SoftCell:
        assert self._cell is not None, "start() comes first"
        return self._cell


class DriverSource(Source):
    """The simulated cell through librealsense: recorded there, then played back.

    Args:
        recording: what the cell plays.
        folder: where librealsense's files go and stay; a temporary folder when None.
        scratch: where that temporary folder is made; the system's choice when None.
    """

    def __init__(
        self,
        recording: SimulatedRecording,
        *,
        folder: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        super().__init__()
        self._sim = SimSource(recording)
        self._folder, self._scratch = folder, scratch
        self._temporary: Path | None = None
        self._files: dict[str, Path] = {}
        self._fed: Counter[str] = Counter()
        self._poses: deque[GripperPose] = deque()
        self._rig: RigSource | None = None

    def start(self) -> Mapping[str, PinholeCamera]:
        """See `Source.start`; here the cell is played and librealsense's files are written."""
        from recon.capture.realsense import RealSenseConfig
        from recon.capture.software_camera import record_software_cameras

        folder = self._folder
        if folder is None:
            folder = self._temporary = Path(
                tempfile.mkdtemp(prefix=".physgym-driver-", dir=self._scratch)
            )
        self._sim.watch = self.watch
        cameras = self._sim.start()
        recording, cell = self._sim.recording, self._sim.recording.cell
        # In time with the rendering: a file plays at the pace at which it was written.
        files = self._files = record_software_cameras(
            folder, cameras.values(), self._pictures(), fps=recording.fps
        )
        self._rig = RigSource(
            list(files.values()),
            calibration=Calibration(cameras),
            config=RealSenseConfig(cell.camera_width, cell.camera_height, recording.fps),
            duration_s=recording.duration_s + 1.0,
            names={name: camera.serial for name, camera in cameras.items()},
        )
        self._rig.watch = lambda _, step, __: self.watch("record", step, recording.frame_count)
        self.metadata = {**self._sim.metadata, "source": "simulated cell through librealsense"}
        return self._rig.start()

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        assert self._rig is not None, "start() comes first"
        for item in self._rig.items():
            yield from self._poses_until(item.stamp_s)
            yield item
        if not self.stopped:
            yield from self._poses_until(np.inf)

    def stop(self) -> None:
        """See `Source.stop`; while the cell plays, what it has played is still recorded."""
        super().stop()
        if self._rig is None:
            self._sim.stop()
        else:
            self._rig.stop()

    def close(self) -> None:
        """See `Source.close`."""
        self._sim.close()
        if self._rig is not None:
            self._rig.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def losses(self) -> list[str]:
        """See `Source.losses`."""
        found = [] if self._rig is None else self._rig.losses()
        for name, file in self._files.items():
            missing = self._fed[name] - (frames_in_file(file) or 0)
            if missing:
                found.append(f"{name}: {missing} frames that librealsense's recorder did not write")
        return found

    def ground_truth(self) -> Tracks | None:
        """See `SimSource.ground_truth`."""
        return self._sim.ground_truth()

    def _pictures(self) -> Iterator[tuple[str, float, np.ndarray | None, np.ndarray | None]]:
        for item in self._sim.items():
            if isinstance(item, GripperPose):
                self._poses.append(item)
            else:
                self._fed[item.camera] += 1
                yield item.camera, item.stamp_s, item.rgb, item.depth

    def _poses_until(self, stamp_s: float) -> Iterator[GripperPose]:
        while self._poses and self._poses[0].stamp_s <= stamp_s + 1e-6:
            yield self._poses.popleft()


def _metadata(recording: SimulatedRecording, cell: SoftCell) -> dict[str, Any]:
    from physgym.cell.soft_scene import FINGER_HALF_M

    config = recording.cell
    tool = (FINGER_HALF_M[0], round(2 * FINGER_HALF_M[1] + _SHUT_GAP_M, 6), FINGER_HALF_M[2])
    gripper = {
        "jaw_half_m": list(config.jaw_half),
        "tool_half_m": list(tool),
        "tool_centre_m": [0.0, 0.0, round(FINGER_HALF_M[2] - _JAW_OVER_TIPS_M, 6)],
    }
    return {
        "source": "simulated cell",
        "simulated": True,
        "object": {
            "kind": config.kind,
            "mass_kg": float(cell.body.vertex_mass_kg.sum()),
            "simulated": True,
        },
        "grippers": [gripper] * config.gripper_count,
        "interaction": recording.interaction,
        "seed": recording.seed,
        "depth_noise": config.depth_noise is not None,
        "truth": {
            "young_pa": config.young,
            "poisson": config.poisson_ratio,
            "density_kg_m3": config.density,
            "damping_s": config.damping,
            "friction": config.friction,
        },
    }


def _bad(field_name: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field_name} is {value}", where=f"SimulatedRecording.{field_name}", expected=expected
    )
