"""Hands that cameras followed: points of hand masks, tracked, one group per hand.

Shapes: T frames, K hand points, C cameras, H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from physgym.errors import DataError
from recon.perception.driven import driven_from_tracks
from recon.perception.flow import TrackConfig
from recon.perception.lift import LiftConfig, View
from recon.perception.plugins import PointTracker
from recon.perception.track import PointTracks, fuse_tracks, track_view
from recon.tracks import PhysGymWarning

__all__ = ["apart", "followed_hands"]

_VOXEL_M = 0.003
# Points of one hand are nearer than this to the next of them; two hands are further apart.
_ONE_HAND_M = 0.03
_FEWEST = 10


def followed_hands(
    views: Sequence[View],
    masks: Mapping[str, Sequence[Sequence[np.ndarray]]],
    *,
    count: int = 30,
    track: TrackConfig | None = None,
    lift: LiftConfig | None = None,
    tracker: PointTracker | None = None,
) -> tuple[np.ndarray, ...]:
    """Points of every hand over all frames.

    Args:
        views: C views.
        masks: by label, C of T masks of shape (H, W); one label may show two hands.
        count: most points K of a hand.
        track: how points are tracked.
        lift: how depth is read.
        tracker: follows pixels; flow when None.

    Returns:
        One array (T, K, 3) [m] per hand, finite. A hand that is not in the first frame, or that no
        camera sees for a while, is left out with a warning.
    """
    found = []
    for label, mask in masks.items():
        parts = [
            track_view(view, own, config=track, lift=lift, tracker=tracker)
            for view, own in zip(views, mask, strict=True)
        ]
        merged = fuse_tracks(parts, voxel_m=_VOXEL_M)
        for hand in apart(merged.select(merged.visible[0])):
            try:
                found.append(driven_from_tracks(hand, count=count).position)
            except DataError as error:
                warnings.warn(f"{label}: left out: {error.what}", PhysGymWarning, stacklevel=3)
    return tuple(found)


def apart(tracks: PointTracks) -> list[PointTracks]:
    """Tracks of things that lie apart in the first frame.

    Args:
        tracks: all seen in the first frame.

    Returns:
        One for each thing of at least ten points; all together where there is no such thing.
    """
    start = tracks.position[0]
    if len(start) == 0:
        return [tracks]
    pair = cKDTree(start).query_pairs(_ONE_HAND_M, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pair)), pair.T), shape=(len(start),) * 2)
    label = connected_components(graph, directed=False)[1]
    large = np.flatnonzero(np.bincount(label) >= _FEWEST)
    return [tracks.select(label == k) for k in large] or [tracks]
