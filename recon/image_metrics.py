"""How far a drawn image is from a recorded one: PSNR, SSIM, IoU, and LPIPS where weights are.

Objects stand before black, as PhysTwin's evaluation has it. Shapes: H W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import DataError
from recon.metrics import mask_iou
from recon.splats.image_loss import SeenImages
from recon.splats.perceptual import Lpips

__all__ = ["IMAGE_MEASURES", "Window", "image_scores", "psnr", "ssim_map"]

IMAGE_MEASURES = ("psnr_db", "ssim", "iou", "psnr_crop_db", "ssim_crop", "lpips")
"""Names of what `image_scores` measures."""

_SOLID = 0.5  # alpha from which a pixel counts as covered


@dataclass(frozen=True, eq=False)
class Window:
    """A part of an image beyond which the object is neither seen nor drawn.

    Attributes:
        rgb: what was seen, 0 to 1, black beside the object, shape (H, W, 3).
        mask: of the object, shape (H, W), bool.
        ignored: pixels that do not count, shape (H, W), bool.
        row: first row of the window in the whole image.
        column: first column.
        whole: rows and columns of the whole image.
    """

    rgb: np.ndarray
    mask: np.ndarray
    ignored: np.ndarray
    row: int
    column: int
    whole: tuple[int, int]


def image_scores(
    rgb: np.ndarray, alpha: np.ndarray, seen: Window, *, lpips: Lpips | None = None
) -> dict[str, float]:
    """Compare a drawn window with the seen one.

    The window must reach five pixels beyond everything drawn and seen, except at the image's
    border: then figures of the whole image are exact.

    Args:
        rgb: drawn over black, 0 to 1, shape (H, W, 3).
        alpha: drawn, shape (H, W).
        seen: what was seen.
        lpips: from `recon.splats.perceptual.load_lpips`.

    Returns:
        `IMAGE_MEASURES`: of the whole image over black PSNR [dB], SSIM, IoU of alpha above a half
        with the mask, and LPIPS (NaN without weights); PSNR and SSIM within the mask's box.
    """
    counted = ~seen.ignored[..., None]
    guess, real = np.clip(rgb, 0.0, 1.0) * counted, seen.rgb * counted
    pixels = seen.whole[0] * seen.whole[1]
    beyond = pixels - seen.mask.size
    likeness = ssim_map(guess, real)
    rows, columns = (np.flatnonzero(seen.mask.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return {
        "psnr_db": psnr(guess, real, beyond=beyond),
        "ssim": (float(likeness.mean(axis=2, dtype=np.float64).sum()) + beyond) / pixels,
        "iou": mask_iou(alpha > _SOLID, seen.mask, seen.ignored),
        "psnr_crop_db": psnr(guess[box], real[box]),
        "ssim_crop": float(likeness[box].mean(dtype=np.float64)),
        "lpips": float("nan") if lpips is None else lpips(_whole(guess, seen), _whole(real, seen)),
    }


def _whole(part: np.ndarray, window: Window) -> np.ndarray:
    made = np.zeros((*window.whole, 3), np.float32)
    height, width = part.shape[:2]
    made[window.row : window.row + height, window.column : window.column + width] = part
    return made


def psnr(predicted: np.ndarray, observed: np.ndarray, *, beyond: int = 0) -> float:
    """Peak signal-to-noise ratio, ``-10 log10(mean squared error)`` of values up to 1.

    Args:
        predicted: 0 to 1, shape (..., 3).
        observed: the same shape.
        beyond: pixels of the whole image that are not given because both are black there.

    Returns:
        [dB], at most 100: images that are the same have no finite one.

    Raises:
        DataError: if the shapes differ, or nothing is to be compared.
    """
    guess, real = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    pixels = real.size // 3 + beyond
    if guess.shape != real.shape or real.shape[-1:] != (3,) or not pixels:
        raise DataError(
            f"images {guess.shape} and {real.shape}", where="psnr", expected="the same (..., 3)"
        )
    error = float(np.square(guess - real).sum()) / (3 * pixels)
    return -10.0 * float(np.log10(max(error, 1e-10)))


def ssim_map(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Structural similarity at every pixel (Wang et al. 2004), 11 x 11 window, sigma 1.5.

    Zeros outside the image, as 3D Gaussian splatting and PhysTwin have it; its mean is their SSIM.

    Args:
        predicted: 0 to 1, shape (H, W, 3).
        observed: the same shape.

    Returns:
        At most 1, shape (H, W, 3), float32.

    Raises:
        DataError: if the shapes differ.
    """
    guess, real = (np.asarray(image, np.float32) for image in (predicted, observed))
    if guess.shape != real.shape or real.ndim != 3 or real.shape[2] != 3:
        raise DataError(
            f"images {guess.shape} and {real.shape}",
            where="ssim_map",
            expected="the same (H, W, 3)",
        )
    seen = SeenImages(torch.tensor(real)[None])
    return np.asarray(seen.ssim_map(torch.tensor(guess)[None])[0])
