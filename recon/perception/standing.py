"""The object without a prompt: what stands on the table, seen by all cameras together.

Everything above the table is lifted from all cameras into one grid and parted into clusters there,
so that all cameras take the same thing. Grippers of known pose are taken out, colour decides what
is close to them. Of the clusters, the largest wins that rests on the table, is not as high as an
arm, and is not cut off by the images' borders as walls, people and arms are.
Shapes: C cameras, N points, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.camera import PinholeCamera
from physgym.frames import apply_T, inverse_T
from recon.perception.colour import ColourModel, colour_share, parts_touched
from recon.perception.driven import GripperTrack
from recon.perception.lift import View, depth_edges
from recon.perception.table import Plane, height_above
from recon.tracks import PhysGymWarning

__all__ = ["HIGHEST_M", "above_table", "near_gripper", "standing_out"]

CLEARANCE_M = 0.006
HIGHEST_M = 0.6  # what stands higher above the table is no soft object on it
_VOXEL_M = 0.01
_LINK_M = 0.021  # one empty voxel between two full ones does not part them
_RESTS_M = 0.04  # a camera that looks down does not see an object's foot
_BORDER_PX = 3
_WIDEST_M = 0.8
# Fingers, palm and wrist reach so far to the sides of the jaws, and the arm so far behind them.
_ASIDE_M = 0.07
_BEHIND_M = 0.5
_ARM_M = 0.1  # from so far behind the jaws on, nothing but palm and arm
_FEWEST_ARM = 100  # pixels that tell its colours
_FACE_M = 0.002  # noise of depth puts points of the jaws' faces between them
_FEWEST_BETWEEN = 20  # pixels of what jaws are about to hold
_PAD_M = 0.005  # noise of depth puts points of the jaws between them
_FEWEST_VOXELS = 8
_PLATE_M = 0.012  # noise and flying pixels of depth put points of a plate so far off it


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Pixels of one camera that stand out."""

    mask: np.ndarray
    row_column: np.ndarray
    points: np.ndarray


def above_table(view: View, table: Plane, hidden: np.ndarray | None = None) -> np.ndarray:
    """Pixels of the first frame whose points stand above the table.

    Args:
        view: the camera.
        table: the plane.
        hidden: what is not of the object for sure, shape (H, W), bool.

    Returns:
        Shape (H, W), bool.
    """
    depth = np.asarray(view.depth_m[0])
    height = height_above(view.camera, depth, table)
    found = (height > CLEARANCE_M) & (height < HIGHEST_M)
    # Two things, one in front of the other, are one region of the image but for the jump of depth.
    found &= ~depth_edges(depth)
    return np.asarray(found if hidden is None else found & ~hidden)


def near_gripper(
    T_world_gripper: np.ndarray,
    jaw_half_m: tuple[float, float, float],
    points: np.ndarray,
    up: np.ndarray,
) -> np.ndarray:
    """Which points may be the gripper's own: beside the jaws, or behind them along the arm.

    What lies between the jaws or in front of them is not.

    Args:
        T_world_gripper: its pose, shape (4, 4).
        jaw_half_m: half sizes of the box between its jaws [m].
        points: [m], shape (N, 3).
        up: unit, shape (3,). A gripper that points down has its arm above; which of its axes it
            points along differs from make to make. Of one that is held aslant, a ball about the
            jaws counts.

    Returns:
        Shape (N,), bool.
    """
    half = np.array(jaw_half_m)
    along = _along_arm(T_world_gripper, points, up)
    if along is None:
        local = apply_T(inverse_T(T_world_gripper), points)
        ball = np.linalg.norm(local, axis=1) < np.linalg.norm(half) + _ASIDE_M
        return np.asarray(ball & ~(np.abs(local) < half - _PAD_M).all(axis=1))
    axis, back, aside = along
    across = np.delete(half, axis)
    near = (aside.max(axis=1) < across.max() + _ASIDE_M) & (back > -half[axis] - 0.01)
    held = (aside < across - _PAD_M).all(axis=1) & (back < half[axis])
    return np.asarray(near & (back < _BEHIND_M) & ~held)


