"""How far a prediction is from the truth.

Every score is in metres unless its name says otherwise. Shapes: C recordings, T frames, N nodes,
P points of a cloud, M tracked points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from physgym.errors import DataError

__all__ = [
    "GIVEN_FRAMES",
    "chamfer",
    "chamfer_frames",
    "chamfer_symmetric",
    "deform_l1",
    "deform_l1_each",
    "emd",
    "error_over_horizon",
    "follower_error_frames",
    "free_dist_mean",
    "mask_iou",
    "track_error",
]

GIVEN_FRAMES = 2
"""Frames that a prediction is given to start from; scores count the frames after them."""

_LOWEST_Z_M = 0.002001  # the data's own evaluation clips its z there (deform_dlo, Evaluation)
_EMD_POINTS = 2000  # exact assignment is cubic: 2000 points take seconds, 20000 take hours


def deform_l1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Score of the deform_dlo evaluation.

    For each predicted frame the mean absolute coordinate error over all recordings, all vertices
    (driven ones included) and xyz; summed over the frames 2 to T - 1, divided by T. The z of the
    truth is clipped from below at 0.002001 m. The truth is the raw recording, defects and all
    (`recon.importers.deform_dlo.read_clips`): masked samples have no place in this score.

    Args:
        predicted: [m], shape (C, T, N, 3) or (T, N, 3).
        truth: [m], the same shape.

    Returns:
        The score [m].

    Raises:
        DataError: if the shapes differ or a number is not finite.
    """
    return float(deform_l1_each(predicted, truth).mean())


