"""Motions whose truth is known: rigid flights in closed form, drops made by MPM and by FEM."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.sim.contact import GroundPlane
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmParameters
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Motion, Pose
from recon.identify.solid import Filling, GivenSolid
from recon.identify.start_velocity import StartVelocity

DT_S = 1.0 / 60.0
GRAVITY = np.array([0.0, 0.0, -9.81])


def block(points: int = 5, side_m: float = 0.1) -> np.ndarray:
    """A lattice of points that fills a cube, its middle at the origin."""
    axis = np.linspace(-0.5 * side_m, 0.5 * side_m, points)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def flight(
    *,
    frames: int = 12,
    velocity: tuple[float, float, float] = (0.4, -0.2, 0.3),
    spin: tuple[float, float, float] = (1.0, 2.0, -1.5),
    noise_m: float = 0.0,
    ground: GroundPlane | None = None,
    height_m: float = 1.0,
) -> Motion:
    """A rigid cube in free flight."""
    rest = block()
    time = DT_S * np.arange(frames)[:, None, None]
    turn = Rotation.from_rotvec(time[:, 0] * np.array(spin)).as_matrix()
    centre = np.array([0.0, 0.0, height_m]) + time * np.array(velocity) + 0.5 * time**2 * GRAVITY
    position = np.einsum("tij,nj->tni", turn, rest) + centre
    position += np.random.default_rng(3).normal(0.0, noise_m, position.shape)
    solid = GivenSolid(rest, np.full(len(rest), 8e-6))
    return Motion("flight", DT_S, position, rest, solid, ground=ground)


def cube_filling(count: int) -> Filling:
    """Particles of a cube of 0.1 m."""
    side = round(count ** (1.0 / 3.0))
    spacing = 0.1 / side
    axis = spacing * (np.arange(side) + 0.5) - 0.05
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return Filling(points, np.full(len(points), spacing**3), spacing)


def mpm_drop(
    *,
    young_pa: float = 5e4,
    poisson_ratio: float = 0.3,
    particles: int = 512,
    frames: int = 22,
    height_m: float = 0.1,
    law: ElasticLaw = ElasticLaw.NEO_HOOKEAN,
    return_map: ReturnMap = ReturnMap.NONE,
    factor: np.ndarray | None = None,
    **more: float,
) -> Motion:
    """A tilted cube falls on the ground: the twin's own solver, so a self-test."""
    filling = cube_filling(particles)
    turn = Rotation.from_rotvec([0.3, 0.2, 0.0]).as_matrix()
    placed = filling.position @ turn.T
    shift = np.array([0.0, 0.0, height_m - placed[:, 2].min()])
    position = np.repeat((placed + shift)[None], frames, axis=0)
    solid = GivenSolid(filling.position, filling.volume_m3)
    ground = GroundPlane(offset_m=0.0)
    motion = Motion("mpm", DT_S, position, filling.position, solid, ground=ground)
    start = StartVelocity(np.array([0.2, 0.0, -0.5]), np.zeros(3), shift, 6)
    material = Material(law, return_map)
    scene = Scene(motion, start, filling, Pose(turn, shift), material=material, whole=True)
    parameters = MpmParameters.of(
        young_pa=young_pa, poisson_ratio=poisson_ratio, friction=0.3, **more
    )
    if factor is not None:
        parameters = parameters.replace(heterogeneity=torch.as_tensor(factor[None]).float())
    with torch.no_grad():
        seen = scene.simulate(parameters, torch.tensor([-0.2]), frames)
    tracks = seen.tracks[0].double().numpy()
    frames_f = seen.frames[0].double().numpy()
    return Motion(
        "mpm", DT_S, tracks, filling.position, solid, frames=frames_f, ground=ground,
        density_kg_per_m3=1000.0,
    )  # fmt: skip


@cache
def soft_drop() -> Motion:
    """`mpm_drop` as most tests use it."""
    return mpm_drop()


@cache
def damped_drop() -> Motion:
    """A ball that hardly bounces: coarse finite elements with a relaxation time of 5 ms."""
    from physgym.cell.fem_bodies import ball
    from physgym.cell.fem_material import FemMaterial
    from physgym.cell.fem_scenes import drop

    truth = FemMaterial(2e4, 0.35, 800.0, damping_s=5e-3)
    recording = drop(
        ball(0.1, 0.05), truth, height_m=0.1, velocity_m_per_s=(0.3, 0.1, 0.0), frames=30, fps=60.0
    )
    return Motion.from_recording(recording)


@cache
def fem_drop() -> Motion:
    """A ball of 0.2 m falls: made by finite elements, which know nothing of particles."""
    from physgym.cell.fem_bodies import ball
    from physgym.cell.fem_material import FemMaterial
    from physgym.cell.fem_scenes import drop

    truth = FemMaterial(6e4, 0.35, 800.0)
    recording = drop(
        ball(0.1, 0.035), truth, height_m=0.1, velocity_m_per_s=(0.3, 0.1, 0.0), frames=36, fps=60.0
    )
    return Motion.from_recording(recording)
