"""Blending of tiles and its adjoint, one thread per pixel, by plain Warp kernels for CPU and CUDA.

Forward goes front to back and keeps of each pixel the light that is left and the end of what was
blended. Backward goes back to front from there (3DGS, Kerbl et al. 2023): with v_i the slope of
the loss along Gaussian i's channels at the pixel, w_i its weight, T_i the light before it, and
``behind = sum_{j behind i} w_j v_j``, ``d loss / d alpha_i = T_i v_i - behind / (1 - alpha_i)``.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import warp as wp
from torch.autograd.function import once_differentiable

from physgym.splats.native_common import TILE
from physgym.splats.warp_call import BLOCK, launch, load_module
from physgym.splats.warp_lists import Lists

__all__ = ["Blend"]

_LEAST_LIGHT = wp.constant(1.0e-4)
_MOST_ALPHA = wp.constant(0.999)
_TILE = wp.constant(TILE)
_BUILDING = threading.Lock()
# Both directions must find the same alpha to the bit: neither may contract what the other does not.
_OPTIONS = {"fuse_fp": False}


class _Kernels(NamedTuple):
    channel_type: Any
    forward: Any
    backward: Any


class Blend(torch.autograd.Function):
    """Channels of Gaussians blended into images, differentiable along the first four tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        pixel: torch.Tensor,
        conic: torch.Tensor,
        strength: torch.Tensor,
        channels: torch.Tensor,
        level: torch.Tensor,
        lists: Lists,
        size: tuple[int, int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend; R = C G, all float32 and contiguous, on one device.

        Args:
            ctx: torch's.
            pixel: mean (u, v), shape (R, 2).
            conic: inverse covariance ``uu uv vv`` [1/pixels^2], shape (R, 3).
            strength: alpha at the mean, shape (R,).
            channels: what to blend, shape (R, L).
            level: ln (255 strength), shape (R,).
            lists: of these Gaussians.
            size: C, H, W.

        Returns:
            Sums of the channels, shape (C, H, W, L), and light that is left, shape (C, H, W).
        """
        device = pixel.device
        made = pixel.new_empty(*size, channels.shape[1])
        light = pixel.new_empty(size)
        stop = torch.empty(size, dtype=torch.int32, device=device)
        kernels = _kernels(channels.shape[1])
        load_module(kernels.forward.module, device)
        given = _given((pixel, conic, strength, channels, level), lists, size, kernels)
        out = [(made, kernels.channel_type), (light, wp.float32), (stop, wp.int32)]
        launch(kernels.forward, (_tiles(size), BLOCK), [*given, *out], device)
        ctx.save_for_backward(pixel, conic, strength, channels, level, light, stop)
        ctx.lists, ctx.size = lists, size
        return made, light

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(
        ctx: Any, grad_made: torch.Tensor, grad_light: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients; on CUDA their last bits depend on the order of additions."""
        *tensors, light, stop = ctx.saved_tensors
        found = [torch.zeros_like(tensor) for tensor in tensors[:4]]
        device = light.device
        kernels = _kernels(tensors[3].shape[1])
        load_module(kernels.backward.module, device)
        given = _given(tensors, ctx.lists, ctx.size, kernels)
        given += [
            (light, wp.float32), (stop, wp.int32), (grad_made.contiguous(), kernels.channel_type),
            (grad_light.contiguous(), wp.float32),
            *zip(found, (wp.vec2, wp.vec3, wp.float32, kernels.channel_type)),
        ]  # fmt: skip
        launch(kernels.backward, (_tiles(ctx.size), BLOCK), given, device)
        return (*found, None, None, None)


def _tiles(size: tuple[int, int, int]) -> int:
    cameras, height, width = size
    return int(cameras * -(-height // TILE) * -(-width // TILE))


def _given(
    tensors: Sequence[torch.Tensor],
    lists: Lists,
    size: tuple[int, int, int],
    kernels: _Kernels,
) -> list[Any]:
    """Arguments that both kernels start with."""
    types = (wp.vec2, wp.vec3, wp.float32, kernels.channel_type, wp.float32, wp.int32, wp.int32)
    whole = (*tensors, lists.tile_start, lists.entry)
    return [*zip((tensor.detach() for tensor in whole), types), size[1], size[2]]


@wp.func
def _pixel_of(tile: int, lane: int, height: int, width: int) -> wp.vec3i:
    """Camera, row and column of a thread."""
    across = (width + _TILE - 1) // _TILE
    down = (height + _TILE - 1) // _TILE
    here = tile % (across * down)
    row = (here // across) * _TILE + lane // _TILE
    return wp.vec3i(tile // (across * down), row, (here % across) * _TILE + lane % _TILE)


@wp.func
def _exponent(conic: wp.vec3, off: wp.vec2) -> float:
    """-ln of the Gaussian at an offset from its mean."""
    across = conic[0] * off[0] * off[0] + conic[2] * off[1] * off[1]
    return 0.5 * across + conic[1] * off[0] * off[1]


def _kernels(channels: int) -> _Kernels:
    """The kernels for a number of channels; each number is one more compilation."""
    with _BUILDING:  # made once: Warp forgets a kernel that another thread makes again
        return _make_kernels(channels)


@cache
def _make_kernels(channels: int) -> _Kernels:
    channel_type = wp.types.vector(length=channels, dtype=float)
    return _Kernels(channel_type, _forward_kernel(channel_type), _backward_kernel(channel_type))


def _forward_kernel(channel_type: Any) -> Any:
    @wp.kernel(enable_backward=False, module="unique", module_options=_OPTIONS)
    def blend_tiles(
        pixel: wp.array(dtype=wp.vec2),
        conic: wp.array(dtype=wp.vec3),
        strength: wp.array(dtype=float),
        channels: wp.array(dtype=channel_type),
        level: wp.array(dtype=float),
        tile_start: wp.array(dtype=int),
        entry: wp.array(dtype=int),
        height: int,
        width: int,
        # Out:
        made: wp.array3d(dtype=channel_type),
        light: wp.array3d(dtype=float),
        stop: wp.array3d(dtype=int),
    ) -> None:
        tile, lane = wp.tid()
        at = _pixel_of(tile, lane, height, width)
        if at[1] >= height or at[2] >= width:
            return
        here = wp.vec2(float(at[2]), float(at[1]))
        total = channel_type()
        left = float(1.0)  # noqa: UP018
        end = tile_start[tile]
        for e in range(tile_start[tile], tile_start[tile + 1]):
            r = entry[e]
            exponent = _exponent(conic[r], here - pixel[r])
            if exponent <= level[r]:
                alpha = wp.min(strength[r] * wp.exp(-exponent), _MOST_ALPHA)
                after = left * (1.0 - alpha)
                if after <= _LEAST_LIGHT:
                    break
                total += (left * alpha) * channels[r]
                left = after
                end = e + 1
        made[at[0], at[1], at[2]] = total
        light[at[0], at[1], at[2]] = left
        stop[at[0], at[1], at[2]] = end

    return blend_tiles


def _backward_kernel(channel_type: Any) -> Any:
    @wp.kernel(enable_backward=False, module="unique", module_options=_OPTIONS)
    def blend_tiles_adjoint(
        pixel: wp.array(dtype=wp.vec2),
        conic: wp.array(dtype=wp.vec3),
        strength: wp.array(dtype=float),
        channels: wp.array(dtype=channel_type),
        level: wp.array(dtype=float),
        tile_start: wp.array(dtype=int),
        entry: wp.array(dtype=int),
        height: int,
        width: int,
        light: wp.array3d(dtype=float),
        stop: wp.array3d(dtype=int),
        grad_made: wp.array3d(dtype=channel_type),
        grad_light: wp.array3d(dtype=float),
        # Out, added to:
        grad_pixel: wp.array(dtype=wp.vec2),
        grad_conic: wp.array(dtype=wp.vec3),
        grad_strength: wp.array(dtype=float),
        grad_channels: wp.array(dtype=channel_type),
    ) -> None:
        tile, lane = wp.tid()
        at = _pixel_of(tile, lane, height, width)
        if at[1] >= height or at[2] >= width:
            return
        here = wp.vec2(float(at[2]), float(at[1]))
        left = light[at[0], at[1], at[2]]
        # The type by its name: Warp finds annotations of a closure among the names of its body.
        slope = channel_type(grad_made[at[0], at[1], at[2]])
        # The light that is left is 1 - sum w: a channel of ones, with the sign turned.
        shade = grad_light[at[0], at[1], at[2]]
        behind = float(0.0)  # noqa: UP018
        start = tile_start[tile]
        end = stop[at[0], at[1], at[2]]
        for k in range(end - start):
            r = entry[end - 1 - k]
            form = conic[r]
            off = here - pixel[r]
            exponent = _exponent(form, off)
            if exponent <= level[r]:
                fall = wp.exp(-exponent)
                whole = strength[r] * fall
                alpha = wp.min(whole, _MOST_ALPHA)
                left = left / (1.0 - alpha)
                weight = left * alpha
                along = wp.dot(slope, channels[r]) - shade
                wp.atomic_add(grad_channels, r, weight * slope)
                if whole < _MOST_ALPHA:
                    change = left * along - behind / (1.0 - alpha)
                    wp.atomic_add(grad_strength, r, change * fall)
                    # g = d loss / d ln alpha = -(d loss / d exponent)
                    g = change * alpha
                    pull = wp.vec2(
                        form[0] * off[0] + form[1] * off[1], form[1] * off[0] + form[2] * off[1]
                    )
                    wp.atomic_add(grad_pixel, r, g * pull)
                    square = wp.vec3(0.5 * off[0] * off[0], off[0] * off[1], 0.5 * off[1] * off[1])
                    wp.atomic_add(grad_conic, r, -g * square)
                behind += weight * along

    return blend_tiles_adjoint
