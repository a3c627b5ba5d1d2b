"""MotionRecording: what a solver that is not the twin's says happened to a body."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from physgym.cell.fem_bodies import TetBody
from physgym.cell.fem_material import FemMaterial
from physgym.cell.finite_elements import FiniteElements
from physgym.errors import BlowUpError, DataError
from physgym.frames import matrix_from_quat_wxyz

__all__ = ["FrameKeeper", "MotionRecording", "check_scene", "place"]


@dataclass(frozen=True)
class MotionRecording:
    """Exact motion of every node of a body over a ground at ``ground_height_m``.

    Attributes:
        name: of the scene.
        solver: what made it, ``"finite elements"`` or ``"mujoco flex"``.
        time_s: from 0, shape (T,).
        points: nodes [m], shape (T, N, 3). The first frame is the body at rest, turned and lifted.
        velocities: of the nodes [m/s], shape (T, N, 3).
        deformation_gradient: ``d points / d rest``, averaged over the tetrahedra around a node by
            volume, shape (T, N, 3, 3). It is the initial rotation R at first; relative to the
            first frame it is ``deformation_gradient @ R.T``.
        rest: nodes in the body's own frame [m], shape (N, 3).
        tets: node numbers, shape (M, 4).
        faces: triangles of the surface, counter-clockwise from outside, shape (F, 3).
        surface: whether a node is on the surface, shape (N,) bool.
        node_volume_m3: rest volume that belongs to a node, shape (N,).
        stiffness_factor: the truth's factor on all stiffness at the nodes, shape (N,).
        material: fields of `FemMaterial`, directions in the body's own frame.
        quat_wxyz: initial rotation from the body's frame to the world, shape (4,).
        height_m: initial gap between the ground and the lowest node.
        velocity_m_per_s: initial velocity, shape (3,).
        gravity_m_per_s2: shape (3,).
        friction: Coulomb coefficient of ground and plates.
        ground_height_m: of the ground.
        plate_height_m: of a plate above the body, shape (T,), or None.
        plate_force_n: with which that plate presses downwards, mean over the time since the frame
            before (0 at first), shape (T,), or None.
    """

    name: str
    solver: str
    time_s: np.ndarray
    points: np.ndarray
    velocities: np.ndarray
    deformation_gradient: np.ndarray
    rest: np.ndarray
    tets: np.ndarray
    faces: np.ndarray
    surface: np.ndarray
    node_volume_m3: np.ndarray
    stiffness_factor: np.ndarray
    material: dict[str, Any]
    quat_wxyz: np.ndarray
    height_m: float
    velocity_m_per_s: np.ndarray
    gravity_m_per_s2: np.ndarray
    friction: float
    ground_height_m: float = 0.0
    plate_height_m: np.ndarray | None = None
    plate_force_n: np.ndarray | None = None

    @property
    def rotation(self) -> np.ndarray:
        """Initial rotation from the body's frame to the world, shape (3, 3)."""
        return matrix_from_quat_wxyz(self.quat_wxyz)


