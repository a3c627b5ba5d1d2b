"""Bend a known object onto a partial cloud without stretching it.

Matching to the nearest (`physgym.registration.pull`) and solving for the shape
(`physgym.registration.body`) take turns, as in ICP. Stiffness goes down from stage to stage, so
large motions are found first; what nobody saw follows its neighbours.
Shapes: N nodes, S springs, M cloud points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.registration.body import Body
from physgym.registration.pull import Skin, Stage, Target, match_of, pull_of
from physgym.registration.rope import rope_starts
from physgym.registration.surface import Cloud, Surface, checked_points, even_cloud, find_surface

if TYPE_CHECKING:
    from physgym.sim.contact import GroundPlane

__all__ = ["ShapeFit", "checked_springs", "fit_shape", "register_shape"]

# A rope and a sheet bend freely and keep their lengths; a volume keeps its shape where it can.
_STAGES = {
    "volume": (
        Stage(100, 10, 0.3, 0),
        Stage(30, 5, 0.1, 0),
        Stage(10, 3, 0.03, 0),
        Stage(5, 2, 0.01, 0),
    ),
    "sheet": (
        Stage(10, 10, 0.3, 0.5),
        Stage(3, 10, 0.1, 0.5),
        Stage(0.5, 10, 0.03, 0.5),
        Stage(0.1, 10, 0, 0.5),
    ),
    "rope": (
        Stage(1, 10, 0.3, 0.3),
        Stage(0.3, 10, 0.1, 0.3),
        Stage(0.1, 10, 0.03, 0.3),
        Stage(0.05, 10, 0, 0.3),
    ),
}
_ITERATIONS = {"volume": 8, "sheet": 24, "rope": 12}  # sheets slide far along themselves
_FRACTIONS = {"volume": 2, "sheet": 2, "rope": 4}  # of an edge between two discs


@dataclass(frozen=True, eq=False)
class ShapeFit:
    """A shape.

    Attributes:
        position: nodes [m], shape (N, 3), float64.
        cost_m: mean distance from the cloud to the nodes' discs, plus the strain over a spacing.
        gap_m: median distance from the cloud to the nodes' discs.
        strain_rms: root mean square over the springs of length over rest length minus one.
        start: which of the starts it came from.
    """

    position: np.ndarray
    cost_m: float
    gap_m: float
    strain_rms: float
    start: int


def register_shape(
    points: np.ndarray,
    edges: np.ndarray,
    rest_length_m: np.ndarray,
    cloud: np.ndarray,
    *,
    kind: str,
    starts: Sequence[np.ndarray] | None = None,
    surface_mask: np.ndarray | None = None,
    iterations: int | None = None,
    ground: GroundPlane | None = None,
    radius_m: float = 0.0,
) -> ShapeFit:
    """Find the shape of an object in a partial cloud.

    Args:
        points: nodes in the rest shape [m], shape (N, 3); of a rope in order along it.
        edges: springs as pairs of nodes, shape (S, 2).
        rest_length_m: of the springs [m], shape (S,).
        cloud: what cameras saw of it [m], shape (M, 3).
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``.
        starts: where nodes are thought to be [m], each of shape (N, 3), such as the rigid fit; the
            best end wins, the first of equals. None for ``points``, and of a rope for the line
            through the cloud in both directions.
        surface_mask: which nodes are outside, shape (N,); None finds out.
        iterations: matchings in each of the four stages; None takes what suits the kind.
        ground: what no node goes below.
        radius_m: of a rope, whose nodes are on its centre line; 0 puts them in the cloud.

    Returns:
        The shape.

    Raises:
        DataError: if an array has a wrong shape or number, or there are too few points.
    """
    points = checked_points(points, "points", least=3)
    cloud = checked_points(cloud, "cloud", least=20)
    edges, length = checked_springs(edges, rest_length_m, len(points))
    if kind not in _STAGES:
        raise DataError(f"kind {kind!r}", where="kind", expected=", ".join(_STAGES))
    if starts is not None:
        starts = [checked_points(start, "starts", least=len(points)) for start in starts]
    surface = find_surface(points, kind=kind, mask=surface_mask)
    thin = even_cloud(cloud, max(0.5 * surface.spacing_m, 1e-4))
    fits = fit_shape(
        Body(points, edges, length, ground),
        surface,
        thin,
        kind=kind,
        starts=starts,
        iterations=iterations,
        radius_m=radius_m,
    )
    return fits[0]


def fit_shape(
    body: Body,
    surface: Surface,
    cloud: Cloud,
    *,
    kind: str,
    starts: Sequence[np.ndarray] | None = None,
    iterations: int | None = None,
    radius_m: float = 0.0,
) -> list[ShapeFit]:
    """`register_shape` of an object and a cloud that are prepared.

    Args:
        body: the object; its nodes are moved.
        surface: its outer nodes.
        cloud: the cloud.
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``.
        starts: where nodes are thought to be [m], each of shape (N, 3).
        iterations: matchings in each of the four stages; None takes what suits the kind.
        radius_m: of a rope.

    Returns:
        The shape that each start leads to, the best first.
    """
    if starts is None:
        starts = [body.rest]
        if kind == "rope":
            starts = rope_starts(body.rest, cloud.points, cloud.cell_m)
    skin = Skin(surface, body, _FRACTIONS[kind], radius_m)
    target = Target(cloud, cKDTree(cloud.points))
    size = float(np.linalg.norm(np.ptp(cloud.points, axis=0)))
    fits = []
    for number, start in enumerate(starts):
        body.position = start.copy()
        for level, stage in enumerate(_STAGES[kind]):
            gate = max(0.3 * size * 0.4**level, 2.0 * surface.spacing_m)
            near = body.factorise(skin.mix, stage)
            for _ in range(iterations or _ITERATIONS[kind]):
                body.solve(skin.mix, pull_of(skin, body, target, stage, gate), stage, near)
        miss, strain = match_of(skin, body, cloud).miss_m, body.strain_rms()
        cost = float(np.minimum(miss, 0.1 * size).mean()) + strain * surface.spacing_m
        fits.append(ShapeFit(body.position, cost, float(np.median(miss)), strain, number))
    return sorted(fits, key=lambda fit: fit.cost_m)


def checked_springs(
    edges: np.ndarray, rest_length_m: np.ndarray, node_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse what is no list of springs.

    Args:
        edges: pairs of nodes, shape (S, 2).
        rest_length_m: [m], shape (S,).
        node_count: N.

    Returns:
        Pairs and lengths as int64 and float64.

    Raises:
        DataError: if a shape, a node or a length is wrong.
    """
    pairs = np.asarray(edges)
    length = np.asarray(rest_length_m, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1:] != (2,) or pairs.dtype.kind not in "iu" or not len(pairs):
        raise DataError(f"{pairs.dtype} of shape {pairs.shape}", where="edges", expected="(S, 2)")
    if pairs.min() < 0 or pairs.max() >= node_count:
        raise DataError(
            f"nodes {pairs.min()} to {pairs.max()}",
            where="edges",
            expected=f"0 to {node_count - 1}",
        )
    if length.shape != (len(pairs),) or not np.isfinite(length).all() or not (length > 0).all():
        raise DataError(
            f"shape {length.shape}",
            where="rest_length_m",
            expected=f"{len(pairs)} lengths above zero",
        )
    return pairs.astype(np.int64), length
