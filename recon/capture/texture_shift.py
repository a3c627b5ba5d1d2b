"""How far apart two calibrated cameras see the same texture.

Depth alone does not notice a camera that slid along a table. Its picture does: the first camera's
colours, carried over by its depth into the second camera's image, must lie on the same spots
there. Optical flow between the two says how far off they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from physgym.camera import PinholeCamera

__all__ = ["TextureShift", "texture_shift"]

_FEWEST_PIXELS = 400
_SAME_SURFACE_M = 0.05  # a larger difference of depth is an occlusion (or a case for surface_gap)
_STEEPEST_GRADIENT_SHARE = 0.7  # quantile above which a pixel counts as textured ...
_LEAST_GRADIENT = 12.0  # ... and its least gradient [grey levels per px]: noise has less
_HOLE_PX = 3


@dataclass(frozen=True)
class TextureShift:
    """Displacement of one camera's picture in another's.

    Attributes:
        median_px: median length of the displacement of textured pixels [px]; NaN without any.
        median_mm: the same on the surface, across the second camera's view [mm].
        pixels: how many pixels were compared.
    """

    median_px: float
    median_mm: float
    pixels: int


def texture_shift(
    first: PinholeCamera,
    first_rgb: np.ndarray,
    first_depth_m: np.ndarray,
    second: PinholeCamera,
    second_rgb: np.ndarray,
    second_depth_m: np.ndarray,
) -> TextureShift:
    """Carry the first camera's picture into the second's and measure how far off it lies.

    Args:
        first: a camera.
        first_rgb: its colours (H, W, 3) uint8.
        first_depth_m: its depth (H, W) [m], 0 where there is none.
        second: another camera.
        second_rgb: its colours.
        second_depth_m: its depth.

    Returns:
        The shift; `pixels` is 0 where there is too little texture in common.
    """
    carried, filled = _carry(first, first_rgb, first_depth_m, second, second_depth_m)
    target = cv2.cvtColor(second_rgb, cv2.COLOR_RGB2GRAY)
    # outside the common area both show the same, so that nothing there pulls the flow
    carried = np.where(filled, carried, target).astype(np.uint8)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(carried, target, np.zeros((*target.shape, 2), np.float32))
    inner = cv2.erode(filled.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    smooth = cv2.GaussianBlur(carried, (0, 0), 1.5).astype(np.float32)
    gradient = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    gradient /= 4.0  # Sobel's own scale
    usable = inner & (second_depth_m > 0) & (gradient > _LEAST_GRADIENT / 4)
    if usable.sum() < _FEWEST_PIXELS:
        return TextureShift(float("nan"), float("nan"), 0)
    usable &= gradient >= np.quantile(gradient[usable], _STEEPEST_GRADIENT_SHARE)
    length_px = np.linalg.norm(flow[usable], axis=1)
    length_mm = length_px * second_depth_m[usable] / second.K[0, 0] * 1e3
    return TextureShift(float(np.median(length_px)), float(np.median(length_mm)), int(usable.sum()))


def _carry(
    first: PinholeCamera,
    first_rgb: np.ndarray,
    first_depth_m: np.ndarray,
    second: PinholeCamera,
    second_depth_m: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The first camera's grey image as the second would see it, and where it is known."""
    grey = cv2.cvtColor(first_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    points = first.unproject(first_depth_m).reshape(-1, 3)
    known = np.isfinite(points).all(axis=1)
    pixels, depth_m = second.project(points[known])
    inside = np.isfinite(pixels).all(axis=1) & second.visible(np.nan_to_num(pixels, nan=-9.0))
    pixels, depth_m, values = pixels[inside], depth_m[inside], grey.ravel()[known][inside]
    # each pixel gives to its four neighbours: nearest-pixel splatting would shift by half a pixel
    u0, v0 = np.floor(pixels).astype(int).T
    cells = second.height * second.width
    total, weight = np.zeros(cells), np.zeros(cells)
    fits = np.abs(second_depth_m[np.clip(v0, 0, None), np.clip(u0, 0, None)] - depth_m)
    fits_here = fits < _SAME_SURFACE_M
    for du, dv in ((0, 0), (1, 0), (0, 1), (1, 1)):
        u, v = u0 + du, v0 + dv
        share = (1 - np.abs(pixels[:, 0] - u)) * (1 - np.abs(pixels[:, 1] - v))
        ok = fits_here & (u >= 0) & (u < second.width) & (v >= 0) & (v < second.height)
        cell, given = v[ok] * second.width + u[ok], share[ok]
        total += np.bincount(cell, given * values[ok], minlength=cells)
        weight += np.bincount(cell, given, minlength=cells)
    size = (second.height, second.width)
    return _without_pinholes(total.reshape(size), weight.reshape(size))


def _without_pinholes(total: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of what was given to each pixel, small holes filled, and where it is known."""
    # where the second camera is nearer, pixels come apart: small holes take their neighbours' mean
    near_total = cv2.GaussianBlur(total, (0, 0), _HOLE_PX / 2)
    near_weight = cv2.GaussianBlur(weight, (0, 0), _HOLE_PX / 2)
    mean = np.where(weight > 0.05, total / np.maximum(weight, 1e-9), 0.0)
    mean = np.where(weight > 0.05, mean, near_total / np.maximum(near_weight, 1e-9))
    return mean, near_weight > 0.1
