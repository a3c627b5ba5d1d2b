"""A rod's rollout as a torch function, with gradients to its start, its drive and its parameters.

On CPU the adjoint is `physgym.sim.rod.native_adjoint`, elsewhere Warp's of the plain kernel; a test
holds that both agree. One checkpoint per frame is kept; the substeps inside are computed again.
Shapes: B worlds, T frames, N nodes, K driven points, M internal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.errors import BlowUpError, DataError
from physgym.sim.model import State
from physgym.sim.rod import kernels, native
from physgym.sim.rod.kernels import Motion, Work
from physgym.sim.rod.model import RodParameters
from physgym.sim.rod.native_gradient import Plan, Tensors, native_backward, native_forward
from physgym.sim.rod.plain import (
    allocate,
    as_warp,
    field_names,
    fill,
    launch_frames,
    make_rod,
    rod_constants,
    share_worlds,
    unpack_parts,
)
from physgym.sim.rod.solver import RodSolver

__all__ = ["rod_initial_state", "rod_rollout", "uses_native"]

# Worlds per launch of Warp's adjoint on CPU: more would push a frame's substeps out of the cache.
_CPU_WORLDS = 4


def rod_rollout(
    solver: RodSolver,
    state: State,
    driven: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    dt_s: float,
) -> torch.Tensor:
    """Advance T - 1 frames; differentiable in every tensor that goes in.

    The gradients are those of the discrete steps, in float32. Kinks (the friction starts to slip,
    an edge rolls by more than 0.2 rad in a substep) have the derivative of the side taken.

    Args:
        solver: whose model, device, threads, substeps and remaining parameters are used.
        state: the state at frame 0. Its three tensors count as independent; `rod_initial_state`
            makes one whose directors follow from positions and parameters.
        driven: driven points at every frame [m], shape (B, T, K, 3).
        parameters: fields of `RodParameters` by name, with or without a world axis.
        dt_s: time between frames [s].

    Returns:
        Positions at all frames [m], shape (B, T, N, 3), float32, on the device of ``driven``.

    Raises:
        BlowUpError: if a world leaves the finite numbers.
        DataError: on an unknown name or a wrong shape.
    """
    model, worlds = solver.model, solver.worlds
    expected = (worlds, len(model.driven_index), 3)
    if driven.ndim != 4 or (driven.shape[0], *driven.shape[2:]) != expected or not len(driven[0]):
        raise DataError(
            f"driven points of shape {tuple(driven.shape)}",
            where="rod_rollout: driven",
            expected=f"(B, T, K, 3) = ({worlds}, T, {expected[1]}, 3)",
            fix="give every driven point at every frame, frame 0 included",
        )
    constants = rod_constants(_complete(solver, parameters), model.driven_index)
    motion = unpack_parts(_split(state, model.node_count))
    plan = Plan(
        model,
        worlds,
        driven.shape[1] - 1,
        solver.substeps(dt_s),
        dt_s,
        solver.device,
        solver._threads,
    )
    tensors = [*motion.values(), driven, *constants.values()]
    put = [tensor.to(solver.device, torch.float32).contiguous() for tensor in tensors]
    positions: torch.Tensor = _RodRollout.apply(plan, list(constants), *put)
    _check(positions.detach(), plan)
    return positions.to(driven.device)


def rod_initial_state(
    solver: RodSolver,
    position: torch.Tensor,
    velocity: torch.Tensor | None = None,
    parameters: Mapping[str, torch.Tensor] | None = None,
) -> State:
    """`RodSolver.initial_state`, differentiable in positions, velocities and parameters.

    Args:
        solver: whose model and remaining parameters are used.
        position: [m], shape (B, N, 3).
        velocity: [m/s], the same shape; zero when absent.
        parameters: fields of `RodParameters` by name, with or without a world axis.

    Returns:
        A State of B worlds, of the dtype of ``position``.
    """
    full = {n: v.to(position) for n, v in _complete(solver, parameters or {}).items()}
    edges = position[:, 1:] - position[:, :-1]
    tangents = _unit(edges)
    held = [
        _unit(
            _transport(full["clamp_director"][:, k], full["clamp_tangent"][:, k], tangents[:, -k])
        )
        for k in (0, 1)
    ]
    roll = full["end_roll_rad"][:, None]
    across = torch.linalg.cross(tangents[:, -1], held[1])
    last = held[1] * torch.cos(roll) + across * torch.sin(roll)
    holds_first, holds_last = solver.model.clamped
    count = tangents.shape[1]
    if holds_first or not holds_last:
        chain = [held[0]]
        for j in range(1, count):
            chain.append(_unit(_transport(chain[-1], tangents[:, j - 1], tangents[:, j])))
    else:  # held at the far end only: carried back from there, without twist
        chain = [last]
        for j in range(count - 1, 0, -1):
            chain.insert(0, _unit(_transport(chain[0], tangents[:, j], tangents[:, j - 1])))
    directors = torch.stack(chain, 1)
    if holds_first and holds_last:
        directors = _spread_twist(edges, tangents, directors, last)
    angle = _turning(tangents, directors)
    memory = torch.nn.functional.pad(torch.cat([angle, angle, 0.0 * angle], -1), (0, 0, 1, 1))
    internal = torch.cat([part.flatten(1) for part in (directors, tangents, memory)], 1)
    return State(position, torch.zeros_like(position) if velocity is None else velocity, internal)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _transport(director: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    chi = 1.0 + (start * end).sum(-1, keepdim=True)
    return director - (director * end).sum(-1, keepdim=True) / chi * (start + end)


def _spread_twist(
    edges: torch.Tensor, tangents: torch.Tensor, directors: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    across = torch.linalg.cross(tangents, directors)
    total = torch.atan2((last * across[:, -1]).sum(-1), (last * directors[:, -1]).sum(-1))
    length = edges.norm(dim=-1)
    along = torch.cumsum(0.5 * (length[:, 1:] + length[:, :-1]), 1)
    share = torch.nn.functional.pad(along / along[:, -1:], (1, 0))
    angle = (total[:, None] * share)[..., None]
    return directors * torch.cos(angle) + across * torch.sin(angle)


def _turning(tangents: torch.Tensor, directors: torch.Tensor) -> torch.Tensor:
    across = torch.linalg.cross(tangents, directors)
    before, after = tangents[:, :-1], tangents[:, 1:]
    chi = 1.0 + (before * after).sum(-1, keepdim=True)
    binormal = 2.0 * torch.linalg.cross(before, after) / chi
    first = 0.5 * (binormal * (across[:, :-1] + across[:, 1:])).sum(-1)
    second = -0.5 * (binormal * (directors[:, :-1] + directors[:, 1:])).sum(-1)
    return torch.stack([first, second], -1)


def _complete(solver: RodSolver, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every field with its world axis: the given tensors, the solver's values for the rest."""
    unknown = [name for name in parameters if name not in RodParameters.names()]
    if unknown:
        raise DataError(
            f"unknown rod parameters {unknown}",
            where="rod_rollout: parameters",
            expected=", ".join(RodParameters.names()),
            fix="name fields of RodParameters",
        )
    full = {}
    for name, value in solver.parameters.to_mapping().items():
        tensor = parameters.get(name)
        if tensor is None:
            full[name] = torch.from_numpy(np.array(value)).to(solver.device)
            continue
        if tuple(tensor.shape) not in (value.shape, value.shape[1:]):
            raise DataError(
                f"{name} has shape {tuple(tensor.shape)}",
                where="rod_rollout: parameters",
                expected=f"{value.shape[1:]} or {value.shape}",
                fix="give one value for all worlds or one per world",
            )
        # Sums over worlds (the adjoint of expand) and ratios stay exact in float64.
        full[name] = tensor.to(solver.device, torch.float64).expand(value.shape)
    return full


