"""Which Gaussians touch which tile, nearest first, by plain Warp kernels: the same on CPU and CUDA.

Each pair of a Gaussian and a tile that it reaches with alpha >= 1/255 becomes one key, tile above
depth; one stable sort of all cameras' keys makes the lists of all tiles.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

from typing import NamedTuple

import torch
import warp as wp

from physgym.errors import DataError
from physgym.splats.native_common import TILE
from physgym.splats.warp_call import launch, load_module

__all__ = ["Lists", "Outline", "list_tiles"]

_MOST_PAIRS = 2**31 - 1  # Warp's arrays and the lists count in 32 bits
# Rounding may not cut off a pixel; one that is too much is masked when blending.
_SLACK = wp.constant(1.0e-3)
_SLACK_SHARE = wp.constant(1.0e-4)
_TILE = wp.constant(TILE)
# Counting and listing must find the same tiles: neither may contract what the other does not.
wp.set_module_options({"fuse_fp": False})


class Outline(NamedTuple):
    """Where Gaussians are in images, without gradients; R = C G, camera by camera.

    Attributes:
        pixel: mean (u, v), shape (R, 2).
        conic: inverse covariance ``uu uv vv`` [1/pixels^2], shape (R, 3).
        level: -ln of the Gaussian where alpha is 1/255; not positive: not drawn, shape (R,).
        reach: half the size of the box around alpha >= 1/255 [pixels], shape (R, 2).
        depth: along the optical axis [m], shape (R,).
    """

    pixel: torch.Tensor
    conic: torch.Tensor
    level: torch.Tensor
    reach: torch.Tensor
    depth: torch.Tensor


class Lists(NamedTuple):
    """Gaussians by tile.

    Attributes:
        tile_start: of each tile its first entry, camera by camera and row by row, and the number of
            entries, int32, shape (tiles + 1,).
        entry: which of the R Gaussians, front to back, int32, shape (entries,).
    """

    tile_start: torch.Tensor
    entry: torch.Tensor


def list_tiles(outline: Outline, cameras: int, width: int, height: int) -> Lists:
    """List the Gaussians of every tile of every camera by depth; ties stay in their order.

    Waits for the device once, to know how many pairs there are.

    Args:
        outline: of the Gaussians, float32 and contiguous.
        cameras: C.
        width: W [pixels].
        height: H [pixels].

    Returns:
        The lists.

    Raises:
        DataError: if there are more than 2^31 - 1 pairs.
    """
    device, rows = outline.pixel.device, len(outline.pixel)
    across, down = -(-width // TILE), -(-height // TILE)
    load_module(_count_tiles.module, device)
    count = torch.empty(rows, dtype=torch.int32, device=device)
    shape = (outline.pixel, outline.conic, outline.level, outline.reach)
    types = (wp.vec2, wp.vec3, wp.float32, wp.vec2)
    launch(_count_tiles, rows, [*zip(shape, types), width, height, (count, wp.int32)], device)
    stop = count.cumsum(0)  # in 64 bits
    pairs = int(stop[-1]) if rows else 0
    if pairs > _MOST_PAIRS:
        raise DataError(
            f"{pairs} pairs of a Gaussian and a tile",
            where="rasterize",
            expected=f"at most {_MOST_PAIRS}",
            fix="draw fewer cameras in a call, or remove Gaussians that fill the image",
        )
    key = torch.empty(pairs, dtype=torch.int64, device=device)
    owner = torch.empty(pairs, dtype=torch.int32, device=device)
    first = (stop - count).int()
    depth_bits = outline.depth.view(torch.int32)  # of positive floats: in the floats' order
    given = [*zip(shape, types), width, height, (depth_bits, wp.int32), (first, wp.int32)]
    per_camera = max(rows // cameras, 1)
    launch(_list_tiles, rows, [*given, per_camera, (key, wp.int64), (owner, wp.int32)], device)
    key, order = torch.sort(key, stable=True)
    border = torch.arange(cameras * across * down + 1, device=device) << 32
    return Lists(torch.searchsorted(key, border, out_int32=True), owner[order])


@wp.func
def _columns(u: float, reach: float, width: int) -> wp.vec2i:
    """First column of tiles that is reached, and the one after the last."""
    slack = _SLACK + _SLACK_SHARE * reach
    low = wp.ceil(wp.clamp(u - reach - slack, 0.0, float(width)))
    high = wp.floor(wp.clamp(u + reach + slack, -1.0, float(width - 1)))
    if low > high:
        return wp.vec2i(0, 0)
    return wp.vec2i(int(low) // _TILE, int(high) // _TILE + 1)


@wp.func
def _rows(
    pixel: wp.vec2, conic: wp.vec3, level: float, reach: wp.vec2, column: int, height: int
) -> wp.vec2i:
    """Within a column of tiles: the first row that is reached, and the one after the last.

    The ellipse alpha = 1/255 is v = tilt u +- half sqrt(1 - (u / reach_u)^2), highest at u = top.
    """
    tilt = -conic[1] / conic[2]
    half = wp.sqrt(2.0 * level / conic[2])
    top = -conic[1] / conic[0] * reach[1]
    left = wp.clamp(float(column * _TILE) - pixel[0], -reach[0], reach[0])
    right = wp.clamp(float(column * _TILE + _TILE - 1) - pixel[0], -reach[0], reach[0])
    at_high = wp.clamp(top, left, right)
    at_low = wp.clamp(-top, left, right)
    share_high = at_high / reach[0]
    share_low = at_low / reach[0]
    high = tilt * at_high + half * wp.sqrt(wp.max(1.0 - share_high * share_high, 0.0))
    low = tilt * at_low - half * wp.sqrt(wp.max(1.0 - share_low * share_low, 0.0))
    slack = _SLACK + _SLACK_SHARE * reach[1]
    first = wp.ceil(wp.clamp(pixel[1] + low - slack, 0.0, float(height)))
    last = wp.floor(wp.clamp(pixel[1] + high + slack, -1.0, float(height - 1)))
    if first > last:
        return wp.vec2i(0, 0)
    return wp.vec2i(int(first) // _TILE, int(last) // _TILE + 1)


@wp.kernel(enable_backward=False)
def _count_tiles(
    pixel: wp.array(dtype=wp.vec2),
    conic: wp.array(dtype=wp.vec3),
    level: wp.array(dtype=float),
    reach: wp.array(dtype=wp.vec2),
    width: int,
    height: int,
    # Out:
    count: wp.array(dtype=int),
) -> None:
    """Tiles that each Gaussian reaches."""
    r = wp.tid()
    found = int(0)  # noqa: UP018, RUF046
    if level[r] > 0.0:
        columns = _columns(pixel[r][0], reach[r][0], width)
        for column in range(columns[0], columns[1]):
            rows = _rows(pixel[r], conic[r], level[r], reach[r], column, height)
            found += rows[1] - rows[0]
    count[r] = found


@wp.kernel(enable_backward=False)
def _list_tiles(
    pixel: wp.array(dtype=wp.vec2),
    conic: wp.array(dtype=wp.vec3),
    level: wp.array(dtype=float),
    reach: wp.array(dtype=wp.vec2),
    width: int,
    height: int,
    depth_bits: wp.array(dtype=int),
    first: wp.array(dtype=int),
    per_camera: int,
    # Out:
    key: wp.array(dtype=wp.int64),
    owner: wp.array(dtype=int),
) -> None:
    """A key for each of these, Gaussian by Gaussian, so that a stable sort keeps ties in order."""
    r = wp.tid()
    if level[r] <= 0.0:
        return
    across = (width + _TILE - 1) // _TILE
    down = (height + _TILE - 1) // _TILE
    base = (r // per_camera) * across * down
    at = first[r]
    columns = _columns(pixel[r][0], reach[r][0], width)
    for column in range(columns[0], columns[1]):
        rows = _rows(pixel[r], conic[r], level[r], reach[r], column, height)
        for row in range(rows[0], rows[1]):
            tile = wp.int64(base + row * across + column)
            key[at] = (tile << wp.int64(32)) | wp.int64(depth_bits[r])
            owner[at] = r
            at += 1
