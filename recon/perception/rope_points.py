"""Tracked points of a rope, kept from sliding along it.

Across a rope depth and outline tell where a point is; along it, flow has little to hold on to, and
points creep. But a rope does not stretch: how far a point lies from the others along the centre
line stays as it was. So each point is bound to its arc length in the first frame, and moved along
the line of each later frame to where its neighbours, most of which do not creep, say it is.
Points carried by the line alone (arc length and offset) are worse than those tracks: the line ends
where a gripper hides the end, and what is measured from there is off by that.
Shapes: T frames, N points, P nodes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.rope_line import rope_line, rope_lines
from recon.perception.table import Plane
from recon.perception.track import PointTracks
from recon.tracks import PhysGymWarning

__all__ = ["kept_from_sliding"]

_NODE_M = 0.003
_NEIGHBOURS_M = 0.10  # along the rope; less follows one creeping stretch, more the line's own error
_FEWEST = 5
_FAR_M = 0.03  # a point further from the line is none of this rope's: it is left as it is


def kept_from_sliding(
    tracks: PointTracks, clouds: Sequence[np.ndarray], *, table: Plane | None = None
) -> PointTracks:
    """Take the creep along a rope out of its tracks.

    Args:
        tracks: of points on the rope, all seen in the first frame.
        clouds: fused cloud of each frame [m], T of shape (M, 3).
        table: what the rope may rest on, normal up.

    Returns:
        The same points, seen in the same frames. Where the line of a frame is not found they stay
        as they were tracked; a warning says so where that is the first, and so holds for all.
    """
    try:
        first, _ = rope_line(np.asarray(clouds[0], np.float64), spacing_m=_NODE_M, table=table)
    except DataError as error:
        warnings.warn(f"no line of the rope in frame 0: {error.what}", PhysGymWarning, stacklevel=3)
        return tracks
    lines = rope_lines(clouds, count=max(20, len(first)), table=table)
    if not np.isfinite(lines[0]).all():  # in later frames it is far longer: half of it was hidden
        warnings.warn("half the rope is hidden in frame 0: tracks may slide", PhysGymWarning, 3)
        return tracks
    rest, _ = _along(lines[0], tracks.position[0])
    position = tracks.position.copy()
    for frame in range(1, len(position)):
        seen = np.flatnonzero(tracks.visible[frame])
        line = lines[frame]
        if len(seen) < _FEWEST or not np.isfinite(line).all():
            continue
        now, away = _along(line, position[frame, seen])
        seen, now = seen[away < _FAR_M], now[away < _FAR_M]
        if len(seen) < _FEWEST:
            continue
        wanted = rest[seen] + _usual(rest[seen], now - rest[seen])
        position[frame, seen] += _at(line, wanted) - _at(line, now)
    return PointTracks(position, tracks.visible, tracks.camera_index, tracks.rgb)


def _usual(rest: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What most neighbours of each point are shifted by along the line [m], shape (N,).

    The mean of the shortest interval that holds half of them (the shorth, Andrews et al., "Robust
    estimates of location", 1972): creeping points all creep one way, which pulls a median along.
    """
    found = np.empty(len(rest))
    for number, own in enumerate(rest):
        values = np.sort(shift[np.abs(rest - own) < _NEIGHBOURS_M])
        half = len(values) // 2
        begin = int((values[half:] - values[: len(values) - half]).argmin())
        found[number] = values[begin : begin + half + 1].mean()
    return found


def _arc(line: np.ndarray) -> np.ndarray:
    """Distance of each node from the first along the line [m], shape (P,)."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])


def _along(line: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arc length of each point's foot on the line, and its distance from it [m], (N,) each."""
    arc, step = _arc(line), np.diff(line, axis=0)
    near = cKDTree(line).query(points, k=min(4, len(line)))[1].reshape(len(points), -1)
    near = near.clip(max=len(step) - 1)
    length = np.linalg.norm(step, axis=1)
    off = points[:, None] - line[near]
    share = ((off * step[near]).sum(axis=2) / (length[near] ** 2).clip(1e-12)).clip(0.0, 1.0)
    away = np.linalg.norm(off - share[..., None] * step[near], axis=2)
    row, best = np.arange(len(points)), away.argmin(axis=1)
    chosen = near[row, best]
    return arc[chosen] + share[row, best] * length[chosen], away[row, best]


def _at(line: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Points at arc lengths [m], shape (N, 3); straight on beyond the ends."""
    arc = _arc(line)
    found = np.stack([np.interp(wanted, arc, line[:, axis]) for axis in range(3)], axis=1)
    for node, inner, beyond in ((0, 3, arc[0] - wanted), (-1, -4, wanted - arc[-1])):
        out = line[node] - line[inner]
        found += beyond.clip(min=0.0)[:, None] * out / max(float(np.linalg.norm(out)), 1e-12)
    return found