def deform_l1_each(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`deform_l1` of each recording alone; their mean is the score of all.

    Args:
        predicted: [m], shape (C, T, N, 3) or (T, N, 3).
        truth: [m], the same shape.

    Returns:
        [m], shape (C,).

    Raises:
        DataError: if the shapes differ or a number is not finite.
    """
    guess, real = _pair(predicted, truth)
    for name, value in (("predicted", guess), ("truth", real)):
        if not np.isfinite(value).all():
            clip, frame, node = (int(number) for number in np.argwhere(~np.isfinite(value))[0, :3])
            raise DataError(
                "not finite",
                where=f"deform_l1: {name}, recording {clip}, frame {frame}, node {node}",
                expected="a position for every sample",
                fix="score against the raw clips (read_clips), not against masked tracks",
            )
    real = real.copy()
    real[..., 2] = np.maximum(real[..., 2], _LOWEST_Z_M)
    error = np.abs(guess - real)[:, GIVEN_FRAMES:].mean((2, 3)).sum(1) / real.shape[1]
    return np.asarray(error)


def free_dist_mean(predicted: np.ndarray, truth: np.ndarray, driven_index: np.ndarray) -> float:
    """Mean Euclidean error of the free vertices over the predicted frames.

    Args:
        predicted: [m], shape (C, T, N, 3) or (T, N, 3).
        truth: [m], the same shape; NaN samples are left out.
        driven_index: vertices that are given and do not count, shape (K,).

    Returns:
        The mean over every sample [m].

    Raises:
        DataError: if the shapes differ or nothing is left to compare.
    """
    guess, real = _pair(predicted, truth)
    return _mean(np.linalg.norm(guess - real, axis=-1)[:, GIVEN_FRAMES:], real, driven_index)


def error_over_horizon(
    predicted: np.ndarray, truth: np.ndarray, driven_index: np.ndarray
) -> np.ndarray:
    """Mean Euclidean error of the free vertices at each frame.

    Args:
        predicted: [m], shape (C, T, N, 3) or (T, N, 3).
        truth: [m], the same shape; NaN samples are left out.
        driven_index: vertices that are given and do not count, shape (K,).

    Returns:
        [m], shape (T,); NaN at a frame in which no free vertex was seen.

    Raises:
        DataError: if the shapes differ.
    """
    guess, real = _pair(predicted, truth)
    free = np.setdiff1d(np.arange(real.shape[2]), driven_index)
    distance = np.linalg.norm(guess - real, axis=-1)[:, :, free]
    seen = np.isfinite(real).all(-1)[:, :, free]
    count = seen.sum((0, 2))
    total = np.where(seen, distance, 0.0).sum((0, 2))
    error: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return error


def track_error(predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray) -> float:
    """Mean Euclidean error over the samples that were seen, every frame counted.

    Args:
        predicted: [m], shape (..., N, 3).
        truth: [m], the same shape.
        visible: which samples count, shape (..., N).

    Returns:
        The mean [m].

    Raises:
        DataError: if the shapes differ or no sample was seen.
    """
    guess, real = np.asarray(predicted, float), np.asarray(truth, float)
    seen = np.asarray(visible, bool)
    if guess.shape != real.shape or seen.shape != real.shape[:-1]:
        raise DataError(
            f"shapes {guess.shape}, {real.shape} and {seen.shape}",
            where="track_error",
            expected="(..., N, 3) twice and (..., N)",
        )
    if not seen.any():
        raise DataError("no sample was seen", where="track_error", expected="visible samples")
    return float(np.linalg.norm(guess[seen] - real[seen], axis=-1).mean())


def chamfer(observed: np.ndarray, predicted: np.ndarray, *, norm: int = 2) -> float:
    """Mean distance from each observed point to the nearest predicted one.

    PhysTwin's evaluation is this one direction with ``norm=1`` (Manhattan).

    Args:
        observed: [m], shape (P, 3).
        predicted: [m], shape (Q, 3).
        norm: 1 or 2.

    Returns:
        The mean [m].

    Raises:
        DataError: if a cloud is empty or not finite.
    """
    seen, guess = _cloud(observed, "observed"), _cloud(predicted, "predicted")
    return float(cKDTree(guess).query(seen, p=norm)[0].mean())


def chamfer_frames(
    observed: Sequence[np.ndarray], predicted: np.ndarray, *, norm: int = 2
) -> np.ndarray:
    """`chamfer` of each frame alone.

    Args:
        observed: T clouds [m], each (P_t, 3), P_t may differ.
        predicted: [m], shape (T, Q, 3).
        norm: 1 or 2.

    Returns:
        [m], shape (T,); NaN at a frame whose observed cloud is empty.

    Raises:
        DataError: if there are not as many frames of each, or a number is not finite.
    """
    guess = np.asarray(predicted, np.float64)
    if guess.ndim != 3 or len(guess) != len(observed):
        raise DataError(
            f"{len(observed)} observed clouds, predicted {guess.shape}",
            where="chamfer_frames",
            expected="(T, Q, 3) for T clouds",
        )
    errors = np.full(len(observed), np.nan)
    for frame, cloud in enumerate(observed):
        if len(cloud):
            errors[frame] = chamfer(cloud, guess[frame], norm=norm)
    return errors


def follower_error_frames(
    predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    """PhysTwin's track error of each frame: how far followers are from the tracks they follow.

    A track that is seen in frame 0 is followed by the predicted point that is nearest to it there,
    whichever that is; its error is their distance, in frame 0 too. PhysTwin's evaluation
    (Jiang et al. 2025, ``evaluate_track.py``) counts a frame without any track as 0; here it is
    NaN and left out of means.

    Args:
        predicted: [m], shape (T, N, 3); its points need not be the truth's.
        truth: [m], shape (T, M, 3).
        visible: which samples of the truth count, shape (T, M).

    Returns:
        Mean Euclidean error over the tracks seen in that frame [m], shape (T,).

    Raises:
        DataError: if the shapes do not fit each other or a predicted number is not finite.
    """
    guess, real = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    seen = np.asarray(visible, bool)
    fits = guess.ndim == real.ndim == 3 and len(guess) == len(real) and guess.shape[1] > 0
    if not fits or guess.shape[2] != 3 or seen.shape != real.shape[:2]:
        raise DataError(
            f"predicted {guess.shape}, truth {real.shape}, visible {seen.shape}",
            where="follower_error_frames",
            expected="(T, N, 3), (T, M, 3) and (T, M)",
        )
    if not np.isfinite(guess).all():
        raise DataError("not finite", where="follower_error_frames: predicted", expected="metres")
    followed = np.flatnonzero(seen[0]) if len(seen) else np.zeros(0, np.int64)
    if len(followed) == 0:
        return np.full(len(real), np.nan)
    _, follower = cKDTree(guess[0]).query(real[0, followed])
    counts = seen[:, followed]
    away = np.linalg.norm(
        guess[:, follower] - np.where(counts[..., None], real[:, followed], 0), axis=2
    )
    number = counts.sum(axis=1)
    total = np.where(counts, away, 0.0).sum(axis=1)
    errors: np.ndarray = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return errors


def mask_iou(
    predicted: np.ndarray, observed: np.ndarray, ignored: np.ndarray | None = None
) -> float:
    """Intersection over union of two masks.

    Args:
        predicted: shape (H, W), bool.
        observed: shape (H, W), bool.
        ignored: pixels that do not count, such as those of a hand in front, shape (H, W), bool.

    Returns:
        From 0 to 1; NaN when nothing was observed, which is no measurement (PhysTwin's evaluation
        counts two empty masks as 1).

    Raises:
        DataError: if the shapes differ.
    """
    guess, real = np.asarray(predicted, bool), np.asarray(observed, bool)
    if guess.shape != real.shape or (ignored is not None and ignored.shape != real.shape):
        raise DataError(
            f"masks {guess.shape} and {real.shape}", where="mask_iou", expected="the same (H, W)"
        )
    if ignored is not None:
        guess, real = guess & ~ignored, real & ~ignored
    if not real.any():
        return float("nan")
    return float((guess & real).sum() / (guess | real).sum())


def chamfer_symmetric(first: np.ndarray, second: np.ndarray, *, norm: int = 2) -> float:
    """Half the sum of both directions of `chamfer`.

    Args:
        first: [m], shape (P, 3).
        second: [m], shape (Q, 3).
        norm: 1 or 2.

    Returns:
        The mean of the two means [m].

    Raises:
        DataError: if a cloud is empty or not finite.
    """
    return 0.5 * (chamfer(first, second, norm=norm) + chamfer(second, first, norm=norm))


def emd(first: np.ndarray, second: np.ndarray) -> float:
    """Earth mover's distance between clouds of equal size: mean distance of the best matching.

    Args:
        first: [m], shape (P, 3).
        second: [m], shape (P, 3).

    Returns:
        The mean [m].

    Raises:
        DataError: if the sizes differ, or are too large to match exactly.
    """
    left, right = _cloud(first, "first"), _cloud(second, "second")
    if len(left) != len(right) or len(left) > _EMD_POINTS:
        raise DataError(
            f"{len(left)} and {len(right)} points",
            where="emd",
            expected=f"equally many, at most {_EMD_POINTS}",
            fix="sample both clouds down to the same number",
        )
    cost = cdist(left, right)
    return float(cost[linear_sum_assignment(cost)].mean())


def _pair(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    guess, real = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if guess.shape != real.shape or real.ndim not in (3, 4) or real.shape[-1] != 3:
        raise DataError(
            f"shapes {guess.shape} and {real.shape}",
            where="predicted and truth",
            expected="the same (C, T, N, 3) or (T, N, 3)",
        )
    if real.ndim == 3:
        guess, real = guess[None], real[None]
    if real.shape[1] <= GIVEN_FRAMES:
        raise DataError(
            f"{real.shape[1]} frames", where="truth", expected=f"more than {GIVEN_FRAMES}"
        )
    return guess, real


def _mean(distance: np.ndarray, real: np.ndarray, driven_index: np.ndarray) -> float:
    free = np.setdiff1d(np.arange(real.shape[2]), driven_index)
    seen = np.isfinite(real).all(-1)[:, GIVEN_FRAMES:, free]
    if not seen.any():
        raise DataError(
            "no free vertex was seen", where="free_dist_mean", expected="something to compare"
        )
    return float(distance[:, :, free][seen].mean())


def _cloud(points: np.ndarray, name: str) -> np.ndarray:
    cloud = np.asarray(points, np.float64)
    if cloud.ndim != 2 or cloud.shape[1:] != (3,) or not len(cloud) or not np.isfinite(cloud).all():
        raise DataError(
            f"shape {cloud.shape}, or numbers that are not finite",
            where=name,
            expected="a cloud of finite points, shape (P, 3)",
        )
    return cloud
