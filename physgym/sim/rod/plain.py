"""The plain kernel's host side: arrays for it, and rollouts without gradients.

The kernel itself, the rod written for reading, is in `physgym.sim.rod.kernels`.
Shapes: B worlds, T frames, N nodes, K driven points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import warp as wp
from torch.nn.functional import pad

from physgym.sim.rod import kernels
from physgym.sim.rod.kernels import Motion, Rod, Work
from physgym.sim.rod.model import RodModel

if TYPE_CHECKING:
    from physgym.sim.rod.solver import RodSolver

__all__ = [
    "allocate",
    "as_warp",
    "field_names",
    "fill",
    "launch_frames",
    "make_rod",
    "pack_parts",
    "plain_rollout",
    "rod_constants",
    "share_worlds",
    "unpack_parts",
    "world_is_fastest",
]

# A persistent kernel of few worlds should spread over the multiprocessors, not fill one.
_CUDA_BLOCK = 32
_VECTOR = {wp.vec3: 3, wp.vec2: 2, wp.float32: 1}


def rod_constants(
    parameters: Mapping[str, torch.Tensor], driven_index: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The kernel's constants from parameters; differentiable.

    Args:
        parameters: every field of `RodParameters` with its world axis, (B, ...).
        driven_index: driven nodes, whose inverse mass is zero.

    Returns:
        Tensors named like the fields of `Rod`.
    """
    length = parameters["rest_length_m"]
    spread = 0.5 * (pad(length, (1, 0)) + pad(length, (0, 1)))
    free = torch.ones(spread.shape[1], dtype=spread.dtype, device=spread.device)
    free[list(driven_index)] = 0.0
    density = parameters["linear_density_kg_per_m"][:, None]
    return {
        "clamp_tangent": parameters["clamp_tangent"],
        "clamp_director": parameters["clamp_director"],
        "bending": pad(parameters["bending_stiffness_nm2"] / spread[:, 1:-1], (1, 1)),
        "rest_angle": pad(parameters["natural_curvature_rad"], (0, 0, 1, 1)),
        "rest_length": length,
        "inv_mass": free / (density * spread),
        "twist_stiffness": parameters["twist_stiffness_nm2"],
        "bending_damping": parameters["bending_damping_s"],
        "drag": parameters["drag_per_s"],
        "drag_quadratic": parameters["drag_quadratic_per_m"],
        "stretch_stiffness": parameters["stretch_stiffness_n"],
        "stretch_damping": parameters["stretch_damping_s"],
        "friction_ratio": parameters["friction_ratio"],
        "friction_yield": parameters["friction_yield_rad"],
        "end_roll": parameters["end_roll_rad"],
    }


