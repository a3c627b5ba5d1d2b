"""How well a continuum twin predicts a motion, beside a frozen and a rigid object.

Open loop: from the pose and velocity in frame 0 and what holds or pushes the body alone.
Shapes: T frames, N tracked points.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import BlowUpError, TwinError
from physgym.sim.mpm.twins import mpm_of
from physgym.twin import Twin
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Motion, Pose
from recon.identify.solid import Filling
from recon.identify.start_velocity import StartVelocity, fit_start_velocity
from recon.identify.torch_threads import one_torch_thread
from recon.metrics import chamfer_frames
from recon.tracks import PhysGymWarning

__all__ = ["DEFINITION", "predict_motion", "predict_rigid_flight", "score_motion"]

DEFINITION = (
    "track_m: mean distance of tracked points, open loop from pose and velocity in frame 0; "
    "chamfer_m: mean distance from each cloud point to the nearest surface point. train: frames "
    "that were learned from, frame 0 left out; future: those after. frozen: the object stays where "
    "it is in frame 0. rigid: it flies with the start velocity, and stays where it first touches "
    "the ground"
)


def predict_motion(
    twin: Twin, motion: Motion, *, start: StartVelocity | None = None, adapted: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a motion with a twin that `recon.identify.mosa` made.

    Args:
        twin: of the same body.
        motion: in its own frame, the one that the twin was made in.
        start: velocity in frame 0; fitted to the frames before contact when None.
        adapted: with the twin's stress adapter.

    Returns:
        Tracked points [m], shape (T, N, 3), and surface points [m], shape (T, S, 3); S = 0 where
        the motion has no clouds.

    Raises:
        TwinError: if the twin was made otherwise.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    parts, notes = mpm_of(twin), twin.provenance
    if "T_rest_object" not in notes:
        raise TwinError(
            "the twin does not say where the body's own frame is",
            where=f"twin {twin.name}: provenance",
            expected="a twin of method mosa",
            fix="predict it with `physgym simulate`",
        )
    placed = np.asarray(notes["T_rest_object"], np.float64)
    reference = Pose(placed[:3, :3], placed[:3, 3])
    own = (np.asarray(twin.rest_position, np.float64) - reference.shift) @ reference.turn
    filling = Filling(own, parts.model.volume_m3, 0.5 * parts.model.spacing_m)
    scene = Scene(
        motion,
        start or fit_start_velocity(motion),
        filling,
        reference,
        material=parts.model.material,
        whole=True,
    )
    gap = torch.tensor([float(notes.get("ground_gap_cells", 0.0))])
    with torch.no_grad(), one_torch_thread():
        seen = scene.simulate(
            parts.parameters,
            gap,
            motion.frame_count,
            adapter=parts.adapter if adapted else None,
        )
    return seen.tracks[0].numpy(), seen.surface[0].numpy()


def predict_rigid_flight(motion: Motion, points: np.ndarray, start: StartVelocity) -> np.ndarray:
    """The body as a rigid one that stays where it first touches the ground.

    Args:
        motion: of the body.
        points: of it, in its own frame [m], shape (N, 3).
        start: velocity in frame 0.

    Returns:
        [m], shape (T, N, 3).
    """
    pose = motion.start_pose()
    body, placed = pose.apply(motion.rest), pose.apply(points)
    made = np.empty((motion.frame_count, *placed.shape))
    if not (np.any(start.linear_m_per_s) or np.any(start.angular_rad_per_s)):
        made[:] = placed  # held or standing: nothing says that it would fly
        return made
    gravity = np.array(motion.gravity)
    for frame in range(motion.frame_count):
        time = frame * motion.dt_s
        turn = Rotation.from_rotvec(start.angular_rad_per_s * time).as_matrix()
        shift = start.centre_m + start.linear_m_per_s * time + 0.5 * time**2 * gravity
        made[frame] = (placed - start.centre_m) @ turn.T + shift
        if motion.ground is not None and frame:
            low = ((body - start.centre_m) @ turn.T + shift) @ np.array(motion.ground.normal)
            if float(low.min()) < motion.ground.offset_m:
                made[frame:] = made[frame] + (motion.ground.offset_m - float(low.min())) * np.array(
                    motion.ground.normal
                )
                break
    return made


def score_motion(
    twin: Twin, motion: Motion, train_stop: int | None, *, start: StartVelocity | None = None
) -> dict[str, Any]:
    """Scores of a twin on a motion, beside the trivial baselines.

    Args:
        twin: of the same body.
        motion: all of its frames.
        train_stop: frames before it were learned from; None of a motion that was never seen.
        start: velocity in frame 0, where it is known.

    Returns:
        JSON values: ``parts`` by part (``train`` and ``future``, or ``unseen``) and row (``twin``,
        ``frozen``, ``rigid``, and ``prior`` where the twin has an adapter): ``track_m`` and, where
        there are clouds, ``chamfer_m``. Empty, with a warning, where the twin blows up.
    """
    start = start or fit_start_velocity(motion)
    surface = np.zeros((0, 3)) if motion.surface is None else np.asarray(motion.surface)
    pose, count = motion.start_pose(), motion.frame_count
    try:
        rows = {"twin": predict_motion(twin, motion, start=start)}
        if any(key.startswith("adapter.") for key in twin.residual):
            rows["prior"] = predict_motion(twin, motion, start=start, adapted=False)
    except BlowUpError as error:
        warnings.warn(f"the twin is not scored: {error}", PhysGymWarning, stacklevel=2)
        return {}
    rest = np.asarray(motion.rest)
    rows["frozen"] = tuple(np.repeat(pose.apply(p)[None], count, axis=0) for p in (rest, surface))  # type: ignore[assignment]
    rows["rigid"] = tuple(predict_rigid_flight(motion, p, start) for p in (rest, surface))  # type: ignore[assignment]
    stop = count if train_stop is None else train_stop
    spans = (
        {"unseen": (1, count)}
        if train_stop is None
        else {"train": (1, stop), "future": (stop, count)}
    )
    return {
        "definition": DEFINITION,
        "motion": motion.name,
        "parts": {
            part: {
                "start": a,
                "stop": b,
                **{row: _measures(motion, *made, a, b) for row, made in rows.items()},
            }
            for part, (a, b) in spans.items()
            if a < b
        },
    }


def _measures(
    motion: Motion, tracks: np.ndarray, surface: np.ndarray, begin: int, stop: int
) -> dict[str, float | None]:
    away = np.linalg.norm(tracks[begin:stop] - motion.position[begin:stop], axis=-1)
    seen = np.isfinite(away)
    made: dict[str, float | None] = {"track_m": float(away[seen].mean()) if seen.any() else None}
    if motion.clouds and surface.shape[1]:
        each = chamfer_frames(motion.clouds[begin:stop], surface[begin:stop])
        good = np.isfinite(each)
        made["chamfer_m"] = float(each[good].mean()) if good.any() else None
    return made
