"""What tells a drawn image from a seen one: L1, D-SSIM, and their mix of 3D Gaussian splatting.

Shapes: C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from physgym.errors import DataError

__all__ = ["SeenImages"]

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2


@cache
def _window(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    at = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weight = torch.exp(-(at**2) / (2.0 * _SIGMA**2))
    return (weight / weight.sum()).to(dtype).to(device)


class _Blur(torch.autograd.Function):
    """Each plane under the window, zeros outside; symmetric, so it is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, planes: torch.Tensor) -> torch.Tensor:
        return _blurred(planes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return _blurred(grads[0])


def _blurred(planes: torch.Tensor) -> torch.Tensor:
    """Planes (M, H, W) under the window. OpenCV takes a tenth of the time of torch's conv2d."""
    row = _window(planes.dtype, planes.device)
    if planes.device.type == "cpu":
        weight = row.numpy()
        made = [
            cv2.sepFilter2D(plane, -1, weight, weight, borderType=cv2.BORDER_CONSTANT)
            for plane in planes.detach().contiguous().numpy()
        ]
        return torch.from_numpy(np.stack(made))
    pad = _WINDOW // 2
    along = torch.nn.functional.conv2d(planes[:, None], row[None, None, None], padding=(0, pad))
    return torch.nn.functional.conv2d(along, row[None, None, :, None], padding=(pad, 0))[:, 0]


class SeenImages:
    """Images that others are compared with; what of them SSIM needs is computed once.

    Args:
        rgb: 0 to 1, shape (C, H, W, 3).
    """

    def __init__(self, rgb: torch.Tensor) -> None:
        self.rgb = rgb.detach()
        planes = self.rgb.permute(0, 3, 1, 2).flatten(0, 1)
        self._planes = planes
        self._mean, self._square = _blurred(torch.cat([planes, planes * planes])).chunk(2)

    def __getitem__(self, index: Sequence[int]) -> SeenImages:
        """Some of the images."""
        made = object.__new__(SeenImages)
        at = [3 * i + channel for i in index for channel in range(3)]
        made.rgb = self.rgb[list(index)]
        made._planes, made._mean, made._square = (
            t[at] for t in (self._planes, self._mean, self._square)
        )
        return made

    def ssim_map(self, drawn: torch.Tensor) -> torch.Tensor:
        """Structural similarity at every pixel (Wang et al. 2004, eq. 13).

        An 11 x 11 Gaussian window with sigma 1.5 and zeros outside the image, as 3D Gaussian
        splatting, Spring-Gaus and PhysTwin have it.

        Args:
            drawn: images of range 0 to 1, shape (C, H, W, 3).

        Returns:
            Shape (C, H, W, 3), at most 1.

        Raises:
            DataError: if the shape is another.
        """
        if drawn.shape != self.rgb.shape:
            raise DataError(
                f"images of shapes {tuple(drawn.shape)} and {tuple(self.rgb.shape)}",
                where="ssim",
                expected="two times (C, H, W, 3)",
            )
        shape = drawn.permute(0, 3, 1, 2).shape
        a = drawn.permute(0, 3, 1, 2).flatten(0, 1)
        blurred: torch.Tensor = _Blur.apply(torch.cat([a, a * a, a * self._planes]))
        mean_a, aa, ab = blurred.chunk(3)
        mean_b = self._mean
        product = mean_a * mean_b
        squares = mean_a * mean_a + mean_b * mean_b
        top = (2.0 * product + _C1) * (2.0 * (ab - product) + _C2)
        bottom = (squares + _C1) * (aa + self._square - squares + _C2)
        return (top / bottom).reshape(shape).permute(0, 2, 3, 1)

    def ssim(self, drawn: torch.Tensor) -> torch.Tensor:
        """Mean structural similarity over pixels, channels and images; see `ssim_map`.

        Args:
            drawn: images of range 0 to 1, shape (C, H, W, 3).

        Returns:
            A number, at most 1.

        Raises:
            DataError: if the shape is another.
        """
        return self.ssim_map(drawn).mean()

    def loss(self, drawn: torch.Tensor, *, dssim: float = 0.2) -> torch.Tensor:
        """``(1 - w) L1 + w (1 - SSIM)`` (Kerbl et al. 2023, eq. 7).

        Args:
            drawn: shape (C, H, W, 3).
            dssim: w.

        Returns:
            A number.

        Raises:
            DataError: if the weight is outside 0 to 1, or the shape is another.
        """
        if not 0.0 <= dssim <= 1.0:
            raise DataError(f"dssim = {dssim}", where="SeenImages.loss", expected="0 to 1")
        plain = (drawn - self.rgb).abs().mean()
        if dssim == 0.0:
            return plain
        return (1.0 - dssim) * plain + dssim * (1.0 - self.ssim(drawn))
