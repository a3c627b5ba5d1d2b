"""FrameLoss: how far drawn Gaussians are from one frame of a video.

Shapes: C cameras, G Gaussians.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.rasterize import rasterize
from recon.splats.image_loss import SeenImages
from recon.splats.video import PosedVideo

__all__ = ["FrameLoss"]

_THREADS = 1  # of a rasteriser: of images this small, threads wait longer than they work


class FrameLoss:
    """``(1 - dssim) L1 + dssim D-SSIM + mask |alpha - mask|`` (GIC; notes on MoSA's eq. 11).

    Args:
        video: the video.
        dssim: weight of D-SSIM against L1.
        mask: weight of the mean difference of alpha and mask.
    """

    def __init__(self, video: PosedVideo, *, dssim: float, mask: float) -> None:
        self.video, self.dssim, self.mask = video, dssim, mask
        self._seen = [SeenImages(f.rgb * f.known[..., None]) for f in video.frames]

    def __call__(
        self, frame: int, drawn: GaussianCloud | Gaussians, views: Sequence[int] | None = None
    ) -> torch.Tensor:
        """The loss.

        Args:
            frame: number in the video.
            drawn: the Gaussians in this frame.
            views: which of the frame's views count; all when None.

        Returns:
            A number.
        """
        seen, images = self._seen[frame], self.video.frames[frame]
        if views is not None:
            seen, images = seen[views], images[views]
        made = rasterize(drawn, images.cameras, threads=_THREADS)
        loss = seen.loss(made.rgb * images.known[..., None], dssim=self.dssim)
        if self.mask > 0.0:
            loss = loss + self.mask * ((made.alpha - images.mask) * images.known).abs().mean()
        return loss
