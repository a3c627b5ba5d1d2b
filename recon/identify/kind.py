"""Which kind of object a recording shows: a rope becomes a rod, everything else a spring network.

Shapes: T frames, N nodes.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from recon.defects import find_links
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["is_rope", "sheet_or_volume"]

# Noise may hide so large a share of a rope's links (a marker that slips, a stretched end).
_MISSING_LINKS = 0.2
# Neighbours that show a surface's plane: two rings of a grid, so that one fold does not decide.
_PATCH = 12
# Thickness of a patch over its width: 0 for a plane, about 0.6 inside a solid.
_FLAT = 0.25


def is_rope(recordings: list[Tracks]) -> bool:
    """Whether the points hang together as one open chain in the order of the nodes.

    Links are pairs of neighbours whose distance hardly changes (`recon.defects.find_links`). They
    may all join next nodes only, and few next nodes may lack theirs. A chain whose nodes are not in
    order is no rope to this package, and a warning says so.

    Args:
        recordings: tracks of one object.

    Returns:
        True for a rope.
    """
    position = np.concatenate([t.position for t in recordings])
    nodes = position.shape[1]
    if nodes < 3:
        return False
    pair = np.sort(find_links(position).pair, axis=1)
    most_missing = _MISSING_LINKS * (nodes - 1)
    if nodes - 1 - len(pair) > most_missing:
        return False
    if (np.diff(pair, axis=1) == 1).all():
        return True
    degree = np.bincount(pair.ravel(), minlength=nodes)
    if degree.max() <= 2 and len(pair) == nodes - 1 and (degree == 1).sum() == 2:
        warnings.warn(
            f"{recordings[0].name}: the points form a chain, but not in the order of the nodes; "
            "it is taken for a spring network. Reorder the points along the rope for a rod twin, "
            "which bends as a rope does",
            PhysGymWarning,
            stacklevel=2,
        )
    return False


def sheet_or_volume(rest_position: np.ndarray) -> Literal["sheet", "volume"]:
    """Whether points lie on a surface, which may be bent, or fill a solid.

    Args:
        rest_position: [m], shape (N, 3).

    Returns:
        What most patches of neighbouring points look like.
    """
    rest = np.asarray(rest_position, np.float64)
    count = min(_PATCH, len(rest) - 1)
    if count < 3:
        return "sheet"
    _, near = cKDTree(rest).query(rest, k=count + 1)
    patch = rest[near] - rest[near].mean(axis=1, keepdims=True)
    width = np.linalg.svd(patch, compute_uv=False)
    flat = width[:, 2] <= _FLAT * np.maximum(width[:, 1], 1e-12)
    return "sheet" if flat.mean() >= 0.5 else "volume"
