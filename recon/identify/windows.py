"""Short stretches of recordings, simulated side by side, each from where the object was seen.

A soft sheet that swings forgets its start: two rollouts of the same parameters, a tenth of a
millimetre apart at first, are a centimetre apart after a second, and then the error says nothing
about the parameters any more. Windows end before that.
Shapes: B segments, T frames, N nodes, K driven points, P parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from recon.identify.least_squares import Fit
from recon.identify.problem import Problem
from recon.identify.segments import Segment
from recon.tracks import Tracks

__all__ = ["alike", "cut_windows", "nearest_distance", "stacked", "window_covariance"]


def cut_windows(tracks: Tracks, first: int, stop: int, length: int) -> list[Segment]:
    """Windows one after the other, each from a frame that was seen whole with both its neighbours.

    Args:
        tracks: a recording.
        first: where the first may begin.
        stop: no window looks at this frame or later ones.
        length: frames to predict. The last window overlaps the one before; where the recording
            is shorter than a window, the only one may be half as long.

    Returns:
        The windows. Their velocities are central differences.
    """
    x = tracks.position.astype(np.float64)
    seen = np.asarray(tracks.visible.all(axis=1))
    whole = np.flatnonzero(seen[:-2] & seen[1:-1] & seen[2:]) + 1
    made: list[Segment] = []
    at, last = first, first - 1
    while True:
        later = whole[whole >= max(at, 1)]
        if len(later) == 0:
            return made
        begin = int(later[0])
        if begin + length + 1 > stop:  # the last one: reach back for a whole window
            earlier = whole[(whole <= stop - 1 - length) & (whole >= max(first, 1))]
            if len(earlier):
                begin = int(earlier[-1])
            if made and (not len(earlier) or begin <= last):
                return made
        end = min(begin + length + 1, stop)
        if end - begin - 1 < max(2, length // 2):
            return made
        made.append(
            Segment(
                name=f"{tracks.name}@{begin}",
                position=x[begin],
                velocity=(x[begin + 1] - x[begin - 1]) / (2.0 * tracks.dt_s),
                driven=tracks.position[begin:end, tracks.driven_index],
                target=tracks.position[begin + 1 : end],
                dt_s=tracks.dt_s,
            )
        )
        last, at = begin, end - 1


def alike(segments: list[Segment]) -> list[list[Segment]]:
    """Segments of one length and frame rate together.

    Args:
        segments: any.

    Returns:
        Groups that can run side by side.
    """
    groups: dict[tuple[int, float], list[Segment]] = {}
    for segment in segments:
        groups.setdefault((len(segment.driven), segment.dt_s), []).append(segment)
    return list(groups.values())


def stacked(segments: list[Segment], field: str) -> torch.Tensor:
    """One array of several segments.

    Args:
        segments: of one length.
        field: name of the array.

    Returns:
        The arrays with a leading axis B, float32.
    """
    return torch.as_tensor(np.stack([getattr(s, field) for s in segments]), dtype=torch.float32)


def nearest_distance(simulated: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """One-directional Chamfer, point by point: from what was seen to what is simulated.

    Args:
        simulated: [m], shape (T, N, 3); NaN where a simulation blew up.
        seen: [m], shape (T, N, 3); NaN where not seen.

    Returns:
        Distance of every seen point to the nearest simulated one [m], 0 where not seen, (T * N,).
    """
    found = np.zeros(seen.shape[:2], np.float32)
    for frame, (model, points) in enumerate(zip(simulated, seen)):
        known = np.isfinite(points).all(-1)
        if not np.isfinite(model).all():
            found[frame] = np.nan
        elif known.any():
            found[frame, known] = cKDTree(model).query(points[known])[0]
    return found.reshape(-1)


def window_covariance(problem: Problem, fit: Fit, recordings: list[int]) -> np.ndarray:
    """Covariance of a fit from how much the segments disagree.

    White's sandwich (Econometrica 48, 1980), a segment being one sample: it needs no guess of how
    many samples are independent or how large the model's own error is, unlike Laplace's, to which
    it is added.

    Args:
        problem: the problem.
        fit: where the descent ended.
        recordings: the segments.

    Returns:
        Shape (P, P).
    """
    step = problem.prior.step
    candidates = np.concatenate([fit.theta[None], fit.theta + np.diag(step)])
    gradients, counts = [], []
    for residual, seen in problem.residuals(candidates, recordings):
        good = seen & np.isfinite(residual).all(axis=0)
        values = problem.loss.value(np.where(good, residual, 0.0)).sum(axis=1, dtype=np.float64)
        gradients.append((values[1:] - values[0]) / step)
        counts.append(good.sum())
    scatter = np.array(gradients) * problem.weights(recordings) / max(1, np.sum(counts))
    scatter -= scatter.mean(axis=0)
    few = len(scatter) / max(1, len(scatter) - 1)
    sandwich = few * fit.covariance @ scatter.T @ scatter @ fit.covariance
    covariance = fit.covariance + sandwich
    # Few segments scatter wildly; but nothing is known less than before it was looked at.
    shrink = np.minimum(1.0, problem.prior.sigma / np.sqrt(np.diag(covariance)))
    return np.asarray(covariance * np.outer(shrink, shrink))
