"""Motion of a cylinder that two bonded plates press and let go, in several directions.

MoSA (2026), App. A, presses an anisotropic cylinder along one axis. That leaves the modulus across
it open, and slow motion tells ratios of stiffness only. So the cylinder is pressed along its axis
and, lying, along three directions of its XY plane, and the free vibration after the plates have let
go is seen too: with the density known, its period tells the modulus in pascals. No force is used.
A layer at either plate moves as one piece, so no contact is simulated on either side.

The truth is made twice: by the twin's own simulator with fibres in its stress (as in the paper,
whose data come from its simulator), and by finite elements, which also bring in the difference of
two solvers.
Shapes: T frames, N nodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from physgym.cell.fem_bodies import TetBody, cylinder
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_recording import place
from physgym.cell.finite_elements import FiniteElements
from physgym.frames import quat_wxyz_from_matrix
from physgym.grip import Grip
from physgym.sim.mpm.material import Material
from physgym.sim.mpm.model import MpmParameters
from recon.benchmark_mosa.hooked_scene import HookedScene
from recon.identify.motion import Motion, Pose
from recon.identify.solid import TetSolid
from recon.identify.start_velocity import StartVelocity

__all__ = ["MATERIAL", "Truth", "pressed_motions"]

Truth = Literal["simulator", "finite elements"]

_RADIUS_M, _HEIGHT_M = 0.05, 0.1
# Twice as stiff along the fibres as across them. Soft foam, so that it vibrates within frames of a
# fast camera. The fibres lie in the XY plane, along none of the axes and none of the presses.
_ANGLE = math.radians(30.0)
MATERIAL = FemMaterial(
    1.2e4, 0.3, 500.0, fibre_modulus_pa=1.2e4,
    fibre_direction=(math.cos(_ANGLE), math.sin(_ANGLE), 0.0),
)  # fmt: skip
_FPS, _PRESS, _FREE = 240.0, 12, 12  # frames under the plates, and after
_STRAIN = 0.15
_LAYER = 0.2  # of the height at either plate is bonded to it
_IN_PLANE = (0.0, 60.0, 120.0)  # degrees from x


def pressed_motions(truth: Truth, cell_m: float, particles: int) -> list[Motion]:
    """The cylinder pressed in every direction.

    Args:
        truth: what makes the motion.
        cell_m: of the mesh whose nodes are tracked, and of the finite elements [m].
        particles: of the simulator, and of the identification: their layers are then the same.

    Returns:
        One motion per direction, the first along the axis, in the cylinder's own frame.
    """
    body = cylinder(_RADIUS_M, _HEIGHT_M, cell_m)
    made = []
    for quat in _turns():
        motion = _unmoved(body, quat, particles)
        if truth == "simulator":
            points = _by_simulator(motion, particles)
        else:
            points = _by_finite_elements(body, quat)
        made.append(dataclasses.replace(motion, position=points))
    return made


def _turns() -> Sequence[tuple[float, float, float, float]]:
    """Rotations from the cylinder's frame to a world whose plates press along z, ``quat_wxyz``."""
    turns = [(1.0, 0.0, 0.0, 0.0)]
    for angle in np.radians(_IN_PLANE):
        up = np.array([math.cos(angle), math.sin(angle), 0.0])
        axis = np.array([0.0, 0.0, 1.0])
        w, x, y, z = quat_wxyz_from_matrix(np.stack([axis, np.cross(up, axis), up]))
        turns.append((float(w), float(x), float(y), float(z)))
    return turns


def _drop_m(frame: float, height_m: float) -> float:
    """How far the upper plate has come: half a cosine, so it starts and ends at rest."""
    share = 0.5 * (1.0 - math.cos(math.pi * min(frame / _PRESS, 1.0)))
    return _STRAIN * share * height_m


