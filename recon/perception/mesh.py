"""A user's own mesh: read, moved onto the observed cloud, filled with points.

Shapes: V vertices, F faces, N points, S surface points, I interior points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.perception.complete import Geometry, warn_if_hollow
from recon.perception.fuse import voxel_downsample
from recon.perception.table import Plane

__all__ = ["Alignment", "align_mesh", "fill_mesh", "load_mesh", "winding_number"]

_SAMPLES = 4000  # points of the mesh that a cloud is compared with
_CLOUD = 600  # points of the cloud in the coarse search
_TRIM = 0.9  # share of the cloud, nearest first, that a fit listens to


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where a mesh lies.

    Attributes:
        vertices: world [m], shape (V, 3).
        faces: shape (F, 3).
        T_world_mesh: maps the file's coordinates to the world, scale included, shape (4, 4).
        scale: that the file's lengths were multiplied by.
        error_m: mean distance from the cloud, without its worst tenth, to the mesh [m].
    """

    vertices: np.ndarray
    faces: np.ndarray
    T_world_mesh: np.ndarray
    scale: float
    error_m: float


def load_mesh(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an OBJ, PLY, STL, OFF, glTF or GLB file as one mesh.

    Args:
        path: the file.

    Returns:
        Vertices in the file's own unit, shape (V, 3), and faces, shape (F, 3).

    Raises:
        DataError: if it cannot be read or holds no triangles.
    """
    path = Path(path).expanduser()
    try:
        mesh: Any = trimesh.load(path, force="mesh", process=True)
        vertices = np.asarray(mesh.vertices, np.float64)
        faces = np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh's readers raise whatever their parsers raise
        raise DataError(
            f"it cannot be read: {error}",
            where=str(path),
            expected="a mesh as OBJ, PLY, STL, OFF, glTF or GLB",
        ) from error
    if len(faces) == 0 or not np.isfinite(vertices).all():
        raise DataError("no triangles", where=str(path), expected="a closed surface")
    return vertices, faces


def align_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    cloud: np.ndarray,
    *,
    up: np.ndarray | None = None,
    fit_scale: bool = False,
    table: Plane | None = None,
) -> Alignment:
    """Move a mesh onto a partial cloud: a search over turns, then trimmed ICP.

    Every start is a few rounds of ICP (Besl and McKay 1992) from the cloud to the mesh on few
    points; the best goes on with all. The seen side alone decides, so the distance is that of the
    cloud to the mesh, plus, where the table is known, how deep the mesh sinks into it.

    Args:
        vertices: shape (V, 3).
        faces: shape (F, 3).
        cloud: observed [m], shape (N, 3).
        up: the mesh's own up; turns about the vertical alone are then searched. None searches all.
        fit_scale: whether the file's unit is unknown: sizes are matched first, and ICP refines.
        table: the table in the world, normal up; needed with ``up``.

    Returns:
        The mesh in the world.

    Raises:
        DataError: if the cloud is too small, or ``up`` is given without a table.
    """
    if len(cloud) < 20 or (up is not None and table is None):
        raise DataError(
            f"{len(cloud)} points, up {up}, table {'known' if table else 'unknown'}",
            where="align_mesh",
            expected="at least twenty points, and a table where up is given",
        )
    surface = _samples(vertices, faces)
    scale = _size(cloud) / _size(surface) if fit_scale else 1.0
    few = cloud[:: max(1, len(cloud) // _CLOUD)]
    best: tuple[float, np.ndarray] | None = None
    for turn in _starts(up, table):
        start = np.eye(4)
        start[:3, :3] = scale * turn
        placed = surface @ start[:3, :3].T
        start[:3, 3] = 0.5 * (cloud.min(0) + cloud.max(0)) - 0.5 * (placed.min(0) + placed.max(0))
        pose = _icp(surface, few, start, rounds=8, fit_scale=False)
        cost = _cost(surface, few, pose, table)
        if best is None or cost < best[0]:
            best = cost, pose
    assert best is not None  # there is always a start
    pose = _icp(surface, cloud, best[1], rounds=60, fit_scale=fit_scale)
    error = _cost(surface, cloud, pose, None)
    placed = vertices @ pose[:3, :3].T + pose[:3, 3]
    return Alignment(placed, faces, pose, float(np.cbrt(np.linalg.det(pose[:3, :3]))), error)


def fill_mesh(vertices: np.ndarray, faces: np.ndarray, *, spacing_m: float) -> Geometry:
    """Points on and in a mesh at an even spacing.

    Args:
        vertices: world [m], shape (V, 3).
        faces: shape (F, 3).
        spacing_m: distance between points [m].

    Returns:
        A volume. Warns if there is nothing inside.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    count = max(50, int(4 * mesh.area / spacing_m**2))
    dense, _ = trimesh.sample.sample_surface(mesh, count, seed=0)
    surface = np.asarray(dense, np.float64)
    surface = surface[voxel_downsample(surface, spacing_m)]
    axes = [np.arange(low, high, spacing_m) for low, high in zip(*mesh.bounds, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) + 0.5 * spacing_m
    inside = grid[winding_number(vertices, faces, grid) > 0.5]
    if len(inside):
        away, _ = cKDTree(surface).query(inside, workers=-1)
        inside = inside[away > 0.6 * spacing_m]
    geometry = Geometry("volume", surface, inside)
    warn_if_hollow(geometry, spacing_m)
    return geometry


def winding_number(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How often a mesh winds round each point: 1 inside, 0 outside, in between where it has holes.

    Jacobson, Kavan and Sorkine, "Robust inside-outside segmentation using generalized winding
    numbers", SIGGRAPH 2013, with the solid angle of Van Oosterom and Strackee 1983.

    Args:
        vertices: [m], shape (V, 3).
        faces: shape (F, 3), all turned the same way.
        points: [m], shape (N, 3).

    Returns:
        Shape (N,), float64, its sign made positive.
    """
    corner = torch.as_tensor(vertices[faces], dtype=torch.float32)
    total = np.zeros(len(points))
    step = max(1, 4_000_000 // max(1, len(faces)))
    for begin in range(0, len(points), step):
        p = torch.as_tensor(points[begin : begin + step], dtype=torch.float32)
        a, b, c = (corner[None, :, k] - p[:, None] for k in range(3))
        la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
        volume = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)
        below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        angle = 2.0 * torch.atan2(volume, below)
        total[begin : begin + step] = angle.sum(-1).double().numpy() / (4.0 * np.pi)
    return total if total.sum() >= 0 else -total


def _samples(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, _SAMPLES, seed=0)
    return np.asarray(points, np.float64)


def _starts(up: np.ndarray | None, table: Plane | None) -> np.ndarray:
    """Rotations to start from, shape (M, 3, 3)."""
    if up is not None and table is not None:
        stand, _ = Rotation.align_vectors([table.normal], [up])
        angle = np.arange(24) * 2 * np.pi / 24
        about = Rotation.from_rotvec(angle[:, None] * table.normal)
        return np.asarray((about * stand).as_matrix())
    # The 24 turns of a cube, each also turned by an eighth about each axis: 45 degree steps.
    cube = Rotation.create_group("O")
    eighth = Rotation.from_rotvec(np.concatenate([np.zeros((1, 3)), np.eye(3) * np.pi / 4]))
    return np.concatenate([(turn * cube).as_matrix() for turn in eighth])


def _icp(
    surface: np.ndarray, cloud: np.ndarray, pose: np.ndarray, *, rounds: int, fit_scale: bool
) -> np.ndarray:
    for _ in range(rounds):
        placed = surface @ pose[:3, :3].T + pose[:3, 3]
        away, index = cKDTree(placed).query(cloud, workers=-1)
        kept = np.argsort(away)[: max(10, int(_TRIM * len(cloud)))]
        step = trimesh.registration.procrustes(
            placed[index[kept]], cloud[kept], reflection=False, scale=fit_scale, return_cost=False
        )
        pose = np.asarray(step) @ pose
        if np.abs(np.asarray(step) - np.eye(4)).max() < 1e-6:
            break
    return pose


def _cost(surface: np.ndarray, cloud: np.ndarray, pose: np.ndarray, table: Plane | None) -> float:
    placed = surface @ pose[:3, :3].T + pose[:3, 3]
    away = np.sort(cKDTree(placed).query(cloud, workers=-1)[0])
    cost = float(away[: max(10, int(_TRIM * len(away)))].mean())
    if table is not None:
        cost += float((-table.height(placed)).clip(min=0.0).mean())
    return cost


def _size(points: np.ndarray) -> float:
    """Diagonal of the bounding box: a partial view of a solid still shows most of it."""
    return float(np.linalg.norm(np.ptp(points, axis=0)))
