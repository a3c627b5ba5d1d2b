"""What a reconstructed object looks like: isotropic Gaussians on its surface in the first frame.

PhysTwin (Jiang et al. 2025, section 3.4): a Gaussian at every seen point and on the surface that no
camera saw, fitted to the images of frame 0 by ``0.8 L1 + 0.2 (1 - SSIM)`` and the masks, carried by
the simulated nodes afterwards (`physgym.splats.follower`). Its 10000 steps on a GPU are a few
hundred with larger learning rates here. Shapes: G Gaussians, N points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.splats import GaussianCloud, rasterize
from recon.perception.result import Perception
from recon.splats.densify import DensifyConfig
from recon.splats.posed_images import PosedImages
from recon.splats.static import StaticConfig, fit_static, initial_cloud, seen_colours

__all__ = ["AppearanceConfig", "appearance_start", "fit_appearance"]

_NEAR = 8  # seen points that lend an unseen one their colour
_HIDDEN_SHARE = 0.06  # overlapping ones in front have a tenth or more, those behind next to nothing
_BLUR_PX2 = 0.3  # of the rasteriser


@dataclass(frozen=True)
class AppearanceConfig:
    """How the appearance is fitted.

    Attributes:
        iterations: steps of Adam.
        most_seen: seen points that become a Gaussian, at most.
        most: Gaussians at most, those that densification adds included.
        sh_degree: of the colours; 0 looks the same from all sides.
        hidden_opacity: of the surface that no camera saw: hidden at the start, no image tells it,
            and it must stop the light when it comes to view.
        seed: of all random numbers.
    """

    iterations: int = 300
    most_seen: int = 6000
    most: int = 20_000
    sh_degree: int = 0
    hidden_opacity: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.most_seen < 4 or self.most < self.most_seen:
            raise DataError(
                f"iterations {self.iterations}, most_seen {self.most_seen}, most {self.most}",
                where="AppearanceConfig",
                expected="at least one step, 4 <= most_seen <= most",
            )
        if not 0.0 < self.hidden_opacity < 1.0:
            raise DataError(
                f"{self.hidden_opacity}",
                where="AppearanceConfig: hidden_opacity",
                expected="between 0 and 1",
            )


def fit_appearance(
    views: PosedImages,
    perception: Perception,
    config: AppearanceConfig | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> GaussianCloud:
    """Fit what an object looks like in the first frame of its recording.

    Args:
        views: of frame 0 (`recon.splats.frame.posed_frame`).
        perception: of the recording.
        config: how.
        on_step: called with the step and its loss.

    Returns:
        Isotropic Gaussians where the object is in frame 0.

    Raises:
        DataError: if fewer than four points of the object are known.
    """
    config = config or AppearanceConfig()
    start = appearance_start(views, perception, config)
    most = max(config.most, len(start))
    cloud = fit_static(
        start,
        views,
        StaticConfig(
            iterations=config.iterations,
            sh_degree=config.sh_degree,
            densify=DensifyConfig(most=most),
            seed=config.seed,
        ),
        on_step=on_step,
    )
    return _restored(cloud, views, config.hidden_opacity)


def _restored(cloud: GaussianCloud, views: PosedImages, opacity: float) -> GaussianCloud:
    """What no image shows was moved by none that matters: it is made as its neighbours are.

    A fit lets Gaussians behind others swell and take any colour; when the object turns, they show.
    """
    hidden = _shown_share(cloud, views) < _HIDDEN_SHARE
    if not hidden.any() or hidden.all():
        return cloud
    where, seen = cloud.mean[hidden].numpy(), cloud.mean[~hidden].numpy()
    _, near = cKDTree(seen).query(where, k=np.arange(1, min(_NEAR, len(seen)) + 1))
    around = torch.from_numpy(near)
    log_scale, logit, sh = cloud.log_scale.clone(), cloud.opacity_logit.clone(), cloud.sh.clone()
    usual = cloud.log_scale[~hidden][around].mean(dim=1)
    log_scale[hidden] = torch.minimum(log_scale[hidden], usual)
    logit[hidden] = math.log(opacity / (1.0 - opacity))
    sh[hidden] = cloud.sh[~hidden][around].mean(dim=1)
    return cloud.replace(log_scale=log_scale, opacity_logit=logit, sh=sh)


def _shown_share(cloud: GaussianCloud, views: PosedImages) -> torch.Tensor:
    """Weight of each Gaussian in the images over what it would have alone, shape (G,)."""
    ones = torch.ones(len(cloud), 1, requires_grad=True)
    drawn = rasterize(cloud, views.cameras, features=ones).features
    assert drawn is not None  # they were asked for
    (weight,) = torch.autograd.grad(drawn.sum(), ones)
    alone = torch.zeros(len(cloud))
    for camera in views.cameras:
        _, depth = camera.project(cloud.mean.double().numpy())
        size_px = camera.K[0, 0] * cloud.log_scale[:, 0].exp().numpy() / np.maximum(depth, 1e-3)
        area = 2.0 * math.pi * (size_px**2 + _BLUR_PX2) * (depth > 0)
        alone += cloud.opacity * torch.from_numpy(area).float()
    return weight[:, 0] / alone.clamp(min=1e-6)


def appearance_start(
    views: PosedImages, perception: Perception, config: AppearanceConfig
) -> GaussianCloud:
    """Gaussians at the seen points in their colours, and on the unseen surface in those nearby.

    Args:
        views: of frame 0.
        perception: of the recording.
        config: how many.

    Returns:
        The cloud before any fit.

    Raises:
        DataError: if fewer than four points of the object are known.
    """
    seen, unseen = _surface(perception, config)
    colour = seen_colours(views, seen)
    seen_cloud = initial_cloud(seen, colour, sh_degree=config.sh_degree)
    if len(unseen) < 4:
        return seen_cloud
    _, near = cKDTree(seen).query(unseen, k=min(_NEAR, len(seen)))
    hidden = initial_cloud(unseen, colour[near].mean(axis=1), sh_degree=config.sh_degree)
    logit = math.log(config.hidden_opacity / (1.0 - config.hidden_opacity))
    # Opaque ones of full width would reach far beyond the outline; of half of it they still close.
    hidden = hidden.replace(
        opacity_logit=torch.full((len(unseen),), logit),
        log_scale=hidden.log_scale - math.log(2.0),
    )
    both = zip(vars(seen_cloud).items(), vars(hidden).values(), strict=True)
    return GaussianCloud(**{name: torch.cat([a, b]) for (name, a), b in both})


def _surface(perception: Perception, config: AppearanceConfig) -> tuple[np.ndarray, np.ndarray]:
    """Points that cameras saw in frame 0, and those of the surface that none did [m]."""
    rest = perception.tracks.rest_position
    assert rest is not None  # Perception refuses tracks without it
    known = np.asarray(rest, np.float64)
    tracked, surface = perception.tracked_count, perception.surface_count
    seen = np.asarray(perception.clouds[0], np.float64) if perception.clouds else known[:0]
    if len(seen) < 4:
        seen = known[:tracked]
    unseen = known[tracked:surface]
    if len(seen) < 4:
        seen, unseen = known[:surface], known[:0]
    draw = np.random.default_rng(config.seed)
    if len(seen) > config.most_seen:
        seen = seen[np.sort(draw.choice(len(seen), config.most_seen, replace=False))]
    return seen, unseen
