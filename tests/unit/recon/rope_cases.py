"""Recordings of ropes for the tests of this folder: one by the twin's own solver, one by MuJoCo."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from physgym.cell import CellConfig, SimulatedCell, exciting_motion
from physgym.sim.rod import RodModel, RodParameters, RodSolver
from recon.tracks import Tracks

DT_S = 0.01
NODES = 9
REST_M = np.array([0.025, *[0.1] * 6, 0.025])
BENDING_NM2 = 4e-4
DENSITY_KG_PER_M = 0.02
DRIVEN = np.array([0, 1, NODES - 2, NODES - 1])


def true_parameters() -> RodParameters:
    """A thin cable of 65 cm, straight by nature."""
    return RodParameters(
        rest_length_m=REST_M,
        linear_density_kg_per_m=np.array(DENSITY_KG_PER_M),
        bending_stiffness_nm2=np.full(NODES - 2, BENDING_NM2),
        natural_curvature_rad=np.zeros((NODES - 2, 2)),
        twist_stiffness_nm2=np.array(0.8 * BENDING_NM2),
        bending_damping_s=np.array(0.05),
        friction_ratio=np.array(0.5),
        friction_yield_rad=np.array(0.1),
        drag_per_s=np.array(0.05),
        drag_quadratic_per_m=np.array(0.03),
        stretch_stiffness_n=np.array(DENSITY_KG_PER_M * 50.0**2),
        stretch_damping_s=np.array(5e-4),
        end_roll_rad=np.array(0.0),
        clamp_tangent=np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
        clamp_director=np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
    )


@cache
def own_recording(seed: int = 0, seconds: float = 1.5) -> Tracks:
    """Two grippers that keep their direction and swing; the rope hangs still before that.

    Args:
        seed: of the motion.
        seconds: how long to record.

    Returns:
        Tracks without noise.
    """
    rng = np.random.default_rng(seed)
    settle, frames = 150, round(seconds / DT_S)
    time_s = np.arange(-settle, frames) * DT_S
    frequency, phase = rng.uniform(0.8, 1.8, (2, 3)), rng.uniform(0, 2 * np.pi, (2, 3))
    ramp = np.clip(time_s / 0.4, 0.0, 1.0)[:, None, None] ** 2
    swing = 0.07 * ramp * np.sin(2 * np.pi * frequency * time_s[:, None, None] + phase)
    left = np.array([0.0, 0.0, 0.5]) + swing[:, 0]
    right = np.array([0.0, 0.4, 0.5]) + swing[:, 1]
    edge = np.array([0.0, REST_M[0], 0.0])
    driven = np.stack([left, left + edge, right - edge, right], axis=1)
    start = np.zeros((NODES, 3))
    along = np.concatenate([[0.0], np.cumsum(REST_M)]) / REST_M.sum()
    start[:, 1], start[:, 2] = 0.4 * along, 0.5 - 0.9 * along * (1.0 - along)
    start[DRIVEN] = driven[0]
    solver = RodSolver(RodModel(NODES, tuple(DRIVEN)), true_parameters(), device="cpu")
    rolled = solver.rollout(
        solver.initial_state(torch.from_numpy(start)), torch.from_numpy(driven)[None], DT_S
    )
    position = rolled.position[0, settle:].numpy()
    visible = np.ones(position.shape[:2], bool)
    return Tracks(DT_S * np.arange(frames), position, visible, DRIVEN, name=f"own-{seed}")


@cache
def cell_recording(seed: int = 0, seconds: float = 2.0) -> Tracks:
    """The simulated cell's cable in full motion, with marker noise: an independent solver.

    Args:
        seed: of the motion and the noise.
        seconds: how long to record.

    Returns:
        Tracks with noise of 0.3 mm, as of motion capture.
    """
    cell = SimulatedCell(CellConfig(marker_count=9))
    cell.reset(seed)
    lead_s = 1.5
    motion = exciting_motion(cell.config, seed=seed, duration_s=lead_s + seconds, speed_m_s=0.5)
    record = cell.record(motion, lead_s + seconds, noise_m=3e-4)
    tracks = Tracks(
        record["time"], record["points"], record["visible"], record["driven_index"],
        name=f"cell-{seed}",
    )  # fmt: skip
    lead = round(lead_s / DT_S)
    return tracks.slice(lead, lead + round(seconds / DT_S))