def _along_arm(
    T_world_gripper: np.ndarray, points: np.ndarray, up: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Axis of a gripper that points down, how far behind it (N,) and aside (N, 2) points are."""
    local = apply_T(inverse_T(T_world_gripper), points)
    upward = T_world_gripper[:3, :3].T @ up
    axis = int(np.abs(upward).argmax())
    if abs(upward[axis]) < 0.8:
        return None
    return axis, np.sign(upward[axis]) * local[:, axis], np.abs(np.delete(local, axis, axis=1))


@dataclass(frozen=True, eq=False)
class _Regions:
    """Points near grippers: the grippers' own perhaps, their arms' for sure, between their jaws."""

    doubtful: np.ndarray
    arm: np.ndarray
    between: np.ndarray

    @classmethod
    def of(cls, grippers: Sequence[GripperTrack], points: np.ndarray, up: np.ndarray) -> _Regions:
        """Every gripper's together, each of shape (N,), bool."""
        found = cls(*np.zeros((3, len(points)), bool))
        for gripper in grippers:
            pose, half = gripper.T_world_gripper[0], np.array(gripper.jaw_half_m)
            if not gripper.jaws:  # a plate: solid, and nothing is between anything
                local = apply_T(inverse_T(pose), points)
                own = (np.abs(local) < half + _PLATE_M).all(axis=1)
                found.doubtful[own] = True
                found.arm[own] = True
                continue
            near = near_gripper(pose, gripper.jaw_half_m, points, up)
            found.doubtful[near] = True
            along = _along_arm(pose, points, up)
            if along is not None:
                axis, back, aside = along
                found.arm[near & (back > _ARM_M)] = True
                inside = (aside < np.delete(half, axis) - _FACE_M).all(axis=1)
                found.between[inside & (back < half[axis])] = True
        return found

    @property
    def tells_colours(self) -> bool:
        """Whether enough of an arm is seen."""
        return int(self.arm.sum()) >= _FEWEST_ARM


def standing_out(
    views: Sequence[View],
    table: Plane,
    *,
    hidden: Sequence[np.ndarray] | None = None,
    grippers: Sequence[GripperTrack] = (),
    in_jaws: bool = False,
) -> list[np.ndarray]:
    """The object in the first frame of every camera.

    Args:
        views: C views.
        table: what it lies on, normal up.
        hidden: what is not of the object for sure, C of shape (H, W), bool.
        grippers: of known pose, to be left out.
        in_jaws: the object may be all in or beside the jaws: take what does not have the arm's
            colours there, or all that stands out where it is all in the jaws.

    Returns:
        C masks, shape (H, W), bool; empty where a camera does not see it, and all empty where
        nothing stands out.
    """
    parts = [
        _candidates(view, table, None if hidden is None else hidden[c])
        for c, view in enumerate(views)
    ]
    every = np.concatenate([part.points for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.points) for part in parts])
    near = _Regions.of(grippers, every, table.normal)
    use = ~near.doubtful
    if in_jaws and near.tells_colours:
        use = _unlike(views, parts, ~near.arm, near.arm) & ~near.arm
    elif in_jaws and near.doubtful.all() and any(gripper.closed[0] for gripper in grippers):
        use = near.doubtful
    cluster = _clusters(every, use)
    best = _best(every, cluster, owner, parts, views, table)
    chosen = np.zeros(len(every), bool) if best is None else cluster == best
    if in_jaws and near.tells_colours and (chosen & near.between).sum() < _FEWEST_BETWEEN:
        chosen[:] = False  # fingers of another colour than the arm
    doubtful = near.doubtful & ~use
    if near.tells_colours:
        if not in_jaws and chosen.any():
            chosen = _joined(views, parts, every, chosen, near)
        doubtful = doubtful & near.arm
    return _masks(views, parts, owner, chosen, doubtful)


def _joined(
    views: Sequence[View],
    parts: Sequence[_Candidates],
    points: np.ndarray,
    chosen: np.ndarray,
    near: _Regions,
) -> np.ndarray:
    """The chosen points with those near a gripper that have their colours and touch them.

    Colours are of all cameras: one of them may see the object between fingers alone.
    """
    alike = _unlike(views, parts, chosen, near.arm) & near.doubtful & ~near.arm
    cluster = _clusters(points, chosen | alike)
    touched = np.setdiff1d(cluster[chosen], [-1])
    return np.asarray(chosen | (alike & np.isin(cluster, touched)))


def _unlike(
    views: Sequence[View], parts: Sequence[_Candidates], front: np.ndarray, back: np.ndarray
) -> np.ndarray:
    """Which points have colours rather of some points than of others, shape (N,), bool."""
    rgb = [np.asarray(v.rgb[0])[tuple(p.row_column.T)] for v, p in zip(views, parts, strict=True)]
    share = colour_share(np.concatenate(rgb)[:, None], front[:, None], back[:, None])[:, 0]
    found, end = [], 0
    for part in parts:
        image = np.zeros(part.mask.shape, np.float32)
        end += len(part.row_column)
        image[tuple(part.row_column.T)] = share[end - len(part.row_column) : end]
        weight = cv2.GaussianBlur(part.mask.astype(np.float32), (0, 0), 1.0)
        smooth = cv2.GaussianBlur(image, (0, 0), 1.0) / np.maximum(weight, 1e-6)
        found.append(smooth[tuple(part.row_column.T)] > 0.5)
    return np.concatenate(found)


