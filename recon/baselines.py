"""Predictions of tracks that know no physics, or next to none: what a twin must beat.

Each takes what a twin gets, the first two frames and the driven points at every frame, and what a
twin may be fitted on, the train recordings. The rope baselines (line, rigid, affine, catenary, knn)
need nodes in the order of the rope and both ends driven; "the ends" are then the innermost driven
nodes. Those of an episode are in `recon.baselines_episode`.
Shapes: T frames, N nodes, K driven points, F train frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.tracks import Tracks

__all__ = [
    "BASELINES",
    "Baseline",
    "predict_affine",
    "predict_catenary",
    "predict_hold",
    "predict_knn",
    "predict_line",
    "predict_rigid",
]

_NEIGHBOURS = 8
_UP = np.array([0.0, 0.0, 1.0])
_NEWTON_STEPS = 30  # from the series start Newton is at machine precision after about eight


class Baseline(Protocol):
    """What every baseline looks like."""

    def __call__(
        self,
        driven: np.ndarray,
        start: np.ndarray,
        *,
        driven_index: np.ndarray,
        train: Sequence[Tracks] = (),
    ) -> np.ndarray:
        """Predict all frames.

        Args:
            driven: driven points at every frame [m], shape (T, K, 3).
            start: the first two frames [m], shape (2, N, 3).
            driven_index: which nodes are driven, shape (K,).
            train: recordings of the same object to learn from.

        Returns:
            [m], shape (T, N, 3); the first two frames as given, the driven nodes where they are.

        Raises:
            DataError: if the shapes do not fit or the baseline cannot be used on this object.
        """
        ...


def predict_hold(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """The last shape stays where it is while the driven points move on; see `Baseline`."""
    del train
    driven, start, index = _checked(driven, start, driven_index)
    return _finished(np.repeat(start[1:2], len(driven), axis=0), driven, start, index)


def predict_line(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """A straight line between the ends, nodes spaced as along the rope; see `Baseline`."""
    driven, start, index = _checked(driven, start, driven_index)
    first, last = _ends(index, start.shape[1])
    along = np.concatenate([[0.0], np.cumsum(_edge_lengths(start, train))])
    share = np.clip((along - along[first]) / (along[last] - along[first]), 0.0, 1.0)
    a, b = _end_tracks(driven, index, first, last)
    return _finished(a[:, None] + (b - a)[:, None] * share[:, None], driven, start, index)


def predict_rigid(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """The last shape carried with the chord between the ends, upright; see `Baseline`."""
    del train
    return _carried(driven, start, driven_index, stretch=False)


def predict_affine(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """As rigid, and stretched along the chord as the chord is; see `Baseline`."""
    del train
    return _carried(driven, start, driven_index, stretch=True)


def predict_catenary(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """A perfectly soft chain at rest between the ends, hanging along gravity; see `Baseline`."""
    driven, start, index = _checked(driven, start, driven_index)
    first, last = _ends(index, start.shape[1])
    along = np.concatenate([[0.0], np.cumsum(_edge_lengths(start, train))])
    a, b = _end_tracks(driven, index, first, last)
    gravity = train[0].gravity if train else -_UP
    if not np.linalg.norm(gravity) > 0.0:
        raise DataError("no gravity", where="catenary", expected="a gravity to hang in")
    up = -gravity / np.linalg.norm(gravity)
    curve = _hanging_chain(a, b, along[first : last + 1] - along[first], up)
    frames = np.repeat(start[1:2], len(driven), axis=0)
    frames[:, first : last + 1] = curve
    return _finished(frames, driven, start, index)


def predict_knn(
    driven: np.ndarray,
    start: np.ndarray,
    *,
    driven_index: np.ndarray,
    train: Sequence[Tracks] = (),
) -> np.ndarray:
    """The mean of the 8 train frames whose driven points are most alike; see `Baseline`.

    Alike means after moving the middle of the chord to the origin and turning the chord to one
    compass direction, which changes nothing in the physics.
    """
    driven, start, index = _checked(driven, start, driven_index)
    if not train or any(clip.node_count != start.shape[1] for clip in train):
        raise DataError(
            "no train recordings of this object", where="knn", expected="Tracks of N nodes"
        )
    ends = _ends(index, start.shape[1])
    library = np.concatenate([clip.position for clip in train]).astype(np.float64)
    frame, middle = _upright_frames(*_end_tracks(library[:, index], index, *ends), level=True)
    shapes = np.einsum("fij,fni->fnj", frame, library - middle[:, None])
    frame, middle = _upright_frames(*_end_tracks(driven, index, *ends), level=True)
    query = np.einsum("tij,tki->tkj", frame, driven - middle[:, None])
    tree = cKDTree(shapes[:, index].reshape(len(shapes), -1))
    count = min(_NEIGHBOURS, len(shapes))
    _, nearest = tree.query(query.reshape(len(query), -1), k=range(1, count + 1))
    near = shapes[nearest]
    seen = np.isfinite(near).all(-1, keepdims=True)
    # A node that none of the eight saw falls back on its mean over all frames that did.
    every = np.isfinite(shapes).all(-1, keepdims=True)
    usual = np.where(every, shapes, 0.0).sum(0) / np.maximum(every.sum(0), 1)
    total = np.where(seen, near, 0.0).sum(1)
    mean = np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), usual)
    world = np.einsum("tij,tnj->tni", frame, mean) + middle[:, None]
    return _finished(world, driven, start, index)


BASELINES: dict[str, Baseline] = {
    "hold": predict_hold,
    "line": predict_line,
    "rigid": predict_rigid,
    "affine": predict_affine,
    "catenary": predict_catenary,
    "knn": predict_knn,
}
"""Every baseline by the name that reports use."""


def _checked(
    driven: np.ndarray, start: np.ndarray, driven_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    moved, given = np.asarray(driven, np.float64), np.asarray(start, np.float64)
    index = np.asarray(driven_index, np.int64)
    fits = moved.ndim == 3 and given.ndim == 3 and given.shape[0] == 2 and given.shape[2] == 3
    if not fits or moved.shape[1:] != (len(index), 3) or len(moved) < 2:
        raise DataError(
            f"driven {moved.shape}, start {given.shape}, driven_index {index.shape}",
            where="baseline",
            expected="(T, K, 3), (2, N, 3) and (K,), T > 1",
        )
    if not (np.isfinite(moved).all() and np.isfinite(given).all()):
        raise DataError(
            "a number is not finite",
            where="baseline: driven or start",
            expected="every node seen in the first two frames",
            fix="start at a frame where the whole object is seen",
        )
    return moved, given, index


def _finished(
    frames: np.ndarray, driven: np.ndarray, start: np.ndarray, index: np.ndarray
) -> np.ndarray:
    frames = frames.copy()
    frames[:, index] = driven
    frames[:2] = start
    return frames


def _ends(index: np.ndarray, nodes: int) -> tuple[int, int]:
    """The innermost driven nodes on either side of a rope."""
    driven = np.zeros(nodes, dtype=bool)
    driven[index] = True
    free = np.flatnonzero(~driven)
    if len(free) == 0 or not (driven[0] and driven[-1]) or np.ptp(free) + 1 != len(free):
        raise DataError(
            f"driven nodes {index.tolist()} of {nodes}",
            where="baseline: driven_index",
            expected="a rope: nodes in order, both ends driven, all between them free",
        )
    return int(free[0]) - 1, int(free[-1]) + 1


def _end_tracks(
    driven: np.ndarray, index: np.ndarray, first: int, last: int
) -> tuple[np.ndarray, np.ndarray]:
    order = index.tolist()
    return driven[:, order.index(first)], driven[:, order.index(last)]


def _edge_lengths(start: np.ndarray, train: Sequence[Tracks]) -> np.ndarray:
    """Median edge lengths of the train recordings, of the last given frame when there are none."""
    if not train:
        return np.linalg.norm(np.diff(start[1], axis=0), axis=-1)
    edges = [np.linalg.norm(np.diff(clip.position, axis=1), axis=-1) for clip in train]
    return np.asarray(np.nanmedian(np.concatenate(edges), axis=0), np.float64)


def _upright_frames(a: np.ndarray, b: np.ndarray, *, level: bool) -> tuple[np.ndarray, np.ndarray]:
    """Axes (T, 3, 3) whose first column is the chord (its level part when ``level``); its middle.

    The second column is level, so the third is as upright as the chord allows.
    """
    chord = b - a
    if level:
        chord = chord * np.array([1.0, 1.0, 0.0])
    # A chord without direction keeps the world's: there is nothing to turn.
    length = np.linalg.norm(chord, axis=-1, keepdims=True)
    x = np.where(length > 1e-9, chord / np.maximum(length, 1e-9), np.array([1.0, 0.0, 0.0]))
    y = np.cross(_UP, x)
    size = np.linalg.norm(y, axis=-1, keepdims=True)
    y = np.where(size > 1e-9, y / np.maximum(size, 1e-9), np.array([0.0, 1.0, 0.0]))
    return np.stack([x, y, np.cross(x, y)], axis=-1), 0.5 * (a + b)


def _carried(
    driven: np.ndarray, start: np.ndarray, driven_index: np.ndarray, *, stretch: bool
) -> np.ndarray:
    driven, start, index = _checked(driven, start, driven_index)
    first, last = _ends(index, start.shape[1])
    a, b = _end_tracks(driven, index, first, last)
    frame, middle = _upright_frames(a, b, level=False)
    # The shape hangs on the driven points of frame 1, which are the start's own.
    own, centre = _upright_frames(start[1:2, first], start[1:2, last], level=False)
    shape = np.repeat(((start[1] - centre) @ own[0])[None], len(driven), axis=0)
    if stretch:
        chord = np.linalg.norm(start[1, last] - start[1, first])
        shape[..., 0] *= (np.linalg.norm(b - a, axis=-1) / max(chord, 1e-9))[:, None]
    world = np.einsum("tij,tnj->tni", frame, shape) + middle[:, None]
    return _finished(world, driven, start, index)


def _hanging_chain(a: np.ndarray, b: np.ndarray, along: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Points at arc lengths ``along`` (P,) of the catenary from a to b, both (T, 3); (T, P, 3).

    With the span h, the rise v and the length l, the parameter c of y = c cosh(x / c) follows from
    sqrt(l^2 - v^2) = 2 c sinh(h / 2c).
    """
    length = along[-1]
    chord = b - a
    rise = chord @ up
    flat = chord - rise[:, None] * up
    # A vertical chord folds the chain: the limit is reached to a micrometre with a tiny span.
    span = np.maximum(np.linalg.norm(flat, axis=-1), 1e-6 * length)
    slack = np.sqrt(np.maximum(length**2 - rise**2, 0.0)) / span
    taut = slack < 1.0 + 1e-9
    u = _sinhc_inverse(np.where(taut, 2.0, slack))
    c = 0.5 * span / u
    x1 = c * np.arcsinh(rise / (2.0 * c * np.sinh(u))) - 0.5 * span
    s1 = c * np.sinh(x1 / c)
    s = s1[:, None] + along
    across = c[:, None] * np.arcsinh(s / c[:, None]) - x1[:, None]
    root, root1 = np.hypot(c[:, None], s), np.hypot(c, s1)[:, None]
    # The difference of two roots, without the cancellation of a flat chain.
    above = (s - s1[:, None]) * (s + s1[:, None]) / (root + root1)
    level = flat / span[:, None]
    curve = a[:, None] + across[..., None] * level[:, None] + above[..., None] * up
    straight = a[:, None] + (along / length)[:, None] * chord[:, None]
    return np.where(taut[:, None, None], straight, curve)


def _sinhc_inverse(value: np.ndarray) -> np.ndarray:
    """The u > 0 with sinh(u) / u = value, for value > 1, by Newton on the logarithm."""
    small = np.sqrt(6.0 * (value - 1.0))
    big = np.log(2.0 * value) + np.log(np.maximum(np.log(2.0 * value), 1.0))
    u = np.where(value < 3.0, small, big)
    for _ in range(_NEWTON_STEPS):
        # log sinh(u) = u + log1p(-exp(-2u)) - log 2 does not overflow.
        off = u + np.log1p(-np.exp(-2.0 * u)) - np.log(2.0) - np.log(u) - np.log(value)
        u = np.maximum(u - off / (1.0 / np.tanh(u) - 1.0 / u), 1e-8)
    return u
