"""How an object starts, where a person says so instead of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz

if TYPE_CHECKING:
    from physgym.twin import Twin

__all__ = ["Start"]

_UNIT = 1e-2  # quaternions are typed with two or three digits


@dataclass(frozen=True, eq=False)
class Start:
    """Pose and rigid motion at the first frame; None leaves it to the recording, or to rest.

    Attributes:
        T_world_object: from the twin's rest pose to the world, shape (4, 4).
        velocity_m_per_s: of the centre, shape (3,).
        spin_rad_per_s: angular velocity about the centre, shape (3,).
    """

    T_world_object: np.ndarray | None = None
    velocity_m_per_s: np.ndarray | None = None
    spin_rad_per_s: np.ndarray | None = None

    @staticmethod
    def of(
        pose: Sequence[float] | None = None,
        velocity_m_per_s: Sequence[float] | None = None,
        spin_rad_per_s: Sequence[float] | None = None,
    ) -> Start:
        """From the numbers of a command line.

        Args:
            pose: position [m] and quaternion, w first, of the rest pose in the world: 7 numbers.
            velocity_m_per_s: 3 numbers.
            spin_rad_per_s: 3 numbers.

        Returns:
            The start.

        Raises:
            DataError: if a number is not finite, or the quaternion is no unit one.
        """
        made: dict[str, np.ndarray] = {}
        for flag, key, numbers in (
            ("--initial-pose", "T_world_object", pose),
            ("--initial-velocity", "velocity_m_per_s", velocity_m_per_s),
            ("--initial-spin", "spin_rad_per_s", spin_rad_per_s),
        ):
            if numbers is None:
                continue
            value = np.asarray(numbers, np.float64)
            wanted = (7,) if key == "T_world_object" else (3,)
            if value.shape != wanted or not np.isfinite(value).all():
                raise DataError(
                    f"{list(numbers)}", where=flag, expected=f"{wanted[0]} finite numbers"
                )
            made[key] = value
        if "T_world_object" in made:
            value = made["T_world_object"]
            length = float(np.linalg.norm(value[3:]))
            if abs(length - 1.0) > _UNIT:
                raise DataError(
                    f"a quaternion of length {length:.4g}",
                    where="--initial-pose",
                    expected="X Y Z QW QX QY QZ with a unit quaternion, w first",
                    fix="1 0 0 0 is no rotation",
                )
            made["T_world_object"] = T_from_parts(matrix_from_quat_wxyz(value[3:]), value[:3])
        return Start(**made)

    @property
    def given(self) -> bool:
        """Whether anything is."""
        parts = (self.T_world_object, self.velocity_m_per_s, self.spin_rad_per_s)
        return any(part is not None for part in parts)

    def or_as_recorded(self, twin: Twin) -> tuple[np.ndarray, np.ndarray]:
        """Velocity and spin, or where neither is given those of the twin's recording.

        Args:
            twin: of dynamics ``mpm`` or ``spring_mass``; at rest where it does not say.

        Returns:
            Velocity [m/s] and angular velocity [rad/s], each of shape (3,).
        """
        v, w = self.velocity_m_per_s, self.spin_rad_per_s
        if v is None and w is None:
            v = twin.parameters.get("start_velocity_m_per_s")
            w = twin.parameters.get("start_spin_rad_per_s")
        none = np.zeros(3)
        return (none if v is None else np.asarray(v)), (none if w is None else np.asarray(w))

    def of_nodes(self, twin: Twin, nodes: np.ndarray) -> np.ndarray:
        """Velocity of the nodes of a twin; see `or_as_recorded`.

        Args:
            twin: of dynamics ``spring_mass``.
            nodes: [m], shape (N, 3).

        Returns:
            [m/s], shape (N, 3).
        """
        velocity, spin = self.or_as_recorded(twin)
        return Start(None, velocity, spin).node_velocity(nodes)

    def node_velocity(self, nodes: np.ndarray) -> np.ndarray:
        """Of points that move rigidly and weigh the same.

        Args:
            nodes: [m], shape (N, 3).

        Returns:
            [m/s], shape (N, 3).
        """
        none = np.zeros(3)
        v = none if self.velocity_m_per_s is None else self.velocity_m_per_s
        w = none if self.spin_rad_per_s is None else self.spin_rad_per_s
        return np.asarray(v + np.cross(w, nodes - nodes.mean(axis=0)))
