"""PosedImages: one instant of an object in several calibrated views, ready to be fitted.

Shapes: C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.tracks import PhysGymWarning

__all__ = ["PosedImages", "cropped_camera", "posed_images"]

_LEAST_MASK_PX = 16  # fewer pixels tell nothing of a shape


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Images of one instant with masks; cameras have no distortion and images of one size.

    Attributes:
        rgb: 0 to 1, black beside the object, float32, shape (C, H, W, 3).
        mask: share of a pixel that is the object, float32, shape (C, H, W).
        known: where an image says something; elsewhere something hides the object, float32,
            shape (C, H, W).
        cameras: C of them.
    """

    rgb: torch.Tensor
    mask: torch.Tensor
    known: torch.Tensor
    cameras: tuple[PinholeCamera, ...]

    def __len__(self) -> int:
        """C."""
        return len(self.cameras)

    def __getitem__(self, index: Sequence[int]) -> PosedImages:
        """Some of the views."""
        at = list(index)
        return PosedImages(
            self.rgb[at], self.mask[at], self.known[at], tuple(self.cameras[i] for i in at)
        )


def posed_images(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    cameras: Sequence[PinholeCamera],
    *,
    hidden: Sequence[np.ndarray] | None = None,
    most_pixels: int = 640 * 480,
    margin: float = 0.15,
    crop: bool = True,
) -> PosedImages:
    """Undistort, cut to the object, make smaller where it is too big, and check.

    Every view is cut to a window of one size around its mask; what is cut off is background.

    Args:
        images: C images of any sizes, uint8, (H, W, 3).
        masks: of the object, bool, (H, W).
        cameras: with poses.
        hidden: where something else is in front of the object, bool, (H, W).
        most_pixels: of a window.
        margin: around the mask, as a share of its size.
        crop: cut to the object.

    Returns:
        The views. A view whose mask is empty is left out, with a warning.

    Raises:
        DataError: if images, masks and cameras do not fit, no mask shows the object, or images that
            are not cut have different sizes.
    """
    _check(images, masks, cameras)
    beside = [np.zeros(np.shape(m), bool) for m in masks] if hidden is None else hidden
    views = []
    for image, mask, cover, camera in zip(images, masks, beside, cameras, strict=True):
        if np.count_nonzero(mask) < _LEAST_MASK_PX:
            warnings.warn(
                f"camera {camera.name} does not see the object; its view is left out",
                PhysGymWarning,
                stacklevel=2,
            )
            continue
        views.append(_undistorted(image, mask, cover, camera))
    if not views:
        raise DataError(
            f"no mask of {len(masks)} views shows the object",
            where="posed_images: masks",
            expected=f"a mask of at least {_LEAST_MASK_PX} pixels in at least one view",
            fix="check the masks (recon.perception.segment), or give a prompt",
        )
    if crop:
        views = _cut(views, margin)
    sizes = {view[3].width * 100_000 + view[3].height for view in views}
    if len(sizes) > 1:
        raise DataError(
            f"images of sizes {sorted((v[3].width, v[3].height) for v in views)}",
            where="posed_images: images",
            expected="images of one size, or crop=True",
            fix="cut them to the object with crop=True",
        )
    pixels = views[0][3].width * views[0][3].height
    scale = min(1.0, (most_pixels / pixels) ** 0.5)
    views = [_scaled(view, scale) for view in views]
    rgb = torch.from_numpy(np.stack([view[0] for view in views]))
    share = torch.from_numpy(np.stack([view[1] for view in views]))
    known = torch.from_numpy(np.stack([view[2] for view in views]))
    return PosedImages(rgb, share, known, tuple(view[3] for view in views))


_View = tuple[np.ndarray, np.ndarray, np.ndarray, PinholeCamera]  # rgb, mask, known, camera


