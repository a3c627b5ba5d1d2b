"""The rasteriser in plain Warp kernels: tiles on CUDA without another package, and on the CPU.

torch projects and shades, with its own gradients; kernels list the tiles, blend, and go back. All
cameras share each launch.
"""

from __future__ import annotations

import torch

from physgym.splats.harmonics import shade
from physgym.splats.native_raster import feature_room
from physgym.splats.plain import PlainSettings, Planes
from physgym.splats.projection import Projection, project
from physgym.splats.warp_blend import Blend
from physgym.splats.warp_lists import Outline, list_tiles

__all__ = ["warp_render"]

_LEAST_ALPHA = 1.0 / 255.0
_MOST_DETERMINANT = 1e37  # [pixels^4]
_PLAIN_CHANNELS = 4  # red, green, blue, depth


def warp_render(
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
    mean, covariance, opacity, colour = (
        tensor.float() for tensor in (mean, covariance, opacity, colour)
    )
    cameras, width, height = len(K), settings.width, settings.height
    seen = project(mean, covariance, T_world_cam, K, width, height)
    ahead = seen.depth > settings.near_m
    uu, uv, vv = _spread(seen, ahead)
    det0 = (uu * vv - uv.square()).clamp(min=0.0)
    blur = settings.blur_px2
    # not from the blurred numbers: the small difference of large products would be lost
    det = det0 + blur * (uu + vv) + blur**2
    # Without blur a line has no inverse; what is 1e9 pixels wide has no determinant in float32.
    ahead = ahead & (det > 0) & (det < _MOST_DETERMINANT)
    det = torch.where(ahead, det, 1.0)
    strength = opacity.expand(cameras, -1)
    if settings.antialiased:
        strength = strength * (det0 / det).clamp(min=1e-12).sqrt()
    conic = torch.stack([vv + blur, -uv, uu + blur], dim=-1) / det[..., None]
    with torch.no_grad():
        seen_at_all = ahead & (strength > _LEAST_ALPHA)
        level = torch.where(seen_at_all, (strength / _LEAST_ALPHA).log(), -1.0)
        half = 2.0 * level.clamp(min=0.0)[..., None]
        reach = (half * (torch.stack([uu, vv], dim=-1) + blur)).sqrt()
    channels = _channels(seen, colour, features, settings.degree)
    pixel, conic, channels = (t.flatten(0, 1).contiguous() for t in (seen.pixel, conic, channels))
    strength, level, depth = (t.flatten().contiguous() for t in (strength, level, seen.depth))
    outline = Outline(pixel.detach(), conic.detach(), level, reach.flatten(0, 1), depth.detach())
    lists = list_tiles(outline, cameras, width, height)
    size = (cameras, height, width)
    made, light = Blend.apply(pixel, conic, strength, channels, level, lists, size)
    planes = made.permute(0, 3, 1, 2)
    last = _PLAIN_CHANNELS + features.shape[-1]
    return Planes(planes[:, :3], planes[:, 3], planes[:, _PLAIN_CHANNELS:last], 1.0 - light)


def _spread(seen: Projection, ahead: torch.Tensor) -> list[torch.Tensor]:
    """Covariances uu, uv and vv in the image, each of shape (C, G); of a ball where nothing is.

    Next to the optical centre they overflow, and zero times infinity would be their gradient.
    """
    ball = {(0, 0): 1.0, (0, 1): 0.0, (1, 1): 1.0}
    return [
        torch.where(ahead, seen.covariance[..., row, column], value)
        for (row, column), value in ball.items()
    ]


def _channels(
    seen: Projection, colour: torch.Tensor, features: torch.Tensor, degree: int
) -> torch.Tensor:
    """Colour, depth, features, and zeros up to what kernels are compiled for, shape (C, G, L)."""
    cameras = len(seen.depth)
    if degree < 0:
        rgb = colour[:, 0].expand(cameras, -1, -1)
    else:
        rgb = shade(colour, seen.direction, degree)
    given = features.shape[-1]
    extra = torch.nn.functional.pad(features, (0, feature_room(given) - given))
    return torch.cat([rgb, seen.depth[..., None], extra.expand(cameras, -1, -1)], dim=-1)
