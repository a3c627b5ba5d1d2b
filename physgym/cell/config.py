"""What the simulated cell is made of: the cable, its markers and the two gantries."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from physgym.errors import DataError

__all__ = ["JOINT_NAMES", "CellConfig"]

JOINT_NAMES = ("left_x", "left_y", "left_z", "right_x", "right_y", "right_z")
"""Order of every joint vector of the cell; a joint position is the gripper's position in metres."""

_MAY_BE_ZERO = frozenset({"damping_pa_s", "natural_curvature_per_m"})
_MAY_BE_NEGATIVE = frozenset({"natural_curvature_per_m"})


@dataclass(frozen=True)
class CellConfig:
    """A cable held by two Cartesian gantries above a table.

    The cable is a chain of rigid capsules joined by three hinges each (two for bending, one for
    twist) whose springs and dampers follow from the beam's section: bending stiffness
    ``E pi r^4 / 4``, twisting stiffness ``G pi r^4 / 2`` (Landau and Lifshitz, Theory of
    Elasticity, sections 16 and 17), divided by the length of cable that the hinge stands for.
    The chain does not stretch. The first and last ``clamp_length_m`` are rigid in the grippers.

    Attributes:
        length_m: length of the cable, clamps included.
        mass_kg: mass of the whole cable.
        radius_m: radius of its round section.
        bending_modulus_pa: Young's modulus seen by bending.
        twist_modulus_pa: shear modulus seen by twisting.
        damping_pa_s: Kelvin-Voigt viscosity seen by bending and, scaled by the moduli, by twisting.
        natural_curvature_per_m: curvature of the cable at rest, in its own horizontal plane.
        clamp_length_m: length of cable held rigidly in each gripper.
        marker_count: N, markers along the cable: both ends, both clamp edges, the others evenly
            between the clamps.
        segments_per_edge: rigid segments between two neighbouring free markers.
        timestep_s: step of the physics.
        home_spacing: distance between the grippers at home over the cable's length.
        home_height_m: height of both grippers at home.
        velocity_limit_m_s: speed limit of each gantry axis.
        acceleration_limit_m_s2: acceleration limit of each gantry axis.
        force_limit_n: force limit of each gantry axis; a taut cable stalls the gantry there.
    """

    length_m: float = 1.0
    mass_kg: float = 0.03
    radius_m: float = 0.004
    bending_modulus_pa: float = 5e6
    twist_modulus_pa: float = 2e6
    damping_pa_s: float = 3e5
    natural_curvature_per_m: float = 0.0
    clamp_length_m: float = 0.025
    marker_count: int = 13
    segments_per_edge: int = 2
    timestep_s: float = 1e-3
    home_spacing: float = 0.6
    home_height_m: float = 0.75
    velocity_limit_m_s: float = 1.0
    acceleration_limit_m_s2: float = 10.0
    force_limit_n: float = 50.0

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            DataError: naming the field that is out of range.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            low_ok = field.name in _MAY_BE_NEGATIVE or value > 0
            if field.name in _MAY_BE_ZERO:
                low_ok = low_ok or value == 0
            if not math.isfinite(value) or not low_ok:
                raise _bad(field.name, value, "a finite number above zero")
        if self.marker_count < 6:
            raise _bad("marker_count", self.marker_count, "at least 6: two clamped at each end")
        if 4 * self.clamp_length_m > self.length_m:
            raise _bad("clamp_length_m", self.clamp_length_m, "at most a quarter of length_m")
        if 10 * self.radius_m > self.length_m:
            raise _bad("radius_m", self.radius_m, "at most a tenth of length_m: a cable is slender")
        if not 0.1 <= self.home_spacing <= 0.95:
            raise _bad("home_spacing", self.home_spacing, "between 0.1 and 0.95 cable lengths")
        if self.timestep_s > 2e-3:
            raise _bad("timestep_s", self.timestep_s, "at most 0.002 s")

    @property
    def segment_length_m(self) -> float:
        """Length of one free segment [m]."""
        return (self.length_m - 2 * self.clamp_length_m) / self.segment_count

    @property
    def segment_count(self) -> int:
        """Number of free segments between the clamps."""
        return (self.marker_count - 3) * self.segments_per_edge

    @property
    def driven_index(self) -> np.ndarray:
        """Markers in the clamps, shape (4,): they move with the grippers."""
        n = self.marker_count
        return np.array([0, 1, n - 2, n - 1], dtype=np.int64)

    @property
    def marker_arc_length_m(self) -> np.ndarray:
        """Arc length of each marker from the left end [m], shape (N,)."""
        free = np.linspace(
            self.clamp_length_m, self.length_m - self.clamp_length_m, self.marker_count - 2
        )
        return np.concatenate([[0.0], free, [self.length_m]])

    @property
    def joint_limits(self) -> np.ndarray:
        """Lowest and highest position of each joint [m], shape (6, 2)."""
        reach = self.length_m
        ends = {"x": (-0.5 * reach, 0.5 * reach), "z": (0.15, 0.4 + reach)}
        sides = {"left": (0.02, 0.7 * reach), "right": (-0.7 * reach, -0.02)}
        rows = []
        for name in JOINT_NAMES:
            side, axis = name.split("_")
            rows.append(sides[side] if axis == "y" else ends[axis])
        return np.array(rows)

    @property
    def home(self) -> np.ndarray:
        """Joint positions at home [m], shape (6,)."""
        half = 0.5 * self.home_spacing * self.length_m
        return np.array([0.0, half, self.home_height_m, 0.0, -half, self.home_height_m])


def _bad(field: str, value: float, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"CellConfig.{field}",
        expected=expected,
        fix=f"pass another {field}; all units are SI (metres, kilograms, pascals, seconds)",
    )