def _check(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], cameras: Sequence[PinholeCamera]
) -> None:
    if not len(images) == len(masks) == len(cameras) or not len(cameras):
        raise DataError(
            f"{len(images)} images, {len(masks)} masks and {len(cameras)} cameras",
            where="posed_images",
            expected="as many of each, at least one; every view needs a pose",
            fix="leave out views without a pose (physgym calibrate finds poses)",
        )
    for image, mask, camera in zip(images, masks, cameras, strict=True):
        size = (camera.height, camera.width)
        if np.shape(image) != (*size, 3) or np.shape(mask) != size:
            raise DataError(
                f"an image of shape {np.shape(image)} and a mask of shape {np.shape(mask)}",
                where=f"posed_images: camera {camera.name!r}",
                expected=f"{(*size, 3)} and {size}",
                fix="use the intrinsics of this very stream",
            )


def _undistorted(
    image: np.ndarray, mask: np.ndarray, cover: np.ndarray, camera: PinholeCamera
) -> _View:
    share: np.ndarray = np.asarray(mask, np.float32)
    # black beside the object first: mixed later, its rim would have the background's colour in it
    rgb: np.ndarray = np.asarray(image, np.float32) / np.float32(255.0) * share[..., None]
    known: np.ndarray = np.float32(1.0) - np.asarray(cover, np.float32)
    if camera.distortion.any():
        size = (camera.width, camera.height)
        maps = cv2.initUndistortRectifyMap(
            camera.K, camera.distortion, None, camera.K, size, cv2.CV_32FC1
        )
        rgb, share, known = (
            np.asarray(cv2.remap(a, *maps, cv2.INTER_LINEAR)) for a in (rgb, share, known)
        )
        camera = dataclasses.replace(camera, distortion=np.zeros(5))
    return rgb, share, known, camera


def _cut(views: list[_View], margin: float) -> list[_View]:
    """Windows of one size, each around its mask."""
    boxes = []
    for _rgb, mask, _known, _camera in views:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        boxes.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    tall, wide = max(b[1] - b[0] for b in boxes), max(b[3] - b[2] for b in boxes)
    edge = max(_LEAST_MASK_PX, round(margin * max(tall, wide)))
    height, width = tall + 2 * edge, wide + 2 * edge
    made = []
    for (rgb, mask, known, camera), (top, bottom, left, right) in zip(views, boxes):
        row, column = (top + bottom - height) // 2, (left + right - width) // 2
        rgb, mask = (_window(a, row, column, height, width) for a in (rgb, mask))
        known = _window(known, row, column, height, width)  # beyond the image nothing is known
        made.append((rgb, mask, known, cropped_camera(camera, row, column, height, width)))
    return made


def _window(image: np.ndarray, row: int, column: int, height: int, width: int) -> np.ndarray:
    """A part of an image, zeros outside of it."""
    made = np.zeros((height, width, *image.shape[2:]), image.dtype)
    top, left = max(row, 0), max(column, 0)
    part = image[top : row + height, left : column + width]
    made[top - row : top - row + len(part), left - column : left - column + part.shape[1]] = part
    return made


def cropped_camera(
    camera: PinholeCamera, row: int, column: int, height: int, width: int
) -> PinholeCamera:
    """The camera of a part of an image, which may reach beyond it.

    Args:
        camera: of the whole image.
        row: first row of the part.
        column: first column of the part.
        height: rows.
        width: columns.

    Returns:
        The camera.
    """
    K = camera.K.copy()
    K[0, 2] -= column
    K[1, 2] -= row
    return dataclasses.replace(camera, K=K, width=width, height=height)


def _scaled(view: _View, scale: float) -> _View:
    rgb, mask, known, camera = view
    if scale == 1.0:
        return view
    small = camera.scaled(scale)
    size = (small.width, small.height)
    rgb, mask, known = (
        np.asarray(cv2.resize(a, size, interpolation=cv2.INTER_AREA)) for a in (rgb, mask, known)
    )
    return rgb, mask, known, small
