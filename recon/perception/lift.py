"""From pixels to world points: depth with holes, edges and noise, lifted with care.

The inverse depth of a plane is linear in the pixel, so depth at a sub-pixel is read off a plane
that is fitted to the inverse depths around it. That averages the sensor's noise, crosses small
holes, and does not bend at the border of a mask. Pixels beside a jump of depth are refused: there
the sensor mixes foreground and background ("flying pixels").
Shapes: T frames, N points, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import apply_T

__all__ = ["LiftConfig", "View", "depth_edges", "lift_mask", "lift_pixels"]


@dataclass(frozen=True, eq=False)
class View:
    """What one calibrated camera recorded.

    Attributes:
        camera: intrinsics and pose of the colour images, to which depth is aligned.
        rgb: T images, uint8, shape (H, W, 3). A list, an array, or anything that reads frames when
            asked, so that a long recording need not fit in memory.
        depth_m: T images [m], float32, shape (H, W); zero or not finite where nothing was measured.
    """

    camera: PinholeCamera
    rgb: Sequence[np.ndarray]
    depth_m: Sequence[np.ndarray]

    def __post_init__(self) -> None:
        """Refuse streams of unequal length, and a first image that does not fit the camera.

        Raises:
            DataError: naming the camera and what does not fit.
        """
        where = f"view of camera {self.camera.name!r}"
        if len(self.rgb) != len(self.depth_m) or len(self.rgb) == 0:
            raise DataError(
                f"{len(self.rgb)} colour and {len(self.depth_m)} depth images",
                where=where,
                expected="as many of both, at least one",
                fix="synchronize the streams first",
            )
        size = (self.camera.height, self.camera.width)
        colour, depth = np.shape(self.rgb[0]), np.shape(self.depth_m[0])
        if colour != (*size, 3) or depth != size:
            raise DataError(
                f"images of shape {colour} and {depth}",
                where=where,
                expected=f"{(*size, 3)} and {size}",
                fix="align depth to colour, and use the intrinsics of this very stream",
            )

    def __len__(self) -> int:
        return len(self.rgb)


@dataclass(frozen=True)
class LiftConfig:
    """How depth is read.

    Attributes:
        near_m: depth below this is refused [m].
        far_m: depth beyond this is refused [m].
        jump_m: neighbours that differ by more, at one metre, lie on different surfaces [m]. The
            limit grows with depth, as slopes and noise per pixel do.
        window_px: side of the window of the plane fit; odd.
        support: measured pixels of the point's own surface that a fit needs.
    """

    near_m: float = 0.1
    far_m: float = 3.0
    jump_m: float = 0.012
    window_px: int = 5
    support: int = 6

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            DataError: naming the field.
        """
        odd = self.window_px % 2 == 1 and self.window_px >= 3
        ranges = 0 < self.near_m < self.far_m and self.jump_m > 0
        if not odd or not ranges or not 3 <= self.support <= self.window_px**2:
            raise DataError(
                f"{self}",
                where="LiftConfig",
                expected="0 < near_m < far_m, jump_m > 0, an odd window_px of 3 or more, "
                "support from 3 to the window's pixels",
            )


def usable_depth(depth_m: np.ndarray, config: LiftConfig) -> np.ndarray:
    """Which pixels hold a distance in range.

    Args:
        depth_m: [m], shape (H, W).
        config: range.

    Returns:
        Shape (H, W), bool.
    """
    return np.asarray((depth_m > config.near_m) & (depth_m < config.far_m))  # NaN compares False


