"""Identifications of the benchmark, each kept in a folder, and what their twins predict.

Shapes: T frames, N nodes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from physgym.cell.fem_recording import MotionRecording
from physgym.files import write_atomically
from physgym.run_folder import RunFolder
from physgym.sim.mpm.twins import mpm_of
from physgym.twin import Twin
from recon.identify.mosa import identify_motion
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Motion, Pose
from recon.identify.progress import Progress
from recon.identify.solid import Filling
from recon.identify.start_velocity import StartVelocity
from recon.metrics import chamfer_symmetric

__all__ = ["Fit", "ballistic", "fit_backbone", "fit_residual", "predict", "score"]

_TWIN, _SECONDS, _RUN = "twin", "seconds.json", "run"


@dataclass(frozen=True, eq=False)
class Fit:
    """A twin and what it cost.

    Attributes:
        twin: the twin.
        seconds: wall time of the stages that this fit did itself [s].
        folder: where it lies.
    """

    twin: Twin
    seconds: float
    folder: Path


def fit_backbone(
    motions: Sequence[Motion], config: MosaConfig, folder: Path, progress: Progress
) -> Fit:
    """The isotropic prior alone, from all frames.

    Args:
        motions: of one body.
        config: of the job; adapter and field are left out.
        folder: where the fit is kept; one that is there is read.
        progress: told about every step.

    Returns:
        The fit.
    """
    return _fit(motions, _changed(config, stages=("velocity", "prior")), folder, progress)


def fit_residual(
    motions: Sequence[Motion],
    config: MosaConfig,
    folder: Path,
    progress: Progress,
    *,
    backbone: Fit,
) -> Fit:
    """Adapter and field on top of a backbone: both twins then differ by these alone.

    Args:
        motions: that the backbone was fitted on.
        config: of the job.
        folder: where the fit is kept; one that is there is read.
        progress: told about every step.
        backbone: of the same law, particles and points.

    Returns:
        The fit; its seconds are those of the last stage.
    """
    return _fit(motions, config, folder, progress, begun=backbone.folder / _RUN / "checkpoints")


def _changed(config: MosaConfig, **changes: object) -> MosaConfig:
    from dataclasses import replace

    return replace(config, **changes)  # type: ignore[arg-type]


def _fit(
    motions: Sequence[Motion],
    config: MosaConfig,
    folder: Path,
    progress: Progress,
    *,
    begun: Path | None = None,
) -> Fit:
    seconds_file = folder / _SECONDS
    before = 0.0
    if seconds_file.is_file():
        noted = json.loads(seconds_file.read_text())
        if noted["done"]:
            return Fit(Twin.load(folder / _TWIN), noted["seconds"], folder)
        before = noted["seconds"]
    path = folder / _RUN
    fresh = not (path / "config.yaml").is_file()
    run = RunFolder(path, config, resume=not fresh)
    if fresh and begun is not None:
        shutil.copytree(begun, path / "checkpoints", dirs_exist_ok=True)
    start, done = time.perf_counter(), False
    try:
        with run:
            twin = identify_motion(
                list(motions), config, name=folder.name, progress=progress, run=run
            )
        if twin.provenance["stopped_early"]:
            raise KeyboardInterrupt
        shutil.rmtree(folder / _TWIN, ignore_errors=True)
        twin.save(folder / _TWIN)
        done = True
    finally:
        seconds = before + time.perf_counter() - start
        write_atomically(seconds_file, json.dumps({"seconds": seconds, "done": done}).encode())
    return Fit(Twin.load(folder / _TWIN), seconds, folder)


def predict(twin: Twin, recording: MotionRecording) -> np.ndarray:
    """Simulate another drop from its pose and velocity at the start, nothing else of it.

    The twin keeps its rest shape and starts with ``F`` equal to the rotation, so its axes turn with
    the matter. The gap that was found between the filled surface and the real one
    belongs to the twin and is kept.

    Args:
        twin: of the same body.
        recording: only its first frame, its setup and its clock are used.

    Returns:
        All nodes [m], shape (T, N, 3).

    Raises:
        BlowUpError: if the simulation leaves the finite numbers.
    """
    parts, frames = mpm_of(twin), len(recording.time_s)
    motion = Motion.from_recording(recording)
    T = np.asarray(twin.provenance["T_rest_object"], np.float64)
    reference = Pose(T[:3, :3], T[:3, 3])
    own = (np.asarray(twin.rest_position, np.float64) - reference.shift) @ reference.turn
    filling = Filling(own, parts.model.volume_m3, 0.5 * float(parts.model.spacing_m))
    scene = Scene(motion, _start(recording), filling, reference, material=parts.model.material)
    gap = torch.tensor([float(twin.provenance["ground_gap_cells"])])
    with torch.no_grad():
        seen = scene.simulate(parts.parameters, gap, frames, adapter=parts.adapter)
    return np.concatenate([scene.flight(frames), seen.tracks[0].double().numpy()])


def contact_frame(recording: MotionRecording) -> int:
    """First frame in which a free fall would be below the ground.

    Args:
        recording: of a drop.

    Returns:
        The frame; the number of frames where there is none.
    """
    low = _fall(recording)[..., 2].min(axis=1) < recording.ground_height_m
    return int(np.argmax(low)) if low.any() else len(low)


def ballistic(recording: MotionRecording) -> np.ndarray:
    """A rigid body that falls and stays where it first touches the ground.

    Args:
        recording: only its first frame, its setup and its clock are used.

    Returns:
        All nodes [m], shape (T, N, 3).
    """
    path, stop = _fall(recording), contact_frame(recording)
    if stop < len(path):
        path[stop:] = path[stop]
        path[stop:, :, 2] += recording.ground_height_m - path[stop, :, 2].min()
    return path


def _fall(recording: MotionRecording) -> np.ndarray:
    t = np.asarray(recording.time_s)[:, None, None]
    move = recording.velocity_m_per_s * t + 0.5 * recording.gravity_m_per_s2 * t**2
    return np.asarray(recording.points[0] + move)


def _start(recording: MotionRecording) -> StartVelocity:
    centre = recording.points[0].mean(axis=0)
    velocity = np.asarray(recording.velocity_m_per_s, np.float64)
    return StartVelocity(velocity, np.zeros(3), centre, contact_frame(recording))


def score(predicted: np.ndarray, recording: MotionRecording) -> dict[str, float]:
    """Errors over all frames and over those after the first contact.

    Args:
        predicted: all nodes [m], shape (T, N, 3).
        recording: the truth.

    Returns:
        ``node_m`` and ``chamfer_m`` (of the surface's nodes, half the sum of both directions), and
        both again as ``..._after_contact``.
    """
    truth, stop = np.asarray(recording.points), contact_frame(recording)
    node = np.linalg.norm(predicted - truth, axis=-1).mean(axis=1)
    shown = recording.surface
    chamfer = np.array([chamfer_symmetric(a[shown], b[shown]) for a, b in zip(truth, predicted)])
    made = {"node_m": node, "chamfer_m": chamfer}
    means = {name: float(value.mean()) for name, value in made.items()}
    return means | {f"{n}_after_contact": float(v[stop:].mean()) for n, v in made.items()}