def _masks(
    views: Sequence[View],
    parts: Sequence[_Candidates],
    owner: np.ndarray,
    of_object: np.ndarray,
    doubtful: np.ndarray,
) -> list[np.ndarray]:
    """Masks of chosen points, and of the doubtful ones that touch them and look like them."""
    masks = []
    for c, part in enumerate(parts):
        mask = np.zeros(part.mask.shape, np.uint8)
        own = owner == c
        chosen = part.row_column[of_object[own]]
        mask[chosen[:, 0], chosen[:, 1]] = 1
        near = np.zeros(part.mask.shape, bool)
        unsure = part.row_column[doubtful[own]]
        near[unsure[:, 0], unsure[:, 1]] = True
        masks.append(_by_colour(np.asarray(views[c].rgb[0]), mask > 0, near))
    return masks


def _candidates(view: View, table: Plane, hidden: np.ndarray | None) -> _Candidates:
    mask = above_table(view, table, hidden)
    row_column = np.argwhere(mask)
    depth = np.asarray(view.depth_m[0])[mask]
    rays = view.camera.pixel_rays(row_column[:, ::-1])
    points = apply_T(view.camera.T_world_cam, rays * depth[:, None])
    return _Candidates(mask, row_column, points)


def _clusters(points: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Number of each point's cluster, shape (N,); -1 for points that are not used."""
    label = np.full(len(points), -1)
    if not use.any():
        return label
    cell, inverse, count = np.unique(
        np.floor(points[use] / _VOXEL_M).astype(np.int64),
        axis=0,
        return_inverse=True,
        return_counts=True,
    )
    # A lone pixel between two things is a flying one: it must not join them.
    full = count >= 3
    centre = (cell[full] + 0.5) * _VOXEL_M
    pair = cKDTree(centre).query_pairs(_LINK_M, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pair)), pair.T), shape=(len(centre),) * 2)
    number = np.full(len(cell), -1)
    number[full] = connected_components(graph, directed=False)[1]
    label[use] = number[inverse.ravel()]
    return label


def _best(
    points: np.ndarray,
    cluster: np.ndarray,
    owner: np.ndarray,
    parts: Sequence[_Candidates],
    views: Sequence[View],
    table: Plane,
) -> int | None:
    """The cluster that is most likely the object."""
    if len(cluster) == 0 or cluster.max() < 0:
        return None
    count = int(cluster.max()) + 1
    known = cluster >= 0
    height = table.height(points)
    # Size by voxels, not by pixels: a near camera must not outvote the others.
    cell = np.column_stack([np.floor(points[known] / _VOXEL_M).astype(np.int64), cluster[known]])
    size = np.bincount(np.unique(cell, axis=0)[:, 3], minlength=count).astype(float)
    at_border = np.concatenate(
        [_touching(part.row_column, view.camera) for part, view in zip(parts, views, strict=True)]
    )
    score, against = size.copy(), np.zeros(count, np.int64)
    likely = np.argsort(-size)[:20]
    score[np.setdiff1d(np.arange(count), likely)] = 0.0
    score[size < _FEWEST_VOXELS] = 0.0
    for number in likely:
        own = cluster == number
        low, high = np.percentile(height[own], [1, 99.5])
        wide = np.ptp(np.percentile(points[own], [1, 99], axis=0), axis=0).max() > _WIDEST_M
        seeing = np.unique(owner[own])
        cut = [bool(at_border[own & (owner == c)].sum() > 10) for c in seeing]
        against[number] = sum(
            (low > _RESTS_M, high > 0.9 * HIGHEST_M, bool(np.mean(cut) >= 0.5), bool(wide))
        )
        # What hangs in the air and is cut off is an arm, however little else there is; what is
        # wide and cut off is a wall.
        score[number] *= (1.0, 0.1, 0.0, 0.0, 0.0)[against[number]] * len(seeing) / len(parts)
    best = int(score.argmax())
    if score[best] > 0 and against[best]:
        warnings.warn(
            "what stands on the table looks like a part of a robot or of the room, or is held by "
            "one whose pose is not known: check the masks, or point the object out with a prompt",
            PhysGymWarning,
            stacklevel=5,
        )
    return best if score[best] > 0 else None


def _touching(row_column: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """Which pixels lie at the border of the image."""
    last = np.array([camera.height, camera.width]) - 1
    return np.asarray(((row_column < _BORDER_PX) | (row_column > last - _BORDER_PX)).any(axis=1))


def _by_colour(rgb: np.ndarray, mask: np.ndarray, unsure: np.ndarray) -> np.ndarray:
    """The mask with those of the unsure pixels that touch it and look like it."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    closed &= ~unsure
    if not unsure.any() or closed.sum() < 50:
        return np.asarray(closed)
    odds = cv2.GaussianBlur(ColourModel(rgb, closed).probability(rgb), (0, 0), 1.0)
    return parts_touched(closed | (unsure & (odds > 0.5)), closed)
