"""What a planner minimises: distance to the goal shape, stretch, effort, leaving the known range.

Shapes: B sampled sequences, T commands, N nodes, G grippers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from physgym.validity import Validity

__all__ = ["ShapeCost"]


@dataclass(frozen=True)
class ShapeCost:
    """Weights of the terms; every term is in metres, so the sum reads as a distance.

    Attributes:
        running: weight of the mean distance over the horizon.
        final: weight of the mean distance at the end of the horizon.
        swing_s: weight of the mean node speed at the end [s]: a cable that swings has not arrived.
        stretch: weight of the mean over-stretch of the edges.
        stretch_limit: strain from which over-stretch counts.
        effort_s: weight of the root mean square gripper speed [s].
        outside_m: cost of exceeding the twin's validity by its whole range.
    """

    running: float = 0.5
    final: float = 1.0
    swing_s: float = 0.05
    stretch: float = 10.0
    stretch_limit: float = 0.02
    effort_s: float = 0.005
    outside_m: float = 0.02

    def __post_init__(self) -> None:
        """Refuse weights below zero.

        Raises:
            DataError: naming the weight.
        """
        for name in self.__dataclass_fields__:
            if not getattr(self, name) >= 0:
                raise DataError(
                    f"{name} is {getattr(self, name)}",
                    where=f"ShapeCost.{name}",
                    expected="zero or more",
                )

    def evaluate(
        self,
        positions: np.ndarray,
        velocity: np.ndarray,
        goal: np.ndarray,
        *,
        dt_s: float,
        validity: Validity,
    ) -> np.ndarray:
        """Cost of each sampled sequence.

        Computed by NumPy in one thread, so the same rollouts cost the same bits.

        Args:
            positions: nodes after each command [m], shape (B, T, N, 3).
            velocity: gripper velocities [m/s], shape (B, T, G, 3).
            goal: goal shape [m], shape (N, 3).
            dt_s: how long each command is held.
            validity: what the twin's data covered.

        Returns:
            Costs [m], float64, shape (B,); infinite where a rollout is not finite.
        """
        nodes = positions.astype(np.float64)
        bad = np.asarray(~np.isfinite(nodes).all(axis=(1, 2, 3)))
        nodes = np.where(bad[:, None, None, None], 0.0, nodes)
        distance = np.linalg.norm(nodes - goal, axis=3).mean(axis=2)
        cost = self.running * distance.mean(axis=1) + self.final * distance[:, -1]
        if nodes.shape[1] > 1:
            last = np.linalg.norm(nodes[:, -1] - nodes[:, -2], axis=2).mean(axis=1) / dt_s
            cost = cost + self.swing_s * last
        if len(validity.rest_edge_m):
            edges = np.linalg.norm(np.diff(nodes, axis=2), axis=3)
            over = edges - (1 + self.stretch_limit) * validity.rest_edge_m
            cost = cost + self.stretch * np.maximum(0.0, over).mean(axis=(1, 2))
        cost = cost + self.effort_s * np.sqrt(np.square(velocity).mean(axis=(1, 2, 3)))
        for excess in validity.excess(nodes, dt_s=dt_s).values():
            cost = cost + self.outside_m * excess
        return np.where(bad, np.inf, cost)
