"""The rasteriser on the CPU: SIMD bodies, tiles on threads, one autograd function around all.

Stages of a camera: project (Gaussians over threads), sort and list (one thread), blend (tiles over
threads). The backward pass goes back through the tiles and then through the Gaussians. Bits do not
depend on the number of threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.splats.native_bin import bin_body, bin_work
from physgym.splats.native_call import run_parts
from physgym.splats.native_common import TILE
from physgym.splats.native_project import project_body
from physgym.splats.native_project_adjoint import CHUNK, project_adjoint_body
from physgym.splats.native_raster import feature_room, raster_body
from physgym.splats.native_raster_adjoint import raster_adjoint_body
from physgym.splats.native_view import NativeSettings, camera_numbers
from physgym.splats.plain import Planes

__all__ = ["native_render"]

_PARTS_PER_THREAD = 4  # tiles differ in work: smaller parts even out what threads get
_MOST_GAUSSIANS = 1 << 24  # a rank has 24 bits in a tile's list
_PLAIN_CHANNELS = 4  # red, green, blue, depth


class _Lists(NamedTuple):
    """What a camera's blending needs, kept for its gradient."""

    camera: torch.Tensor
    sorted: torch.Tensor
    order: torch.Tensor
    slot_span: torch.Tensor
    tile_start: torch.Tensor
    entry: torch.Tensor
    entry_slot: torch.Tensor
    extra: torch.Tensor
    seen: int
    slots: int


