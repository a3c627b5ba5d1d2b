"""What the SIMD bodies read of a camera and of a rendering's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from physgym.splats.native_common import TILE
from physgym.splats.projection import MARGIN

__all__ = ["NativeSettings", "camera_numbers", "usable_threads"]


@dataclass(frozen=True)
class NativeSettings:
    """What a rendering needs beside tensors.

    Attributes:
        width: W [pixels].
        height: H [pixels].
        near_m: Gaussians closer than this are left out [m].
        blur_px2: variance added to every Gaussian in the image [pixels^2].
        antialiased: whether opacity makes up for the blur.
        logit: whether opacities are logits.
        degree: of the harmonics, or -1 where colours are RGB.
        threads: most threads to use.
    """

    width: int
    height: int
    near_m: float
    blur_px2: float
    antialiased: bool
    logit: bool
    degree: int
    threads: int

    @property
    def tiles_x(self) -> int:
        """Tiles in a row."""
        return -(-self.width // TILE)

    @property
    def tiles_y(self) -> int:
        """Rows of tiles."""
        return -(-self.height // TILE)

    def tiling(self) -> dict[str, int]:
        """Counts that all bodies of tiles take.

        Returns:
            By name.
        """
        return {
            "tiles_x": self.tiles_x,
            "tiles_y": self.tiles_y,
            "width": self.width,
            "height": self.height,
        }


def camera_numbers(
    T_world_cam: torch.Tensor, K: torch.Tensor, settings: NativeSettings
) -> torch.Tensor:
    """The numbers that the bodies read of a camera.

    Args:
        T_world_cam: shape (4, 4).
        K: intrinsics, shape (3, 3).
        settings: of the rendering.

    Returns:
        In the order of `native_project.MODEL`, shape (28,).
    """
    pose, k = T_world_cam.double().numpy(), K.double().numpy()
    turn, centre = pose[:3, :3].T, pose[:3, 3]
    size = np.array([settings.width, settings.height])
    focal, middle = k[[0, 1], [0, 1]], k[:2, 2] + 0.5  # pixel centres are at halves here
    margin = MARGIN * size / focal
    numbers = [
        turn.ravel(), -turn @ centre, centre, focal, middle,
        [settings.near_m, settings.blur_px2, settings.antialiased], size,
        -middle / focal - margin, (size - middle) / focal + margin,
    ]  # fmt: skip
    return torch.from_numpy(np.concatenate(numbers).astype(np.float32))


def usable_threads(threads: int | None) -> int:
    """Threads to use.

    Args:
        threads: the wish; None takes all that this process may use.

    Returns:
        At least 1.
    """
    return threads or len(os.sched_getaffinity(0))
