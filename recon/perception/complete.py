"""Whole geometry from partial views: closed volume, sheet or rope.

Cameras see the outside of an object from some sides. A twin needs the rest: the inside of a toy,
the cloth under a fold's shadow, the line inside a rope. No generative model is used: a volume is
what the silhouettes, the free space in front of the measured depth, the table and the convex hull
of the seen points leave over; a user's own mesh takes precedence (`recon.perception.mesh`).
Shapes: N observed points, S surface points, I interior points, G grid cells, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import ConvexHull, QhullError

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.perception.fuse import voxel_downsample
from recon.perception.rope_line import line_length_m, rope_line
from recon.perception.table import Plane
from recon.tracks import PhysGymWarning

__all__ = [
    "Geometry",
    "Silhouette",
    "complete",
    "complete_sheet",
    "complete_volume",
    "guess_kind",
    "warn_if_hollow",
]

Kind = Literal["volume", "sheet", "rope"]

# An object whose lowest seen points are nearer to the table than this, and than half of its seen
# height, rests on it: what is lower is hidden by the object itself.
_RESTS_M = 0.05
_MOST_CELLS = 2_000_000
_THICKEST_SHEET_M = 0.012  # a towel folded twice


@dataclass(frozen=True, eq=False)
class Geometry:
    """A whole object at one instant.

    Attributes:
        kind: volume, sheet or rope.
        surface: [m], shape (S, 3): points all over the surface of a volume, the nodes of a sheet,
            or the nodes of a rope in their order from end to end.
        interior: [m], shape (I, 3), of a volume; else empty.
        radius_m: of a rope [m]; None for other kinds.
    """

    kind: Kind
    surface: np.ndarray
    interior: np.ndarray
    radius_m: float | None = None


@dataclass(frozen=True, eq=False)
class Silhouette:
    """What one camera says about where the object is not.

    Attributes:
        camera: the camera.
        depth_m: [m], shape (H, W).
        mask: the object, shape (H, W), bool.
        blocked: what hides the object (gripper, hand), shape (H, W), bool, or None.
    """

    camera: PinholeCamera
    depth_m: np.ndarray
    mask: np.ndarray
    blocked: np.ndarray | None = None


def guess_kind(points: np.ndarray, *, table: Plane | None = None) -> Kind:
    """Rope, sheet or volume, from the shape of an observed cloud.

    Args:
        points: observed cloud [m], shape (N, 3).
        table: what it may lie on, normal up, or None.

    Returns:
        ``rope`` where a centre line can be drawn that is eight times longer than the cloud is wide
        about it; ``sheet`` where the cloud is thinner than a sixth of its second extent; else
        ``volume``. A flat top that stays up over the table is a volume's. A folded or hanging sheet
        passes for a volume, and without a table, a box seen from above for a sheet: users should
        say what they have.

    Raises:
        DataError: if there are fewer than ten points.
    """
    if len(points) < 10:
        raise DataError(f"{len(points)} points", where="guess_kind", expected="at least ten")
    try:
        line, radius = rope_line(points, spacing_m=0.02)
        if line_length_m(line) > 16.0 * radius:
            return "rope"
    except DataError:
        pass  # no rope
    thin = points[voxel_downsample(points, 0.004)]
    size = _extents(thin)
    if size[2] >= size[1] / 6.0:
        return "volume"
    if table is not None:
        normal = np.linalg.svd(thin - thin.mean(axis=0), full_matrices=False)[2][2]
        lies = abs(float(normal @ table.normal)) > 0.95 and table.height(thin).min() < _RESTS_M
        if lies and np.median(table.height(thin)) > _THICKEST_SHEET_M:
            return "volume"
    return "sheet"


def complete(
    kind: Kind,
    points: np.ndarray,
    *,
    spacing_m: float,
    table: Plane | None = None,
    silhouettes: Sequence[Silhouette] = (),
    floors: Sequence[Plane] = (),
) -> Geometry:
    """The whole of an object of a known kind.

    Args:
        kind: volume, sheet or rope.
        points: its fused cloud [m], shape (N, 3).
        spacing_m: distance between new points [m].
        table: what it may rest on, normal up, or None.
        silhouettes: one per camera; a volume is carved with them.
        floors: see `complete_volume`.

    Returns:
        Its geometry.

    Raises:
        DataError: if there are too few points.
    """
    if kind == "rope":
        line, radius = rope_line(points, spacing_m=spacing_m, table=table)
        return Geometry("rope", line, np.zeros((0, 3)), radius)
    if kind == "sheet":
        return complete_sheet(points, spacing_m=spacing_m)
    return complete_volume(
        points, spacing_m=spacing_m, table=table, silhouettes=silhouettes, floors=floors
    )


def complete_volume(
    points: np.ndarray,
    *,
    spacing_m: float,
    table: Plane | None = None,
    silhouettes: Sequence[Silhouette] = (),
    floors: Sequence[Plane] = (),
) -> Geometry:
    """Fill a closed object.

    The convex hull of the seen points and of what they hide bounds it: their feet on the table; off
    the table their mirror images, behind, where a single camera looks, else through the middle of
    the object, where they are over the floors. Every camera then carves away what it would have
    seen through (Kutulakos and Seitz, "A theory of shape by space carving", IJCV 2000, with depth
    in the place of photo-consistency).

    Args:
        points: fused cloud [m], shape (N, 3).
        spacing_m: side of a cell [m].
        table: what it may rest on, normal up, or None.
        silhouettes: one per camera; without any, the hull is kept whole.
        floors: planes, normal up, below which there is nothing but what was seen
            (`recon.perception.flight_floor`).

    Returns:
        Centres of its outermost cells and of its inner cells. Warns if there are no inner ones.

    Raises:
        DataError: if the points span no volume, or the grid would be too fine.
    """
    cells, shape = _hull_cells(points, spacing_m, table, silhouettes, floors)
    inside = cells.inside
    for silhouette in silhouettes:
        inside[inside] = ~_seen_through(silhouette, cells.centre[inside], spacing_m)
    filled = ndimage.binary_closing(np.pad(inside.reshape(shape), 1))[1:-1, 1:-1, 1:-1]
    label, count = ndimage.label(filled)
    if count > 1:
        sizes = np.bincount(label.ravel())[1:]
        filled = np.isin(label, 1 + np.flatnonzero(sizes > 0.02 * sizes.max()))
    core = ndimage.binary_erosion(filled)
    centre = cells.centre.reshape(*shape, 3)
    geometry = Geometry("volume", centre[filled & ~core], centre[core])
    warn_if_hollow(geometry, spacing_m)
    return geometry


def warn_if_hollow(geometry: Geometry, spacing_m: float) -> None:
    """Say so when a volume would be simulated as a shell.

    Args:
        geometry: any.
        spacing_m: that it was made with [m].
    """
    if geometry.kind == "volume" and len(geometry.interior) == 0:
        warnings.warn(
            f"the volume has {len(geometry.surface)} surface points and none inside at a spacing "
            f"of {1e3 * spacing_m:.1f} mm: it would bend like a paper bag. Lower the spacing, "
            "give the object's mesh, or call it a sheet",
            PhysGymWarning,
            stacklevel=3,
        )


def complete_sheet(points: np.ndarray, *, spacing_m: float, hole_m: float = 0.04) -> Geometry:
    """Fill the holes of a sheet and put nodes on it at an even spacing.

    The sheet is a height over the plane that it mostly lies along, so of the layers of a fold only
    the mean remains: take the geometry from a frame in which it is spread out.

    Args:
        points: fused cloud [m], shape (N, 3).
        spacing_m: distance between nodes [m].
        hole_m: holes up to this wide are filled [m].

    Returns:
        Its nodes.

    Raises:
        DataError: if there are fewer than ten points.
    """
    if len(points) < 10:
        raise DataError(f"{len(points)} points", where="complete_sheet", expected="at least ten")
    middle = points.mean(axis=0)
    axes = np.linalg.svd(points - middle, full_matrices=False)[2]
    local = (points - middle) @ axes.T
    low = local[:, :2].min(axis=0)
    cell = np.floor((local[:, :2] - low) / spacing_m).astype(int)
    pad = int(np.ceil(hole_m / spacing_m)) + 1
    count = np.zeros(cell.max(axis=0) + 1 + 2 * pad)
    height = np.zeros_like(count)
    np.add.at(count, tuple((cell + pad).T), 1)
    np.add.at(height, tuple((cell + pad).T), local[:, 2])
    seen = count > 0
    disc = np.hypot(*np.mgrid[-pad : pad + 1, -pad : pad + 1]) <= 0.5 * hole_m / spacing_m
    covered = ndimage.binary_closing(seen, disc) if disc.sum() > 1 else seen
    known = np.argwhere(seen).astype(float)
    value = (height[seen] / count[seen])[:, None]
    wanted = np.argwhere(covered).astype(float)
    found = LinearNDInterpolator(known, value)(wanted)[:, 0]
    inside = np.isfinite(found)
    flat = (wanted[inside] - pad + 0.5) * spacing_m + low
    nodes = np.column_stack([flat, found[inside]]) @ axes + middle
    return Geometry("sheet", nodes, np.zeros((0, 3)))


@dataclass(frozen=True, eq=False)
class _Cells:
    centre: np.ndarray
    inside: np.ndarray


def _hull_cells(
    points: np.ndarray,
    spacing_m: float,
    table: Plane | None,
    silhouettes: Sequence[Silhouette],
    floors: Sequence[Plane],
) -> tuple[_Cells, tuple[int, ...]]:
    where = "complete_volume"
    if len(points) < 10:
        raise DataError(f"{len(points)} points", where=where, expected="at least ten")
    hidden = _hidden(points, table, silhouettes)
    for floor in floors:
        hidden = hidden - floor.height(hidden).clip(max=0.0)[:, None] * floor.normal
    bounded = np.concatenate([points, hidden])
    try:
        hull = ConvexHull(bounded)
    except QhullError as error:
        raise DataError(
            f"{len(points)} points span no volume",
            where=where,
            expected="points that are not all in one plane",
            fix="call the object a sheet, or give the table's height",
        ) from error
    low, high = bounded.min(axis=0), bounded.max(axis=0)
    size = np.ceil((high - low) / spacing_m).astype(int).clip(min=1)
    if np.prod(size) > _MOST_CELLS:
        raise DataError(
            f"{np.prod(size)} cells of {1e3 * spacing_m:.1f} mm",
            where=where,
            expected=f"at most {_MOST_CELLS}",
            fix="raise the spacing, and check the cloud for strays",
        )
    start = 0.5 * (low + high) - 0.5 * (size - 1) * spacing_m
    axes = [start[i] + spacing_m * np.arange(size[i]) for i in range(3)]
    centre = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.ones(len(centre), bool)
    for side in hull.equations:
        inside[inside] = centre[inside] @ side[:3] + side[3] <= 0.0
    return _Cells(centre, inside), tuple(int(n) for n in size)


def _hidden(
    points: np.ndarray, table: Plane | None, silhouettes: Sequence[Silhouette]
) -> np.ndarray:
    """Points that may bound what the seen ones hide, shape (M, 3)."""
    low, high = (0.0, 0.0) if table is None else np.percentile(table.height(points), [1, 99])
    if table is not None and low < min(_RESTS_M, 0.01 + 0.5 * (high - low)):
        return np.asarray(points - table.height(points)[:, None] * table.normal)
    if len(silhouettes) == 1:
        return _mirrored(points, silhouettes[0].camera)
    middle = _middle(silhouettes)
    return points[:0] if middle is None else 2.0 * middle - points


def _middle(silhouettes: Sequence[Silhouette]) -> np.ndarray | None:
    """Where rays through the middles of whole silhouettes meet [m], shape (3,).

    Cameras that look down see no underside. What is as far on the other side of this point as the
    seen points are on theirs may be the object, where no silhouette says that it is not.
    None where fewer than two cameras see the whole object.
    """
    square, right, count = np.zeros((3, 3)), np.zeros(3), 0
    for view in silhouettes:
        edge = np.ones_like(view.mask)
        edge[1:-1, 1:-1] = False
        if view.blocked is not None:
            edge |= view.blocked
        if not view.mask.any() or (ndimage.binary_dilation(view.mask) & edge).any():
            continue
        row, column = (axis.mean() for axis in np.nonzero(view.mask))
        way = view.camera.T_world_cam[:3, :3] @ view.camera.pixel_rays(np.array([[column, row]]))[0]
        across = np.eye(3) - np.outer(way, way) / (way @ way)
        square += across
        right += across @ view.camera.position
        count += 1
    # Cameras that look along one line do not tell where on it the object is.
    apart = count > 1 and np.linalg.eigvalsh(square)[0] > 1e-3
    return np.linalg.solve(square, right) if apart else None


def _mirrored(points: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """The seen half of an object, turned round the plane where its seen part ends."""
    direction = points.mean(axis=0) - camera.position
    direction /= np.linalg.norm(direction)
    along = points @ direction
    return np.asarray(points + 2.0 * (np.percentile(along, 99.5) - along)[:, None] * direction)


def _seen_through(view: Silhouette, points: np.ndarray, slack_m: float) -> np.ndarray:
    """Which points a camera looks past: beside the silhouette, or in front of a measured depth."""
    pixel, depth = view.camera.project(points)
    in_image = np.isfinite(pixel).all(axis=1) & view.camera.visible(np.nan_to_num(pixel, nan=-9.0))
    column = np.rint(np.nan_to_num(pixel[:, 0])).astype(int).clip(0, view.camera.width - 1)
    row = np.rint(np.nan_to_num(pixel[:, 1])).astype(int).clip(0, view.camera.height - 1)
    # A silhouette is good to a pixel, so a cell may stick out by half of itself.
    reach = max(1, round(0.5 * slack_m * view.camera.K[0, 0] / max(float(np.median(depth)), 1e-3)))
    wide = ndimage.binary_dilation(view.mask, iterations=int(reach))
    measured = view.depth_m[row, column]
    beside = ~wide[row, column]
    before = view.mask[row, column] & (measured > 0) & (depth < measured - slack_m)
    past = beside | before
    if view.blocked is not None:
        past &= ~view.blocked[row, column]
    # In front of the silhouette's surroundings something else may hide the object.
    hidden = beside & (measured > 0) & (measured < depth - slack_m)
    return np.asarray(in_image & past & ~hidden)


def _extents(points: np.ndarray) -> np.ndarray:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return np.asarray(spread / np.sqrt(len(points)) * np.sqrt(12.0))  # of a uniform distribution