def _split(state: State, nodes: int) -> list[torch.Tensor]:
    edges, worlds = nodes - 1, len(state.internal)
    sizes = [3 * edges, 3 * edges, native.MEMORY * nodes]
    m1, tangents, memory = state.internal.split(sizes, dim=1)
    return [
        state.position,
        state.velocity,
        m1.reshape(worlds, edges, 3),
        tangents.reshape(worlds, edges, 3),
        memory.reshape(worlds, nodes, native.MEMORY),
    ]


def _check(positions: torch.Tensor, plan: Plan) -> None:
    bad = ~torch.isfinite(positions).all(-1)
    if bad.any():
        world, frame, node = (int(i) for i in bad.nonzero()[0])
        raise BlowUpError(
            "the rod left the finite numbers",
            world=world,
            node=node,
            substep=frame * plan.substeps,
            fix=f"raise substeps_per_frame of the solver (now {plan.substeps}): these parameters "
            "may be stiffer than the solver's own, from which the substeps follow",
        )


class _RodRollout(torch.autograd.Function):
    """Forward keeps the state at every frame; backward goes back frame by frame."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, names: list[str], *tensors: torch.Tensor) -> torch.Tensor:
        split = len(field_names(Motion))
        start = dict(zip(field_names(Motion), tensors[:split], strict=True))
        driven, constants = tensors[split], dict(zip(names, tensors[split + 1 :], strict=True))
        run = native_forward if uses_native(plan.device) else _plain_forward
        positions, saved = run(plan, start, driven, constants)
        ctx.plan, ctx.saved, ctx.names = plan, saved, names
        ctx.save_for_backward(driven, *constants.values())
        return positions

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        driven, *values = ctx.saved_tensors
        constants = dict(zip(ctx.names, values, strict=True))
        run = native_backward if uses_native(ctx.plan.device) else _plain_backward
        start, path, made = run(ctx.plan, ctx.saved, driven, constants, grads[0].contiguous())
        ordered = (start[name] for name in field_names(Motion))
        return None, None, *ordered, path, *(made[name] for name in ctx.names)


def uses_native(device: str) -> bool:
    """Whether the hand-written adjoint for CPU runs, or Warp's of the plain kernel.

    Args:
        device: Warp name of the device.

    Returns:
        True on CPU.
    """
    return device == "cpu"


def _plain_forward(
    plan: Plan, start: Tensors, driven: torch.Tensor, constants: Tensors
) -> tuple[torch.Tensor, Any]:
    nodes = plan.model.node_count
    _, saved = allocate(Motion, plan.worlds, plan.frames + 1, nodes, plan.device)
    for name, values in start.items():
        saved[name][:, 0] = values
    arrays = [make_rod(plan.model, constants, plan.device), _vec3(driven), fill(Motion, saved)]

    def run(first: int, size: int) -> None:
        scratch = [
            fill(struct, allocate(struct, size, 2, nodes, plan.device)[1])
            for struct in (Motion, Work)
        ]
        _frames(plan, (first, size), (0, plan.frames), [*arrays, *scratch])

    _share(plan, run, None)
    return saved["x"].clone(), saved


def _plain_backward(
    plan: Plan, saved: Any, driven: torch.Tensor, constants: Tensors, grad: torch.Tensor
) -> tuple[Tensors, torch.Tensor, Tensors]:
    nodes = plan.model.node_count
    _, saved_grad = allocate(Motion, plan.worlds, plan.frames + 1, nodes, plan.device)
    saved_grad["x"].copy_(grad)
    made = {name: torch.zeros_like(tensor) for name, tensor in constants.items()}
    driven_grad = torch.zeros_like(driven)
    arrays = [
        make_rod(plan.model, constants, plan.device, made),
        _vec3(driven, driven_grad),
        fill(Motion, saved, saved_grad),
    ]

    def run(first: int, size: int) -> None:
        scratch, flats = [], []
        for struct in (Motion, Work):
            slots = plan.substeps + 1
            _, values = allocate(struct, size, slots, nodes, plan.device)
            flat, gradients = allocate(struct, size, slots, nodes, plan.device)
            scratch.append(fill(struct, values, gradients))
            flats.append(flat)
        for frame in reversed(range(plan.frames)):
            for flat in flats:
                _clear(flat)
            for adjoint in (False, True):  # the substeps again, then back through them
                _frames(plan, (first, size), (frame, 1), [*arrays, *scratch], adjoint=adjoint)

    _share(plan, run, _CPU_WORLDS)
    start = {name: tensor[:, 0].clone() for name, tensor in saved_grad.items()}
    return start, driven_grad, made


def _frames(
    plan: Plan,
    worlds: tuple[int, int],
    frames: tuple[int, int],
    arrays: list[Any],
    *,
    adjoint: bool = False,
) -> None:
    time = (plan.substeps, plan.dt_s / plan.substeps)
    gravity = plan.model.gravity_m_per_s2
    launch_frames(worlds, frames, time, gravity, arrays, plan.device, adjoint=adjoint)


def _clear(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cpu":
        tensor.numpy().fill(0.0)  # torch would wake a team of threads for it, once a frame
    else:
        tensor.zero_()


def _share(plan: Plan, run: Any, most: int | None) -> None:
    if plan.device == "cpu":
        wp.load_module(kernels, device="cpu")  # before threads launch: loading is not thread-safe
        share_worlds(run, plan.worlds, plan.threads, most)
    else:
        run(0, plan.worlds)


def _vec3(tensor: torch.Tensor, gradient: torch.Tensor | None = None) -> Any:
    if tensor.numel() == 0:
        shape = tuple(tensor.shape[:3])
        return wp.zeros(
            shape, dtype=wp.vec3, device=str(tensor.device), requires_grad=gradient is not None
        )
    return as_warp(tensor, wp.vec3, gradient)
