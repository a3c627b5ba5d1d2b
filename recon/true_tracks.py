"""True motion of a simulated body, made comparable with what was perceived of it.

Shapes: T frames, N points.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from recon.perception.result import Perception
from recon.silhouettes import point_spacing
from recon.tracks import Tracks

__all__ = ["true_surface", "truth_at"]


def truth_at(truth: Tracks, time_s: np.ndarray) -> Tracks:
    """True tracks at other times, interpolated.

    Args:
        truth: on the same clock.
        time_s: stamps wanted [s], shape (T,), increasing.

    Returns:
        Tracks of T frames; a point counts as seen where the frames about that time both saw it,
        and the time is no more than half a frame outside the recording.
    """
    given = truth.time_s
    wanted = np.asarray(time_s, np.float64)
    if len(given) == len(wanted) and np.allclose(given, wanted, rtol=0, atol=1e-6):
        return truth
    slack = 0.5 * float(np.median(np.diff(given))) if len(given) > 1 else 0.0
    inside = (wanted >= given[0] - slack) & (wanted <= given[-1] + slack)
    after = np.searchsorted(given, wanted).clip(1, max(len(given) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(given) - 1)
    gap = np.maximum(given[after] - given[before], 1e-12)
    share = ((wanted - given[before]) / gap).clip(0.0, 1.0)[:, None]
    share = np.where(share < 1e-6, 0.0, np.where(share > 1 - 1e-6, 1.0, share))
    seen = (truth.visible[before] | (share == 1)) & (truth.visible[after] | (share == 0))
    seen &= inside[:, None]
    early, late = (np.nan_to_num(truth.position[frame]) for frame in (before, after))
    position = (1 - share[..., None]) * early + share[..., None] * late
    position[~seen] = np.nan
    return Tracks(
        time_s=wanted,
        position=position,
        visible=seen,
        driven_index=np.zeros(0, np.int64),
        name=truth.name,
        gravity=truth.gravity,
    )


def true_surface(truth: Tracks, perception: Perception) -> Tracks | None:
    """The true points on the object's surface, at the perception's frames.

    A simulated cell knows every vertex of its body, inside ones too; of the surface are those that
    lie less than a point spacing, or a rope's radius, off the perceived surface in frame 0.

    Args:
        truth: on the perception's clock.
        perception: of the recording.

    Returns:
        Tracks of T frames without driven points; None when no true point lies there.
    """
    found = truth_at(truth, perception.time_s)
    rest = perception.tracks.rest_position
    assert rest is not None  # Perception refuses tracks without it
    shell = rest[perception.surface]
    reach = max(point_spacing(shell), perception.tracks.radius_m or 0.0)
    seen = np.flatnonzero(found.visible[0])
    away, _ = cKDTree(shell).query(found.position[0, seen])
    chosen = seen[away < reach]
    if len(chosen) == 0:
        return None
    return dataclasses.replace(
        found,
        position=found.position[:, chosen],
        visible=found.visible[:, chosen],
        driven_index=np.zeros(0, np.int64),
        rest_position=None,
    )
