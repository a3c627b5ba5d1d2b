"""NativeEngine: blocks of worlds through the SIMD bodies, one launch per block, blocks on threads.

How worlds are cut into blocks changes the speed, never the bits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.sim.contact import GroundLaw
from physgym.sim.native_kernel import NativeKernel
from physgym.sim.rollout import Gradients, Plan
from physgym.sim.spring_mass.blocks import Block, cut_blocks
from physgym.sim.spring_mass.blowup import raise_blow_up, raise_overflow
from physgym.sim.spring_mass.layout import LANES, Layout
from physgym.sim.spring_mass.model import Coefficients, SpringMassModel
from physgym.sim.spring_mass.native import Variant, forward_kernel
from physgym.sim.spring_mass.native_adjoint import adjoint_kernel, adjoint_room, segment_length
from physgym.sim.spring_mass.native_box import box_floats
from physgym.sim.spring_mass.native_contact import contact_room, contact_scalars
from physgym.sim.spring_mass.native_pack import (
    SpringOrder,
    float_scalars,
    int_scalars,
    of_worlds,
    wp_floats,
    wp_ints,
)
from physgym.sim.spring_mass.plain import PlainEngine

__all__ = ["NativeEngine"]

# Warp's module loader is not made for two threads that load at once.
_COMPILING = threading.Lock()


class NativeEngine:
    """Runs frames on the CPU with SIMD.

    Args:
        model: topology and constants.
        layout: springs in the orders that the bodies read.
        worlds: B.
        threads: most threads to use.
    """

    def __init__(self, model: SpringMassModel, layout: Layout, worlds: int, threads: int) -> None:
        self.model, self.layout, self.worlds = model, layout, worlds
        self.blocks = cut_blocks(worlds, threads)
        excluded = [np.zeros(0), np.zeros(0)]
        if model.self_collision is not None:
            # Each world has its own contacts, so worlds do not share the lanes of a vector.
            self.blocks = [Block(world, 1, 1) for world in range(worlds)]
            excluded = list(model.excluded_pairs())
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = -1
        self._kept = threading.local()
        self._plain: PlainEngine | None = None
        self._states = torch.zeros(1)
        self._states_of = 0
        self._index = {
            name: torch.as_tensor(getattr(layout, name), dtype=torch.long)
            for name in ("chunk_node", "node_slot")
        }
        self._order = SpringOrder(layout)
        self._ints = {
            "driven_index": wp_ints(model.driven_index),
            "upper_start": wp_ints(layout.upper_start),
            "upper_node": wp_ints(layout.upper_node),
            "chunk_start": wp_ints(layout.chunk_start),
            "chunk_node": wp_ints(layout.chunk_node * 8),
            "column_node": wp_ints(layout.column_node * 8),
            "excluded_start": wp_ints(excluded[0]),
            "excluded_node": wp_ints(excluded[1]),
            "driven_slot": wp_ints(layout.node_slot[model.driven_index]),
        }

    def forward(
        self,
        plan: Plan,
        position: torch.Tensor,
        velocity: torch.Tensor,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `physgym.sim.rollout.Engine.forward`."""
        shape = (self.worlds, plan.frames + 1, self.model.node_count, 3)
        positions, velocities = torch.empty(shape), torch.empty(shape)
        positions[:, 0], velocities[:, 0] = position, velocity
        given = Coefficients(*(c.detach() for c in coefficients))
        nodes = self.model.node_count
        wanted = any(t.requires_grad for t in (position, velocity, driven, *coefficients))
        room = self._kept_room(plan) if wanted else 0
        if self._states.numel() < room:
            self._states = torch.zeros(room)
        self._states_of = positions.data_ptr() if room else 0

        kernels = self._compile(forward_kernel)

        def run(block: Block) -> np.ndarray:
            arrays, pack = self._inputs(plan, driven.detach(), given, block)
            state = pack(torch.cat([positions[:, :1], velocities[:, :1]], dim=-1))[0]
            # The same room again: the other state buffer, or the forces.
            arrays["work"] = wp_floats(torch.cat([state.flatten(), torch.zeros(state.numel())]))
            if block.width == 1:
                self._contact_inputs(given, block, arrays, keep=room > 0)
                arrays["states"] = wp_floats(self._states[:room])
            out = torch.empty(plan.frames, nodes, *((8,) if block.width == 1 else (6, block.width)))
            arrays["out"] = wp_floats(out)
            kernels[block.width].launch(arrays)
            stop = block.start + block.count
            if block.width == 1:
                positions[block.start, 1:] = out[..., :3]
                velocities[block.start, 1:] = out[..., 4:7]
            else:
                out = out[..., : block.count].permute(3, 0, 1, 2)
                positions[block.start : stop, 1:] = out[..., :3]
                velocities[block.start : stop, 1:] = out[..., 3:]
            return arrays["status"].numpy()

        for block, status in zip(self.blocks, self._map(run), strict=True):
            if status[0] == 2:
                raise_overflow(self.model, block.start, int(status[2]), int(status[3]))
            if status[0]:
                world = block.start + min(int(status[1]), block.count - 1)
                raise_blow_up(self.model, given, plan, world, int(status[2]), int(status[3]))
        return positions, velocities

    def _kept_room(self, plan: Plan) -> int:
        """Floats to keep a frame's states from forward to backward; 0 where that does not pay."""
        state = (self.model.node_count + 1) * 8
        if len(self.blocks) > 1 or self.blocks[0].width > 1 or self.model.self_collision:
            return 0
        segment = segment_length(plan.substeps, state)
        velocity = len(self.layout.chunk_node) * 3 * LANES
        return adjoint_room(plan.substeps, segment, state, velocity) * (segment == plan.substeps)

    def backward(
        self,
        plan: Plan,
        positions: torch.Tensor,
        velocities: torch.Tensor,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        grad_positions: torch.Tensor,
        grad_velocities: torch.Tensor,
    ) -> Gradients:
        """See `physgym.sim.rollout.Engine.backward`."""
        if self.model.self_collision is not None:
            # Contacts between nodes are turned round by Warp's tape: right, and slow.
            if self._plain is None:
                self._plain = PlainEngine(self.model, self.layout, self.worlds, "cpu")
            return self._plain.backward(
                plan, positions, velocities, driven, coefficients, grad_positions, grad_velocities
            )
        given = Coefficients(*(c.detach() for c in coefficients))
        # Autograd keeps the positions alive and unchanged, so their address names the rollout.
        kept = self._states_of != 0 and self._states_of == positions.data_ptr()
        self._states_of = 0
        made = Gradients(
            torch.empty_like(positions[:, 0]),
            torch.empty_like(positions[:, 0]),
            torch.zeros_like(driven),
            tuple(torch.zeros(self.worlds, *c.shape[1:]) for c in given),
        )

        kernels = self._compile(adjoint_kernel)

        def run(block: Block) -> None:
            arrays, pack = self._inputs(plan, driven, given, block)
            arrays["frames"] = wp_floats(
                pack(torch.cat([positions[:, :-1], velocities[:, :-1]], dim=-1))
            )
            states = torch.cat([grad_positions, grad_velocities], dim=-1)
            self._adjoint_inputs(plan, given, block, arrays, states, kept)
            kernels[block.width].launch(arrays)
            self._adjoint_outputs(plan, block, arrays, given, made)

        self._map(run)
        return made

    def _adjoint_inputs(
        self,
        plan: Plan,
        given: Coefficients,
        block: Block,
        arrays: dict[str, Any],
        grad_out: torch.Tensor,
        kept: bool,
    ) -> None:
        """Room for the adjoints of one block, and those of the outputs in its layout."""
        single = block.width == 1
        nodes, lanes, chunks = self.model.node_count, block.lanes, len(self.layout.chunk_node)
        stop = block.start + block.count
        if single:
            wide = torch.cat([grad_out[block.start], torch.zeros(plan.frames + 1, 1, 6)], dim=1)
            grad_out = wide[:, self._index["chunk_node"]].permute(0, 1, 3, 2)
            state, velocity = (nodes + 1) * 8, chunks * 3 * LANES
            slots = self.layout.column_node.size
            sizes = {"grad_state": chunks * 6 * LANES, "grad_mass": chunks * LANES}
        else:
            padded = torch.zeros(*grad_out.shape[1:], lanes)
            padded[..., : block.count] = grad_out[block.start : stop].permute(1, 2, 3, 0)
            grad_out = padded
            state, velocity, slots = (
                nodes * 6 * lanes,
                nodes * 3 * lanes,
                self.model.spring_count * lanes,
            )
            sizes = {"grad_state": state, "grad_mass": nodes * lanes}
        segment = segment_length(plan.substeps, state)
        scalars = int_scalars(self.model, self.layout, plan, given)
        arrays["ci"] = wp_ints(np.append(scalars, [segment, kept]))
        room = adjoint_room(plan.substeps, segment, state, velocity)
        # Kept for the thread's next block: fresh pages cost as much as half the adjoint.
        work = self._states if kept else getattr(self._kept, "work", None)
        if work is None or work.numel() < room:
            work = self._kept.work = torch.zeros(room)
        arrays["work"] = wp_floats(work)
        sizes |= {
            "grad_driven": (plan.frames + 1) * len(self.model.driven_index) * 3 * block.width,
            "grad_stiffness": slots if single else len(given.stiffness[0]) * lanes,
            "grad_rest": slots,
            "grad_dashpot": slots if scalars[7] else 1,
            "grad_scalars": 6 * lanes,
        }
        arrays["grad_out"] = wp_floats(grad_out)
        for name, size in sizes.items():
            arrays[name] = wp.zeros(max(1, size), dtype=wp.float32, device="cpu")

    def _adjoint_outputs(
        self, plan: Plan, block: Block, arrays: dict[str, Any], given: Coefficients, made: Gradients
    ) -> None:
        """Write the adjoints of one block's worlds to where torch wants them."""
        nodes, lanes = self.model.node_count, block.lanes
        own = slice(block.start, block.start + block.count)
        get = {n: wp.to_torch(arrays[n]) for n in arrays if n.startswith("grad_")}
        per_spring = bool(arrays["ci"].numpy()[7])
        scalars = get["grad_scalars"].view(6, lanes)
        if block.width == 1:
            slot = self._index["node_slot"]
            state = get["grad_state"].view(-1, 6, LANES).permute(0, 2, 1).reshape(-1, 6)[slot][None]
            mass = get["grad_mass"][slot][None]
            columns = self._order.from_single
            dash = 0.5 * scalars[3].sum()[None, None]  # a spring is met from both of its ends
            # In the single layout a vector holds nodes, so a scalar is the sum over its lanes.
            scalars = scalars.sum(dim=1, keepdim=True)
        else:
            state = get["grad_state"].view(nodes, 6, lanes).permute(2, 0, 1)[: block.count]
            mass = get["grad_mass"].view(nodes, lanes).T[: block.count]
            columns = self._order.from_lanes
            dash = scalars[3, : block.count, None]
            scalars = scalars[:, : block.count]
        made.position[own], made.velocity[own] = state[..., :3], state[..., 3:]
        count = len(self.model.driven_index)
        if count:
            path = get["grad_driven"].view(plan.frames + 1, count, 3, block.width)
            made.driven[own] = path[..., : block.count].permute(3, 0, 1, 2)
        to = Coefficients(*made.coefficients)
        fitted = [(to.stiffness, "grad_stiffness"), (to.rest_length, "grad_rest")]
        if per_spring:
            fitted.append((to.dashpot, "grad_dashpot"))
        else:
            to.dashpot[own] = dash
        for value, name in fitted:
            value[own] = columns(get[name], value.shape[1])[: block.count]
        inv_mass = of_worlds(given.inv_mass, torch.arange(block.start, block.start + block.count))
        # The kernel sums acceleration adjoint times h F/m: h/m times what is wanted by h/m.
        to.inv_mass[own] = torch.where(inv_mass > 0.0, mass / inv_mass.clamp(min=1e-30), 0.0)
        to.decay[own], to.restitution[own], to.friction[own] = scalars[0], scalars[1], scalars[2]
        to.collider_restitution[own], to.collider_friction[own] = scalars[4], scalars[5]

    def _compile(self, make: Callable[..., NativeKernel]) -> dict[int, NativeKernel]:
        """Kernels by width of block, made before worker threads would each compile their own."""
        model, ground = self.model, self.model.ground
        law = ground.law if ground else GroundLaw.COULOMB
        of_model = (model.law.kernel_kind, len(model.colliders), model.directed, law)
        with _COMPILING:
            return {b.width: make(Variant(b.width, *of_model)) for b in self.blocks}

    def _map(self, run: Callable[[Block], Any]) -> list[Any]:
        if self._threads == 1 or len(self.blocks) == 1:
            return [run(block) for block in self.blocks]
        if self._pool is None or self._pool_process != os.getpid():
            # Threads do not live on in a forked process, so it makes its own.
            self._pool, self._pool_process = ThreadPoolExecutor(self._threads), os.getpid()
        return list(self._pool.map(run, self.blocks))

    def _inputs(
        self, plan: Plan, driven: torch.Tensor, given: Coefficients, block: Block
    ) -> tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]:
        """Arrays of one block, and the function that lays out states (B, T, N, 6) for it."""
        single = block.width == 1
        worlds = torch.arange(block.start, block.start + max(1, block.width))
        worlds = worlds.clamp(max=block.start + block.count - 1)
        arrays = dict(self._ints)
        arrays["ci"] = wp_ints(int_scalars(self.model, self.layout, plan, given))
        arrays["cf"] = wp_floats(torch.tensor(float_scalars(self.model, plan)))
        arrays["status"] = wp.zeros(4, dtype=wp.int32, device="cpu")
        lay = self._order.single if single else self._order.lanes
        arrays["stiffness"] = wp_floats(lay(given.stiffness, worlds, 0.0))
        arrays["rest"] = wp_floats(lay(given.rest_length, worlds, 1.0))
        if given.dashpot.shape[1] == 1 and self.model.spring_count != 1:
            arrays["dashpot"] = wp_floats(of_worlds(given.dashpot[:, 0], worlds))
        else:
            # A dashpot per spring has no shared form in the bodies.
            wide = given.dashpot.expand(max(given.dashpot.shape[0], 2), -1)
            arrays["dashpot"] = wp_floats(lay(wide, worlds.clamp(max=wide.shape[0] - 1), 0.0))
        mass = given.inv_mass * plan.substep_s
        if single:
            padded = torch.cat([of_worlds(mass, worlds)[0], torch.zeros(1)])
            mass = padded[self._index["chunk_node"]]
        else:
            mass = mass[0] if mass.shape[0] == 1 else mass[worlds].T
        arrays["h_over_m"] = wp_floats(mass)
        for name in ("decay", "restitution", "friction"):
            arrays[name] = wp_floats(of_worlds(getattr(given, name), worlds))
        arrays["box"] = wp_floats(box_floats(self.model.colliders, plan, given, worlds))
        path = driven[worlds].permute(1, 2, 3, 0)
        arrays["driven"] = wp_floats(path)

        def pack(states: torch.Tensor) -> torch.Tensor:
            if not single:
                return states[worlds].permute(1, 2, 3, 0).contiguous()
            made = states.new_zeros(states.shape[1], states.shape[2] + 1, 8)
            made[:, :-1, :3], made[:, :-1, 4:7] = (
                states[block.start, ..., :3],
                states[block.start, ..., 3:],
            )
            return made

        return arrays, pack

    def _contact_inputs(
        self, given: Coefficients, block: Block, arrays: dict[str, Any], *, keep: bool
    ) -> None:
        """Scalars and room for self-collision; next to nothing where it is off."""
        nodes, collision = self.model.node_count, self.model.self_collision
        room = contact_room(nodes, collision)
        more_ints, more_floats = contact_scalars(nodes, collision)
        arrays["ci"] = wp_ints(np.concatenate([arrays["ci"].numpy(), [0], more_ints, [keep]]))
        arrays["cf"] = wp_floats(torch.cat([wp.to_torch(arrays["cf"]), more_floats]))
        arrays["iwork"] = wp.zeros(room["ints"], dtype=wp.int32, device="cpu")
        arrays["fwork"] = wp.zeros(room["floats"], dtype=wp.float32, device="cpu")
        arrays["inv_mass"] = wp_floats(of_worlds(given.inv_mass, torch.tensor([block.start])))
