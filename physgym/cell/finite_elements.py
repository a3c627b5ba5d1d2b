"""Explicit finite elements: linear tetrahedra, lumped masses, contact with horizontal planes.

Not the twins' solver: it knows nothing of particles or grids, so it can judge them. Symplectic
Euler in NumPy and float64; a substep of 3,000 tetrahedra takes about a millisecond. The deformation
gradients are one sparse product ``F = B x`` and the forces its transpose, ``f = -B^T (V P)``, which
is the principle of virtual work.
Shapes: N nodes, M tetrahedra, K driven nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from physgym.cell.fem_bodies import tet_volumes
from physgym.cell.fem_material import FemMaterial, elastic_stress
from physgym.errors import BlowUpError, DataError

__all__ = ["FiniteElements", "Plane"]

# Share of the stability limit at rest. The limit falls as elements are pressed together: a
# neo-Hookean element (nu 0.3) pressed to half its height has half the limit.
_SAFETY = 0.5


@dataclass
class Plane:
    """A horizontal rigid plane that nodes cannot cross.

    A node that would cross it ends on it, without a rebound of its own; the body rebounds by its
    elasticity. Friction is Coulomb's, on the node's impulse.

    Attributes:
        height_m: where it is now.
        side: 1 holds nodes above it, -1 below it.
        friction: Coulomb coefficient.
        velocity_m_per_s: along z, until changed.
        impulse_n_s: vertical impulse given to the body since the solver was made, upwards.
    """

    height_m: float = 0.0
    side: int = 1
    friction: float = 0.3
    velocity_m_per_s: float = 0.0
    impulse_n_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the side and the friction.

        Raises:
            DataError: naming the field that is out of range.
        """
        if self.side not in (1, -1):
            raise _bad("Plane.side", self.side, "1 (nodes above) or -1 (nodes below)")
        if not (math.isfinite(self.friction) and self.friction >= 0):
            raise _bad("Plane.friction", self.friction, "a finite number, at least zero")


