"""Material directors: how the cross-section of a rod is turned about its centre line.

Shapes: B worlds, N nodes, N-1 edges.
"""

from __future__ import annotations

import numpy as np

__all__ = ["clamp_directors", "initial_directors", "transport", "turning", "unit"]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length one.

    Args:
        vectors: shape (..., 3).

    Returns:
        Shape (..., 3).
    """
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def transport(director: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Turn a director by the least rotation that takes one tangent to another.

    Args:
        director: perpendicular to ``start``, shape (..., 3).
        start: unit tangent, shape (..., 3).
        end: unit tangent, not opposite to ``start``, shape (..., 3).

    Returns:
        The director, perpendicular to ``end``, shape (..., 3). Bergou et al. 2008, parallel
        transport.
    """
    chi = 1.0 + np.sum(start * end, -1, keepdims=True)
    return director - np.sum(director * end, -1, keepdims=True) / chi * (start + end)


def clamp_directors(
    tangents: np.ndarray,
    clamp_tangent: np.ndarray,
    clamp_director: np.ndarray,
    end_roll_rad: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Directors of the first and the last edge from the direction of their clamps.

    Args:
        tangents: unit edge tangents, shape (B, N-1, 3).
        clamp_tangent: where the directors are stated, shape (B, 2, 3).
        clamp_director: the directors there, shape (B, 2, 3).
        end_roll_rad: roll of the last clamp against the first, shape (B,).

    Returns:
        Both directors, shape (B, 3) each.
    """
    first = unit(transport(clamp_director[:, 0], clamp_tangent[:, 0], tangents[:, 0]))
    last = unit(transport(clamp_director[:, 1], clamp_tangent[:, 1], tangents[:, -1]))
    cos, sin = np.cos(end_roll_rad)[:, None], np.sin(end_roll_rad)[:, None]
    return first, last * cos + np.cross(tangents[:, -1], last) * sin


def initial_directors(
    position: np.ndarray, first: np.ndarray, last: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Directors of a rod whose twist is spread evenly between its ends.

    Args:
        position: nodes [m], shape (B, N, 3).
        first: director of the first edge, shape (B, 3).
        last: director of the last edge, shape (B, 3); None for an end that is free to turn.

    Returns:
        Unit tangents and directors, both of shape (B, N-1, 3).
    """
    edges = np.diff(position, axis=1)
    tangents = unit(edges)
    directors = np.empty_like(tangents)
    directors[:, 0] = first
    for j in range(1, tangents.shape[1]):
        directors[:, j] = unit(transport(directors[:, j - 1], tangents[:, j - 1], tangents[:, j]))
    if last is None:
        return tangents, directors
    across = np.cross(tangents, directors)
    total = np.arctan2(np.sum(last * across[:, -1], -1), np.sum(last * directors[:, -1], -1))
    length = np.linalg.norm(edges, axis=-1)
    along = np.cumsum(0.5 * (length[:, 1:] + length[:, :-1]), axis=1)
    share = np.concatenate([np.zeros_like(along[:, :1]), along / along[:, -1:]], axis=1)
    angle = (total[:, None] * share)[..., None]
    return tangents, directors * np.cos(angle) + across * np.sin(angle)


def turning(tangents: np.ndarray, directors: np.ndarray) -> np.ndarray:
    """Turning angle 2 tan(phi/2) of each interior node along both material directors.

    Args:
        tangents: unit, shape (B, N-1, 3).
        directors: unit, shape (B, N-1, 3).

    Returns:
        Shape (B, N-2, 2). Bergou et al. 2010, the material curvatures.
    """
    across = np.cross(tangents, directors)
    before, after = tangents[:, :-1], tangents[:, 1:]
    chi = 1.0 + np.sum(before * after, -1, keepdims=True)
    binormal = 2.0 * np.cross(before, after) / chi
    first = 0.5 * np.sum(binormal * (across[:, :-1] + across[:, 1:]), -1)
    second = -0.5 * np.sum(binormal * (directors[:, :-1] + directors[:, 1:]), -1)
    return np.stack([first, second], -1)
