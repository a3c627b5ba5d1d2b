"""2D flow of Gaussians between two states, as channels that blending can sum (MoSA, eq. 15).

The flow at a pixel q is ``sum_i w_i [A_i (q - m_i) + m_i' - q] / sum_i w_i`` with weights w_i of
blending, projected means m_i before and m_i' after, and ``A_i = S_i'^(1/2) S_i^(-1/2)`` of the
projected covariances (symmetric roots). MoSA sums the front 20 Gaussians, this all that are drawn.
It is linear in q, so six channels per Gaussian give it exactly.
"""

from __future__ import annotations

import torch

from physgym.splats.projection import Projection

__all__ = ["FLOW_CHANNELS", "flow_channels", "flow_image"]

FLOW_CHANNELS = 6


def flow_channels(
    before: Projection, after: Projection, width: int, height: int, blur_px2: float
) -> torch.Tensor:
    """What to blend of every Gaussian.

    Args:
        before: the state whose weights and pixels count.
        after: the other state.
        width: W [pixels].
        height: H [pixels].
        blur_px2: variance added to both [pixels^2].

    Returns:
        The flow at the image's middle and its change per pixel, shape (C, G, 6).
    """
    blur = blur_px2 * torch.eye(2).to(before.pixel)
    change = _root(after.covariance + blur) @ torch.linalg.inv(_root(before.covariance + blur))
    change = change - torch.eye(2).to(change)
    middle = before.pixel.new_tensor([(width - 1) / 2, (height - 1) / 2])
    at_middle = (change @ (middle - before.pixel)[..., None])[..., 0] + after.pixel - before.pixel
    channels = torch.cat([at_middle, change.flatten(-2)], dim=-1)
    # Gaussians behind a camera have no flow, and are not drawn
    ahead = (before.depth > 0) & (after.depth > 0)
    return torch.where(ahead[..., None], channels, torch.zeros_like(channels))


def flow_image(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Flow from the blended channels.

    Args:
        planes: shape (C, 6, H, W).
        alpha: shape (C, H, W).

    Returns:
        [pixels], zero where nothing is drawn, shape (C, H, W, 2).
    """
    height, width = planes.shape[-2:]
    x = torch.arange(width).to(planes) - (width - 1) / 2
    y = torch.arange(height).to(planes)[:, None] - (height - 1) / 2
    flow = torch.stack(
        [planes[:, k] + planes[:, 2 + 2 * k] * x + planes[:, 3 + 2 * k] * y for k in (0, 1)], dim=-1
    )
    return flow / alpha.clamp(min=1e-10)[..., None]


def _root(m: torch.Tensor) -> torch.Tensor:
    """Symmetric square root of 2 x 2 matrices: (M + s I) / t, s^2 = det M, t^2 = tr M + 2 s."""
    det = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    s = det.clamp(min=1e-12).sqrt()
    t = (m[..., 0, 0] + m[..., 1, 1] + 2 * s).sqrt()
    return (m + s[..., None, None] * torch.eye(2).to(m)) / t[..., None, None]