class FiniteElements:
    """One body in motion.

    Args:
        nodes: at rest [m], shape (N, 3).
        tets: positively oriented, shape (M, 4).
        material: in the frame of the nodes at rest.
        gravity_m_per_s2: shape (3,).
        planes: ground and plates.

    Attributes:
        rest: the nodes at rest [m], shape (N, 3).
        tets: shape (M, 4).
        position: now [m], shape (N, 3); may be set.
        velocity: now [m/s], shape (N, 3); may be set.
        mass_kg: lumped, shape (N,).
        volume_m3: of the tetrahedra at rest, shape (M,).
        planes: their heights move with time.
        time_s: since the start.
        substeps_done: since the start.
        factor: on all stiffness of the tetrahedra, shape (M,).
        substep_limit_s: longest substep that `advance` takes.

    Raises:
        DataError: if the mesh cannot be used.
    """

    def __init__(
        self,
        nodes: np.ndarray,
        tets: np.ndarray,
        material: FemMaterial,
        *,
        gravity_m_per_s2: tuple[float, float, float] = (0.0, 0.0, -9.81),
        planes: tuple[Plane, ...] = (),
    ) -> None:
        self.rest = np.array(nodes, dtype=np.float64)
        self.tets = np.array(tets, dtype=np.int64)
        self.volume_m3 = _checked_volumes(self.rest, self.tets)
        self.material = material
        self.gravity = np.array(gravity_m_per_s2, dtype=np.float64)
        self.planes = planes
        self.position, self.velocity = self.rest.copy(), np.zeros_like(self.rest)
        self.time_s = 0.0
        self.substeps_done = 0
        shares = np.repeat(self.volume_m3 / 4, 4)
        self._node_volume = np.bincount(self.tets.ravel(), shares, len(self.rest))
        self.mass_kg = material.density_kg_per_m3 * self._node_volume
        self.factor = material.stiffness_factor(self.rest[self.tets].mean(axis=1), self.rest)
        self._gradients = _shape_gradients(self.rest, self.tets)
        self._B, self._minus_B_T = self._operators()
        self.substep_limit_s = self._limit()
        self._driven = np.zeros(0, dtype=np.int64)
        self._driven_velocity = np.zeros((0, 3))

    def drive(self, nodes: np.ndarray, velocity_m_per_s: np.ndarray) -> None:
        """Move nodes with a constant velocity from now on, whatever acts on them.

        Args:
            nodes: their numbers, shape (K,); none frees all.
            velocity_m_per_s: shape (K, 3), or (3,) for all.

        Raises:
            DataError: if there is no such node, or the velocity is not finite.
        """
        self._driven = np.asarray(nodes, dtype=np.int64)
        if ((self._driven < 0) | (self._driven >= len(self.rest))).any():
            raise _bad("nodes", self._driven, f"node numbers below {len(self.rest)}")
        if not np.isfinite(velocity_m_per_s).all():
            raise _bad("velocity_m_per_s", velocity_m_per_s, "finite numbers")
        self._driven_velocity = np.broadcast_to(velocity_m_per_s, (len(self._driven), 3)).copy()

    def advance(self, duration_s: float) -> None:
        """Let time pass, in equal substeps below the stability limit.

        Args:
            duration_s: how much.

        Raises:
            DataError: if the duration is negative or not finite.
            BlowUpError: if a tetrahedron turned inside out or a number is not finite; the state
                is then the one that was found so.
        """
        if not (math.isfinite(duration_s) and duration_s >= 0):
            raise _bad("duration_s", duration_s, "a finite time, at least zero")
        count = max(1, math.ceil(duration_s / self.substep_limit_s))
        dt_s = duration_s / count
        for _ in range(count):
            self._substep(dt_s)
        self.time_s += duration_s

    def deformation_gradient(self) -> np.ndarray:
        """Of every tetrahedron, relative to the nodes at rest.

        Returns:
            Shape (M, 3, 3).
        """
        return np.moveaxis(self._of_tets(self.position), 2, 0).copy()

    def average_to_nodes(self, values: np.ndarray) -> np.ndarray:
        """Mean over the tetrahedra around each node, weighted by their rest volumes.

        Args:
            values: one per tetrahedron, shape (M, ...).

        Returns:
            Shape (N, ...).
        """
        weight = (self.volume_m3 / 4)[:, None] * values.reshape(len(values), -1)
        total = np.zeros((len(self.rest), weight.shape[1]))
        np.add.at(total, self.tets, weight[:, None])
        total /= self._node_volume[:, None]
        return total.reshape(len(self.rest), *values.shape[1:])

    def stress_pa(self) -> np.ndarray:
        """First Piola-Kirchhoff stress of every tetrahedron without damping.

        Returns:
            Shape (M, 3, 3) [Pa].
        """
        stress = elastic_stress(self.material, self._of_tets(self.position))[0]
        return np.moveaxis(self.factor * stress, 2, 0)

    def force_n(self) -> np.ndarray:
        """Internal force on every node, damping included.

        Returns:
            Shape (N, 3) [N].

        Raises:
            BlowUpError: if a tetrahedron is inside out.
        """
        F = self._of_tets(self.position)
        stress, _, inverse_transposed, J = elastic_stress(self.material, F)
        if not J.min() > 0:  # also true of NaN
            raise self._blown(J)
        if self.material.damping_s > 0:
            stress += self._viscous(inverse_transposed)
        stress *= self.factor * self.volume_m3
        return np.stack([self._minus_B_T @ stress[i].ravel() for i in range(3)], axis=1)

    @property
    def energy_j(self) -> tuple[float, float, float]:
        """Elastic, kinetic and potential energy (above z = 0) [J]."""
        density = elastic_stress(self.material, self._of_tets(self.position))[1]
        elastic = float((self.factor * density) @ self.volume_m3)
        kinetic = float(0.5 * self.mass_kg @ (self.velocity**2).sum(axis=1))
        return elastic, kinetic, -float(self.mass_kg @ (self.position @ self.gravity))

    def _substep(self, dt_s: float) -> None:
        self.substeps_done += 1
        velocity = self.velocity
        velocity += dt_s * (self.force_n() / self.mass_kg[:, None] + self.gravity)
        for plane in self.planes:
            plane.height_m += dt_s * plane.velocity_m_per_s
            self._touch(plane, dt_s)
        velocity[self._driven] = self._driven_velocity
        self.position += dt_s * velocity

    def _touch(self, plane: Plane, dt_s: float) -> None:
        """Change velocities so that no node ends behind the plane."""
        gap = plane.side * (self.position[:, 2] - plane.height_m)
        lift = -gap / dt_s - plane.side * self.velocity[:, 2]
        touching = np.flatnonzero(lift > 0)
        if len(touching) == 0:
            return
        lift = lift[touching]
        velocity = self.velocity[touching]
        speed = np.hypot(velocity[:, 0], velocity[:, 1])
        slide = np.maximum(0.0, speed - plane.friction * lift)
        velocity[:, :2] *= np.divide(slide, speed, out=np.zeros_like(speed), where=speed > 0)[
            :, None
        ]
        velocity[:, 2] += plane.side * lift
        self.velocity[touching] = velocity
        plane.impulse_n_s += plane.side * float(self.mass_kg[touching] @ lift)

    def _viscous(self, inverse_transposed: np.ndarray) -> np.ndarray:
        """Kelvin-Voigt stress ``tau_d (2 mu d + lambda tr(d) I) F^-T``, d the rate of stretching.

        Objective: neither a rigid turn nor a rigid motion costs energy.
        """
        rate = np.einsum("ikm,jkm->ijm", self._of_tets(self.velocity), inverse_transposed)
        tau = self.material.mu_pa * (rate + rate.transpose(1, 0, 2))
        pressure = self.material.lambda_pa * np.einsum("iim->m", rate)
        for i in range(3):
            tau[i, i] += pressure
        tau *= self.material.damping_s
        return np.einsum("ikm,kjm->ijm", tau, inverse_transposed)

    def _of_tets(self, field: np.ndarray) -> np.ndarray:
        """Gradient of a nodal field by rest position, shape (3, 3, M)."""
        rows = [(self._B @ np.ascontiguousarray(field[:, i])).reshape(3, -1) for i in range(3)]
        return np.stack(rows)

    def _operators(self) -> tuple[csr_array, csr_array]:
        """B, shape (3 M, N): row ``j M + m`` is the derivative in element m by rest axis j."""
        count = len(self.tets)
        rows = np.arange(3 * count).reshape(3, count, 1)
        columns = np.broadcast_to(self.tets, (3, count, 4))
        values = self._gradients.transpose(2, 0, 1)
        entries = (values.ravel(), (np.repeat(rows, 4, axis=2).ravel(), columns.ravel()))
        B = csr_array(entries, shape=(3 * count, len(self.rest)))
        return B, csr_array(-B.T)

    def _limit(self) -> float:
        """Longest substep [s]: no mode is faster than the fastest element alone (Irons 1971).

        An element's frequency is bounded by its stiffest modulus, ``4 (lambda + 2 mu + k) / rho``
        times the largest eigenvalue of ``sum_a g_a g_a^T`` over the shape gradients g. The damping
        lags by a substep, which shortens the limit to ``-d + sqrt(d^2 + 4 / omega^2)``.
        """
        m = self.material
        square = np.einsum("mai,maj->mij", self._gradients, self._gradients)
        modulus = self.factor * (m.lambda_pa + 2 * m.mu_pa + m.fibre_modulus_pa)
        fastest = np.linalg.eigvalsh(square)[:, -1] * 4 * modulus / m.density_kg_per_m3
        d = m.damping_s
        return _SAFETY * (math.sqrt(d * d + 4 / float(fastest.max())) - d)

    def _blown(self, J: np.ndarray) -> BlowUpError:
        index = int(np.argmin(np.where(np.isnan(J), -np.inf, J)))
        return BlowUpError(
            f"tetrahedron {index} turned inside out or left the finite numbers: "
            f"its volume ratio is {J[index]:.3g}, {int((~(J > 0)).sum())} in all",
            world=0,
            node=int(self.tets[index, 0]),
            substep=self.substeps_done,
            fix="drop from lower, compress less, or take a stiffer material or larger cells",
        )