def make_rod(
    model: RodModel,
    constants: Mapping[str, torch.Tensor],
    device: str,
    gradients: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """Constants as the kernel takes them.

    Args:
        model: the rod.
        constants: what `rod_constants` gave.
        device: Warp name of the device.
        gradients: tensors like ``constants`` that gather the adjoints.

    Returns:
        A `Rod` that shares memory with the tensors where they are float32 on the device.
    """
    rod = Rod()
    rod.clamp_first, rod.clamp_last = (int(held) for held in model.clamped)
    slot = np.full(model.node_count, -1, np.int32)
    slot[list(model.driven_index)] = np.arange(len(model.driven_index))
    rod.driven_slot = wp.array(slot, dtype=int, device=device)
    for name, tensor in constants.items():
        gradient = None if gradients is None else gradients[name]
        setattr(rod, name, as_warp(tensor, _item(Rod, name), gradient))
    return rod


def field_names(struct: Any) -> list[str]:
    """Names of the fields of a Warp struct, in order.

    Args:
        struct: `Rod`, `Motion` or `Work`.

    Returns:
        The names.
    """
    return list(struct.vars)


def _item(struct: Any, name: str) -> Any:
    return struct.vars[name].type.dtype


def as_warp(tensor: torch.Tensor, dtype: Any, gradient: torch.Tensor | None = None) -> Any:
    """A Warp array over a tensor's memory.

    Args:
        tensor: float32; the last axis goes into a vector type.
        dtype: Warp type of an entry.
        gradient: tensor of the same shape that gathers the adjoint.

    Returns:
        The array.
    """
    return wp.from_torch(
        tensor.detach(), dtype=dtype, requires_grad=gradient is not None, grad=gradient
    )


def world_is_fastest(device: str) -> bool:
    """Whether neighbouring worlds lie side by side in memory.

    Args:
        device: torch name of the device.

    Returns:
        True on CUDA, where neighbouring threads then read neighbouring memory.
    """
    return device != "cpu"


def allocate(
    struct: Any, worlds: int, slots: int, nodes: int, device: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Zeros for every array of `Motion` or `Work`.

    Args:
        struct: `Motion` or `Work`.
        worlds: B.
        slots: number of times.
        nodes: N.
        device: torch name of the device.

    Returns:
        One flat tensor, and by name its parts of shape (B, slots, N) or (B, slots, N, 2 or 3).
    """
    sizes = {name: _VECTOR[_item(struct, name)] for name in field_names(struct)}
    each = worlds * slots * nodes
    flat = torch.zeros(each * sum(sizes.values()), dtype=torch.float32, device=device)
    parts: dict[str, torch.Tensor] = {}
    for (name, size), piece in zip(
        sizes.items(), flat.split([each * size for size in sizes.values()]), strict=True
    ):
        if world_is_fastest(device):
            part = piece.view(slots, nodes, worlds, size).permute(2, 0, 1, 3)
        else:
            part = piece.view(worlds, slots, nodes, size)
        parts[name] = part if size > 1 else part[..., 0]
    return flat, parts


def fill(
    struct: Any,
    tensors: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """A `Motion` or `Work` over tensors.

    Args:
        struct: which of the two.
        tensors: one per field.
        gradients: tensors of the same shapes that gather the adjoints.

    Returns:
        The struct.
    """
    made = struct()
    for name, tensor in tensors.items():
        gradient = None if gradients is None else gradients[name]
        setattr(made, name, as_warp(tensor, _item(struct, name), gradient))
    return made


def unpack_parts(parts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The solver's parts under the names of `Motion`, on nodes throughout.

    Args:
        parts: position, velocity, directors, tangents, memory: (B, N, 3), (B, N, 3),
            (B, N-1, 3), (B, N-1, 3), (B, N, 6).

    Returns:
        Tensors of shape (B, N, 3) or (B, N, 2); the edges' last entry is unused.
    """
    x, v, director, tangent, memory = parts
    return {
        "x": x,
        "v": v,
        "director": pad(director, (0, 0, 0, 1)),
        "tangent": pad(tangent, (0, 0, 0, 1)),
        "angle": memory[..., 0:2],
        "slider": memory[..., 2:4],
        "rolled": memory[..., 4:6],
    }


def pack_parts(motion: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The inverse of `unpack_parts`.

    Args:
        motion: tensors of shape (B, N, 3) or (B, N, 2).

    Returns:
        Position, velocity, directors, tangents, memory.
    """
    memory = torch.cat([motion[name] for name in ("angle", "slider", "rolled")], -1)
    edges = [motion[name][:, :-1] for name in ("director", "tangent")]
    return [motion["x"], motion["v"], *edges, memory]


def share_worlds(
    work: Callable[[int, int], None], worlds: int, threads: int, most: int | None = None
) -> None:
    """Share worlds out over CPU threads; a launch releases Python's lock.

    Args:
        work: called with the first world and the number of worlds of a share.
        worlds: B.
        threads: how many run at once.
        most: largest number of worlds in one call.
    """
    count = min(threads, worlds)
    if most is not None:
        count = max(count, -(-worlds // most))
    cuts = np.linspace(0, worlds, count + 1).astype(int).tolist()
    bounds = [(a, b - a) for a, b in pairwise(cuts)]
    if min(threads, count) == 1:
        for first, size in bounds:
            work(first, size)
        return
    with ThreadPoolExecutor(min(threads, count)) as pool:
        list(pool.map(work, *zip(*bounds, strict=True)))


def launch_frames(
    worlds: tuple[int, int],
    frames: tuple[int, int],
    time: tuple[int, float],
    gravity_m_per_s2: Sequence[float],
    arrays: Sequence[Any],
    device: str,
    *,
    adjoint: bool = False,
) -> None:
    """Launch `physgym.sim.rod.kernels.rod_frames_kernel`, or its adjoint.

    Args:
        worlds: the first one and how many.
        frames: the first one and how many.
        time: substeps per frame, substep [s].
        gravity_m_per_s2: shape (3,).
        arrays: rod, driven, saved, motion, work.
        device: Warp name of the device.
        adjoint: gather adjoints into the gradients of the arrays.
    """
    inputs = [worlds[0], *frames, *time, wp.vec3(*gravity_m_per_s2), *arrays]
    wp.launch(
        kernels.rod_frames_kernel,
        dim=worlds[1],
        inputs=inputs,
        # Empty: the adjoints then go into the gradients that the arrays carry themselves.
        adj_inputs=[None] * 6 + [Rod(), None, Motion(), Motion(), Work()] if adjoint else [],
        adjoint=adjoint,
        device=device,
        block_dim=_CUDA_BLOCK,
    )


def plain_rollout(
    solver: RodSolver,
    parts: list[np.ndarray],
    driven: np.ndarray,
    frames: int,
    substeps: int,
    dt_s: float,
) -> np.ndarray:
    """Run the plain kernel over all worlds; the same job as the solver's native rollout.

    Args:
        solver: whose model, parameters and device are used.
        parts: position, velocity, directors, tangents, memory; replaced by the final ones.
        driven: [m], shape (B, T, K, 3).
        frames: T - 1.
        substeps: per frame.
        dt_s: time between frames [s].

    Returns:
        Positions of frames 1 to T-1 [m], shape (B, T-1, N, 3).
    """
    device, model, count = solver.device, solver.model, solver.worlds
    given = {
        name: torch.from_numpy(np.array(values))
        for name, values in solver.parameters.to_mapping().items()
    }
    constants = rod_constants(given, model.driven_index)
    rod = make_rod(
        model, {n: c.float().contiguous().to(device) for n, c in constants.items()}, device
    )
    path = _path(torch.from_numpy(driven).to(device), device)
    _, saved = allocate(Motion, count, 2, model.node_count, device)
    saved["x"] = allocate(Motion, count, frames + 1, model.node_count, device)[1]["x"]
    for name, values in unpack_parts([torch.from_numpy(p) for p in parts]).items():
        saved[name][:, 0] = values.to(device)
    kept = fill(Motion, saved)

    def run(first: int, size: int) -> None:
        scratch = [
            fill(struct, allocate(struct, size, 2, model.node_count, device)[1])
            for struct in (Motion, Work)
        ]
        launch_frames(
            (first, size),
            (0, frames),
            (substeps, dt_s / substeps),
            model.gravity_m_per_s2,
            [rod, path, kept, *scratch],
            device,
        )

    if device == "cpu":
        wp.load_module(kernels, device="cpu")  # before threads launch: loading is not thread-safe
        share_worlds(run, count, solver._threads)
    else:
        run(0, count)
    newest = {name: tensor[:, -1].cpu() for name, tensor in saved.items()}
    if frames == 0:
        newest = {name: tensor[:, 0].cpu() for name, tensor in saved.items()}
    parts[:] = [np.ascontiguousarray(part.numpy()) for part in pack_parts(newest)]
    return np.ascontiguousarray(saved["x"][:, 1:].cpu().numpy())


def _path(driven: torch.Tensor, device: str) -> Any:
    if driven.numel() == 0:
        return wp.zeros(tuple(driven.shape[:3]), dtype=wp.vec3, device=device)
    return as_warp(driven.contiguous(), wp.vec3)
