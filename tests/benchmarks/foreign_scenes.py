"""Scenes that PhysGym was not tuned on: what lies, falls and is moved, and where cameras are.

A ball, a box, an L and a ring of distorted cubes, rings of 2 or 3 cameras, a table at 0.4 m, the
object 1 m from the world's origin. `tests.benchmarks.foreign_recorder` records them.
Shapes: N nodes, M tetrahedra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts

__all__ = ["CENTRE", "SCENES", "TABLE_M", "Actor", "Mesh", "Scene", "cameras_of", "mesh_of"]

Vector = tuple[float, float, float]

CENTRE, TABLE_M = (1.0, 0.3), 0.4  # where the object is, and how high the table
FIELD_OF_VIEW_DEG, ELEVATION_DEG = 60.0, 35.0
# A cube in six tetrahedra around its main diagonal (Kuhn 1960); corner k is at bits (x, y, z).
KUHN = np.array(
    [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]]
)


@dataclass(frozen=True)
class Actor:
    """A plate that pushes, or a gripper that holds the nodes between its jaws.

    Attributes:
        half_m: half sizes of the plate, or of the box that the jaws enclose; jaws close along y.
        path: time since the first frame [s] to place [m].
        holds_s: from when to when the jaws are closed; None for a plate.
    """

    half_m: Vector
    path: Callable[[float], Vector]
    holds_s: tuple[float, float] | None = None

    def closed(self, time_s: float) -> bool:
        """Whether the jaws hold on."""
        return self.holds_s is not None and self.holds_s[0] < time_s < self.holds_s[1]


@dataclass(frozen=True)
class Scene:
    """One recording.

    Attributes:
        name: of the scene.
        kind: shape of the object.
        size_m: its extent.
        cells: along its longest side (a ring: a quarter of those around it).
        young_pa: E of its material.
        density_kg_per_m3: of its material.
        gap_m: its lowest point over the table at first; None for an object at rest on it.
        turn_rad: rotation vector of the object at first.
        velocity_m_per_s: of its centre at first.
        spin_rad_per_s: at first.
        cameras: how many, all around (2: a right angle apart).
        width: of an image.
        height: of an image.
        distance_m: of the nearest camera from what it looks at.
        look_up_m: height of that point over the table.
        fps: frames per second.
        frames: T.
        timestep_s: of the physics.
        noisy: whether depth is noisy; else exact.
        masks: whether masks of the object are recorded.
        mass_told: whether the recording tells the mass.
        actors: what touches the object.
        seed: of textures and noise.
    """

    name: str
    kind: Literal["ball", "box", "L", "ring"]
    size_m: Vector = (0.1, 0.1, 0.1)
    cells: int = 6
    young_pa: float = 4e4
    density_kg_per_m3: float = 200.0
    gap_m: float | None = 0.15
    turn_rad: Vector = (0.0, 0.0, 0.0)
    velocity_m_per_s: Vector = (0.0, 0.0, 0.0)
    spin_rad_per_s: Vector = (0.0, 0.0, 0.0)
    cameras: int = 3
    width: int = 320
    height: int = 240
    distance_m: float = 0.5
    look_up_m: float = 0.08
    fps: float = 60.0
    frames: int = 40
    timestep_s: float = 1.0 / 480.0
    noisy: bool = True
    masks: bool = False
    mass_told: bool = False
    actors: tuple[Actor, ...] = ()
    seed: int = 0


def smooth(time_s: float, start_s: float, stop_s: float) -> float:
    """0 before, 1 after, and no jump of velocity."""
    x = min(max((time_s - start_s) / (stop_s - start_s), 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def push(t: float) -> Vector:
    """A plate goes 16 cm along x."""
    return CENTRE[0] - 0.14 + 0.16 * smooth(t, 0.3, 1.6), CENTRE[1], TABLE_M + 0.05


def lift(t: float) -> Vector:
    """A gripper goes up by 12 cm."""
    return CENTRE[0] - 0.045, CENTRE[1], TABLE_M + 0.13 + 0.12 * smooth(t, 0.5, 1.5)


def squeeze(side: int) -> Callable[[float], Vector]:
    """A plate on one side (-1 or 1) of the object goes in by 35 mm and back."""

    def path(t: float) -> Vector:
        inward = smooth(t, 0.3, 0.9) - smooth(t, 1.2, 1.6)
        return CENTRE[0] + side * (0.095 - 0.035 * inward), CENTRE[1], TABLE_M + 0.03

    return path


_L: dict[str, Any] = {
    "kind": "L", "size_m": (0.15, 0.06, 0.15), "cells": 7, "gap_m": None, "young_pa": 3e4,
    "mass_told": True,
}  # fmt: skip
_ALL = (
    Scene(
        "ball_spin", "ball", gap_m=0.2, turn_rad=(0.3, 0.2, 0.0), velocity_m_per_s=(0.3, 0.0, 0.0),
        spin_rad_per_s=(0.0, 6.0, 2.0), frames=36, masks=True,
    ),
    Scene(
        "tiny_ball", "ball", size_m=(0.03, 0.03, 0.03), young_pa=5e4, density_kg_per_m3=400.0,
        gap_m=0.03, width=640, height=480, distance_m=0.25, look_up_m=0.02, frames=30, masks=True,
    ),
    Scene(
        "exact_ball", "ball", young_pa=3e4, density_kg_per_m3=300.0,
        velocity_m_per_s=(0.2, 0.0, 0.0), frames=45, noisy=False, masks=True, mass_told=True,
    ),
    Scene(
        "short8", "box", size_m=(0.1, 0.08, 0.06), gap_m=0.05, turn_rad=(0.3, 0.2, 0.0),
        velocity_m_per_s=(0.2, 0.0, -0.5), fps=30.0, frames=8, masks=True,
    ),
    Scene(
        "leaves_view", "box", size_m=(0.1, 0.08, 0.06), velocity_m_per_s=(1.2, 0.5, 0.6),
        frames=60, masks=True,
    ),
    Scene(
        "L_push", **_L, cameras=2, width=424, fps=24.0, frames=60,
        actors=(Actor((0.01, 0.05, 0.04), push),),
    ),
    Scene(
        "L_lift_drop", **_L, fps=30.0, frames=90,
        actors=(Actor((0.03, 0.04, 0.02), lift, holds_s=(0.3, 2.0)),),
    ),
    Scene(
        "ring_squeeze", "ring", size_m=(0.16, 0.16, 0.04), cells=8, density_kg_per_m3=150.0,
        gap_m=None, frames=120, mass_told=True,
        actors=tuple(Actor((0.01, 0.05, 0.03), squeeze(side)) for side in (-1, 1)),
    ),
)  # fmt: skip
SCENES = {scene.name: scene for scene in _ALL}


@dataclass(frozen=True, eq=False)
class Mesh:
    """The object at rest.

    Attributes:
        nodes: [m], shape (N, 3).
        tets: shape (M, 4), of positive volume.
    """

    nodes: np.ndarray
    tets: np.ndarray

    @property
    def volume_m3(self) -> np.ndarray:
        """Of each tetrahedron, shape (M,)."""
        corner = self.nodes[self.tets]
        side = corner[:, 1:] - corner[:, :1]
        return np.asarray(np.linalg.det(side) / 6.0)

    @property
    def node_volume_m3(self) -> np.ndarray:
        """A quarter of the tetrahedra around each node, shape (N,)."""
        made = np.zeros(len(self.nodes))
        np.add.at(made, self.tets.ravel(), np.repeat(self.volume_m3 / 4.0, 4))
        return made


def lattice(
    counts: tuple[int, int, int], keep: Callable[[int, int, int], bool] = lambda i, j, k: True
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 3) and tetrahedra (M, 4) of the cubes that are kept."""
    number: dict[tuple[int, int, int], int] = {}
    tets = []
    for i, j, k in np.ndindex(*counts):
        if keep(i, j, k):
            corners = [(i + (b & 1), j + (b >> 1 & 1), k + (b >> 2)) for b in range(8)]
            tets.append(np.array([number.setdefault(c, len(number)) for c in corners])[KUHN])
    return np.array(list(number), float), np.concatenate(tets)


