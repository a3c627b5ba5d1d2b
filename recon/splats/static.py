"""Static 3D Gaussian splatting of one instant: from posed images to a cloud.

Kerbl et al. 2023; isotropic Gaussians of one fixed radius for Spring-Gaus and MoSA. Shapes: G
Gaussians, C cameras, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.rasterize import rasterize
from recon.splats.cloud_optimizer import CloudOptimizer
from recon.splats.densify import DensifyConfig, ImageGradient, densify
from recon.splats.image_loss import SeenImages
from recon.splats.posed_images import PosedImages

__all__ = ["StaticConfig", "fit_static", "held_out_scores", "initial_cloud", "seen_colours"]

_SH_C0 = 0.28209479177387814  # value of the first spherical harmonic


@dataclass(frozen=True)
class StaticConfig:
    """How a cloud is fitted to images of one instant.

    Attributes:
        iterations: steps of Adam.
        views_per_step: views that a step draws at most, in turn.
        isotropic: one scale per Gaussian; else three and a rotation.
        radius_m: one fixed radius for all (Spring-Gaus: 0.003), or None to fit them.
        sh_degree: of the colours; 0 looks the same from all sides.
        dssim: weight of D-SSIM against L1.
        mask_weight: of the mean difference of alpha and mask.
        still: keep the centres where they are (they are physical points).
        densify: how Gaussians are added and taken away; None leaves their number.
        densify_every: steps between two times.
        densify_share: of the steps after which their number stays.
        gains: fit one gain per camera and colour, where exposures differ.
        seed: of where halves of a split go.
    """

    iterations: int = 600
    views_per_step: int = 3
    isotropic: bool = True
    radius_m: float | None = None
    sh_degree: int = 0
    dssim: float = 0.2
    mask_weight: float = 1.0
    still: bool = False
    densify: DensifyConfig | None = field(default_factory=DensifyConfig)
    densify_every: int = 100
    densify_share: float = 0.6
    gains: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.iterations, self.views_per_step, self.densify_every)
        if min(counts) < 1 or not 0 <= self.sh_degree <= 3:
            raise DataError(
                f"iterations, views_per_step, densify_every {counts}, sh_degree {self.sh_degree}",
                where="StaticConfig",
                expected="at least one of each, degree 0 to 3",
            )
        if not 0.0 <= self.dssim <= 1.0 or self.mask_weight < 0.0:
            raise DataError(
                f"dssim {self.dssim}, mask_weight {self.mask_weight}",
                where="StaticConfig",
                expected="0 to 1, and not below 0",
            )


def initial_cloud(
    points: np.ndarray,
    colours: np.ndarray | None = None,
    *,
    isotropic: bool = True,
    sh_degree: int = 0,
    radius_m: float | None = None,
    opacity: float = 0.1,
) -> GaussianCloud:
    """A Gaussian at every point, as wide as its neighbours are far.

    Args:
        points: [m], shape (G, 3).
        colours: 0 to 1, shape (G, 3); grey when None.
        isotropic: one scale, or three.
        sh_degree: of the colours; higher ones start at zero.
        radius_m: of all of them; the root mean square distance to three neighbours when None.
        opacity: of all of them.

    Returns:
        The cloud.

    Raises:
        DataError: if there are fewer than four points, or one is not finite.
    """
    at = np.asarray(points, np.float64)
    if at.ndim != 2 or at.shape[1:] != (3,) or len(at) < 4 or not np.isfinite(at).all():
        raise DataError(
            f"points of shape {at.shape}",
            where="initial_cloud",
            expected="at least four finite points, (G, 3)",
            fix="start from a depth cloud or a visual hull of the object",
        )
    if radius_m is None:
        distance, _ = cKDTree(at).query(at, k=4)
        radius = np.sqrt(np.maximum((distance[:, 1:] ** 2).mean(axis=1), 1e-10))
    else:
        radius = np.full(len(at), radius_m)
    count, scales = len(at), 1 if isotropic else 3
    rgb = np.full((count, 3), 0.5) if colours is None else np.asarray(colours, np.float64)
    sh = np.zeros((count, (sh_degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = (rgb - 0.5) / _SH_C0
    quat = np.zeros((count, 4), np.float32)
    quat[:, 0] = 1.0
    return GaussianCloud(
        mean=torch.tensor(at, dtype=torch.float32),
        log_scale=torch.tensor(np.log(radius), dtype=torch.float32)[:, None].repeat(1, scales),
        quat_wxyz=torch.from_numpy(quat),
        opacity_logit=torch.full((count,), math.log(opacity / (1.0 - opacity))),
        sh=torch.from_numpy(sh),
    )


def fit_static(
    start: GaussianCloud,
    views: PosedImages,
    config: StaticConfig | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> GaussianCloud:
    """Fit a cloud to posed images.

    Args:
        start: from `initial_cloud`.
        views: images of one instant.
        config: how.
        on_step: called with the step and its loss.

    Returns:
        The cloud, without Gaussians that are nearly transparent.

    Raises:
        DataError: if there is no view, the start is not of the form that is to be fitted, or
            nothing is left of it.
    """
    config = config or StaticConfig()
    _check(start, views, config)
    extent_m = _extent(start)
    optimizer = CloudOptimizer(start, _rates(start, config, extent_m))
    gains = torch.ones(len(views), 3, requires_grad=config.gains)
    gain_adam = torch.optim.Adam([gains], lr=5e-3) if config.gains else None
    generator = torch.Generator().manual_seed(config.seed)
    slope = ImageGradient(len(optimizer))
    seen = SeenImages(views.rgb * views.known[..., None])
    turn = _turns(len(views), config, generator)
    for step in range(config.iterations):
        cloud = optimizer.cloud()
        drawn = next(turn)
        some = views[drawn]
        loss = _loss(cloud, some, seen[drawn], gains[drawn], config)
        loss.backward()
        gradient = optimizer.grad("mean")
        if config.densify is not None and gradient is not None:
            # The loss is a mean over views; thresholds are meant for each view's own.
            slope.add(cloud.mean.detach(), len(drawn) * gradient, some.cameras)
        optimizer.step()
        if gain_adam is not None:
            gain_adam.step()
            gain_adam.zero_grad()
        if "mean" in _rates(start, config, extent_m):
            optimizer.set_rate("mean", _mean_rate(extent_m, step / config.iterations))
        if _densify_now(step, config):
            assert config.densify is not None
            densify(
                optimizer, slope.mean(), extent_m, config.densify, generator,
                fixed_scale=config.radius_m is not None,
            )  # fmt: skip
            slope = ImageGradient(len(optimizer))
        if on_step is not None:
            on_step(step + 1, float(loss.detach()))
    made = optimizer.cloud().detach()
    kept = made[made.opacity >= (config.densify or DensifyConfig()).least_opacity]
    if not len(kept):
        raise DataError(
            f"all of {len(start)} Gaussians faded or were taken away",
            where="fit_static",
            expected="images and masks that show something where the start is",
            fix="check the poses of the cameras, and that the start lies on the object",
        )
    return kept


def held_out_scores(cloud: GaussianCloud | Gaussians, views: PosedImages) -> dict[str, float]:
    """How well a cloud shows views that it was not fitted to, where the object is known to be seen.

    Args:
        cloud: the cloud.
        views: the views.

    Returns:
        ``psnr_db`` and ``ssim`` over the windows of the views, ``psnr_object_db`` over the pixels
        of the masks alone, and ``iou`` of alpha above a half and the masks.
    """
    with torch.no_grad():
        drawn = rasterize(cloud, views.cameras)
    known = views.known[..., None]
    rgb, seen = drawn.rgb.clamp(0.0, 1.0) * known, views.rgb * known
    error = (rgb - seen).square()
    mask = (views.mask > 0.5) & (views.known > 0.5)
    solid = (drawn.alpha > 0.5) & (views.known > 0.5)
    union = (solid | mask).sum()
    return {
        "psnr_db": _decibel(error.mean()),
        "psnr_object_db": _decibel(error[mask].mean()),
        "ssim": float(SeenImages(seen).ssim(rgb)),
        "iou": float((solid & mask).sum() / union.clamp(min=1)),
    }


def _check(start: GaussianCloud, views: PosedImages, config: StaticConfig) -> None:
    """Refuse what would silently be fitted otherwise than asked."""
    round_ones = start.log_scale.shape[1] == 1
    fixed = config.radius_m
    other = fixed is not None and not np.allclose(start.log_scale.exp(), fixed, rtol=1e-4)
    if not len(views) or other or round_ones != config.isotropic:
        raise DataError(
            f"{len(views)} views, a start of {'' if round_ones else 'an'}isotropic Gaussians of "
            f"radii around {float(start.log_scale.exp().median()):.3g} m",
            where="fit_static",
            expected=f"at least one view, isotropic={config.isotropic}, radius_m={fixed}",
            fix="give initial_cloud the same settings",
        )
    if start.sh_degree != config.sh_degree:
        raise DataError(
            f"a start of degree {start.sh_degree}",
            where="fit_static",
            expected=f"degree {config.sh_degree}",
            fix="give initial_cloud the same sh_degree",
        )


def _decibel(error: torch.Tensor) -> float:
    return float(-10.0 * torch.log10(error.clamp(min=1e-10)))


def _extent(cloud: GaussianCloud) -> float:
    """Half the diagonal of the box around the centres [m]: the object is the scene."""
    low, high = cloud.mean.amin(dim=0), cloud.mean.amax(dim=0)
    return max(0.5 * float((high - low).norm()), 1e-3)


def _rates(cloud: GaussianCloud, config: StaticConfig, extent_m: float) -> dict[str, float]:
    """Learning rates of 3D Gaussian splatting, four times as large: there are fewer steps."""
    rates = {"opacity_logit": 0.1, "sh": 0.01}
    if not config.still:
        rates["mean"] = _mean_rate(extent_m, 0.0)
    if config.radius_m is None:
        rates["log_scale"] = 0.02
        if cloud.log_scale.shape[1] == 3:
            rates["quat_wxyz"] = 4e-3
    return rates


def _mean_rate(extent_m: float, share: float) -> float:
    """Falls by a hundred over the fit [m]."""
    return float(1e-3 * extent_m * 10.0 ** (-2.0 * share))


def _densify_now(step: int, config: StaticConfig) -> bool:
    """Not in the first steps, nor towards the end."""
    late = step >= config.densify_share * config.iterations
    return config.densify is not None and not late and step > 0 and step % config.densify_every == 0


def _turns(count: int, config: StaticConfig, generator: torch.Generator) -> Iterator[list[int]]:
    """Which views each step draws: all before any again."""
    while True:
        order = torch.randperm(count, generator=generator).tolist()
        for at in range(0, count, config.views_per_step):
            yield sorted(order[at : at + config.views_per_step])


def _loss(
    cloud: GaussianCloud,
    views: PosedImages,
    seen: SeenImages,
    gains: torch.Tensor,
    config: StaticConfig,
) -> torch.Tensor:
    drawn = rasterize(cloud, views.cameras)
    known = views.known[..., None]
    rgb = drawn.rgb * gains[:, None, None] if config.gains else drawn.rgb
    loss = seen.loss(rgb * known, dssim=config.dssim)
    if config.mask_weight > 0.0:
        beside = ((drawn.alpha - views.mask) * views.known).abs().mean()
        loss = loss + config.mask_weight * beside
    if config.gains:  # one gain for all is the cloud's colour
        loss = loss + 0.1 * (gains - 1.0).square().mean()
    return loss


def seen_colours(views: PosedImages, points: np.ndarray) -> np.ndarray:
    """Mean colour of points over the views in which they fall on the object.

    Args:
        views: the views.
        points: [m], shape (G, 3).

    Returns:
        0 to 1, shape (G, 3); grey where no view shows one.
    """
    total, weight = np.zeros((len(points), 3)), np.zeros(len(points))
    for view, camera in enumerate(views.cameras):
        pixels, _ = camera.project(points)
        inside = np.isfinite(pixels).all(axis=1) & camera.visible(np.nan_to_num(pixels, nan=-9.0))
        column, row = np.rint(np.nan_to_num(pixels)).astype(int).T
        column, row = column.clip(0, camera.width - 1), row.clip(0, camera.height - 1)
        share = np.asarray(views.mask[view])[row, column] * inside
        total += share[:, None] * np.asarray(views.rgb[view])[row, column]
        weight += share
    return np.where(weight[:, None] > 0, total / np.maximum(weight, 1e-6)[:, None], 0.5)