def _layers(start: np.ndarray, depth_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes so near to the lower and to the upper plate."""
    z = start[:, 2]
    return np.flatnonzero(z <= z.min() + depth_m), np.flatnonzero(z >= z.max() - depth_m)


def _unmoved(body: TetBody, quat: tuple[float, float, float, float], particles: int) -> Motion:
    """The cylinder where it starts, in all frames, and the plates' motion."""
    start = place(body, quat, 0.0)
    height, frames = float(np.ptp(start[:, 2])), _PRESS + _FREE + 1
    solid = TetSolid(body.nodes, body.tets)
    # A grip takes particles within a grid spacing of its points; together that is the layer.
    reach = 2.0 * solid.fill(particles).spacing_m
    low, high = _layers(start, max(_LAYER * height - reach, 1e-3))
    moved = np.array([_drop_m(f, height) for f in range(frames)])
    down = np.zeros((frames, 1, 3))
    down[:, 0, 2] = -moved
    grips = (
        Grip(np.repeat(start[None, low], frames, axis=0), 0, _PRESS + 1),
        Grip(start[None, high] + down, 0, _PRESS + 1),
    )
    return Motion(
        "cylinder",
        1.0 / _FPS,
        np.repeat(start[None], frames, axis=0),
        body.nodes,
        solid,
        gravity=(0.0, 0.0, 0.0),
        grips=grips,
        density_kg_per_m3=MATERIAL.density_kg_per_m3,
    )


class _Fibres:
    """What the fibres of `FemMaterial` add to a neo-Hookean stress, as a `StressHook`."""

    def hook(self) -> _Fibres:
        """Itself."""
        return self

    def parameters(self) -> Sequence[torch.Tensor]:
        """None."""
        return []

    def __call__(
        self, deformation: torch.Tensor, stress: torch.Tensor, parameters: Any
    ) -> torch.Tensor:
        """See `StressHook`: ``k (1 - 1 / l) (F a)(F a)^T`` with the stretch ``l = |F a|``."""
        fibre = deformation @ torch.tensor(MATERIAL.fibre_direction).to(deformation)
        stretch = fibre.norm(dim=-1)[..., None, None]
        pull = MATERIAL.fibre_modulus_pa * (1.0 - 1.0 / stretch)
        return stress + pull * fibre[..., :, None] * fibre[..., None, :]


def _by_simulator(motion: Motion, particles: int) -> np.ndarray:
    centre = motion.start_pose().apply(motion.rest.mean(axis=0))
    still = StartVelocity(np.zeros(3), np.zeros(3), centre, 0)
    own = Pose(np.eye(3), np.zeros(3))
    filling = motion.solid.fill(particles)
    scene = HookedScene(motion, still, filling, own, material=Material())
    parameters = MpmParameters.of(
        young_pa=MATERIAL.young_pa, poisson_ratio=MATERIAL.poisson_ratio,
        density_kg_per_m3=MATERIAL.density_kg_per_m3,
    )  # fmt: skip
    with torch.no_grad():
        seen = scene.simulate(parameters, torch.zeros(1), motion.frame_count, adapter=_Fibres())
    return np.asarray(seen.tracks[0].double().numpy())


def _by_finite_elements(body: TetBody, quat: tuple[float, float, float, float]) -> np.ndarray:
    start = place(body, quat, 0.0)
    height = float(np.ptp(start[:, 2]))
    low, high = _layers(start, _LAYER * height)
    solver = FiniteElements(body.nodes, body.tets, MATERIAL, gravity_m_per_s2=(0.0, 0.0, 0.0))
    solver.position = start.copy()
    points, pieces = [start], 8
    for frame in range(_PRESS + _FREE):
        if frame == _PRESS:
            solver.drive(np.zeros(0, int), np.zeros((0, 3)))
        for piece in range(pieces):
            if frame < _PRESS:
                before, after = (_drop_m(frame + (piece + p) / pieces, height) for p in (0, 1))
                speed = np.zeros((len(low) + len(high), 3))
                speed[len(low) :, 2] = -(after - before) * pieces * _FPS
                solver.drive(np.concatenate([low, high]), speed)
            solver.advance(1.0 / (_FPS * pieces))
        points.append(solver.position.copy())
    return np.array(points)