def native_render(
    mean: torch.Tensor,
    scale: torch.Tensor,
    quat: torch.Tensor,
    opacity: torch.Tensor,
    colour: torch.Tensor,
    features: torch.Tensor,
    T_world_cam: torch.Tensor,
    K: torch.Tensor,
    *,
    settings: NativeSettings,
) -> Planes:
    """Blend Gaussians into images; all tensors float32 on the CPU.

    Args:
        mean: [m], shape (G, 3).
        scale: covariances ``xx xy xz yy yz zz`` [m^2], shape (G, 6), or logarithms of the standard
            deviations [m], shape (G, 3), or (G, 1) for isotropic Gaussians.
        quat: beside three scales the ``quat_wxyz``, shape (G, 4); anything else is not read.
        opacity: shape (G,).
        colour: harmonics, shape (G, K, 3), or RGB, shape (G, 1, 3).
        features: of each camera or of all, shape (C or 1, G, F); F may be 0.
        T_world_cam: shape (C, 4, 4).
        K: intrinsics, shape (C, 3, 3).
        settings: the rest.

    Returns:
        The images.

    Raises:
        DataError: if a Gaussian has a number that is not finite.
    """
    tensors = (mean, scale, quat, opacity, colour, features, T_world_cam, K)
    return Planes(*_Render.apply(*tensors, settings))


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, ...]:
        settings: NativeSettings = inputs[-1]
        tensors = tuple(t.detach().contiguous() for t in inputs[:-1])
        features = tensors[5]
        room = feature_room(features.shape[-1])
        lists, planes = [], []
        for at, (world_from_cam, intrinsics) in enumerate(zip(tensors[6], tensors[7])):
            camera = camera_numbers(world_from_cam, intrinsics, settings)
            made = _bin(camera, tensors, features[min(at, len(features) - 1)], room, settings)
            lists.append(made)
            planes.append(_blend(made, room, settings))
        padded = torch.stack(planes) if len(planes) > 1 else planes[0][None]
        ctx.save_for_backward(*tensors, padded)
        ctx.set_materialize_grads(False)
        ctx.lists, ctx.settings, ctx.room = lists, settings, room
        inner = padded[:, :, : settings.height, : settings.width]
        first = _PLAIN_CHANNELS + features.shape[-1]
        return inner[:, :3], inner[:, 3], inner[:, _PLAIN_CHANNELS:first], inner[:, -1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        *tensors, padded = ctx.saved_tensors
        settings: NativeSettings = ctx.settings
        found = [torch.zeros_like(t) for t in tensors[:7]]
        wide = _pad(grads, padded, settings)
        for at, lists in enumerate(ctx.lists):
            slot_grad = _blend_adjoint(lists, padded[at], wide[at], ctx.room, settings)
            pose, extra = _project_adjoint(lists, tensors, found, slot_grad, settings)
            found[6][at] = _pose_gradient(pose, tensors[6][at])
            to = found[5][min(at, len(found[5]) - 1)]
            to += extra[:, : to.shape[1]]
        return (*found, None, None)


def _counts(tensors: tuple[torch.Tensor, ...], settings: NativeSettings) -> dict[str, int]:
    return {
        "gaussian_count": len(tensors[0]),
        "scale_size": tensors[1].shape[1],
        "logit": settings.logit,
        "degree": settings.degree,
        "basis_count": tensors[4].shape[1],
    }


def _inputs(camera: torch.Tensor, tensors: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    names = ("mean", "scale", "quat", "opacity", "colour")
    return {"camera": camera, **dict(zip(names, tensors))}


def _bin(
    camera: torch.Tensor,
    tensors: tuple[torch.Tensor, ...],
    features: torch.Tensor,
    room: int,
    settings: NativeSettings,
) -> _Lists:
    """Project, sort by depth, list by tile."""
    count, tiles = len(tensors[0]), settings.tiles_x * settings.tiles_y
    if count >= _MOST_GAUSSIANS:
        raise DataError(
            f"{count} Gaussians", where="rasterize", expected=f"fewer than {_MOST_GAUSSIANS}"
        )
    blocks = -(-count // 16)
    record, key = torch.empty(blocks * 256), torch.empty(count, dtype=torch.int32)
    inputs, counts = _inputs(camera, tensors), _counts(tensors, settings)
    parts = _split(blocks, settings.threads)
    status = torch.zeros(len(parts), 2, dtype=torch.int32)
    body = project_body()

    def project(part: int, first: int, last: int) -> None:
        arrays = inputs | {"record": record, "key": key, "status": status[part]}
        body(arrays, **counts, first_block=first, last_block=last)

    run_parts(project, [(k, *part) for k, part in enumerate(parts)], settings.threads)
    for failed, gaussian in status.tolist():
        if failed:
            _raise_not_finite(gaussian)
    capacity = 4 * count + 1024
    whole = {
        "order": count,
        "slot_span": 2 * count,
        "tile_start": tiles + 1,
        "work": bin_work(count, tiles),
        "status": 2,
    }
    arrays = {name: torch.empty(size, dtype=torch.int32) for name, size in whole.items()}
    arrays |= {"record": record, "key": key, "sorted": torch.empty(blocks * 256)}
    while True:
        names = ("slot_tile", "slot_code", "entry", "entry_slot")
        arrays |= {name: torch.empty(capacity, dtype=torch.int32) for name in names}
        bin_body()(arrays, gaussian_count=count, capacity=capacity, **settings.tiling())
        seen, slots = arrays["status"].tolist()
        if slots + 2 <= capacity:
            break
        capacity = slots + 2
    return _Lists(
        camera, arrays["sorted"], arrays["order"], arrays["slot_span"], arrays["tile_start"],
        arrays["entry"], arrays["entry_slot"], _extra(features, arrays["order"][:seen], room),
        seen, slots,
    )  # fmt: skip


def _blend(lists: _Lists, room: int, settings: NativeSettings) -> torch.Tensor:
    """Padded planes of one camera: colour, depth, features, alpha."""
    channels = _PLAIN_CHANNELS + room + 1
    planes = torch.empty(channels, settings.tiles_y * TILE, settings.tiles_x * TILE)
    arrays = {
        "sorted": lists.sorted,
        "extra": lists.extra,
        "planes": planes,
        "tile_start": lists.tile_start,
        "entry": lists.entry,
    }
    body, tiling = raster_body(room), settings.tiling()
    run_parts(
        lambda first, last: body(arrays, **tiling, first_tile=first, last_tile=last),
        _split_tiles(lists.tile_start, settings.threads),
        settings.threads,
    )
    return planes


def _blend_adjoint(
    lists: _Lists,
    planes: torch.Tensor,
    grad_planes: torch.Tensor,
    room: int,
    settings: NativeSettings,
) -> torch.Tensor:
    """A record of gradients for every slot, shape (slots, 16 n)."""
    line = -(-(6 + _PLAIN_CHANNELS + room) // 16) * 16
    arrays = {
        "sorted": lists.sorted,
        "extra": lists.extra,
        "planes": planes,
        "grad_planes": grad_planes,
        "slot_grad": torch.empty(max(lists.slots, 1), line),
        "tile_start": lists.tile_start,
        "entry": lists.entry,
        "entry_slot": lists.entry_slot,
    }
    body, tiling = raster_adjoint_body(room), settings.tiling()
    run_parts(
        lambda first, last: body(arrays, **tiling, first_tile=first, last_tile=last),
        _split_tiles(lists.tile_start, settings.threads),
        settings.threads,
    )
    return arrays["slot_grad"]


def _project_adjoint(
    lists: _Lists,
    tensors: tuple[torch.Tensor, ...],
    found: list[torch.Tensor],
    slot_grad: torch.Tensor,
    settings: NativeSettings,
) -> tuple[np.ndarray, torch.Tensor]:
    """Adds one camera's gradients to those found; its own (15), and of features."""
    count = len(tensors[0])
    chunks = -(-count // CHUNK)
    features = lists.extra.shape[1]
    arrays = _inputs(lists.camera, tensors) | {
        "slot_grad": slot_grad,
        "slot_span": lists.slot_span,
        "grad_extra": torch.zeros(count, features),
        "grad_camera": torch.zeros(chunks, 16),
    }
    names = ("grad_mean", "grad_scale", "grad_quat", "grad_opacity", "grad_colour")
    arrays |= dict(zip(names, found))
    body = project_adjoint_body()
    counts = _counts(tensors, settings) | {
        "line_size": slot_grad.shape[1],
        "features": features,
        "chunk_size": CHUNK,
    }
    run_parts(
        lambda first, last: body(arrays, **counts, first_chunk=first, last_chunk=last),
        _split(chunks, settings.threads),
        settings.threads,
    )
    pose = arrays["grad_camera"].double().sum(dim=0).numpy()
    return pose, arrays["grad_extra"]


def _pose_gradient(pose: np.ndarray, T_world_cam: torch.Tensor) -> torch.Tensor:
    """Along the entries of T_world_cam, where T_cam_world is (R^T, -R^T c)."""
    placed = T_world_cam.double().numpy()
    turn, shift, centre = pose[:9].reshape(3, 3), pose[9:12], pose[12:15]
    made = np.zeros((4, 4))
    made[:3, :3] = (turn - np.outer(shift, placed[:3, 3])).T
    made[:3, 3] = centre - placed[:3, :3] @ shift
    return torch.from_numpy(made).float()


def _extra(features: torch.Tensor, order: torch.Tensor, room: int) -> torch.Tensor:
    """Features in the order of depth, with zeros up to the room compiled for."""
    made = torch.zeros(len(order), room)
    if features.shape[1]:
        made[:, : features.shape[1]] = features[order.long()]
    return made


def _pad(
    grads: tuple[torch.Tensor | None, ...], padded: torch.Tensor, settings: NativeSettings
) -> torch.Tensor:
    """Gradient of the padded planes, from those of colour, depth, features and alpha."""
    wide = torch.empty_like(padded)
    inner = wide[:, :, : settings.height, : settings.width]
    given = _PLAIN_CHANNELS + (0 if grads[2] is None else grads[2].shape[1])
    if inner.shape != wide.shape:
        wide.zero_()
    wide[:, given:-1] = 0.0
    parts = (inner[:, :3], inner[:, 3], inner[:, _PLAIN_CHANNELS:given], inner[:, -1])
    for part, grad in zip(parts, grads):
        if grad is None:
            part.zero_()
        else:
            part.copy_(grad)
    return wide


def _split(count: int, threads: int) -> list[tuple[int, int]]:
    """Ranges that cover 0 to count, about as many as threads."""
    edges = np.linspace(0, count, max(1, threads) + 1).astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges) if b > a]


def _split_tiles(tile_start: torch.Tensor, threads: int) -> list[tuple[int, int]]:
    """Ranges of tiles with about the same number of entries."""
    tiles = len(tile_start) - 1
    if threads == 1:
        return [(0, tiles)]
    done = tile_start.numpy() + np.arange(tiles + 1)  # an empty tile has to be written too
    wanted = np.linspace(0, done[-1], threads * _PARTS_PER_THREAD + 1)
    edges = np.unique([0, *np.searchsorted(done, wanted[1:-1]), tiles])
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def _raise_not_finite(gaussian: int) -> None:
    raise DataError(
        f"Gaussian {gaussian} has a number that is not finite, or a covariance that is none",
        where="rasterize",
        expected="finite means, shapes, opacities and colours; quaternions that are not zero",
        fix="remove such Gaussians, or look for the step that made them",
    )
