"""Uniform rods without any loss or force until a test asks for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from physgym.sim.rod import RodModel, RodParameters, RodSolver

Array = np.ndarray
STILL = (0.0, 0.0, 0.0)


def uniform(nodes: int, length_m: float = 1.0, **changes: float | Array) -> RodParameters:
    """A straight rod of 50 g/m; ``changes`` may be scalars for every field."""
    shapes = {
        "rest_length_m": (nodes - 1,),
        "bending_stiffness_nm2": (nodes - 2,),
        "natural_curvature_rad": (nodes - 2, 2),
        "clamp_tangent": (2, 3),
        "clamp_director": (2, 3),
    }
    values: dict[str, Any] = dict.fromkeys(RodParameters.names(), 0.0)
    values |= {
        "rest_length_m": length_m / (nodes - 1),
        "linear_density_kg_per_m": 0.05,
        "bending_stiffness_nm2": 1e-3,
        "twist_stiffness_nm2": 1e-3,
        "stretch_stiffness_n": 100.0,
        "friction_yield_rad": 1.0,
        "clamp_tangent": np.array([1.0, 0.0, 0.0]),
        "clamp_director": np.array([0.0, 0.0, 1.0]),
    }
    values |= changes
    return RodParameters(
        **{n: np.broadcast_to(np.asarray(v, float), shapes.get(n, ())) for n, v in values.items()}
    )


def line(nodes: int, length_m: float = 1.0) -> Array:
    """Nodes along x, (N, 3)."""
    x = np.zeros((nodes, 3))
    x[:, 0] = np.linspace(0.0, length_m, nodes)
    return x


class Lab:
    """One rod and what is asked of it again and again.

    Args:
        x: start, (N, 3).
        held: driven nodes; they stay where they are unless `run` is told otherwise.
        parameters: of the rod.
        gravity: [m/s^2].
        v: initial velocity.
        substeps: override.
    """

    def __init__(
        self,
        x: Array,
        held: tuple[int, ...],
        parameters: RodParameters,
        *,
        gravity: tuple[float, float, float] = STILL,
        v: Array | None = None,
        substeps: int | None = None,
    ) -> None:
        self.held = held
        self.solver = RodSolver(
            RodModel(len(x), held, gravity_m_per_s2=gravity),
            parameters,
            device="cpu",
            substeps_per_frame=substeps,
        )
        self.state = self.solver.initial_state(
            torch.tensor(x), None if v is None else torch.tensor(v)
        )

    def run(self, frames: int, dt_s: float, path: Array | None = None) -> Array:
        """Positions at all frames (T, N, 3), float64; the rod stays at the end of the run."""
        if path is None:
            still = self.state.position[:, None, list(self.held)]
            driven = still.expand(1, frames + 1, len(self.held), 3)
        else:
            driven = torch.tensor(path[None])
        made = self.solver.rollout(self.state, driven, dt_s)
        self.state = made.final
        return made.position[0].double().numpy()

    def memory(self) -> Array:
        """Turning angles, sliders and what the last roll added, (N, 6)."""
        return self.state.internal[0, 6 * (self.solver.node_count - 1) :].reshape(-1, 6).numpy()

    def directors(self) -> tuple[Array, Array]:
        """Tangents and first directors of all edges, (N-1, 3) each."""
        edges = self.solver.node_count - 1
        m1, t = self.state.internal[0, : 6 * edges].double().reshape(2, edges, 3).numpy()
        return t, m1


def frequency(signal: Array, dt_s: float) -> float:
    """Angular frequency [rad/s] from the zero crossings of a signal, interpolated."""
    signal = signal - 0.5 * (signal.max() + signal.min())
    at = np.flatnonzero(np.diff(np.sign(signal)) != 0)
    times = (at + signal[at] / (signal[at] - signal[at + 1])) * dt_s
    return float(np.pi * (len(times) - 1) / (times[-1] - times[0]))


def turning_angles(x: Array) -> Array:
    """Angle between neighbouring edges [rad], (..., N-2)."""
    t = np.diff(x, axis=-2)
    t = t / np.linalg.norm(t, axis=-1, keepdims=True)
    sine = np.linalg.norm(np.cross(t[..., :-1, :], t[..., 1:, :]), axis=-1)
    return np.arctan2(sine, np.sum(t[..., :-1, :] * t[..., 1:, :], axis=-1))
