"""The rasteriser in plain torch, tile by tile, with autograd: readable, for any device, slow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from physgym.splats.harmonics import shade
from physgym.splats.projection import project

__all__ = ["PlainSettings", "Planes", "plain_render"]

_TILE = 16
_LEAST_ALPHA, _MOST_ALPHA, _LEAST_LIGHT = 1.0 / 255.0, 0.999, 1e-4


class Planes(NamedTuple):
    """What engines return.

    Attributes:
        rgb: without background, shape (C, 3, H, W).
        depth: times alpha [m], shape (C, H, W).
        features: shape (C, F, H, W).
        alpha: shape (C, H, W).
    """

    rgb: torch.Tensor
    depth: torch.Tensor
    features: torch.Tensor
    alpha: torch.Tensor


class PlainSettings(NamedTuple):
    """What a rendering needs beside tensors, see `rasterize`."""

    width: int
    height: int
    near_m: float
    blur_px2: float
    antialiased: bool
    degree: int  # -1: colours are RGB


def plain_render(
    mean: torch.Tensor,
    covariance: torch.Tensor,
    opacity: torch.Tensor,
    colour: torch.Tensor,
    features: torch.Tensor,
    T_world_cam: torch.Tensor,
    K: torch.Tensor,
    settings: PlainSettings,
) -> Planes:
    """Blend Gaussians into images.

    Args:
        mean: [m], shape (G, 3).
        covariance: ``xx xy xz yy yz zz`` [m^2], shape (G, 6).
        opacity: 0 to 1, shape (G,).
        colour: harmonics, shape (G, K, 3), or RGB, shape (G, 1, 3).
        features: shape (C or 1, G, F); F may be 0.
        T_world_cam: shape (C, 4, 4).
        K: intrinsics, shape (C, 3, 3).
        settings: the rest.

    Returns:
        The images.
    """
    seen = project(mean, covariance, T_world_cam, K, settings.width, settings.height)
    if settings.degree < 0:
        rgb = colour[:, 0].expand(len(K), -1, -1)
    else:
        rgb = shade(colour, seen.direction, settings.degree)
    extra = features.expand(len(K), -1, -1)
    channels = torch.cat([rgb, seen.depth[..., None], extra, torch.ones_like(rgb[..., :1])], dim=-1)
    blur = settings.blur_px2 * torch.eye(2).to(mean)
    spread = seen.covariance + blur
    det = torch.linalg.det(spread)
    strength = opacity.expand(len(K), -1)
    if settings.antialiased:
        ratio = torch.linalg.det(seen.covariance) / det
        strength = strength * ratio.clamp(min=1e-12).sqrt()
    inverse = torch.linalg.inv(spread)
    images = []
    for c in range(len(K)):
        shown = (seen.depth[c] > settings.near_m) & (strength[c] >= _LEAST_ALPHA)
        order = torch.nonzero(shown)[:, 0]
        order = order[torch.argsort(seen.depth[c, order], stable=True)]
        reach = (2.0 * torch.log(strength[c, order] / _LEAST_ALPHA)).sqrt()
        reach = reach[:, None] * spread[c, order].diagonal(dim1=-2, dim2=-1).sqrt()
        view = _View(
            seen.pixel[c, order], inverse[c, order], strength[c, order], channels[c, order], reach
        )
        images.append(_image(view, settings))
    made = torch.stack(images)
    return Planes(made[:, :3], made[:, 3], made[:, 4:-1], made[:, -1])


class _View(NamedTuple):
    pixel: torch.Tensor
    inverse: torch.Tensor
    strength: torch.Tensor
    channels: torch.Tensor
    reach: torch.Tensor


def _image(view: _View, settings: PlainSettings) -> torch.Tensor:
    """One camera, shape (channels, H, W)."""
    across, down = math.ceil(settings.width / _TILE), math.ceil(settings.height / _TILE)
    low, high = (view.pixel - view.reach).detach(), (view.pixel + view.reach).detach()
    rows = []
    for y in range(0, down * _TILE, _TILE):
        near = torch.nonzero((high[:, 1] >= y) & (low[:, 1] <= y + _TILE - 1))[:, 0]
        tiles = []
        for x in range(0, across * _TILE, _TILE):
            touching = (high[near, 0] >= x) & (low[near, 0] <= x + _TILE - 1)
            tiles.append(_tile(view, near[touching], x, y))
        rows.append(torch.cat(tiles, dim=2))
    return torch.cat(rows, dim=1)[:, : settings.height, : settings.width]


def _tile(view: _View, here: torch.Tensor, x: int, y: int) -> torch.Tensor:
    """The pixels of one tile, shape (channels, 16, 16); Gaussians `here` come front to back."""
    v, u = torch.meshgrid(torch.arange(_TILE) + y, torch.arange(_TILE) + x, indexing="ij")
    at = torch.stack([u, v], dim=-1).reshape(-1, 1, 2).to(view.pixel)
    off = at - view.pixel[here]
    power = -0.5 * torch.einsum("pgi,gij,pgj->pg", off, view.inverse[here], off)
    alpha = (view.strength[here] * power.exp()).clamp(max=_MOST_ALPHA)
    alpha = torch.where(alpha >= _LEAST_ALPHA, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1.0 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    weight = torch.where(after > _LEAST_LIGHT, before * alpha, torch.zeros_like(alpha))
    return (weight @ view.channels[here]).T.unflatten(1, (_TILE, _TILE))
