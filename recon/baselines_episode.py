"""Predictions of an episode that know no physics: what a twin made from images must beat.

They know frame 0 and the recorded grippers and hands alone.
Shapes: T frames, N points, K driven points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError

if TYPE_CHECKING:
    from recon.perception.driven import GripperTrack

__all__ = ["predict_carried", "predict_frozen"]

_CORNERS = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def predict_frozen(points: np.ndarray, frames: int) -> np.ndarray:
    """The object stays as it is in frame 0, whatever moves it.

    Args:
        points: the object in frame 0 [m], shape (N, 3).
        frames: T.

    Returns:
        [m], shape (T, N, 3), float32.
    """
    return np.repeat(np.asarray(points, np.float32)[None], frames, axis=0)


def predict_carried(
    points: np.ndarray,
    frames: int,
    *,
    grippers: Sequence[GripperTrack] = (),
    hands: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The object of frame 0 moves rigidly with what holds or pushes it.

    A gripper carries from when it closes on the object, a tool from when it touches it
    (`recon.perception.driven.driven_from_gripper`), until it lets go; a hand from frame 0. Of
    several, it is the rigid motion that fits the corners of their boxes, or the points of the
    hands, best.

    Args:
        points: the object in frame 0 [m], shape (N, 3).
        frames: T.
        grippers: recorded, T frames each.
        hands: points of hands [m], each (T, K, 3).

    Returns:
        [m], shape (T, N, 3), float32.

    Raises:
        DataError: if a gripper or hand has another number of frames.
    """
    from physgym.frames import apply_T
    from recon.perception.driven import driven_from_gripper

    start = np.asarray(points, np.float64)
    lengths = [len(gripper.closed) for gripper in grippers] + [len(hand) for hand in hands]
    if any(length != frames for length in lengths):
        what = f"grippers and hands of {lengths} frames"
        raise DataError(what, where="predict_carried", expected=f"{frames} frames")
    before, after = [np.zeros((0, 3))], [np.zeros((frames, 0, 3))]
    for gripper in grippers:
        held = driven_from_gripper(gripper, lambda frame: start)
        if held is None:
            continue
        corners = _CORNERS * np.array(gripper.jaw_half_m)
        when = np.arange(frames).clip(held.start, held.stop - 1)
        after.append(apply_T(gripper.T_world_gripper[when], corners[None]))
        before.append(apply_T(gripper.T_world_gripper[held.start], corners))
    for hand in hands:
        after.append(np.asarray(hand, np.float64))
        before.append(after[-1][0])
    if not sum(len(part) for part in before):
        return predict_frozen(start, frames)
    turn, shift = _rigid_fits(np.concatenate(before), np.concatenate(after, axis=1))
    moved = np.einsum("tij,nj->tni", turn, start) + shift[:, None]
    return np.asarray(moved, np.float32)


def _rigid_fits(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (T, 3, 3) and shifts (T, 3) from points (K, 3) to (T, K, 3) (Kabsch 1976)."""
    a, b = before.mean(axis=0), after.mean(axis=1)
    spread = np.einsum("ki,tkj->tij", before - a, after - b[:, None])
    # Points on a line do not tell the roll about it: this little settles for the least turn.
    weight = 1e-10 * max(float(((before - a) ** 2).sum()), 1e-6)
    u, _, vt = np.linalg.svd(spread + weight * np.eye(3))
    flip = np.repeat(np.eye(3)[None], len(after), axis=0)
    flip[:, 2, 2] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    turn = np.swapaxes(u @ flip @ vt, 1, 2)
    return turn, b - np.einsum("tij,j->ti", turn, a)
