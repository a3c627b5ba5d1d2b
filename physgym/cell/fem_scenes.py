"""Recorded drops and compressions of bodies whose material is known: truth for continuum twins.

`drop` and `compress` are simulated by `finite_elements`, `flex_drop` by MuJoCo; none is the
twins' solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from physgym.cell.fem_bodies import TetBody, ball, box, torus
from physgym.cell.fem_flex import flex_drop
from physgym.cell.fem_material import FemMaterial, effective_modulus
from physgym.cell.fem_recording import FrameKeeper, MotionRecording, check_scene, place
from physgym.cell.finite_elements import FiniteElements, Plane
from physgym.errors import DataError

__all__ = [
    "BenchmarkObject",
    "DropSetup",
    "MotionRecording",
    "benchmark_objects",
    "compress",
    "drop",
    "effective_modulus",
    "flex_drop",
]

_GRAVITY = (0.0, 0.0, -9.81)
_UPRIGHT = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class DropSetup:
    """How a body is let go.

    Attributes:
        height_m: gap between the ground and the lowest node.
        quat_wxyz: rotation from the body's frame to the world.
        velocity_m_per_s: initial velocity.
    """

    height_m: float
    quat_wxyz: tuple[float, float, float, float] = _UPRIGHT
    velocity_m_per_s: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class BenchmarkObject:
    """An object of the benchmark: one drop to learn from, others to be predicted.

    Attributes:
        name: short, lower case.
        body: its mesh.
        material: the truth.
        train: the drop that a twin may see.
        tests: other heights and other orientations.
    """

    name: str
    body: TetBody
    material: FemMaterial
    train: DropSetup
    tests: tuple[DropSetup, ...]

    def record(self, setup: DropSetup, *, frames: int = 30, fps: float = 60.0) -> MotionRecording:
        """Simulate one of the drops.

        Args:
            setup: `train`, one of `tests` or another.
            frames: how many, the first at time 0.
            fps: frames per second.

        Returns:
            The recording.

        Raises:
            BlowUpError: if a tetrahedron turned inside out.
        """
        return drop(
            self.body, self.material, height_m=setup.height_m, quat_wxyz=setup.quat_wxyz,
            velocity_m_per_s=setup.velocity_m_per_s, frames=frames, fps=fps, name=self.name,
        )  # fmt: skip


def drop(
    body: TetBody,
    material: FemMaterial,
    *,
    height_m: float,
    quat_wxyz: tuple[float, float, float, float] = _UPRIGHT,
    velocity_m_per_s: tuple[float, float, float] = (0.0, 0.0, 0.0),
    frames: int = 30,
    fps: float = 60.0,
    friction: float = 0.3,
    name: str = "drop",
) -> MotionRecording:
    """Let a body fall onto the ground at z = 0.

    Args:
        body: at rest.
        material: in the body's frame; it turns with the body.
        height_m: gap between the ground and the lowest node at first.
        quat_wxyz: initial rotation from the body's frame to the world.
        velocity_m_per_s: initial velocity.
        frames: how many, the first at time 0.
        fps: frames per second.
        friction: Coulomb coefficient of the ground.
        name: of the recording.

    Returns:
        The recording.

    Raises:
        DataError: if an argument is out of range.
        BlowUpError: if a tetrahedron turned inside out.
    """
    check_scene(
        frames=frames, fps=fps, height_m=height_m, quat_wxyz=quat_wxyz,
        velocity_m_per_s=velocity_m_per_s, friction=friction,
    )  # fmt: skip
    solver = FiniteElements(
        body.nodes,
        body.tets,
        material,
        gravity_m_per_s2=_GRAVITY,
        planes=(Plane(friction=friction),),
    )
    solver.position = place(body, quat_wxyz, height_m)
    solver.velocity = np.tile(np.array(velocity_m_per_s, dtype=np.float64), (len(body.nodes), 1))
    keeper = FrameKeeper(body, material, "finite elements")
    for index in range(frames):
        if index:
            solver.advance(1 / fps)
        keeper.keep(index / fps, solver.position, solver.velocity, substep=solver.substeps_done)
    return keeper.recording(
        name, quat_wxyz=quat_wxyz, height_m=height_m, velocity_m_per_s=velocity_m_per_s,
        gravity_m_per_s2=_GRAVITY, friction=friction,
    )  # fmt: skip


def compress(
    body: TetBody,
    material: FemMaterial,
    *,
    strain: float = 0.2,
    duration_s: float = 0.5,
    frames: int = 31,
    friction: float = 0.0,
    name: str = "compression",
) -> MotionRecording:
    """Press a body between the ground and a plate that comes down, as in App. A of MoSA.

    The plate starts on the highest node and follows half a cosine, so it starts and ends at rest.
    There is no gravity: the weight would set the body in motion before the plate does.

    Args:
        body: at rest; stands on its lowest nodes.
        material: in the body's frame, which is the world's.
        strain: by which share of its height the body becomes shorter.
        duration_s: of the plate's motion.
        frames: evenly over that time, the first at 0.
        friction: Coulomb coefficient of both plates; 0 leaves the stress uniaxial.
        name: of the recording.

    Returns:
        The recording, with ``plate_height_m`` and ``plate_force_n``.

    Raises:
        DataError: if an argument is out of range.
        BlowUpError: if a tetrahedron turned inside out.
    """
    if not 0 < strain <= 0.5:
        raise _bad("strain", strain, "above 0, at most 0.5")
    if not 0.01 <= duration_s <= 60:
        raise _bad("duration_s", duration_s, "from 0.01 to 60 s")
    check_scene(frames=frames, fps=max(1.0, (frames - 1) / duration_s), friction=friction)
    start = place(body, _UPRIGHT, 0.0)
    top = float(start[:, 2].max())
    plate = Plane(top, side=-1, friction=friction)
    solver = FiniteElements(
        body.nodes, body.tets, material, gravity_m_per_s2=(0.0, 0.0, 0.0),
        planes=(Plane(friction=friction), plate),
    )  # fmt: skip
    solver.position = start
    keeper = FrameKeeper(body, material, "finite elements")
    keeper.keep(0.0, solver.position, solver.velocity, substep=0)
    keeper.keep_plate(top, 0.0)
    dt_s = duration_s / (frames - 1)
    for _ in range(1, frames):
        before = plate.impulse_n_s
        _lower(solver, plate, top, strain, duration_s, dt_s)
        keeper.keep(solver.time_s, solver.position, solver.velocity, substep=solver.substeps_done)
        keeper.keep_plate(plate.height_m, (before - plate.impulse_n_s) / dt_s)
    return keeper.recording(
        name, quat_wxyz=_UPRIGHT, height_m=0.0, velocity_m_per_s=(0.0, 0.0, 0.0),
        gravity_m_per_s2=(0.0, 0.0, 0.0), friction=friction,
    )  # fmt: skip


def benchmark_objects() -> tuple[BenchmarkObject, ...]:
    """Objects with fibres or a stiffness gradient that the isotropic twin does not know of.

    Sizes, moduli and densities are those of soft foam and rubber; the fibres make a body about
    twice as stiff along them as across, which MoSA calls mild.

    Returns:
        A block, a ball, a ring and a homogeneous isotropic ball to compare with, each with one
        training drop and three test drops: higher, and twice turned otherwise.
    """
    tilted = (math.cos(0.3), math.sin(0.3), 0.0, 0.0)  # 34 degrees about x
    about_y = (math.cos(math.pi / 4), 0.0, math.sin(math.pi / 4), 0.0)
    corner = (math.cos(0.45), 0.6 * math.sin(0.45), 0.8 * math.sin(0.45), 0.0)
    tests = (DropSetup(0.35), DropSetup(0.2, about_y), DropSetup(0.25, corner))
    fibres = FemMaterial(7e4, 0.3, 500.0, fibre_modulus_pa=8e4, fibre_direction=(1, 0, 0))
    # Not (1, 1, 1): fibres at that angle hardly feel a load along an axis, as bulging undoes it.
    oblique = FemMaterial(6e4, 0.35, 800.0, fibre_modulus_pa=8e4, fibre_direction=(1, 0.5, 2))
    graded = FemMaterial(
        1e5, 0.3, 600.0, fibre_modulus_pa=8e4, fibre_direction=(0, 1, 1),
        gradient_direction=(1, 0, 0),
    )  # fmt: skip
    return (
        BenchmarkObject("block", box((0.2, 0.15, 0.12), 0.025), fibres, DropSetup(0.2), tests),
        BenchmarkObject("ball", ball(0.1, 0.03), oblique, DropSetup(0.2), tests),
        BenchmarkObject("ring", torus(0.09, 0.04, 0.024), graded, DropSetup(0.2, tilted), tests),
        BenchmarkObject(
            "plain", ball(0.1, 0.03), FemMaterial(6e4, 0.35, 800.0), DropSetup(0.2), tests
        ),
    )


def _lower(
    solver: FiniteElements, plate: Plane, top: float, strain: float, duration_s: float, dt_s: float
) -> None:
    """Bring the plate down over one frame in eight straight pieces."""
    pieces = 8
    for _ in range(pieces):
        end_s = solver.time_s + dt_s / pieces
        share = 0.5 * (1 - math.cos(math.pi * min(1.0, end_s / duration_s)))
        plate.velocity_m_per_s = (top * (1 - strain * share) - plate.height_m) * pieces / dt_s
        solver.advance(dt_s / pieces)


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"scene, {field}",
        expected=expected,
        fix=f"pass another {field}; all units are SI",
    )
