"""Driven points: what a gripper, a tool or a hand holds, known at all times.

Three sources, best first: the object's points between the jaws when they close, carried rigidly by
the recorded pose; points of a tool that pushes; tracks of a hand or gripper that cameras see. A
recording starts before contact, and driven points must not drag the object while their owner is
still on its way: until contact they wait where contact will be.
Shapes: T frames, N points, K driven points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.frames import apply_T, inverse_T
from recon.perception.track import PointTracks

__all__ = [
    "DrivenPoints",
    "GripperTrack",
    "driven_from_gripper",
    "driven_from_tracks",
    "farthest_points",
    "join_driven",
]

# Fingers hide what they hold, so the box between the jaws is grown by so much, in steps, until
# enough seen points lie in it.
_GROWTH_M = (0.0, 0.005, 0.01, 0.02)
_FEWEST = 6


@dataclass(frozen=True, eq=False)
class DrivenPoints:
    """Motion of driven points.

    Attributes:
        position: world [m], shape (T, K, 3), float64, finite.
        start: first frame from which they hold or touch the object; before it they stand still.
        stop: one past the last frame in which they do; what follows is the object's own motion.
        source: where they came from: ``"jaws"``, ``"tool"`` or ``"tracks"``.
    """

    position: np.ndarray
    start: int
    stop: int
    source: str


@dataclass(frozen=True, eq=False)
class GripperTrack:
    """A gripper or tool as recorded, on the frames' clock.

    Attributes:
        T_world_gripper: shape (T, 4, 4); the origin lies between the jaws.
        closed: shape (T,), bool; all True for a tool that has no jaws.
        jaw_half_m: half sizes of the box between the jaws [m], shape (3,), in the gripper's axes.
        tool_half_m: half sizes of the box that pushes: the closed fingers, or a plate [m]; None
            takes ``jaw_half_m``.
        tool_centre_m: middle of that box in the gripper's axes [m].
        jaws: False for a plate, which has none and only pushes.
    """

    T_world_gripper: np.ndarray
    closed: np.ndarray
    jaw_half_m: tuple[float, float, float]
    tool_half_m: tuple[float, float, float] | None = None
    tool_centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    jaws: bool = True

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises:
            DataError: with the shapes.
        """
        if self.T_world_gripper.shape != (len(self.closed), 4, 4) or min(self.jaw_half_m) <= 0:
            raise DataError(
                f"poses {self.T_world_gripper.shape}, closed {self.closed.shape}, "
                f"jaws {self.jaw_half_m}",
                where="GripperTrack",
                expected="(T, 4, 4), (T,) and three lengths above zero",
            )


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Farthest point sampling, from the point nearest to the middle.

    Args:
        points: shape (N, 3).
        count: how many; all are taken where there are no more.

    Returns:
        Indices, shape (min(N, count),), int64, in the order of choice.
    """
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    away = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def driven_from_gripper(
    gripper: GripperTrack,
    object_points: Callable[[int], np.ndarray],
    *,
    count: int = 30,
    touch_m: float = 0.01,
) -> DrivenPoints | None:
    """What a gripper holds, or pushes with.

    Args:
        gripper: its recorded motion.
        object_points: the object's points at a frame [m], shape (N, 3).
        count: most points K.
        touch_m: a tool that is nearer to the object than this touches it [m].

    Returns:
        Driven points of the longest time for which it stays closed. Where nothing lies between the
        jaws then, or it never closes, it pushes, from when it first touches the object; None where
        it never does.
    """
    start, stop = _longest_run(gripper.closed)
    held = _held(gripper, object_points, start) if gripper.jaws and stop > start else None
    if held is not None:
        return _carried(gripper, held[farthest_points(held, count)], start, stop, "jaws")
    if stop == start:
        start, stop = 0, len(gripper.closed)
    tool = _box_surface(gripper.tool_half_m or gripper.jaw_half_m) + gripper.tool_centre_m
    tool = tool[farthest_points(tool, count)]
    for frame in range(start, stop):
        there = object_points(frame)
        if len(there) == 0:
            continue
        placed = apply_T(gripper.T_world_gripper[frame], tool)
        if cKDTree(there).query(placed)[0].min() < touch_m:
            return _carried(gripper, tool, frame, stop, "tool")
    return None


def _held(
    gripper: GripperTrack, object_points: Callable[[int], np.ndarray], start: int
) -> np.ndarray | None:
    """The object's points between the jaws as they close, in the gripper's frame, (N, 3)."""
    # As the fingers close they push what they grip, so look when the jaws say they are closed, and
    # one frame before, when they hide less.
    for frame in (start, max(start - 1, 0)):
        there = object_points(frame)
        local = apply_T(inverse_T(gripper.T_world_gripper[frame]), there)
        for growth in _GROWTH_M:
            held = local[(np.abs(local) <= np.array(gripper.jaw_half_m) + growth).all(axis=1)]
            if len(held) >= _FEWEST:
                return np.asarray(held)
    return None


def driven_from_tracks(
    tracks: PointTracks, *, count: int = 30, least_share: float = 0.5
) -> DrivenPoints:
    """Driven points from the tracks of a hand or gripper.

    PhysTwin keeps tracks that are seen in every frame. Here a track may be hidden for up to half of
    them: it is then carried by the rigid motion of those that are seen (a hand that turns hides
    its own points).

    Args:
        tracks: of the hand, in the first frame and after.
        count: most points K.
        least_share: share of the frames in which a point must be seen.

    Returns:
        Their motion, over all frames.

    Raises:
        DataError: if fewer than three points are left, or fewer than three are seen in a frame.
    """
    seen = tracks.visible
    kept = np.flatnonzero(seen[0] & (seen.mean(axis=0) >= least_share))
    if len(kept) < 3 or seen[:, kept].sum(axis=1).min() < 3:
        frame = int(seen[:, kept].sum(axis=1).argmin()) if len(kept) else 0
        raise DataError(
            f"{len(kept)} points of the hand were tracked, {int(seen[frame, kept].sum())} of them "
            f"in frame {frame}",
            where="driven_from_tracks",
            expected="at least three in every frame",
            fix="record the gripper's pose, or move so that a camera sees the hand all the time",
        )
    position, seen = tracks.position[:, kept].copy(), seen[:, kept]
    for frame in range(1, len(position)):
        now = seen[frame]
        turn, shift = _rigid(position[frame - 1, now], position[frame, now])
        position[frame, ~now] = position[frame - 1, ~now] @ turn.T + shift
    # Whole tracks first: what was filled in is the second choice.
    whole = np.flatnonzero(seen.all(axis=0))
    pool = whole if len(whole) >= count else np.arange(len(kept))
    chosen = pool[farthest_points(position[0, pool], count)]
    return DrivenPoints(position[:, chosen], 0, len(position), "tracks")


def join_driven(parts: list[DrivenPoints]) -> DrivenPoints:
    """Driven points of several owners as one.

    Args:
        parts: of each gripper or hand.

    Returns:
        All of them; they hold until the first owner lets go.

    Raises:
        DataError: if there are none.
    """
    if not parts:
        raise DataError("no driven points", where="join_driven", expected="at least one owner")
    return DrivenPoints(
        np.concatenate([p.position for p in parts], axis=1),
        min(p.start for p in parts),
        min(p.stop for p in parts),
        "+".join(sorted({p.source for p in parts})),
    )


def _carried(
    gripper: GripperTrack, local: np.ndarray, start: int, stop: int, source: str
) -> DrivenPoints:
    frames = np.arange(len(gripper.closed)).clip(start, stop - 1)
    position = apply_T(gripper.T_world_gripper[frames], np.broadcast_to(local, (1, *local.shape)))
    return DrivenPoints(position, start, stop, source)


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    padded = np.concatenate([[False], np.asarray(flags, bool), [False]])
    edge = np.flatnonzero(padded[1:] != padded[:-1])
    if len(edge) == 0:
        return 0, 0
    begin, end = edge[::2], edge[1::2]
    longest = int((end - begin).argmax())
    return int(begin[longest]), int(end[longest])


def _box_surface(half_m: tuple[float, float, float]) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 3, indexing="ij"), axis=-1)
    flat = grid.reshape(-1, 3)
    return np.asarray(flat[(np.abs(flat) == 1).any(axis=1)] * half_m)


def _rigid(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and shift that take points to points, least squares (Kabsch 1976)."""
    a, b = start.mean(axis=0), end.mean(axis=0)
    u, _, vt = np.linalg.svd((start - a).T @ (end - b))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    turn = vt.T @ flip @ u.T
    return turn, b - turn @ a
