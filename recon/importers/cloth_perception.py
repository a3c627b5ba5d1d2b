"""Clouds of a sheet that a gripper moves -> Perception, without images.

What is known beforehand is the sheet at the start (a mesh), the commanded path of the gripper that
holds one vertex, and the table. Which point is which is not known, so tracks hold frame 0 alone.
Shapes: T frames, N nodes, F triangles, M points of a cloud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from recon.clouds import PointClouds
from recon.perception.fuse import radius_inliers
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.tracks import Tracks

__all__ = ["SheetMesh", "clean_clouds", "cloth_perception", "sheet_mesh"]

# The cameras are calibrated to 6 mm, at worst 17 mm (README of the data).
_CALIBRATION_M = 0.017
# The arm was seen up to three frames behind its command (README of the data).
_MOST_LAG = 3
# Clouds are cropped up to 30 mm above the table; until the gripper has risen by more than that and
# the cameras' worst error, hardly any of the sheet is in them and what is seen is the robot.
_RISEN_M = 0.03 + _CALIBRATION_M
# Clouds hold a point every 4 to 5 mm: within 15 mm of a point of a surface lie about 30.
_STRAY_RADIUS_M, _STRAY_NEIGHBOURS = 0.015, 4


@dataclass(frozen=True, eq=False)
class SheetMesh:
    """A flat sheet, finer than its source's mesh.

    Attributes:
        vertices: flat [m], shape (N, 3); the source's own come first.
        faces: triangles, shape (F, 3).
        parent: triangle of the source's mesh that each is part of, shape (F,).
    """

    vertices: np.ndarray
    faces: np.ndarray
    parent: np.ndarray


def sheet_mesh(clouds: PointClouds, parts: int = 3) -> SheetMesh:
    """The sheet at rest, every edge of its mesh cut into parts.

    The source's mesh may have its gripped corner raised already, which stretches it; laid flat it
    has the lengths of the real sheet.

    Args:
        clouds: with a mesh.
        parts: of every edge.

    Returns:
        The mesh, level, at the height of its lowest vertex.

    Raises:
        DataError: if there is no mesh.
    """
    if clouds.mesh_vertices is None or clouds.mesh_faces is None:
        raise DataError(
            "no mesh", where=f"{clouds.name}: mesh_vertices", expected="the sheet at the start"
        )
    flat = np.array(clouds.mesh_vertices)
    flat[:, 2] = flat[:, 2].min()
    faces = np.asarray(clouds.mesh_faces)
    weights, local = _cut_triangle(parts)
    corners = flat[faces]
    points = np.einsum("kc,fcd->fkd", weights, corners).reshape(-1, 3)
    every = np.concatenate([flat, points])
    # Neighbours share points; a tenth of a millimetre tells any two that differ.
    _, first, back = np.unique(np.round(every, 4), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    index = place[np.ravel(back)][len(flat) :].reshape(len(faces), -1)
    fine = index[:, local].reshape(-1, 3)
    return SheetMesh(every[first[order]], fine, np.repeat(np.arange(len(faces)), len(local)))


def cloth_perception(clouds: PointClouds, *, parts: int = 3) -> Perception:
    """Everything that is known of a trial before any physics.

    The gripped vertex follows the path as commanded: how far the arm was behind is not recorded.

    Args:
        clouds: of a trial, with its mesh, its driven vertex and its table.
        parts: every edge of the mesh is cut into so many.

    Returns:
        A sheet that one driven point holds by its gripped vertex, which leaves it free to turn.

    Raises:
        DataError: if the mesh, the driven vertex or the table is missing.
    """
    if len(clouds.driven_vertex) != 1 or clouds.table_z_m is None:
        raise DataError(
            f"{len(clouds.driven_vertex)} driven vertices, table at {clouds.table_z_m}",
            where=f"{clouds.name}: perception",
            expected="one vertex that the gripper holds, and the height of the table",
        )
    mesh = sheet_mesh(clouds, parts)
    frames, nodes = clouds.frame_count, len(mesh.vertices)
    position = np.full((frames, nodes, 3), np.nan)
    position[0] = mesh.vertices
    visible = np.zeros((frames, nodes), bool)
    visible[0] = True
    tracks = Tracks(
        time_s=clouds.time_s,
        position=position,
        visible=visible,
        driven_index=np.zeros(0, np.int64),
        name=clouds.name,
        gravity=clouds.gravity,
        rest_position=mesh.vertices,
        source_sha256=clouds.source_sha256,
    )
    path = np.array(clouds.driven_path)
    # Where the corner starts on the flat sheet; the first command may have it in the air.
    path[0] = mesh.vertices[int(clouds.driven_vertex[0])]
    return Perception(
        tracks=tracks,
        tracked_count=nodes,
        surface_count=nodes,
        kind="sheet",
        clouds=clean_clouds(clouds),
        hands=(path[:, None],),
        table=Plane(np.array([0.0, 0.0, 1.0]), clouds.table_z_m),
        cameras=clouds.cameras,
    )


def clean_clouds(clouds: PointClouds) -> tuple[np.ndarray, ...]:
    """Clouds without what cannot be the sheet, by geometry that is known beforehand.

    A sheet that hangs from a gripper is nowhere higher than that, nowhere farther from it than the
    sheet is long; a point of it has others around it. Before the gripper has risen above what the
    source crops away with the table, clouds are mostly robot and left out whole. What this leaves
    of a robot near its gripper stays.

    Args:
        clouds: of a trial, with its mesh.

    Returns:
        T clouds [m], each (M, 3), float32.
    """
    rest = sheet_mesh(clouds, 1).vertices
    length = float(np.linalg.norm(rest[None] - rest[:, None], axis=-1).max())
    risen = np.maximum.accumulate(clouds.driven_path[:, 2]) - clouds.driven_path[0, 2]
    cleaned = []
    for frame, cloud in enumerate(clouds.clouds):
        if risen[frame] <= _RISEN_M:
            cleaned.append(cloud[:0])
            continue
        recent = clouds.driven_path[max(0, frame - _MOST_LAG) : frame + 1]
        keep = cloud[:, 2] <= recent[:, 2].max() + _CALIBRATION_M
        away = np.linalg.norm(cloud[:, None] - recent, axis=-1).min(axis=1, initial=np.inf)
        keep &= away <= length + _CALIBRATION_M
        kept = cloud[keep]
        near = radius_inliers(kept, radius_m=_STRAY_RADIUS_M, neighbours=_STRAY_NEIGHBOURS)
        cleaned.append(kept[near])
    return tuple(cleaned)


def _cut_triangle(parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights (K, 3) of points on a triangle, and its small triangles (parts^2, 3)."""
    place: dict[tuple[int, int], int] = {}
    for i in range(parts + 1):
        for j in range(parts + 1 - i):
            place[i, j] = len(place)
    weights = np.array([((parts - i - j), i, j) for i, j in place]) / parts
    small = []
    for i, j in place:
        if i + j < parts:
            small.append((place[i, j], place[i + 1, j], place[i, j + 1]))
        if i + j < parts - 1:
            small.append((place[i + 1, j], place[i + 1, j + 1], place[i, j + 1]))
    return weights, np.array(small)
