"""True motion of a simulated body, beside a recording whose surface only masks tell.

Shapes: T frames, N points.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from recon.perception.result import Perception
from recon.tracks import Tracks
from recon.true_tracks import truth_at

__all__ = ["outer_truth"]


def outer_truth(truth: Tracks, perception: Perception) -> Tracks | None:
    """The true points on the body's surface, at the perception's frames.

    A visual hull is wider than the body, so that none may lie on it (`recon.true_tracks`): taken
    are those that are nearest to any point of the hull's surface in frame 0.

    Args:
        truth: on the perception's clock; inside points too.
        perception: of `recon.perceive_video`.

    Returns:
        Tracks of T frames without driven points; None when none is seen in frame 0.
    """
    found = truth_at(truth, perception.time_s)
    seen = np.flatnonzero(found.visible[0])
    if len(seen) == 0:
        return None
    shell = np.asarray(perception.tracks.rest_position)[perception.surface]
    _, nearest = cKDTree(found.position[0, seen]).query(shell)
    chosen = seen[np.unique(nearest)]
    return dataclasses.replace(
        found,
        position=found.position[:, chosen],
        visible=found.visible[:, chosen],
        driven_index=np.zeros(0, np.int64),
        rest_position=None,
    )
