"""The rasteriser on CUDA: gsplat's kernels behind the conventions of `rasterize`."""

from __future__ import annotations

import torch

from physgym.splats.harmonics import shade
from physgym.splats.plain import PlainSettings, Planes
from physgym.splats.projection import full_covariance

__all__ = ["gsplat_render"]


def gsplat_render(
    mean: torch.Tensor,
    covariance: torch.Tensor,
    opacity: torch.Tensor,
    colour: torch.Tensor,
    features: torch.Tensor,
    T_world_cam: torch.Tensor,
    K: torch.Tensor,
    settings: PlainSettings,
) -> Planes:
    """Blend Gaussians into images; see `plain.plain_render` for arguments and result."""
    from gsplat import rasterization

    turn, centre = T_world_cam[:, :3, :3].transpose(1, 2), T_world_cam[:, :3, 3]
    view = torch.eye(4).to(T_world_cam).repeat(len(K), 1, 1)
    view[:, :3, :3] = turn
    view[:, :3, 3] = -(turn @ centre[..., None])[..., 0]
    if settings.degree < 0:
        rgb = colour[:, 0].expand(len(K), -1, -1)
    else:
        rgb = shade(colour, mean[None] - centre[:, None], settings.degree)
    K = K.clone()
    K[:, :2, 2] += 0.5  # gsplat's pixel centres are at halves
    drawn, alpha, _ = rasterization(
        mean.contiguous(), None, None, opacity.contiguous(),
        torch.cat([rgb, features.expand(len(K), -1, -1)], dim=-1), view, K,
        settings.width, settings.height, near_plane=settings.near_m, eps2d=settings.blur_px2,
        render_mode="RGB+D", packed=False, covars=full_covariance(covariance).contiguous(),
        rasterize_mode="antialiased" if settings.antialiased else "classic",
    )  # fmt: skip
    first = drawn.permute(0, 3, 1, 2)
    return Planes(first[:, :3], first[:, -1], first[:, 3:-1], alpha[..., 0])