def depth_edges(depth_m: np.ndarray, config: LiftConfig | None = None) -> np.ndarray:
    """Pixels beside a jump of depth.

    Args:
        depth_m: [m], shape (H, W).
        config: range and jump.

    Returns:
        Shape (H, W), bool; holes are no edges.
    """
    config = config or LiftConfig()
    usable = usable_depth(depth_m, config)
    depth = np.where(usable, depth_m, 0.0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(depth, kernel)
    lowest = cv2.erode(np.where(usable, depth, np.float32(1e9)), kernel)
    return np.asarray(usable & (highest - lowest > 2.0 * config.jump_m * depth))


def lift_pixels(
    camera: PinholeCamera,
    depth_m: np.ndarray,
    pixel: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    config: LiftConfig | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """World points of sub-pixel positions.

    Args:
        camera: whose image it is.
        depth_m: [m], shape (H, W).
        pixel: (u, v), shape (N, 2); NaN and positions outside the image are not lifted.
        mask: pixels that may support a fit (those of the object), shape (H, W), bool.
        config: range, jump and window.

    Returns:
        Points in the world [m], shape (N, 3), float64, NaN where nothing could be lifted; and the
        cosine between the surface's normal and the ray there, shape (N,): 1 for a surface that
        faces the camera, 0 for one that is seen edge on.
    """
    config = config or LiftConfig()
    points, cosine = np.full((len(pixel), 3), np.nan), np.full(len(pixel), np.nan)
    inside = np.isfinite(pixel).all(axis=1) & camera.visible(pixel)
    if not inside.any():
        return points, cosine
    uv = np.asarray(pixel, np.float64)[inside]
    fit = _inverse_depth_plane(depth_m, mask, uv, config)
    rays = camera.pixel_rays(uv)
    points[inside] = apply_T(camera.T_world_cam, rays / fit[:, :1])
    # The plane n . X = 1 has inverse depth n . ray, whose slopes over u, v are n_x / fx, n_y / fy.
    normal = np.concatenate([fit[:, 1:] * [camera.K[0, 0], camera.K[1, 1]], fit[:, :1]], axis=1)
    normal[:, 2] -= (normal[:, :2] * rays[:, :2]).sum(axis=1)
    cosine[inside] = fit[:, 0] / np.linalg.norm(normal, axis=1) / np.linalg.norm(rays, axis=1)
    return points, cosine


def lift_mask(
    camera: PinholeCamera,
    depth_m: np.ndarray,
    mask: np.ndarray,
    *,
    config: LiftConfig | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """World points of all measured pixels of a mask that lie beside no edge.

    Args:
        camera: whose image it is.
        depth_m: [m], shape (H, W).
        mask: shape (H, W), bool.
        config: range and jump.

    Returns:
        Points [m], shape (N, 3), float64, and their pixels as (row, column), shape (N, 2), int64.
    """
    config = config or LiftConfig()
    keep = mask & usable_depth(depth_m, config) & ~depth_edges(depth_m, config)
    row_column = np.argwhere(keep)
    rays = camera.pixel_rays(row_column[:, ::-1])
    return apply_T(camera.T_world_cam, rays * depth_m[keep][:, None]), row_column


def _inverse_depth_plane(
    depth_m: np.ndarray, mask: np.ndarray | None, uv: np.ndarray, config: LiftConfig
) -> np.ndarray:
    """Inverse depth [1/m] and its slopes over u and v, shape (N, 3), NaN where not supported."""
    height, width = depth_m.shape
    reach = config.window_px // 2
    step = np.arange(-reach, reach + 1)
    du, dv = (axis.ravel() for axis in np.meshgrid(step, step))
    centre = np.rint(uv).astype(np.int64)
    column, row = centre[:, :1] + du, centre[:, 1:] + dv
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = column.clip(0, width - 1), row.clip(0, height - 1)
    value = depth_m[row, column].astype(np.float64)
    usable = inside & (value > config.near_m) & (value < config.far_m)
    if mask is not None:
        usable &= mask[row, column]
    # The surface of the point: what is within a jump of the nearest measured pixel to the middle.
    away = np.where(usable, np.hypot(du, dv), np.inf)
    nearest = np.take_along_axis(value, away.argmin(axis=1)[:, None], axis=1)
    jump = config.jump_m * nearest * (1.0 + 0.5 * np.hypot(du, dv))
    rival = usable & (np.hypot(du, dv) < 1.6) & (np.abs(value - nearest) > 2.0 * jump)
    usable &= np.abs(value - nearest) <= jump
    weight = usable.astype(np.float64)
    offset_u, offset_v = column - uv[:, :1], row - uv[:, 1:]
    basis = np.stack([np.ones_like(offset_u, dtype=np.float64), offset_u, offset_v], axis=-1)
    inverse = np.where(usable, 1.0 / np.where(usable, value, 1.0), 0.0)
    normal = np.einsum("nw,nwi,nwj->nij", weight, basis, basis)
    moment = np.einsum("nw,nwi->ni", weight * inverse, basis)
    # A little stiffness against slope, in pixels squared, keeps windows of one row solvable.
    normal[:, [1, 2], [1, 2]] += 0.5
    normal[:, 0, 0] += 1e-9
    fit = np.linalg.solve(normal, moment[..., None])[..., 0]
    supported = (weight.sum(axis=1) >= config.support) & ~rival.any(axis=1) & (fit[:, 0] > 0)
    return np.asarray(np.where(supported[:, None], fit, np.nan))