def _checked_volumes(nodes: np.ndarray, tets: np.ndarray) -> np.ndarray:
    if nodes.ndim != 2 or nodes.shape[1] != 3 or not np.isfinite(nodes).all():
        raise _bad("nodes", f"of shape {nodes.shape}", "finite positions, shape (N, 3)")
    if tets.ndim != 2 or tets.shape[1] != 4 or len(tets) == 0:
        raise _bad("tets", f"of shape {tets.shape}", "node numbers, shape (M, 4)")
    if not np.array_equal(np.unique(tets), np.arange(len(nodes))):
        raise _bad("tets", "with unknown or missing node numbers", "every node in a tetrahedron")
    volumes = tet_volumes(nodes, tets)
    if volumes.min() <= 0:
        raise _bad("tets", f"inside out at {int(volumes.argmin())}", "positive volumes")
    return volumes


def _shape_gradients(nodes: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """Gradients of the four linear shape functions, shape (M, 4, 3) [1/m]."""
    sides = nodes[tets[:, 1:]] - nodes[tets[:, :1]]
    others = np.linalg.inv(sides).transpose(0, 2, 1)
    return np.concatenate([-others.sum(axis=1, keepdims=True), others], axis=1)


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"finite elements, {field}",
        expected=expected,
        fix=f"pass another {field}",
    )
