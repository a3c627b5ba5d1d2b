"""How far drawn Gaussians are from a video: colours, silhouettes, centres.

Shapes: T frames, C cameras, G Gaussians, A anchors, H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from physgym.splats.cloud import GaussianCloud
from physgym.splats.rasterize import rasterize
from recon.splats.image_loss import SeenImages
from recon.splats.posed_images import PosedImages
from recon.splats.video import PosedVideo

__all__ = ["LossWeights", "VideoLoss", "mask_centres"]

# Of a mask's width, as the root of its area tells it, that lies beside what is unknown. A disc that
# is cut along so much of it lost 0.2 % of its area; its centre moved by a thousandth of its width.
_CUT_SHARE = 0.25


class LossWeights(NamedTuple):
    """Of the terms: ``(1 - dssim) L1 + dssim D-SSIM + mask |alpha - mask| + centre d``."""

    dssim: float = 0.05
    mask: float = 0.5
    centre: float = 0.5


def mask_centres(views: PosedImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Middle of every mask as a direction ``(x / z, y / z)`` in its camera.

    Args:
        views: with masks.

    Returns:
        Shape (C, 2), and whether the whole object is seen, shape (C,), bool.
    """
    height, width = views.mask.shape[1:]
    u, v = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    total = views.mask.sum(dim=(1, 2)).clamp(min=1e-6)
    at = torch.stack([(views.mask * w).sum(dim=(1, 2)) / total for w in (u, v)], dim=1)
    K = torch.from_numpy(np.stack([c.K for c in views.cameras])).float()
    way = (at - K[:, :2, 2]) / torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=1)
    unknown = torch.nn.functional.max_pool2d(1.0 - views.known[:, None], 3, 1, 1)[:, 0]
    cut = (views.mask * (unknown > 0.5)).sum(dim=(1, 2))
    return way, cut <= _CUT_SHARE * total.sqrt()


class VideoLoss:
    """Compares a moving cloud with a video.

    Masks' centres are compared by how they moved since frame 0: the mean of a cloud does not fall
    on the middle of its silhouette. They say where to go when the drawn object has left the window.

    Args:
        video: the video.
        cloud: Gaussians in frame 0.
        weights: of the terms.
    """

    def __init__(self, video: PosedVideo, cloud: GaussianCloud, weights: LossWeights) -> None:
        self.video, self.cloud, self.weights = video, cloud.detach(), weights
        self._seen: dict[int, SeenImages] = {}
        self._poses = {
            camera.name: torch.from_numpy(np.linalg.inv(camera.T_world_cam)).float()
            for frame in video.frames
            for camera in frame.cameras
        }
        self._centres = [mask_centres(frame) for frame in video.frames]
        first, whole = self._centres[0]
        own = self._ways(self.cloud.mean, video.frames[0])
        self._offset = {
            camera.name: first[c] - own[c]
            for c, camera in enumerate(video.frames[0].cameras)
            if whole[c]
        }

    def frame(self, t: int, mean: torch.Tensor) -> torch.Tensor:
        """Loss of one frame.

        Args:
            t: number in the video.
            mean: of the Gaussians [m], shape (G, 3).

        Returns:
            A number.
        """
        views = self.video.frames[t]
        drawn = rasterize(self.cloud.replace(mean=mean), views.cameras)
        loss = self._images(t).loss(drawn.rgb * views.known[..., None], dssim=self.weights.dssim)
        if self.weights.mask > 0.0:
            beside = ((drawn.alpha - views.mask) * views.known).abs().mean()
            loss = loss + self.weights.mask * beside
        if self.weights.centre > 0.0:
            loss = loss + self.weights.centre * self._apart(t, mean)
        return loss

    def mean_over(self, frames: Sequence[int], means: Callable[[int], torch.Tensor]) -> float:
        """Mean loss without gradients.

        Args:
            frames: numbers in the video.
            means: Gaussians in such a frame [m], shape (G, 3).

        Returns:
            A number; infinite where the cloud is not finite.
        """
        total = 0.0
        with torch.no_grad():
            for t in frames:
                mean = means(t)
                if not bool(torch.isfinite(mean).all()):
                    return float("inf")
                total += float(self.frame(t, mean))
        return total / max(len(frames), 1)

    def _images(self, t: int) -> SeenImages:
        if t not in self._seen:
            views = self.video.frames[t]
            self._seen[t] = SeenImages(views.rgb * views.known[..., None])
        return self._seen[t]

    def _apart(self, t: int, mean: torch.Tensor) -> torch.Tensor:
        """Distance of the centres in widths of a view, mean over cameras that see all of it."""
        views = self.video.frames[t]
        seen, whole = self._centres[t]
        ways = self._ways(mean, views)
        apart = []
        for c, camera in enumerate(views.cameras):
            if whole[c] and camera.name in self._offset:
                error = ways[c] + self._offset[camera.name] - seen[c]
                apart.append((error.square().sum() + 1e-12).sqrt() * camera.K[0, 0] / camera.width)
        return torch.stack(apart).mean() if apart else mean.sum() * 0.0

    def _ways(self, mean: torch.Tensor, views: PosedImages) -> torch.Tensor:
        """Mean direction of the Gaussians in each camera, shape (C, 2)."""
        weight = self.cloud.opacity[:, None] / self.cloud.opacity.sum()
        made = []
        for camera in views.cameras:
            pose = self._poses[camera.name]
            inside = mean @ pose[:3, :3].T + pose[:3, 3]
            flat = inside[:, :2] / inside[:, 2:].clamp(min=0.01)
            made.append((weight * flat).sum(dim=0))
        return torch.stack(made)
