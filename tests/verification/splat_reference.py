"""A dense rasteriser in float64: every Gaussian at every pixel. Slow, obvious, and independent.

No tiles, no extents, no float32; each step is written as its definition.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Dense", "dense_flow", "dense_render"]

LEAST_ALPHA, MOST_ALPHA, LEAST_LIGHT = 1.0 / 255.0, 0.999, 1e-4


class Dense(NamedTuple):
    rgb: torch.Tensor  # (H, W, 3), without background
    alpha: torch.Tensor  # (H, W)
    depth: torch.Tensor  # (H, W), times alpha
    features: torch.Tensor  # (H, W, F)
    sure: torch.Tensor  # (H, W): no threshold is so near that float32 may fall on its other side
    weight: torch.Tensor  # (H, W, G), columns in the order of the Gaussians given
    pixel: torch.Tensor  # (G, 2): means in the image
    spread: torch.Tensor  # (G, 2, 2): covariances in the image, with the blur


def spherical_harmonics(d: torch.Tensor, K: int) -> torch.Tensor:
    """By definition: associated Legendre functions with the Condon-Shortley sign, real form."""
    x, y, z = d.unbind(-1)
    made = []
    # sin(theta)^m cos(m phi) and sin(theta)^m sin(m phi), by powers of x + i y
    real, imag = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(3):
        re, im = real[-1], imag[-1]
        real.append(re * x - im * y)
        imag.append(re * y + im * x)
    # Legendre P_l^m / sin^m
    legendre = {
        (0, 0): torch.ones_like(z), (1, 0): z, (1, 1): -torch.ones_like(z),
        (2, 0): (3 * z**2 - 1) / 2, (2, 1): -3 * z, (2, 2): 3 * torch.ones_like(z),
        (3, 0): (5 * z**3 - 3 * z) / 2, (3, 1): -1.5 * (5 * z**2 - 1), (3, 2): 15 * z,
        (3, 3): -15 * torch.ones_like(z),
    }  # fmt: skip
    for degree in range(round(K**0.5)):
        for m in range(-degree, degree + 1):
            a = abs(m)
            ratio = np.prod([1.0 / k for k in range(degree - a + 1, degree + a + 1)])
            norm = np.sqrt((2 * degree + 1) / (4 * np.pi) * ratio)
            turn = real[a] if m >= 0 else imag[a]
            made.append(norm * (1.0 if m == 0 else np.sqrt(2)) * legendre[degree, a] * turn)
    return torch.stack(made, dim=-1)


def dense_render(
    mean: torch.Tensor,
    covariance: torch.Tensor,
    opacity: torch.Tensor,
    colour: torch.Tensor,
    T_world_cam: torch.Tensor,
    K: torch.Tensor,
    width: int,
    height: int,
    *,
    features: torch.Tensor | None = None,
    antialiased: bool = False,
    near_m: float = 0.01,
    blur_px2: float = 0.3,
) -> Dense:
    """One camera; covariance (G, 3, 3), colour (G, 3) or (G, K, 3), all float64."""
    R, c = T_world_cam[:3, :3], T_world_cam[:3, 3]
    p = (mean - c) @ R
    x, y, z = p.unbind(1)
    ahead = z > near_m
    z = torch.where(ahead, z, torch.ones_like(z))  # those not ahead are not drawn
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u, v = fx * x / z + cx, fy * y / z + cy
    # the Jacobian is held outside 1.3 times the view: 15 % of the image beyond its borders
    tx = torch.clamp(x / z, (-0.5 - 0.15 * width - cx) / fx, (1.15 * width - 0.5 - cx) / fx)
    ty = torch.clamp(y / z, (-0.5 - 0.15 * height - cy) / fy, (1.15 * height - 0.5 - cy) / fy)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z], 1),
            torch.stack([zero, fy / z, -fy * ty / z], 1),
        ],
        dim=1,
    )
    S0 = J @ R.T @ covariance @ R @ J.transpose(1, 2)
    S = S0 + blur_px2 * torch.eye(2, dtype=S0.dtype)
    o = opacity
    if antialiased:
        o = o * torch.sqrt(torch.linalg.det(S0) / torch.linalg.det(S))
    if colour.ndim == 3:
        d = mean - c
        basis = spherical_harmonics(d / d.norm(dim=1, keepdim=True), colour.shape[1])
        colour = torch.clamp((basis[..., None] * colour).sum(1) + 0.5, min=0.0)
    order = torch.argsort(z.float(), stable=True)
    order = order[ahead[order]]
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    light = torch.ones(height, width, dtype=mean.dtype)
    over = torch.zeros(height, width, dtype=torch.bool)
    sure = torch.ones(height, width, dtype=torch.bool)
    weights: list[torch.Tensor] = [torch.zeros_like(light)] * len(mean)
    for g in order.tolist():
        off = torch.stack([cols - u[g], rows - v[g]], dim=-1)
        power = (off @ torch.linalg.inv(S[g]) * off).sum(-1)
        alpha = o[g] * torch.exp(-0.5 * power)
        for limit in (LEAST_ALPHA, MOST_ALPHA):
            sure &= ((alpha.detach() / limit - 1).abs() > 2e-5) | over
        alpha = torch.clamp(alpha, max=MOST_ALPHA)
        shown = (alpha >= LEAST_ALPHA) & ~over
        left = light * (1 - alpha)
        sure &= ~shown | ((left.detach() / LEAST_LIGHT - 1).abs() > 1e-3)
        over = over | (shown & (left <= LEAST_LIGHT))
        blend = shown & ~over
        weights[g] = torch.where(blend, light * alpha, torch.zeros_like(light))
        light = torch.where(blend, left, light)
    weight = torch.stack(weights, dim=-1)
    extra = torch.zeros(len(mean), 0, dtype=mean.dtype) if features is None else features
    pixel = torch.stack([u, v], dim=1)
    images = (weight @ colour, weight.sum(-1), weight @ z, weight @ extra)
    return Dense(*images, sure, weight, pixel, S)


def dense_flow(before: Dense, after: Dense) -> torch.Tensor:
    """MoSA's eq. 15 as it stands, over all Gaussians instead of the front 20, (H, W, 2)."""
    height, width, _ = before.weight.shape
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    q = torch.stack([cols, rows], dim=-1).to(before.pixel)[:, :, None]
    A = _root(after.spread) @ torch.linalg.inv(_root(before.spread))
    moved = (A @ (q - before.pixel)[..., None])[..., 0] + after.pixel - q
    share = before.weight / before.alpha.clamp(min=1e-10)[..., None]
    return (share[..., None] * moved).sum(2)


def _root(S: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.sqrt()[..., None, :]) @ vectors.transpose(-1, -2)
