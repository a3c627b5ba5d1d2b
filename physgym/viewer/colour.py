"""Colours of a twin: stiffness, strain, and force or stress, of its nodes and springs.

Shapes: N nodes, S springs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.twin import Twin

if TYPE_CHECKING:
    import torch

    from physgym.viewer.stress import Stress

__all__ = ["UNITS", "Colouring", "Springs", "legend_colours", "springs_of"]

UNITS = {"stiffness": "N", "strain": "%", "force": "N", "stress": "Pa"}
_MAPS = {"stiffness": "viridis", "strain": "plasma", "force": "inferno", "stress": "inferno"}
_PLAIN = (214, 142, 88)
# Colours of what changes reach at least this far, so that noise at rest stays dark.
_LEAST = {"strain": 0.02, "force": 1e-3, "stress": 1.0}
_NEIGHBOURS = 8


@dataclass(frozen=True, eq=False)
class Springs:
    """What is stretched in a twin.

    Attributes:
        edge: pairs of nodes, shape (S, 2).
        rest_length_m: shape (S,).
        stiffness_n: force over strain [N], shape (S,); None where the physics has no springs.
        node_stiffness: one number per node, shape (N,); None where nothing tells.
        stiffness_unit: of ``node_stiffness``.
    """

    edge: np.ndarray
    rest_length_m: np.ndarray
    stiffness_n: np.ndarray | None
    node_stiffness: np.ndarray | None
    stiffness_unit: str = "N"

    def strain(self, position: np.ndarray) -> np.ndarray:
        """Length over rest length minus one.

        Args:
            position: nodes [m], shape (N, 3).

        Returns:
            Shape (S,).
        """
        ends = position[self.edge]
        return np.asarray(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / self.rest_length_m - 1)

    def at_nodes(self, of_springs: np.ndarray, count: int) -> np.ndarray:
        """Mean over the springs of each node.

        Args:
            of_springs: shape (S,).
            count: N.

        Returns:
            Shape (N,); 0 for a node without springs.
        """
        total = sum(np.bincount(self.edge[:, e], of_springs, count) for e in (0, 1))
        number = sum(np.bincount(self.edge[:, e], minlength=count) for e in (0, 1))
        return np.asarray(total / np.maximum(number, 1))


def springs_of(twin: Twin) -> Springs:
    """The springs of a twin, or what stands for them: edges of a rod, near pairs of a continuum.

    Args:
        twin: of any dynamics.

    Returns:
        The springs.
    """
    values, count = twin.parameters, twin.node_count
    if twin.dynamics == "rod":
        edge = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
        bending = np.pad(np.asarray(values["bending_stiffness_nm2"], np.float64), 1, mode="edge")
        stretch = np.full(count - 1, float(values["stretch_stiffness_n"]))
        length = np.asarray(values["rest_length_m"], np.float64)
        return Springs(edge, length, stretch, bending, "N m²")
    if twin.dynamics == "spring_mass":
        edge = np.asarray(values["springs"], np.int64)
        preload = 1.0 + np.asarray(values.get("spring_preload", 0.0), np.float64)
        length = np.asarray(values["spring_rest_length_m"], np.float64) * preload
        ratio = np.asarray(values["log_stiffness_ratio"], np.float64)
        stiffness = float(values["stiffness_n"]) * np.exp(ratio)
        springs = Springs(edge, length, stiffness, None)
        at_nodes = springs.at_nodes(stiffness, count)
        return Springs(edge, length, stiffness, at_nodes)
    return _near_pairs(twin)


def _near_pairs(twin: Twin) -> Springs:
    rest = np.asarray(twin.rest_position, np.float64)
    near = cKDTree(rest).query(rest, k=np.arange(1, min(_NEIGHBOURS + 1, len(rest)) + 1))[1]
    pairs = np.stack(np.broadcast_arrays(np.arange(len(rest))[:, None], near), -1).reshape(-1, 2)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    length = np.linalg.norm(rest[pairs[:, 0]] - rest[pairs[:, 1]], axis=1)
    young = twin.parameters.get("young_pa")
    stiffness = None
    if young is not None:
        factor = np.asarray(twin.parameters.get("heterogeneity", 1.0), np.float64)
        stiffness = np.broadcast_to(np.asarray(young, np.float64) * factor, (len(rest),))
    return Springs(pairs, np.maximum(length, 1e-9), None, stiffness, "Pa")


class Colouring:
    """Turns a body's state into colours, on scales that do not flicker.

    Args:
        twin: the body.

    Attributes:
        springs: of the twin.
        low: lower end of the scale last used, in SI units.
        high: upper end.
    """

    def __init__(self, twin: Twin) -> None:
        self.springs = springs_of(twin)
        self._count = twin.node_count
        self.low, self.high = 0.0, 1.0
        self._reached: dict[str, float] = {}
        self._stress: Stress | None = None
        if twin.dynamics == "mpm" and "elastic_law" in twin.parameters:
            from physgym.viewer.stress import Stress

            self._stress = Stress(twin)

    @property
    def names(self) -> tuple[str, ...]:
        """What this body can be coloured by."""
        known = ["plain"]
        if self.springs.node_stiffness is not None:
            known.append("stiffness")
        known.append("strain")
        if self.springs.stiffness_n is not None:
            known.append("force")
        if self._stress is not None:
            known.append("stress")
        return tuple(known)

    def values(
        self, name: str, position: np.ndarray, internal: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The quantity itself: of strain and force the size, whether stretched or pressed.

        Args:
            name: one of `names` but ``"plain"``.
            position: nodes [m], shape (N, 3).
            internal: what the solver carries besides, shape (M,); only stress asks for it.

        Returns:
            Of nodes, shape (N,), and of springs, shape (S,), in SI units.

        Raises:
            DataError: if the body has no such quantity.
        """
        if name not in self.names or name == "plain":
            raise DataError(f"colour by {name!r}", where="viewer", expected=", ".join(self.names))
        springs = self.springs
        if name == "stiffness":
            nodes = np.asarray(springs.node_stiffness)
            of_springs = nodes[springs.edge].mean(axis=1)
            if springs.stiffness_n is not None and springs.stiffness_unit == "N":
                of_springs = springs.stiffness_n
            return nodes, of_springs
        if name == "stress":
            if self._stress is None or internal is None:
                raise DataError("no internal state", where="viewer", expected="that of the solver")
            nodes = self._stress.von_mises_pa(internal)
            return nodes, nodes[springs.edge].mean(axis=1)
        size = np.abs(springs.strain(position))
        if name == "force":
            size = size * np.asarray(springs.stiffness_n)
        return springs.at_nodes(size, self._count), size

    def colours(
        self, name: str, position: np.ndarray, internal: torch.Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colours of nodes and springs.

        Args:
            name: one of `names`.
            position: nodes [m], shape (N, 3).
            internal: as in `values`.

        Returns:
            uint8, shapes (N, 3) and (S, 3).

        Raises:
            DataError: if the body has no such quantity.
        """
        if name == "plain":
            plain = np.array(_PLAIN, np.uint8)
            return np.tile(plain, (self._count, 1)), np.tile(plain, (len(self.springs.edge), 1))
        nodes, of_springs = self.values(name, position, internal)
        if name == "stiffness":
            self.low, self.high = float(nodes.min()), float(nodes.max())
        else:
            # The scale grows with the strongest seen and forgets it slowly.
            top = max(float(np.quantile(of_springs, 0.98)), _LEAST[name])
            self.low, self.high = 0.0, max(top, 0.995 * self._reached.get(name, 0.0))
            self._reached[name] = self.high
        return self._mapped(name, nodes), self._mapped(name, of_springs)

    def unit(self, name: str) -> str:
        """Unit of a quantity as people are told it.

        Args:
            name: one of `names`.

        Returns:
            The unit; empty for ``"plain"``.
        """
        return self.springs.stiffness_unit if name == "stiffness" else UNITS.get(name, "")

    def _mapped(self, name: str, value: np.ndarray) -> np.ndarray:
        width = self.high - self.low
        share = (value - self.low) / width if width > 0 else np.full(len(value), 0.5)
        shades = matplotlib.colormaps[_MAPS[name]](np.clip(share, 0.0, 1.0))
        return np.asarray(255 * shades[:, :3] + 0.5, np.uint8)


def legend_colours(name: str, steps: int = 8) -> list[str]:
    """A colour map as CSS colours, low to high.

    Args:
        name: a quantity.
        steps: how many.

    Returns:
        Hexadecimal colours.
    """
    return [
        matplotlib.colors.to_hex(c)
        for c in matplotlib.colormaps[_MAPS[name]](np.linspace(0, 1, steps))
    ]