def mesh_of(scene: Scene) -> Mesh:
    """The object of a scene, around the origin."""
    size, cells = np.array(scene.size_m), scene.cells
    if scene.kind == "ball":  # shells of cubes become spheres
        grid, tets = lattice((cells, cells, cells))
        cube = 2.0 * grid / cells - 1.0
        radius, length = np.abs(cube).max(axis=1), np.linalg.norm(cube, axis=1)
        nodes = 0.5 * size * cube * (radius / np.maximum(length, 1e-9))[:, None]
    elif scene.kind == "ring":
        nodes, tets = _ring(scene)
    elif scene.kind == "L":
        counts = (cells, max(2, cells // 3), cells)
        grid, tets = lattice(counts, lambda i, j, k: min(i, k) < 0.4 * cells)
        nodes = (grid / counts - 0.5) * size
    else:
        x, y, z = (max(2, round(side / size.max() * cells)) for side in scene.size_m)
        grid, tets = lattice((x, y, z))
        nodes = (grid / (x, y, z) - 0.5) * size
    mesh = Mesh(nodes, tets)
    turned = np.where((mesh.volume_m3 < 0.0)[:, None], tets[:, [0, 2, 1, 3]], tets)
    return Mesh(nodes, turned)


def _ring(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A bar of cubes bent around z, its ends joined; its wall is 0.22 of its width."""
    around, across = 4 * scene.cells, max(2, scene.cells // 3)
    bar, tets = lattice((around, across, across))
    bar[:, 0] %= around
    number: dict[tuple[float, ...], int] = {}
    joined = np.array([number.setdefault(tuple(corner), len(number)) for corner in bar.tolist()])
    grid = np.array(list(number))
    angle, wall_m = 2.0 * np.pi * grid[:, 0] / around, 0.22 * scene.size_m[0]
    radius_m = 0.5 * scene.size_m[0] - wall_m * (1.0 - grid[:, 1] / across)
    z = (grid[:, 2] / across - 0.5) * scene.size_m[2]
    return np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle), z], axis=1), joined[tets]


def cameras_of(scene: Scene) -> list[PinholeCamera]:
    """All cameras, at different heights and distances."""
    focal = 0.5 * scene.width / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2.0)
    K = np.array([[focal, 0, (scene.width - 1) / 2], [0, focal, (scene.height - 1) / 2], [0, 0, 1]])
    target = np.array([*CENTRE, TABLE_M + scene.look_up_m])
    step = 2.0 * np.pi / scene.cameras if scene.cameras > 2 else 0.5 * np.pi
    made = []
    for c in range(scene.cameras):
        azimuth, elevation = 0.4 + step * c, math.radians(ELEVATION_DEG + 7.0 * (c % 2))
        flat = np.array([math.cos(azimuth), math.sin(azimuth), 0.0]) * math.cos(elevation)
        out = flat + np.array([0.0, 0.0, math.sin(elevation)])
        right = np.cross(-out, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        turn = np.stack([right, np.cross(-out, right), -out], axis=1)
        pose = T_from_parts(turn, target + scene.distance_m * (1.0 + 0.1 * (c % 3)) * out)
        made.append(PinholeCamera(f"c{c}", f"x{c}", scene.width, scene.height, K, pose))
    return made