class FrameKeeper:
    """Gathers the frames of one recording.

    Args:
        body: that moves.
        material: of the body.
        solver: what makes the motion.
    """

    def __init__(self, body: TetBody, material: FemMaterial, solver: str) -> None:
        self._body, self._material, self._solver = body, material, solver
        self._gradient = FiniteElements(body.nodes, body.tets, material)
        self._frames: list[tuple[float, np.ndarray, np.ndarray, np.ndarray]] = []
        self._plate: list[tuple[float, float]] = []

    def keep(
        self, time_s: float, points: np.ndarray, velocities: np.ndarray, *, substep: int
    ) -> None:
        """Add a frame.

        Args:
            time_s: of the frame.
            points: nodes [m], shape (N, 3).
            velocities: shape (N, 3) [m/s].
            substep: of the solver, for the error.

        Raises:
            BlowUpError: if a tetrahedron is inside out, which some solvers do not mind.
        """
        self._gradient.position = np.array(points)
        per_tet = self._gradient.deformation_gradient()
        J = np.linalg.det(per_tet)
        if not J.min() > 0:  # also true of NaN
            raise _inside_out(J, self._body.tets, time_s, self._solver, substep)
        F = self._gradient.average_to_nodes(per_tet)
        self._frames.append((time_s, np.array(points), np.array(velocities), F))

    def keep_plate(self, height_m: float, force_n: float) -> None:
        """Add the upper plate of the frame that was kept last.

        Args:
            height_m: of the plate.
            force_n: with which it presses downwards.
        """
        self._plate.append((height_m, force_n))

    def recording(
        self,
        name: str,
        *,
        quat_wxyz: tuple[float, float, float, float],
        height_m: float,
        velocity_m_per_s: tuple[float, float, float],
        gravity_m_per_s2: tuple[float, float, float],
        friction: float,
    ) -> MotionRecording:
        """What was kept.

        Args:
            name: of the scene.
            quat_wxyz: initial rotation.
            height_m: initial height of the lowest node.
            velocity_m_per_s: initial velocity.
            gravity_m_per_s2: gravity.
            friction: Coulomb coefficient.

        Returns:
            The recording.
        """
        body = self._body
        time_s, points, velocities, F = (np.array(column) for column in zip(*self._frames))
        plate = np.array(self._plate).T if self._plate else (None, None)
        return MotionRecording(
            name=name,
            solver=self._solver,
            time_s=time_s,
            points=points,
            velocities=velocities,
            deformation_gradient=F,
            rest=body.nodes,
            tets=body.tets,
            faces=body.faces,
            surface=body.surface,
            node_volume_m3=body.node_volume_m3,
            stiffness_factor=self._material.stiffness_factor(body.nodes, body.nodes),
            material=asdict(self._material),
            quat_wxyz=np.array(quat_wxyz) / np.linalg.norm(quat_wxyz),
            height_m=height_m,
            velocity_m_per_s=np.array(velocity_m_per_s),
            gravity_m_per_s2=np.array(gravity_m_per_s2),
            friction=friction,
            plate_height_m=plate[0],
            plate_force_n=plate[1],
        )


def place(
    body: TetBody, quat_wxyz: tuple[float, float, float, float], height_m: float
) -> np.ndarray:
    """Turn a body about its centre and lift it.

    Args:
        body: at rest.
        quat_wxyz: rotation from the body's frame to the world.
        height_m: of the lowest node.

    Returns:
        Nodes [m], shape (N, 3), centred over the origin.
    """
    turned = body.nodes @ matrix_from_quat_wxyz(quat_wxyz).T
    turned[:, 2] += height_m - turned[:, 2].min()
    return turned


def check_scene(
    *,
    frames: int,
    fps: float,
    height_m: float = 0.0,
    quat_wxyz: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0),
    velocity_m_per_s: tuple[float, ...] = (0.0, 0.0, 0.0),
    friction: float = 0.0,
) -> None:
    """Refuse a scene that cannot be simulated.

    Args:
        frames: how many.
        fps: frames per second.
        height_m: of the lowest node.
        quat_wxyz: rotation.
        velocity_m_per_s: initial velocity.
        friction: Coulomb coefficient.

    Raises:
        DataError: naming the argument that is out of range.
    """
    if not isinstance(frames, int) or frames < 2:
        raise _bad("frames", frames, "an integer of at least 2")
    if not 1 <= fps <= 10_000:
        raise _bad("fps", fps, "from 1 to 10000 frames a second")
    if not 0 <= height_m <= 10:
        raise _bad("height_m", height_m, "from 0 to 10 m")
    if not 0 <= friction <= 10:
        raise _bad("friction", friction, "from 0 to 10")
    for name, value, count in (
        ("quat_wxyz", quat_wxyz, 4),
        ("velocity_m_per_s", velocity_m_per_s, 3),
    ):
        if np.shape(value) != (count,) or not np.isfinite(value).all():
            raise _bad(name, value, f"{count} finite numbers")


def _inside_out(
    J: np.ndarray, tets: np.ndarray, time_s: float, solver: str, substep: int
) -> BlowUpError:
    index = int(np.argmin(np.where(np.isnan(J), -np.inf, J)))
    return BlowUpError(
        f"{solver}: {int((~(J > 0)).sum())} tetrahedra are inside out at {time_s:.4g} s, "
        f"the worst is {index} with the volume ratio {J[index]:.3g}",
        world=0,
        node=int(tets[index, 0]),
        substep=substep,
        fix="drop from lower, or take a stiffer material",
    )


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"scene, {field}",
        expected=expected,
        fix=f"pass another {field}; all units are SI",
    )
