"""Silhouettes of points: which pixels of a camera a cloud of predicted points covers.

Points are drawn as discs that face the camera, about as large in the world as the points are apart,
and the outline of all discs is taken back (a morphological closing), so that it passes through the
outermost points or a margin beyond them.
Shapes: T frames, N points, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.metrics import mask_iou

__all__ = ["Drawing", "fitted_drawing", "point_spacing", "silhouette_iou", "splat_mask"]

# What is tried: radii as multiples of the point spacing (0.71 just covers a square grid; on a line
# the fourth neighbour is two points away, so less does there), margins as shares of the radius.
_RADII = (0.2, 0.35, 0.5, 0.71, 0.85, 1.0, 1.5)
_USUAL_RADIUS = 0.85
_MARGINS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
_CHUNK = 4_000_000  # pixels tested at once: some 100 MB


def point_spacing(points: np.ndarray) -> float:
    """How far apart points are: median distance to the fourth nearest neighbour.

    That is the side of a square grid, and also of a cubic or triangular one.

    Args:
        points: [m], shape (N, 3), N > 1.

    Returns:
        The spacing [m].

    Raises:
        DataError: if there are fewer than two points.
    """
    if len(points) < 2:
        raise DataError(f"{len(points)} points", where="point_spacing", expected="at least two")
    nearest = min(5, len(points))
    distance, _ = cKDTree(points).query(points, k=nearest)
    return float(np.median(distance[:, -1]))


@dataclass(frozen=True)
class Drawing:
    """How points become a silhouette.

    Attributes:
        radius_m: of the disc at each point [m]; discs that are too small leave holes.
        margin_m: how far the body reaches beyond its outermost points [m], 0 for points on its
            surface; the discs' outline is taken back to there.
    """

    radius_m: float
    margin_m: float

    def __post_init__(self) -> None:
        if not 0 <= self.margin_m <= self.radius_m or self.radius_m <= 0:
            raise DataError(
                f"radius {self.radius_m}, margin {self.margin_m}",
                where="Drawing",
                expected="0 <= margin <= radius, radius above zero",
            )


def splat_mask(camera: PinholeCamera, points: np.ndarray, drawing: Drawing) -> np.ndarray:
    """Draw points as discs that face the camera, and take their outline back to the margin.

    A pixel belongs to a disc when its centre is nearer to the projected point than focal length
    times radius over depth. Nothing hides a disc: what stands in front is not known.

    Args:
        camera: that looks.
        points: world [m], shape (N, 3).
        drawing: sizes.

    Returns:
        Shape (H, W), bool.
    """
    return _taken_back(*_drawn(camera, points, drawing.radius_m), drawing)


def _drawn(camera: PinholeCamera, points: np.ndarray, radius_m: float) -> tuple[np.ndarray, float]:
    """Union of the discs, (H, W), and pixels per metre where their points are."""
    pixel, depth = camera.project(points)
    focal = 0.5 * (camera.K[0, 0] + camera.K[1, 1])
    size = np.array([camera.width, camera.height])
    # A disc smaller than a pixel still marks the pixel that it lies in.
    reach = np.maximum(focal * radius_m / np.maximum(depth, 1e-6), 0.5)
    reach = np.minimum(reach, size.max())
    near = (depth > 0) & ((pixel > -1 - reach[:, None]) & (pixel < size + reach[:, None])).all(1)
    scale = focal / float(np.median(depth[near])) if near.any() else 0.0
    return _discs(pixel[near], reach[near], camera), scale


def _taken_back(mask: np.ndarray, scale: float, drawing: Drawing) -> np.ndarray:
    """The outline of discs moved inwards, all of it by as much."""
    back = scale * (drawing.radius_m - drawing.margin_m)
    if back <= 0 or not mask.any():
        return mask
    # Beyond the image nothing is known to be empty, so its border takes nothing back.
    away = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away - 0.5 >= back)


def _discs(pixel: np.ndarray, reach: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    """Union of discs about pixels (N, 2) of radius (N,) [px], shape (H, W)."""
    mask = np.zeros((camera.height, camera.width), bool)
    if len(pixel) == 0:
        return mask
    span = np.arange(-int(np.ceil(reach.max())), int(np.ceil(reach.max())) + 1)
    offset = np.stack(np.meshgrid(span, span), axis=-1).reshape(-1, 2)
    rows = max(1, _CHUNK // len(offset))
    for begin in range(0, len(pixel), rows):
        part, limit = pixel[begin : begin + rows], reach[begin : begin + rows]
        base = np.rint(part).astype(np.int64)
        beside = base - part
        square = (beside[:, None, 0] + offset[:, 0]) ** 2 + (beside[:, None, 1] + offset[:, 1]) ** 2
        point, which = np.nonzero(square <= limit[:, None] ** 2)
        u, v = (base[point] + offset[which]).T
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        mask[v[inside], u[inside]] = True
    return mask


def fitted_drawing(
    cameras: Sequence[PinholeCamera],
    points: np.ndarray,
    masks: np.ndarray,
    ignored: np.ndarray | None = None,
) -> Drawing:
    """The drawing with which points of frame 0 fill frame 0's masks best.

    Points on the surface of a body and nodes of a centre line need margins of different size, dense
    and sparse points discs of different size; frame 0 tells, and later frames are not looked at.

    Args:
        cameras: C of them.
        points: the object in frame 0 [m], shape (N, 3).
        masks: of the object in frame 0, shape (C, H, W), bool.
        ignored: pixels that do not count, shape (C, H, W), bool.

    Returns:
        Discs of some multiple of `point_spacing`; of 0.85, without a margin, where no mask tells.
    """
    spacing = point_spacing(points)
    best, drawing = -1.0, Drawing(_USUAL_RADIUS * spacing, 0.0)
    for share in _RADII:
        discs = [_drawn(camera, points, share * spacing) for camera in cameras]
        for margin in _MARGINS:
            tried = Drawing(share * spacing, margin * share * spacing)
            scores = [
                mask_iou(_taken_back(*disc, tried), mask, None if ignored is None else ignored[c])
                for c, (disc, mask) in enumerate(zip(discs, masks))
            ]
            known = [score for score in scores if np.isfinite(score)]
            if known and float(np.mean(known)) > best:
                best, drawing = float(np.mean(known)), tried
    return drawing


def silhouette_iou(
    cameras: Sequence[PinholeCamera],
    predicted: np.ndarray,
    masks: np.ndarray,
    *,
    drawing: Drawing,
    ignored: np.ndarray | None = None,
) -> np.ndarray:
    """Mask IoU of predicted points with observed masks, by frame and camera.

    Args:
        cameras: C of them.
        predicted: [m], shape (T, N, 3).
        masks: of the object, shape (C, T, H, W), bool.
        drawing: sizes of the discs.
        ignored: pixels that do not count, shape (C, T, H, W), bool.

    Returns:
        Shape (T, C); NaN where a mask is empty.

    Raises:
        DataError: if the masks do not fit cameras, frames or images.
    """
    sizes = {(camera.height, camera.width) for camera in cameras}
    expected = (len(cameras), len(predicted))
    if masks.shape[:2] != expected or sizes - {masks.shape[2:]}:
        raise DataError(
            f"masks {masks.shape}",
            where="silhouette_iou",
            expected=f"{expected} and images of {sorted(sizes)}",
        )
    if ignored is not None and ignored.shape != masks.shape:
        raise DataError(f"{ignored.shape}", where="silhouette_iou: ignored", expected="as masks")
    score = np.full((len(predicted), len(cameras)), np.nan)
    for c, camera in enumerate(cameras):
        drawn, drawn_of = None, -1
        for t in range(len(predicted)):
            if not masks[c, t].any():
                continue
            # A prediction that stands still is drawn once.
            if drawn is None or not np.array_equal(predicted[t], predicted[drawn_of]):
                drawn, drawn_of = splat_mask(camera, predicted[t], drawing), t
            hidden = None if ignored is None else ignored[c, t]
            score[t, c] = mask_iou(drawn, masks[c, t], hidden)
    return score
