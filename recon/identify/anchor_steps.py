"""How long a substep of anchors may be: the modes of a network whose springs point somewhere.

`physgym.sim.timestep` bounds a network by the graph Laplacian, as if each spring resisted motion
in all three directions; that holds whatever becomes of the network. Springs of a body that keeps
about its shape resist along their own directions alone, a third of it on average.
Shapes: N nodes, S springs, R rows.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

__all__ = ["BodyModes"]

_ITERATIONS = 60
_MARGIN = 1.05  # power iteration comes from below


class BodyModes:
    """Bounds on frequency and damping of a network near its rest shape.

    Semi-implicit Euler on ``M a = -K x - C v`` is stable while ``h^2 w + 2 h c < 4`` and
    ``h c < 2``, with w and c the largest eigenvalues of ``M^-1 K`` and ``M^-1 C``: the Rayleigh
    quotients of every mode are below both, and then its step is that of `physgym.sim.timestep`.
    K and C are here sums of ``k n n^T`` with n the directions at rest. Springs between anchors and
    what holds them are short and turn easily: they count in all directions.

    Args:
        rest: nodes [m], shape (N, 3).
        edges: springs, shape (S, 2).
        inv_mass_per_kg: 1/m, zero for driven nodes, shape (N,).
    """

    def __init__(self, rest: np.ndarray, edges: np.ndarray, inv_mass_per_kg: np.ndarray) -> None:
        way = rest[edges[:, 1]] - rest[edges[:, 0]]
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-12)
        turns = (inv_mass_per_kg[edges] == 0.0).any(axis=1)
        own, turning = np.flatnonzero(~turns), np.flatnonzero(turns)
        self._spring = np.concatenate([own, np.repeat(turning, 3)])  # (R,)
        direction = np.concatenate([way[own], np.tile(np.eye(3), (len(turning), 1))])
        ends, rows = edges[self._spring], np.arange(len(direction))
        column = 3 * ends[:, :, None] + np.arange(3)  # (R, 2, 3)
        # From M^1/2 x to how much longer each spring gets.
        value = np.stack([-direction, direction], axis=1)
        value *= np.sqrt(inv_mass_per_kg)[ends][:, :, None]
        row = np.broadcast_to(rows[:, None, None], column.shape)
        shape = (len(rows), 3 * len(rest))
        self._along = csr_matrix((value.ravel(), (row.ravel(), column.ravel())), shape=shape)
        self._across = self._along.T.tocsr()
        self._count = len(edges)

    def largest(self, slope: np.ndarray) -> float:
        """Largest eigenvalue of ``M^-1 sum(slope n n^T)``, by power iteration.

        Args:
            slope: of every spring [N/m] or [N s/m], shape (S,).

        Returns:
            In the unit of slope over mass, with a margin.
        """
        weight = slope[self._spring]
        vector = np.random.default_rng(0).standard_normal(self._along.shape[1])
        value = 0.0
        for _ in range(_ITERATIONS):
            size = float(np.linalg.norm(vector))
            if size == 0.0:
                return 0.0
            vector = self._across @ (weight * (self._along @ (vector / size)))
            value = float(np.linalg.norm(vector))
        return _MARGIN * value

    @cached_property
    def _damped(self) -> float:
        """Largest eigenvalue of dashpots of 1 N s/m [1/kg]."""
        return self.largest(np.ones(self._count))

    def step_s(self, slope_n_per_m: np.ndarray, dashpot_ns_per_m: float) -> float:
        """Largest stable step.

        Args:
            slope_n_per_m: of every spring, shape (S,).
            dashpot_ns_per_m: of all of them.

        Returns:
            [s]; infinite where nothing is stiff.
        """
        omega2, damping = self.largest(slope_n_per_m), dashpot_ns_per_m * self._damped
        total = damping + math.sqrt(damping**2 + 4.0 * omega2)
        return 4.0 / total if total > 0.0 else math.inf
