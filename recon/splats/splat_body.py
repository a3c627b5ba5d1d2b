"""The body at rest of Gaussians that follow a video: the one place that decides its shape.

Shapes: T frames, G Gaussians, P points.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from physgym.errors import DataError
from physgym.sim.mpm.ride import carry, mount
from recon.identify.video_scene import VideoScene
from recon.splats.dynamic_cloud import DynamicCloud
from recon.splats.filling import fill_volume
from recon.splats.posed_images import PosedImages
from recon.splats.video import PosedVideo

__all__ = ["SOLID", "never_underground", "splat_body"]

SOLID = 0.1
"""Opacity from which a Gaussian is part of the body."""

_CELLS = 36  # along the longest side of the body
_FILLED = 0.5  # of the surroundings of a cell at the surface: neither shaved nor thickened
# Of the radius of fitted Gaussians. A box of four views: 5 % is missing then and 9 % too much; with
# no skin 20 % is missing, its edges first.
_SKIN = 1.0
_OFF_SIZE = 0.045  # of the body's size: what Gaussians are off by once it has landed
_BESIDE_SIZE = 0.02  # likewise in an image, but at least a pixel
_LEAST_KEPT = 0.3


def splat_body(dynamic: DynamicCloud, video: PosedVideo, scene: VideoScene) -> np.ndarray:
    """Points that fill the body of the first frame.

    It is what lies inside all silhouettes and behind what is drawn in the first frame. One frame
    shows too little: points that the Gaussians carry out of a silhouette or under the ground in a
    later one are no part of it.

    Args:
        dynamic: Gaussians of the video.
        video: its images.
        scene: world of the video.

    Returns:
        [m], shape (P, 3), float64.

    Raises:
        DataError: if nothing solid is seen, or most of it would be under the ground.
    """
    cloud = dynamic.cloud
    solid = cloud.log_scale[cloud.opacity >= SOLID].exp()
    skin_m = _SKIN * float(solid.mean()) if len(solid) else 0.0
    cells = fill_volume(
        cloud, video.frames[0], spacing_m=_size_m(dynamic) / _CELLS, opacity=SOLID,
        density=_FILLED, skin_m=skin_m,
    )  # fmt: skip
    ride = mount(cells, cloud.mean.double().numpy())
    seen = np.ones(len(cells), bool)
    for t in range(1, len(dynamic)):
        now = carry(ride, dynamic.mean[t], dynamic.F(t)).double().numpy()
        seen &= _inside(now, video.frames[t], _BESIDE_SIZE * _size_m(dynamic))
    return never_underground(cells[seen], dynamic, scene)


def _inside(points: np.ndarray, views: PosedImages, slack_m: float) -> np.ndarray:
    """Points that no view sees further beside the object, shape (P,), bool."""
    good = np.ones(len(points), bool)
    for view, camera in enumerate(views.cameras):
        allowed = (views.mask[view] > 0.5) | (views.known[view] < 0.5)
        beside_px = ndimage.distance_transform_edt(~allowed.numpy())
        pixels, depth = camera.project(points)
        pixels = np.nan_to_num(pixels, nan=-9.0)
        shown = camera.visible(pixels)
        column, row = np.rint(pixels[shown]).astype(int).T
        most_px = np.maximum(slack_m * camera.K[0, 0] / depth[shown], 1.0)
        good[shown] &= beside_px[row, column] <= most_px
    return good


def never_underground(body: np.ndarray, dynamic: DynamicCloud, scene: VideoScene) -> np.ndarray:
    """Points of a body that the ground leaves room for, carried by the Gaussians, in every frame.

    What no camera sees from below, the hull fills down to the ground and further.

    Args:
        body: in the first frame [m], shape (P, 3).
        dynamic: what carries it.
        scene: with the ground.

    Returns:
        Some of the points; all where there is no ground.

    Raises:
        DataError: if most of them would be under the ground: it is not where it is said to be.
    """
    if scene.ground is None:
        return body
    ride = mount(body, dynamic.cloud.mean.double().numpy())
    keep = np.ones(len(body), bool)
    for t in range(len(dynamic)):
        now = carry(ride, dynamic.mean[t], dynamic.F(t)).double().numpy()
        height = now @ np.array(scene.ground.normal) - scene.ground.offset_m
        keep &= height > -_OFF_SIZE * _size_m(dynamic)
    if keep.sum() < _LEAST_KEPT * len(body):
        raise DataError(
            f"{1.0 - keep.mean():.0%} of the body would be below the ground at some time",
            where=f"{dynamic.name}: --ground",
            expected="the height of what the body lands on",
            fix="correct the height of the ground, or the cameras' poses",
        )
    return body[keep]


def _size_m(dynamic: DynamicCloud) -> float:
    return float(np.ptp(dynamic.cloud.mean.numpy(), axis=0).max())
