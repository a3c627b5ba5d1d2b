"""What stays constant for a rod: its nodes, which of them are driven, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from physgym.errors import DataError

__all__ = ["RodModel", "RodParameters", "voronoi_length"]

FloatArray = np.ndarray


@dataclass(frozen=True)
class RodParameters:
    """Parameters of a rod; every field may carry a leading world axis B.

    Only ratios to mass show in a rod's motion, so the density sets the scale of all the rest.

    Attributes:
        rest_length_m: edge lengths, shape (N-1,).
        linear_density_kg_per_m: mass per length, shape ().
        bending_stiffness_nm2: EI at each interior node, shape (N-2,).
        natural_curvature_rad: turning angle at rest of each interior node, as 2 tan(phi/2) along
            both material directors, shape (N-2, 2).
        twist_stiffness_nm2: GJ, shape ().
        bending_damping_s: Kelvin-Voigt time: moment EI (kappa + tau dkappa/dt), shape ().
        friction_ratio: stiffness of the internal friction (strand on strand) over EI, shape ().
        friction_yield_rad: turning angle at which the internal friction slips, shape ().
        drag_per_s: linear air drag over mass, shape ().
        drag_quadratic_per_m: quadratic air drag over mass, shape ().
        stretch_stiffness_n: EA, shape ().
        stretch_damping_s: Kelvin-Voigt time of stretching, shape ().
        end_roll_rad: roll of the last clamp against the first, shape ().
        clamp_tangent: unit tangent of each clamp at which its director is stated, shape (2, 3).
        clamp_director: unit director there; at another tangent it is turned by the least rotation,
            so a clamp's roll follows from its direction and forgets no history, shape (2, 3).
    """

    rest_length_m: FloatArray
    linear_density_kg_per_m: FloatArray
    bending_stiffness_nm2: FloatArray
    natural_curvature_rad: FloatArray
    twist_stiffness_nm2: FloatArray
    bending_damping_s: FloatArray
    friction_ratio: FloatArray
    friction_yield_rad: FloatArray
    drag_per_s: FloatArray
    drag_quadratic_per_m: FloatArray
    stretch_stiffness_n: FloatArray
    stretch_damping_s: FloatArray
    end_roll_rad: FloatArray
    clamp_tangent: FloatArray
    clamp_director: FloatArray

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all parameters, in order."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def from_mapping(cls, values: Mapping[str, np.ndarray], where: str = "twin") -> RodParameters:
        """Pick the rod's parameters out of a mapping such as ``Twin.parameters``.

        Args:
            values: arrays by name.
            where: named in the error.

        Returns:
            The parameters as float64 arrays.

        Raises:
            DataError: if one is missing or unknown.
        """
        missing = [name for name in cls.names() if name not in values]
        unknown = [name for name in values if name not in cls.names()]
        if missing or unknown:
            raise DataError(
                f"rod parameters: missing {missing}, unknown {unknown}",
                where=where,
                expected=", ".join(cls.names()),
                fix="reconstruct the twin again, or add the named parameters",
            )
        return cls(**{name: np.asarray(values[name], np.float64) for name in cls.names()})

    def to_mapping(self) -> dict[str, np.ndarray]:
        """The parameters by name, as a twin stores them."""
        return {name: np.asarray(getattr(self, name), np.float64) for name in self.names()}

    def broadcast(self, worlds: int, node_count: int) -> RodParameters:
        """Give every field its world axis and check the shapes.

        Args:
            worlds: B.
            node_count: N.

        Returns:
            Parameters whose every field has shape (B, ...).

        Raises:
            DataError: if a field has the wrong shape, is not finite or out of its range.
        """
        return RodParameters(
            **{name: _field(name, getattr(self, name), worlds, node_count) for name in self.names()}
        )


def _field(name: str, value: np.ndarray, worlds: int, node_count: int) -> np.ndarray:
    tails = {
        "rest_length_m": (node_count - 1,),
        "bending_stiffness_nm2": (node_count - 2,),
        "natural_curvature_rad": (node_count - 2, 2),
        "clamp_tangent": (2, 3),
        "clamp_director": (2, 3),
    }
    signed = {"natural_curvature_rad", "end_roll_rad", "clamp_tangent", "clamp_director"}
    positive = {
        "rest_length_m",
        "linear_density_kg_per_m",
        "bending_stiffness_nm2",
        "twist_stiffness_nm2",
        "stretch_stiffness_n",
    }
    tail = tails.get(name, ())
    array = np.asarray(value, np.float64)
    if array.shape not in (tail, (worlds, *tail)):
        raise DataError(
            f"{name} has shape {array.shape}",
            where="RodParameters",
            expected=f"{tail} or {(worlds, *tail)} for {worlds} worlds of {node_count} nodes",
            fix="give one value for all worlds or one per world",
        )
    low = 0.0 if name in positive else -1e-300
    if not np.isfinite(array).all() or (name not in signed and not (array > low).all()):
        raise DataError(
            f"{name} is {array.min() if array.size else array}",
            where="RodParameters",
            expected="finite" if name in signed else "finite and not negative (stiffness > 0)",
            fix="check the twin or the fit that made it",
        )
    return np.broadcast_to(array, (worlds, *tail))


def voronoi_length(rest_length_m: np.ndarray) -> np.ndarray:
    """Length of rod that belongs to each node: half of each adjacent edge.

    Args:
        rest_length_m: [m], shape (..., N-1).

    Returns:
        [m], shape (..., N).
    """
    half = 0.5 * np.asarray(rest_length_m)
    zero = np.zeros((*half.shape[:-1], 1))
    return np.concatenate([half, zero], -1) + np.concatenate([zero, half], -1)


@dataclass(frozen=True)
class RodModel:
    """What all worlds of a rod share.

    Attributes:
        node_count: N, at least 3.
        driven_index: driven nodes, shape (K,). Two neighbours at an end are a clamp: they give
            that end's position and direction.
        gravity_m_per_s2: shape (3,).
    """

    node_count: int
    driven_index: tuple[int, ...]
    gravity_m_per_s2: tuple[float, float, float] = field(default=(0.0, 0.0, -9.81))

    def __post_init__(self) -> None:
        from physgym.sim.rod.native import MAX_NODES

        if not 3 <= self.node_count <= MAX_NODES:
            raise DataError(
                f"a rod of {self.node_count} nodes",
                where="RodModel.node_count",
                expected=f"3 to {MAX_NODES} nodes",
                fix="resample the rod",
            )
        bad = [i for i in self.driven_index if not 0 <= i < self.node_count]
        if bad or len(set(self.driven_index)) != len(self.driven_index):
            raise DataError(
                f"driven nodes {list(self.driven_index)}",
                where="RodModel.driven_index",
                expected=f"different indices from 0 to {self.node_count - 1}",
                fix="name the nodes that the grippers hold",
            )

    @property
    def clamped(self) -> tuple[bool, bool]:
        """Whether the first and the last edge are held in a gripper."""
        driven, last = set(self.driven_index), self.node_count - 1
        return ({0, 1} <= driven, {last - 1, last} <= driven)
