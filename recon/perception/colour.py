"""Colours of an object against those of its background, and connected parts of masks.

Shapes: H W image.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = [
    "ColourModel",
    "around",
    "colour_share",
    "grown_by_colour",
    "largest_part",
    "parts_touched",
]

_BINS = 32  # of each colour channel
_UNSEEN = 1e-6  # share of a bin below which a colour counts as never seen
_LAB_NOISE = 1.0  # bins by which one surface's colour spreads from frame to frame


class ColourModel:
    """Share of an object among the pixels of a colour, from one labelled image.

    Two histograms in CIE Lab, smoothed, give the odds of each colour (Jones and Rehg, "Statistical
    color models", IJCV 2002). The background counts half by what lies around the object and half
    by the whole image, into which the object may move.

    Args:
        rgb: uint8, shape (H, W, 3).
        mask: the object, shape (H, W), bool.
        around_px: how far "around" reaches.
    """

    def __init__(self, rgb: np.ndarray, mask: np.ndarray, *, around_px: int = 60) -> None:
        code = _colour_code(rgb)
        near = _smooth_histogram(code[around(mask, around_px) & ~mask])
        background = 0.5 * (near + _smooth_histogram(code[~mask]))
        odds = (_smooth_histogram(code[mask]) + _UNSEEN) / (background + 3.0 * _UNSEEN)
        self._share = (odds / (1.0 + odds)).astype(np.float32)

    def probability(self, rgb: np.ndarray) -> np.ndarray:
        """Probability that a pixel belongs to the object, by its colour alone.

        Args:
            rgb: uint8, shape (H, W, 3).

        Returns:
            Shape (H, W), float32; a quarter for colours that were never seen.
        """
        return np.asarray(self._share[_colour_code(rgb)])


def colour_share(rgb: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    """How much a pixel's colour speaks for one region of the image against another.

    Args:
        rgb: uint8, shape (H, W, 3).
        front: one region, shape (H, W), bool.
        back: the other.

    Returns:
        Shape (H, W), float32: 1 for colours that only ``front`` has, 0 for those of ``back`` alone.
    """
    code = _colour_code(rgb)
    ahead, behind = _smooth_histogram(code[front]), _smooth_histogram(code[back])
    share = (ahead + _UNSEEN) / (ahead + behind + 4.0 * _UNSEEN)
    return np.asarray(share.astype(np.float32)[code])


def grown_by_colour(
    rgb: np.ndarray, mask: np.ndarray, *, reach_px: int = 8, hidden: np.ndarray | None = None
) -> np.ndarray:
    """A mask with the fringe that depth could not tell from the table, or did not measure.

    Args:
        rgb: uint8, shape (H, W, 3).
        mask: most of the object, shape (H, W), bool.
        reach_px: widest fringe.
        hidden: pixels that are not of it for sure, shape (H, W), bool.

    Returns:
        Shape (H, W), bool.
    """
    odds = cv2.GaussianBlur(ColourModel(rgb, mask).probability(rgb), (0, 0), 1.0)
    fringe = (odds > 0.6) & around(mask, reach_px)
    if hidden is not None:
        fringe &= ~hidden
    return parts_touched(mask | fringe, mask)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The connected part with the most pixels.

    Args:
        mask: shape (H, W), bool.

    Returns:
        Shape (H, W), bool; empty for an empty mask.
    """
    count, label, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return np.zeros_like(mask)
    return np.asarray(label == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())


def around(mask: np.ndarray, reach_px: int) -> np.ndarray:
    """A mask with everything that is near to it.

    Args:
        mask: shape (H, W), bool.
        reach_px: how near.

    Returns:
        Shape (H, W), bool.
    """
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(away < reach_px)


def parts_touched(mask: np.ndarray, by: np.ndarray, least_share: float = 0.0) -> np.ndarray:
    """Connected parts of a mask that overlap another one.

    Args:
        mask: shape (H, W), bool.
        by: the other, shape (H, W), bool.
        least_share: parts with fewer pixels than this share of the largest part's are left out.

    Returns:
        Shape (H, W), bool.
    """
    count, label, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    overlap = np.bincount(label[mask & by], minlength=count) > 0
    area = stats[:, cv2.CC_STAT_AREA]
    keep = overlap & (area >= least_share * area[1:].max(initial=0))
    keep[0] = False
    return np.asarray(keep[label])


def _colour_code(rgb: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2Lab) // (256 // _BINS)
    light, red, yellow = (lab[..., i].astype(np.int64) for i in range(3))
    return np.asarray((light * _BINS + red) * _BINS + yellow)


def _smooth_histogram(code: np.ndarray) -> np.ndarray:
    count = np.bincount(code.ravel(), minlength=_BINS**3).reshape((_BINS,) * 3)
    smooth = gaussian_filter(count.astype(np.float32), _LAB_NOISE)
    return np.asarray((smooth / max(float(smooth.sum()), 1e-9)).ravel())
