"""The visual hull of a recording's first frame as points: what masks tell of a body's shape.

Shapes: C cameras, N points, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from scipy.ndimage import label

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.perception.lift import View

__all__ = ["hull_points"]

_HULL_POINTS = 6000  # of the lattice; a third of them is surface
_LEAST_VIEWS = 2  # in whose images a point lies
_LEAST_COVERED = 0.5  # of a mask, by what all cameras see
_LEAST_ABOVE = 0.8  # of that, by what is above the ground


def hull_points(
    views: Sequence[View],
    masks: np.ndarray,
    hidden: Sequence[np.ndarray] | None,
    ground_m: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the visual hull of an instant, on a lattice; none is below the ground.

    Args:
        views: of the cameras; their first frame is looked at.
        masks: of the object in it, shape (C, H, W), bool.
        hidden: where something else is in front of the object, bool, (H, W) each, or None.
        ground_m: height of a level ground [m], or None.

    Returns:
        Points of its surface, and inside of it [m], shapes (N, 3).

    Raises:
        DataError: if masks and cameras do not agree about any point, or the object is below the
            ground.
    """
    from recon.identify.video_scene import hull_of
    from recon.splats.posed_images import posed_images

    posed = posed_images(
        [np.asarray(view.rgb[0]) for view in views],
        list(masks),
        [view.camera for view in views],
        hidden=hidden,
        crop=False,  # of cut views nobody would know what lies beside the object
    )
    points, spacing_m = hull_of(posed, _HULL_POINTS)
    points = _body(points, spacing_m, posed.cameras)
    if not len(points):
        raise DataError(
            "no point of the object lies in the images of two cameras",
            where="visual hull, frame 0",
            expected=f"{_LEAST_VIEWS} cameras or more that see the object from different sides",
            fix="add a camera, or record depth",
        )
    covered = _covered(points, spacing_m, views, masks)
    _check_agreement(covered)
    if ground_m is not None:
        points = points[points[:, 2] >= ground_m]
        left = _covered(points, spacing_m, views, masks)
        # What the hull has below the real ground hides behind what is above it.
        if not len(points) or any(left[c] < _LEAST_ABOVE * covered[c] for c in covered):
            raise DataError(
                "the object, or a good part of it, is below the ground in the first frame",
                where=f"--ground {ground_m:g}",
                expected="the height of what the object may land on, in the cameras' world [m]",
                fix="correct the height, or the cameras' poses",
            )
    outer = _outer(points, spacing_m)
    return points[outer], points[~outer]


def _covered(
    points: np.ndarray, spacing_m: float, views: Sequence[View], masks: np.ndarray
) -> dict[str, float]:
    """Which share of each camera's mask points cover; cameras that see nothing are left out."""
    shares = {}
    for view, mask in zip(views, masks, strict=True):
        camera = view.camera
        pixels, depth = camera.project(points)
        there = np.isfinite(pixels).all(axis=1) & camera.visible(np.nan_to_num(pixels, nan=-9.0))
        if not mask.any():
            continue
        drawn = np.zeros(mask.shape, np.uint8)
        if there.any():
            column, row = np.rint(pixels[there]).astype(int).T
            drawn[row.clip(0, camera.height - 1), column.clip(0, camera.width - 1)] = 1
            edge_px = int(np.ceil(camera.K[0, 0] * spacing_m / float(np.median(depth[there]))))
            drawn = cv2.dilate(drawn, np.ones((2 * edge_px + 1,) * 2, np.uint8))
        shares[camera.name] = float((drawn[mask] > 0).mean())
    return shares


def _check_agreement(covered: Mapping[str, float]) -> None:
    """Refuse masks that are of different things, or cameras that stand elsewhere."""
    wrong = [f"{s:.0%} of the mask of {c}" for c, s in covered.items() if s < _LEAST_COVERED]
    if wrong:
        raise DataError(
            f"what all cameras see fills {', '.join(wrong)}",
            where="visual hull, frame 0",
            expected=f"at least {_LEAST_COVERED:.0%} in every camera",
            fix="check that masks or boxes are of the same object, and the poses of the cameras",
        )


def _body(points: np.ndarray, spacing_m: float, cameras: Sequence[PinholeCamera]) -> np.ndarray:
    """The largest part of a hull that two cameras see: beyond their images nothing cuts it."""
    seen = np.zeros(len(points), int)
    for camera in cameras:
        pixels, _ = camera.project(points)
        seen += np.isfinite(pixels).all(axis=1) & camera.visible(np.nan_to_num(pixels, nan=-9.0))
    points = points[seen >= _LEAST_VIEWS]
    if not len(points):
        return points
    cell, filled = _lattice(points, spacing_m)
    part = label(filled)[0][tuple(cell.T)]
    return np.asarray(points[part == np.bincount(part).argmax()])


def _lattice(points: np.ndarray, spacing_m: float) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each point, (N, 3), and which cells hold one, with an empty one around."""
    cell = np.rint((points - points.min(axis=0)) / spacing_m).astype(int) + 1
    filled = np.zeros(cell.max(axis=0) + 2, bool)
    filled[tuple(cell.T)] = True
    return cell, filled


def _outer(points: np.ndarray, spacing_m: float) -> np.ndarray:
    """Which points of a lattice lack one of six neighbours, shape (N,), bool."""
    cell, filled = _lattice(points, spacing_m)
    buried = np.ones(len(points), bool)
    for axis in range(3):
        for step in (-1, 1):
            beside = cell.copy()
            beside[:, axis] += step
            buried &= filled[tuple(beside.T)]
    return ~buried
