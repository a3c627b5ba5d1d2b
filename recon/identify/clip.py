"""From a perception to what a search sees: an even clock, fewer nodes, grips, thinned clouds.

Shapes: T ticks, N nodes, K driven points, M points of a cloud.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError, cKDTree

from physgym.errors import DataError
from physgym.grip import Grip, Pusher
from physgym.sim.contact import GroundPlane
from recon.identify.even_clock import EvenClock, even_clock
from recon.identify.handling import handling_of, touches
from recon.identify.rope_nodes import RopeNodes, rope_nodes, seen_nodes
from recon.perception.fuse import voxel_downsample
from recon.perception.result import Kind, Perception
from recon.tracks import PhysGymWarning

__all__ = [
    "Clip",
    "above_ground",
    "ground_of",
    "make_clip",
    "thinned_nodes",
    "with_footprint",
]

# A first frame counts as rest up to this; it is what tracks wander by on a still object.
_STILL_M = 0.004
_CLOUD_POINTS = 250


def ground_of(perception: Perception) -> GroundPlane | None:
    """The table as a plane that nodes stay above."""
    if perception.table is None:
        return None
    x, y, z = (float(c) for c in perception.table.normal)
    return GroundPlane((x, y, z), float(perception.table.offset_m))


def thinned_nodes(points: np.ndarray, spacing_m: float, most: int) -> tuple[np.ndarray, float]:
    """Fewer points, evenly; those that come first are kept first.

    Args:
        points: [m], shape (N, 3).
        spacing_m: least distance that is worth keeping [m].
        most: keep no more than so many.

    Returns:
        Indices, and the side of the cubes that kept them [m].
    """
    keep = voxel_downsample(points, spacing_m)
    while len(keep) > most:
        spacing_m *= 1.06
        keep = voxel_downsample(points, spacing_m)
    return keep, spacing_m


@dataclass(frozen=True, eq=False)
class Clip:
    """One episode as a search sees it.

    Attributes:
        name: of the recording.
        kind: what the object is.
        dt_s: time between ticks [s].
        rest_position: nodes at the start [m], shape (N, 3); none below the ground.
        surface: which of them are surface, shape (N,), bool.
        position: where nodes were seen [m], shape (T, N, 3); NaN where not.
        clouds: what was seen without knowing which point it is [m], T arrays (M, 3).
        grips: what holds it.
        pushers: what pushes it.
        ground: what it lies on, or None.
        gravity: [m/s^2], shape (3,).
        first: tick from which something happens; before it the object rests.
        stop: one past the last tick that may be learned from.
        straight_position: of a rope, the nodes with the rope pulled straight [m], shape (N, 3);
            None of anything else.
    """

    name: str
    kind: Kind
    dt_s: float
    rest_position: np.ndarray
    surface: np.ndarray
    position: np.ndarray
    clouds: tuple[np.ndarray, ...]
    grips: tuple[Grip, ...]
    pushers: tuple[Pusher, ...]
    ground: GroundPlane | None
    gravity: np.ndarray
    first: int
    stop: int
    straight_position: np.ndarray | None = None


def make_clip(
    perception: Perception, *, most_nodes: int, stop_frame: int, seed: int = 0
) -> tuple[Clip, np.ndarray, EvenClock]:
    """Prepare a perception for the search.

    Args:
        perception: of an episode.
        most_nodes: N at most.
        stop_frame: frames from here on are not learned from.
        seed: of the choice among cloud points.

    Returns:
        The clip, which points of the perception its nodes are (none of a rope, whose nodes stand
        around its centre line), and its clock.

    Raises:
        DataError: if too little is left to learn from.
    """
    tracks = perception.tracks
    clock = even_clock(tracks.time_s)
    rest = np.asarray(tracks.rest_position, np.float64)
    ground = ground_of(perception)
    if perception.kind == "volume" and ground is not None:
        keep = _standing(rest, most_nodes, ground)
    else:
        keep, _ = thinned_nodes(rest, 1e-4, most_nodes)
    rope = _rope_of(perception, most_nodes) if perception.kind == "rope" else None
    if rope is None:
        nodes, surface = above_ground(rest[keep], ground), perception.surface[keep]
        seen, straight = tracks.position[:, keep], None
    else:
        nodes, surface = above_ground(rope.position, ground), np.ones(len(rope.position), bool)
        seen = seen_nodes(rope.position, rest, tracks.position, radius_m=rope.radius_m)
        keep, straight = np.zeros(0, np.int64), rope.straight
    position = np.full((clock.ticks, len(nodes), 3), np.nan, np.float32)
    position[clock.tick] = seen
    clouds = [np.zeros((0, 3), np.float32)] * clock.ticks
    rng = np.random.default_rng([seed, 11])
    for frame, cloud in enumerate(perception.clouds):
        few = rng.permutation(len(cloud))[:_CLOUD_POINTS]
        clouds[clock.tick[frame]] = cloud[few]
    grips, pushers, until = handling_of(perception, clock, nodes)
    if not grips and not pushers:
        warnings.warn(
            f"{perception.name}: nothing holds or pushes the object, so only its fall and rest are "
            "learned",
            PhysGymWarning,
            stacklevel=2,
        )
    stop = min(int(clock.tick[min(stop_frame, len(clock.tick)) - 1]) + 1, clock.ticks, until)
    first = _first_motion(position, [g.start for g in grips] + touches(pushers, nodes))
    if stop - first < 5:
        raise DataError(
            f"the object is first moved in frame {first} and learning ends before frame {stop}",
            where=f"{perception.name}: clip",
            expected="at least five frames of motion to learn from",
            fix="raise --train, or record a shorter wait before the motion",
        )
    clip = Clip(
        perception.name,
        perception.kind,
        clock.dt_s,
        nodes,
        surface,
        position,
        tuple(clouds),
        tuple(grips),
        tuple(pushers),
        ground,
        np.asarray(tracks.gravity, np.float64),
        first,
        stop,
        straight,
    )
    return clip, keep, clock


def _rope_of(perception: Perception, most_nodes: int) -> RopeNodes | None:
    """A truss along the rope as it lies in the first frame; None where no line goes through."""
    tracks = perception.tracks
    rest = np.asarray(tracks.rest_position, np.float64)[: perception.surface_count]
    cloud = [np.asarray(c, np.float64) for c in perception.clouds[:1]]
    points = np.concatenate([rest, *cloud])
    return rope_nodes(points, table=perception.table, most_nodes=most_nodes)


def _standing(points: np.ndarray, most: int, ground: GroundPlane) -> np.ndarray:
    """At most so many nodes, with the corners of the footprint among them."""
    room = most
    while True:
        keep, spacing_m = thinned_nodes(points, 1e-4, room)
        found = with_footprint(points, keep, spacing_m, ground)
        if len(found) <= most or room <= most // 2:
            return found if len(found) <= most else keep
        room -= len(found) - most


def with_footprint(
    points: np.ndarray, keep: np.ndarray, spacing_m: float, ground: GroundPlane
) -> np.ndarray:
    """Thinned nodes with the corners of what the object stands on among them.

    Cubes keep one point each, which may leave the lowest layer on one side of the middle: the twin
    topples at rest, and a search finds drag or friction that holds it up.

    Args:
        points: of the object [m], shape (N, 3).
        keep: indices of those that were kept.
        spacing_m: distance between them [m].
        ground: below.

    Returns:
        Indices, a few more; those nearest to a corner give way to it.
    """
    if len(keep) == len(points):
        return keep
    normal = np.array(ground.normal)
    height = points @ normal
    low = np.flatnonzero(height < height.min() + 0.25 * spacing_m)
    flat = points[low] @ np.linalg.svd(normal[None])[2][1:].T
    try:
        corners = low[ConvexHull(flat).vertices]
    except (QhullError, ValueError):  # it stands on a line or a point
        return keep
    corners = corners[voxel_downsample(points[corners], 0.5 * spacing_m)]
    away, _ = cKDTree(points[corners]).query(points[keep])
    return np.union1d(keep[away > 0.5 * spacing_m], corners)


def above_ground(nodes: np.ndarray, ground: GroundPlane | None) -> np.ndarray:
    """Points lifted onto the ground: depth noise puts some under it, from where contact throws.

    Args:
        nodes: [m], shape (N, 3).
        ground: the plane, or None.

    Returns:
        [m], shape (N, 3).
    """
    if ground is None:
        return nodes
    normal = np.array(ground.normal)
    depth = np.minimum(nodes @ normal - ground.offset_m, 0.0)
    return np.asarray(nodes - depth[:, None] * normal)


def _first_motion(position: np.ndarray, starts: list[int]) -> int:
    """Tick before the first contact, where the object was seen at rest until then; else 0."""
    if not starts:
        return 0
    first = max(min(starts) - 1, 0)
    moved = np.linalg.norm(position[: first + 1] - position[0], axis=-1)
    if first == 0 or np.isnan(moved[1:]).all():
        return 0
    return first if float(np.nanmedian(moved[first])) < _STILL_M else 0
