"""Host side of the native adjoint: world batches in and out of vector lanes.

Shapes: B worlds, T frames, N nodes, K driven points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp

from physgym.sim.rod import native_adjoint
from physgym.sim.rod.kernels import Motion
from physgym.sim.rod.model import RodModel
from physgym.sim.rod.native import LANES
from physgym.sim.rod.native_adjoint import ADJOINT_FLOATS, KEPT_FLOATS, STATE_FLOATS
from physgym.sim.rod.plain import field_names, share_worlds
from physgym.sim.rod.solver import _from_lanes, _to_lanes

__all__ = ["Plan", "Tensors", "native_backward", "native_forward"]

# Order of the scalars in the kernel; the roll of the last clamp follows as cosine and sine.
_SCALARS = (
    "twist_stiffness",
    "bending_damping",
    "drag",
    "drag_quadratic",
    "stretch_stiffness",
    "stretch_damping",
    "friction_ratio",
    "friction_yield",
)
Tensors = dict[str, torch.Tensor]


class Plan(NamedTuple):
    """What a rollout needs besides tensors."""

    model: RodModel
    worlds: int
    frames: int
    substeps: int
    dt_s: float
    device: str
    threads: int

    @property
    def groups(self) -> int:
        """Vectors of worlds."""
        return -(-self.worlds // LANES)


def native_forward(
    plan: Plan, start: Mapping[str, torch.Tensor], driven: torch.Tensor, constants: Tensors
) -> tuple[torch.Tensor, Any]:
    """Run all frames.

    Args:
        plan: the rollout.
        start: fields of `Motion` at frame 0, (B, N, 3) or (B, N, 2).
        driven: [m], (B, T, K, 3).
        constants: fields of `Rod`.

    Returns:
        Positions at all frames [m], (B, T, N, 3), and the states that `native_backward` takes.
    """
    state = np.concatenate([_flat(start[name]) for name in ("x", "v", "director", "tangent")], 1)
    memory = torch.cat([start[name] for name in ("angle", "slider", "rolled")], -1)
    state = np.concatenate([state, _flat(memory)], 1)
    saved = wp.zeros(_saved_size(plan), dtype=float, device="cpu")
    _by_frame(plan, saved)[:, 0] = _to_lanes(state).reshape(plan.groups, -1, LANES)
    given = [saved, *map(_lanes, _kernel_constants(constants)), _lanes(driven)]
    _launch(plan, given, [wp.zeros(1, dtype=float, device="cpu")] * len(given), adjoint=False)
    nodes = plan.model.node_count
    positions = _by_frame(plan, saved)[:, :, : 3 * nodes]
    shape = (plan.worlds, plan.frames + 1, nodes, 3)
    return torch.from_numpy(_from_lanes(np.ascontiguousarray(positions), shape)), saved


def native_backward(
    plan: Plan, saved: Any, driven: torch.Tensor, constants: Tensors, grad: torch.Tensor
) -> tuple[Tensors, torch.Tensor, Tensors]:
    """Go back through all frames.

    Args:
        plan: the rollout.
        saved: what `native_forward` gave.
        driven: [m], (B, T, K, 3).
        constants: fields of `Rod`.
        grad: adjoint of the positions, (B, T, N, 3).

    Returns:
        Adjoints of the start, by field of `Motion`; of the driven points; of the constants.
    """
    nodes, worlds = plan.model.node_count, plan.worlds
    values = _kernel_constants(constants)
    given = [saved, *map(_lanes, values), _lanes(driven)]
    adjoint = [wp.zeros(len(array), dtype=float, device="cpu") for array in given]
    upstream = _to_lanes(grad.numpy().reshape(worlds, plan.frames + 1, -1))
    _by_frame(plan, adjoint[0])[:, :, : 3 * nodes] = upstream.reshape(
        plan.groups, plan.frames + 1, -1, LANES
    )
    _launch(plan, given, adjoint, adjoint=True)
    first = np.ascontiguousarray(_by_frame(plan, adjoint[0])[:, 0])
    start = torch.from_numpy(_from_lanes(first, (worlds, STATE_FLOATS * nodes)))
    x, v, director, tangent, memory = start.split([3 * nodes] * 4 + [6 * nodes], dim=1)
    parts = [part.reshape(worlds, nodes, 3) for part in (x, v, director, tangent)]
    parts += list(memory.reshape(worlds, nodes, 3, 2).unbind(2))
    made = [
        torch.from_numpy(_from_lanes(array.numpy(), tuple(value.shape)))
        for array, value in zip(adjoint[1:], [*values, driven], strict=True)
    ]
    motion = dict(zip(field_names(Motion), parts, strict=True))
    return motion, made[-1], _constant_adjoints(constants, made[:-1])


def _kernel_constants(constants: Tensors) -> list[torch.Tensor]:
    roll = constants["end_roll"]
    scalars = [constants[name] for name in _SCALARS] + [torch.cos(roll), torch.sin(roll)]
    bend = torch.cat([constants["bending"][..., None], constants["rest_angle"]], -1)
    names = ("rest_length", "inv_mass")
    clamps = [constants["clamp_tangent"], constants["clamp_director"]]
    return [*clamps, bend, *(constants[name] for name in names), torch.stack(scalars, -1)]


def _constant_adjoints(constants: Tensors, made: list[torch.Tensor]) -> Tensors:
    """From the kernel's packing back to the fields of `Rod`."""
    tangent, director, bend, rest, inv_mass, scalar = made
    roll = constants["end_roll"]
    by_name = {name: scalar[:, k].clone() for k, name in enumerate(_SCALARS)}
    return by_name | {
        "clamp_tangent": tangent,
        "clamp_director": director,
        "bending": bend[..., 0].clone(),
        "rest_angle": bend[..., 1:].clone(),
        "rest_length": rest,
        "inv_mass": inv_mass,
        "end_roll": scalar[:, 9] * torch.cos(roll) - scalar[:, 8] * torch.sin(roll),
    }


