"""Validity: the ranges of strain and speed that a twin's data covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import TwinError
from physgym.twin import Twin

__all__ = ["Validity", "ValidityWarning"]


class ValidityWarning(UserWarning):
    """A simulation went where the twin's data never was."""


@dataclass(frozen=True, eq=False)
class Validity:
    """What ``Twin.validity`` says, as upper bounds; a quantity it does not name is unbounded.

    Keys of ``Twin.validity`` that are read: ``strain`` (edge length over rest length minus one)
    and ``speed_m_s`` (of any node), each ``[lowest, highest]`` as seen in the data.

    Attributes:
        strain: highest edge strain seen.
        speed_m_s: highest node speed seen.
        rest_edge_m: rest lengths along a rope's nodes, shape (N - 1,); empty for other kinds.
    """

    strain: float
    speed_m_s: float
    rest_edge_m: np.ndarray

    @classmethod
    def of(cls, twin: Twin) -> Validity:
        """Read a twin's ranges.

        Args:
            twin: the twin.

        Returns:
            Its bounds.

        Raises:
            TwinError: if a range is not two numbers.
        """
        rest = twin.rest_position.astype(np.float64)
        edges = (
            np.linalg.norm(np.diff(rest, axis=0), axis=1) if twin.kind == "rope" else rest[:0, 0]
        )
        return cls(_highest(twin, "strain"), _highest(twin, "speed_m_s"), edges)

    def describe(self, name: str) -> str:
        """One bound in words.

        Args:
            name: ``"strain"`` or ``"speed_m_s"``.

        Returns:
            Such as ``"strain up to 0.02"``.
        """
        return f"{name} up to {getattr(self, name):.3g}"

    def excess(self, positions: np.ndarray, *, dt_s: float) -> dict[str, np.ndarray]:
        """How far worlds went over the bounds, as a fraction of each bound.

        Args:
            positions: nodes over time [m], shape (B, T, N, 3).
            dt_s: time between them.

        Returns:
            Per bounded quantity the largest excess over time and nodes, shape (B,); zero inside.
        """
        found: dict[str, np.ndarray] = {}
        if np.isfinite(self.strain) and len(self.rest_edge_m):
            edges = np.linalg.norm(np.diff(positions, axis=2), axis=3)
            strain = (edges / self.rest_edge_m - 1).max(axis=(1, 2))
            found["strain"] = np.maximum(0.0, strain - self.strain) / max(self.strain, 1e-3)
        if np.isfinite(self.speed_m_s) and positions.shape[1] > 1:
            moved = np.linalg.norm(np.diff(positions, axis=1), axis=3).max(axis=(1, 2))
            found["speed_m_s"] = np.maximum(0.0, moved / dt_s - self.speed_m_s) / self.speed_m_s
        return found


def _highest(twin: Twin, name: str) -> float:
    if name not in twin.validity:
        return float("inf")
    value = twin.validity[name]
    pair = isinstance(value, list) and len(value) == 2
    if not pair or not all(isinstance(bound, (int, float)) for bound in value):
        raise TwinError(
            f"{value!r}",
            where=f"validity[{name!r}]",
            expected="[lowest, highest] as seen in the data",
        )
    return float(value[1])
