"""Recordings cut into clips that a simulation can start from.

Shapes: T frames, N nodes, K driven points.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["Segment", "cut_segments"]


@dataclass(frozen=True)
class Segment:
    """One stretch of a recording, simulated from its second frame on.

    The first frame only gives the initial velocity.

    Attributes:
        name: recording and first frame.
        position: the start [m], shape (N, 3).
        velocity: from the first two frames [m/s], shape (N, 3).
        driven: from the start on [m], shape (T, K, 3).
        target: what was seen after the start [m], shape (T-1, N, 3); NaN where not seen.
        dt_s: time between frames [s].
    """

    name: str
    position: np.ndarray
    velocity: np.ndarray
    driven: np.ndarray
    target: np.ndarray
    dt_s: float


def cut_segments(recordings: list[Tracks], segment_s: float | None = None) -> list[Segment]:
    """Cut recordings into segments whose first two frames were seen whole.

    Args:
        recordings: one object, one topology, one frame rate.
        segment_s: length [s]; None keeps each recording in one piece.

    Returns:
        At least one segment.

    Raises:
        DataError: if the recordings do not fit together, the length is not positive, or none has
            two whole frames to start from.
    """
    _check_alike(recordings)
    if segment_s is not None and not segment_s > 0:
        raise DataError(f"{segment_s} s", where="segment_s", expected="more than 0, or None")
    segments: list[Segment] = []
    for tracks in recordings:
        seen: np.ndarray = np.asarray(tracks.visible.all(axis=1))
        starts = np.flatnonzero(seen[:-1] & seen[1:])
        length = tracks.frame_count
        if segment_s is not None:
            length = max(3, round(segment_s / tracks.dt_s))
        first = 0
        while True:
            later = starts[starts >= first]
            if len(later) == 0 or later[0] + 3 > tracks.frame_count:
                break
            begin, end = int(later[0]), min(int(later[0]) + length, tracks.frame_count)
            segments.append(_segment(tracks, begin, end))
            # The next starts where this one ended; a stub shorter than half a segment is left out.
            first = end - 1
            if tracks.frame_count - first < max(3, length // 2):
                break
    if not segments:
        raise DataError(
            "no recording has two neighbouring frames in which every point was seen, and one more",
            where=", ".join(t.name for t in recordings[:5]),
            expected="a start from which the object can be simulated, and something to compare",
            fix="record again with all points in view at the start, or fill in the missing points",
        )
    return segments


def _segment(tracks: Tracks, begin: int, end: int) -> Segment:
    x = tracks.position.astype(np.float64)
    return Segment(
        name=f"{tracks.name}@{begin}",
        position=x[begin + 1],
        velocity=(x[begin + 1] - x[begin]) / tracks.dt_s,
        driven=tracks.position[begin + 1 : end, tracks.driven_index],
        target=tracks.position[begin + 2 : end],
        dt_s=tracks.dt_s,
    )


def _check_alike(recordings: list[Tracks]) -> None:
    if not recordings:
        raise DataError("no recordings", where="reconstruct", expected="at least one")
    first = recordings[0]
    if not len(first.free_index):
        raise DataError(
            "every point is driven",
            where=f"{first.name}: driven_index",
            expected="at least one point whose motion tells something",
            fix="name as driven only what the grippers hold",
        )
    for other in recordings[1:]:
        alike = (
            other.node_count == first.node_count
            and np.array_equal(other.driven_index, first.driven_index)
            and np.allclose(other.gravity, first.gravity)
        )
        if not alike:
            raise DataError(
                f"{other.name} has {other.node_count} points, driven {list(other.driven_index)}; "
                f"{first.name} has {first.node_count}, driven {list(first.driven_index)}",
                where="reconstruct",
                expected="recordings of one object with the same points, driven points and gravity",
                fix="reconstruct them one by one",
            )
        if abs(other.dt_s - first.dt_s) > 1e-6:
            warnings.warn(
                f"{other.name} runs at {1 / other.dt_s:.1f} Hz, {first.name} at "
                f"{1 / first.dt_s:.1f} Hz; each is simulated at its own rate",
                PhysGymWarning,
                stacklevel=3,
            )