def _launch(plan: Plan, given: list[Any], made: list[Any], *, adjoint: bool) -> None:
    wp.load_module(native_adjoint, device="cpu")  # before threads launch: not thread-safe
    model = plan.model
    slot = np.full(model.node_count, -1, np.int32)
    slot[list(model.driven_index)] = np.arange(len(model.driven_index))
    slots = plan.substeps if adjoint else 1
    each = STATE_FLOATS * (slots + 1) + KEPT_FLOATS * slots + ADJOINT_FLOATS

    def run(first: int, size: int) -> None:
        scratch = wp.zeros(each * model.node_count * LANES, dtype=float, device="cpu")
        wp.launch(
            native_adjoint.rod_adjoint_kernel,
            dim=size,
            inputs=[
                first, model.node_count, *map(int, model.clamped), *given, *made, scratch,
                wp.array(slot, dtype=int, device="cpu"), len(model.driven_index), plan.frames,
                plan.substeps, plan.dt_s / plan.substeps, *model.gravity_m_per_s2, int(adjoint),
            ],
            device="cpu",
        )  # fmt: skip

    share_worlds(run, plan.groups, plan.threads)


def _saved_size(plan: Plan) -> int:
    each = STATE_FLOATS * plan.model.node_count * LANES
    return plan.groups * (plan.frames + 1) * each


def _by_frame(plan: Plan, saved: Any) -> np.ndarray:
    """A view of saved states, (groups, T, 18 N, lanes)."""
    size = STATE_FLOATS * plan.model.node_count
    view: np.ndarray = saved.numpy()
    return view.reshape(plan.groups, plan.frames + 1, size, LANES)


def _flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().reshape(len(tensor), -1)


def _lanes(tensor: torch.Tensor) -> Any:
    return wp.from_numpy(_to_lanes(tensor.numpy()), dtype=float, device="cpu")
