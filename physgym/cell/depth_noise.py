"""What a RealSense D400 does to depth: disparity noise and steps, holes, ragged edges, range.

A stereo camera measures disparity ``d = f b / z``. An error of ``s`` pixels in d is an error of
``z^2 s / (f b)`` in z: Intel's figure for its D400 cameras (Grunnet-Jepsen, Sweetser, Woodfill,
"Best-known methods for tuning Intel RealSense D400 depth cameras", 2018, section 3), and the law
that Khoshelham and Elberink ("Accuracy and resolution of Kinect depth data", Sensors 12, 2012,
equation 10) measured on another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from physgym.errors import DataError

__all__ = ["DepthNoiseConfig", "add_depth_noise"]


@dataclass(frozen=True)
class DepthNoiseConfig:
    """How bad the depth is. The defaults are those of a D435 on a textured object.

    Attributes:
        baseline_m: b, distance between the two imagers; 0.050 for D435, 0.095 for D455 (Intel
            RealSense D400 series datasheet).
        subpixel_px: s, standard deviation of disparity; the tuning guide gives 0.05 to 0.1 for a
            well-textured target.
        disparity_step_px: disparity is quantised to this; the D4 vision processor counts in 1/32.
        depth_step_m: depth is then rounded to this, the depth unit of ``16UC1``; 0 for none.
        correlation_px: standard deviation of the Gaussian that correlates neighbouring errors, as
            block matching windows do; 0 for white noise. It leaves ``subpixel_px`` what it is.
        edge_jump: a step in depth by more than this fraction is an edge.
        edge_px: how far from an edge pixels may be lost.
        edge_dropout: probability that such a pixel is lost.
        hole_fraction: fraction of all other pixels that is lost.
        min_range_m: nearer is lost; a D435 sees from 0.195 m at 640x480 (datasheet, min-Z).
        max_range_m: farther is lost.
    """

    baseline_m: float = 0.05
    subpixel_px: float = 0.08
    disparity_step_px: float = 1.0 / 32.0
    depth_step_m: float = 1e-3
    correlation_px: float = 1.5
    edge_jump: float = 0.03
    edge_px: int = 2
    edge_dropout: float = 0.5
    hole_fraction: float = 0.002
    min_range_m: float = 0.195
    max_range_m: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what is no camera.

        Raises:
            DataError: naming the field that is out of range.
        """
        for name in ("edge_dropout", "hole_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise _bad(name, getattr(self, name), "a probability from 0 to 1")
        for name in ("subpixel_px", "disparity_step_px", "depth_step_m", "correlation_px"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise _bad(name, value, "a finite number, at least 0")
        if not (math.isfinite(self.baseline_m) and self.baseline_m > 0):
            raise _bad("baseline_m", self.baseline_m, "a length above zero")
        if not self.edge_jump > 0:
            raise _bad("edge_jump", self.edge_jump, "a fraction above zero")
        if not 0 <= self.edge_px <= 50:
            raise _bad("edge_px", self.edge_px, "from 0 to 50 pixels")
        if not 0 <= self.min_range_m < self.max_range_m:
            raise _bad("min_range_m", self.min_range_m, "at least 0 and below max_range_m")


def add_depth_noise(
    depth_m: np.ndarray,
    *,
    focal_px: float,
    config: DepthNoiseConfig | None = None,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Depth as the camera would report it.

    Args:
        depth_m: exact depth, shape (H, W), 0 or not finite where there is none.
        focal_px: f, horizontal focal length of this image.
        config: the camera; None for a D435.
        seed: one number or several (say seed, camera, frame); the same give the same bits.

    Returns:
        Depth [m], float32, shape (H, W), 0 where the camera has no measurement.

    Raises:
        DataError: if the depth is no image or the focal length is not positive.
    """
    if np.ndim(depth_m) != 2 or not focal_px > 0:
        raise DataError(
            f"depth of shape {np.shape(depth_m)} with a focal length of {focal_px} pixels",
            where="add_depth_noise",
            expected="shape (H, W) and a focal length above zero",
            fix="pass one depth image and its camera's K[0, 0]",
        )
    config = config or DepthNoiseConfig()
    rng = np.random.default_rng(seed)
    exact = np.asarray(depth_m, dtype=np.float32)
    valid = np.isfinite(exact) & (exact > 0)
    safe = np.where(valid, exact, np.float32(1.0))
    scale = np.float32(focal_px * config.baseline_m)
    disparity = scale / safe + np.float32(config.subpixel_px) * _unit_noise(
        exact.shape, config.correlation_px, rng
    )
    if config.disparity_step_px > 0:
        step = np.float32(config.disparity_step_px)
        disparity = np.round(disparity / step) * step
    valid &= disparity > 0
    noisy = scale / np.where(valid, disparity, np.float32(1.0))
    lost = rng.random(exact.shape, dtype=np.float32)
    near_edge = _near_edge(np.where(valid, exact, np.float32(0.0)), config)
    valid &= lost >= np.where(near_edge, config.edge_dropout, config.hole_fraction)
    valid &= (noisy >= config.min_range_m) & (noisy <= config.max_range_m)
    if config.depth_step_m > 0:
        unit = np.float32(config.depth_step_m)
        noisy = np.round(noisy / unit) * unit
    return np.where(valid, noisy, np.float32(0.0)).astype(np.float32)


def _unit_noise(
    shape: tuple[int, ...], correlation_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise of unit variance, smoothed over neighbours, float32."""
    if correlation_px == 0:
        return rng.standard_normal(shape, dtype=np.float32)
    radius = math.ceil(3 * correlation_px)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / correlation_px) ** 2)
    taps = (taps / np.linalg.norm(taps)).astype(np.float32)  # so that the variance stays one
    # Noise beyond the border, cut off after smoothing, keeps the variance up to the border.
    padded = rng.standard_normal((shape[0] + 2 * radius, shape[1] + 2 * radius), dtype=np.float32)
    smooth = cv2.sepFilter2D(padded, cv2.CV_32F, taps, taps)
    return np.asarray(smooth[radius:-radius, radius:-radius])


def _near_edge(depth: np.ndarray, config: DepthNoiseConfig) -> np.ndarray:
    """Pixels within ``edge_px`` of a jump in depth, shape (H, W), bool."""
    if config.edge_px == 0:
        return np.zeros(depth.shape, dtype=bool)
    kernel = np.ones((3, 3), dtype=np.uint8)
    spread = cv2.dilate(depth, kernel) - cv2.erode(depth, kernel)
    edge = (spread > config.edge_jump * np.maximum(depth, 1e-3)).astype(np.uint8)
    if config.edge_px > 1:  # the jump itself marks the pixels on either side of it
        size = 2 * (config.edge_px - 1) + 1
        edge = cv2.dilate(edge, np.ones((size, size), dtype=np.uint8))
    return np.asarray(edge > 0)


def _bad(field: str, value: object, expected: str) -> DataError:
    return DataError(
        f"{field} is {value}",
        where=f"DepthNoiseConfig.{field}",
        expected=expected,
        fix="pass metres, pixels and probabilities; the defaults are a D435's",
    )
