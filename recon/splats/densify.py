"""Where Gaussians are too few or too big: clone, split, prune (Kerbl et al. 2023, section 5.2).

Shapes: G Gaussians, C cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.splats.cloud import GaussianCloud, matrix_from_quat
from recon.splats.cloud_optimizer import CloudOptimizer

__all__ = ["DensifyConfig", "ImageGradient", "densify"]


_TIMES_USUAL = 4.0


@dataclass(frozen=True)
class DensifyConfig:
    """When Gaussians are added and taken away.

    Attributes:
        gradient: mean slope of the loss along a centre, over images as wide as 2, above which a
            Gaussian is too coarse.
        split_share: Gaussians above this share of the scene's size are split, others cloned.
        least_opacity: below it a Gaussian is taken away.
        most_share: above this share of the scene's size it is taken away, unless most are about
            as wide: a coarse start is no rubbish.
        most: no more than so many Gaussians.
    """

    gradient: float = 2e-4
    split_share: float = 0.01
    least_opacity: float = 0.005
    most_share: float = 0.1
    most: int = 60_000


class ImageGradient:
    """Mean slope of the loss along every centre in the images since it was last cleared.

    A rasteriser gives the slope along the centre in the world; across the line of sight it is that
    in the image times ``f / z``.

    Args:
        count: G.
    """

    def __init__(self, count: int) -> None:
        self._sum, self._times = torch.zeros(count), torch.zeros(count)

    def add(
        self, mean: torch.Tensor, gradient: torch.Tensor, cameras: Sequence[PinholeCamera]
    ) -> None:
        """Take in the gradient of a loss of images.

        Args:
            mean: centres [m], shape (G, 3).
            gradient: of the loss, shape (G, 3).
            cameras: that were drawn; one is exact, of several their mean distance is used.
        """
        per_view = []
        for camera in cameras:
            T = torch.from_numpy(np.array(camera.T_world_cam)).float()
            z = ((mean - T[:3, 3]) @ T[:3, 2]).clamp(min=1e-3)
            across = (gradient @ T[:3, :2]).norm(dim=1)
            per_view.append(across * z / float(camera.K[0, 0]) * 0.5 * camera.width)
        size = torch.stack(per_view).mean(dim=0)
        drawn = gradient.abs().sum(dim=1) > 0
        self._sum += torch.where(drawn, size, 0.0)
        self._times += drawn

    def mean(self) -> torch.Tensor:
        """Shape (G,)."""
        return self._sum / self._times.clamp(min=1.0)


def densify(
    optimizer: CloudOptimizer,
    slope: torch.Tensor,
    extent_m: float,
    config: DensifyConfig,
    generator: torch.Generator,
    *,
    fixed_scale: bool,
) -> None:
    """Clone small Gaussians that pull hard, split big ones, take away faint and huge ones.

    Args:
        optimizer: holds the cloud.
        slope: from `ImageGradient`, shape (G,).
        extent_m: size of the scene.
        config: thresholds.
        generator: of where the halves of a split go.
        fixed_scale: never split (Spring-Gaus's fixed radius), never judge by size.
    """
    cloud = optimizer.cloud().detach()
    radius = cloud.log_scale.exp().amax(dim=1)
    faint = cloud.opacity < config.least_opacity
    usual = float(radius.median()) if len(radius) else 0.0
    huge = radius > max(config.most_share * extent_m, _TIMES_USUAL * usual)
    gone = faint if fixed_scale else faint | huge
    room = max(0, config.most - len(cloud))
    coarse = (slope > config.gradient) & ~gone
    if int(coarse.sum()) > room:  # the worst first
        order = torch.where(coarse, slope, -1.0).argsort(descending=True)
        coarse = torch.zeros_like(coarse)
        coarse[order[:room]] = True
    big = coarse & (radius > config.split_share * extent_m) & (not fixed_scale)
    cloned = cloud[coarse & ~big]
    halves = [_half(cloud[big], generator) for _ in range(2)]
    added = _joined([cloned, *halves])
    optimizer.change(torch.nonzero(~(gone | big))[:, 0], added)


def _half(cloud: GaussianCloud, generator: torch.Generator) -> GaussianCloud:
    """A Gaussian drawn from each, 1.6 times smaller."""
    scale = cloud.log_scale.exp().expand(-1, 3)
    step = torch.randn(len(cloud), 3, generator=generator) * scale
    shift = (matrix_from_quat(cloud.quat_wxyz) @ step[..., None])[..., 0]
    smaller = cloud.log_scale - float(np.log(1.6))
    return cloud.replace(mean=cloud.mean + shift, log_scale=smaller)


def _joined(clouds: Sequence[GaussianCloud]) -> GaussianCloud:
    return GaussianCloud(
        **{name: torch.cat([getattr(c, name) for c in clouds]) for name in vars(clouds[0])}
    )
