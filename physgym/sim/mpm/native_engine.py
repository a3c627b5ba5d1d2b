"""NativeEngine: worlds through the SIMD bodies, one launch per world, worlds on threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.sim.mpm import native, native_adjoint
from physgym.sim.mpm.collider import ColliderTable
from physgym.sim.mpm.model import Coefficients, MpmModel, is_damped
from physgym.sim.mpm.rollout import Gradients, Particles
from physgym.sim.mpm.stability import raise_blow_up, raise_spread
from physgym.sim.rollout import Plan

__all__ = ["NativeEngine"]

SORT_PERIOD = 32  # substeps; at most 64, see native_adjoint
KEPT_GRID_BYTES = 256 * 2**20  # more are made again: a tenth slower, of a body that spreads far
_FRICTION = Coefficients._fields.index("friction")
_OPERATOR = Coefficients._fields.index("operator")
_PLASTIC = Coefficients._fields.index("plastic")


class NativeEngine:
    """Runs frames on the CPU with SIMD; the bits depend on the state alone, not on threads.

    Args:
        model: particles, material and boundaries.
        worlds: B.
        threads: most threads to use.
    """

    def __init__(self, model: MpmModel, worlds: int, threads: int) -> None:
        self.model, self.worlds = model, worlds
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = -1
        self._kept = threading.local()
        self._driven = _ints(model.driven_index)
        self._volume = torch.tensor(model.volume_m3, dtype=torch.float32)
        self._kinds = (model.material.law.kernel_kind, model.material.return_map.kernel_kind)

    def forward(
        self,
        plan: Plan,
        tables: Sequence[ColliderTable],
        start: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
    ) -> Particles:
        """See `physgym.sim.mpm.rollout.MpmEngine.forward`."""
        states = Particles(*(a.new_empty(a.shape[0], plan.frames + 1, *a.shape[1:]) for a in start))
        for made, given in zip(states, start):
            made[:, 0] = given
        if plan.frames == 0:
            return states
        sizes = _operator_sizes(coefficients)
        damped = is_damped(self.model, coefficients)
        kernel = native.forward_kernel(*self._kinds, *map(bool, sizes), damped)
        records, samples = _stack(tables)
        status = np.zeros((self.worlds, 4), np.int64)

        def run(world: int) -> None:
            arrays = self._inputs(plan, states, driven, coefficients, records, samples, world)
            frame = 0  # a body that finds its grid too small says at which frame it stopped
            while True:
                arrays["ci"] = _ints(self._scalars(plan, frame))
                arrays |= self._room(
                    native.work_floats(self.node_count, sum(sizes)), 4 * self._capacity()
                )
                kernel.launch(arrays)
                found = arrays["status"].numpy().copy()
                if found[0] != native.NEEDS_ROOM:
                    status[world] = found
                    return
                frame = int(found[3])
                arrays["status"].zero_()
                self._kept.capacity = int(1.3 * found[2])

        self._map(run)
        self._raise(plan, status, states, coefficients)
        return states

    def backward(
        self,
        plan: Plan,
        tables: Sequence[ColliderTable],
        states: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        grads: Particles,
    ) -> Gradients:
        """See `physgym.sim.mpm.rollout.MpmEngine.backward`."""
        made = self._no_gradients(states, driven, coefficients)
        if plan.frames == 0:
            return made._replace(start=Particles(*(g[:, 0] for g in grads)))
        sizes = _operator_sizes(coefficients)
        damped = is_damped(self.model, coefficients, gradient=True)
        kernel = native_adjoint.adjoint_kernel(*self._kinds, *map(bool, sizes), damped)
        records, samples = _stack(tables)
        floats = native_adjoint.adjoint_floats(
            self.node_count, plan.substeps, SORT_PERIOD, sum(sizes)
        )
        status = np.zeros((self.worlds, 4), np.int64)

        def run(world: int) -> None:
            arrays = self._inputs(plan, states, driven, coefficients, records, samples, world)
            while True:
                kept = min(SORT_PERIOD, plan.substeps) if self._keeps_grids(plan) else 1
                grid = 4 * self._capacity() * (2 + kept)
                arrays["ci"] = _ints(self._scalars(plan, 0))
                arrays |= self._room(floats, grid)
                sums = {
                    "grad_x": grads.position[world].clone(),
                    "grad_v": grads.velocity[world].clone(),
                    "grad_i": grads.internal[world].clone(),
                    "grad_coef": torch.zeros(_FRICTION, self.node_count),
                    "grad_operator": torch.zeros(self.node_count, sum(sizes)),
                    "grad_friction": torch.zeros(coefficients[_FRICTION].shape[1]),
                    "grad_driven": torch.zeros(driven.shape[1:]),
                }
                arrays |= {name: _floats(value) for name, value in sums.items()}
                kernel.launch(arrays)
                found = arrays["status"].numpy().copy()
                if found[0] != native.NEEDS_ROOM:
                    break
                arrays["status"].zero_()
                self._kept.capacity = int(1.3 * found[2])
            status[world] = found
            _keep_sums(made, sums, sizes, world)

        self._map(run)
        self._raise(plan, status, states, coefficients)
        return made._replace(
            coefficients=tuple(
                g.sum(dim=1, keepdim=True) if c.shape[1] == 1 and g.shape[1] > 1 else g
                for g, c in zip(made.coefficients, coefficients)
            )
        )

    def _no_gradients(
        self, states: Particles, driven: torch.Tensor, coefficients: Sequence[torch.Tensor]
    ) -> Gradients:
        """Zeros of every world and, but for friction, of every particle."""
        each = (self.node_count,)
        return Gradients(
            Particles(*(torch.zeros_like(a[:, 0]) for a in states)),
            torch.zeros_like(driven),
            tuple(
                torch.zeros(self.worlds, *(c.shape[1:] if at == _FRICTION else each), *c.shape[2:])
                for at, c in enumerate(coefficients)
            ),
        )

    @property
    def node_count(self) -> int:
        """P."""
        return self.model.particle_count

    def _raise(
        self,
        plan: Plan,
        status: np.ndarray,
        states: Particles,
        coefficients: Sequence[torch.Tensor],
    ) -> None:
        """Raise for the first world that did not finish."""
        bad = np.flatnonzero(status[:, 0])
        if not len(bad):
            return
        world = int(bad[0])
        code, particle, substep, frame = (int(s) for s in status[world])
        if code == native.TOO_SPREAD:
            raise_spread(self.model, states.position[world, frame].detach(), world, frame)
        raise_blow_up(self.model, Coefficients(*coefficients), plan, world, particle, substep)

    def _inputs(
        self,
        plan: Plan,
        states: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        records: np.ndarray,
        samples: np.ndarray,
        world: int,
    ) -> dict[str, Any]:
        """Arrays of one world; the states are views that the body writes into."""
        c = Coefficients(*(_row(t.detach(), world) for t in coefficients))
        rows = [c.mu, c.lam, c.yield_stress, c.alpha, c.cohesion, c.viscosity, c.mass]
        coef = torch.stack([r.expand(self.node_count) for r in (*rows, self._volume)])
        return {
            "xs": _floats(states.position[world]),
            "vs": _floats(states.velocity[world]),
            "internals": _floats(states.internal[world]),
            "cf": self._reals(plan),
            "coef": _floats(coef),
            "operator_": _floats(self._operators(coefficients, world)),
            "friction": _floats(c.friction),
            "driven": _floats(driven[world].detach()),
            "driven_index": self._driven,
            "records": _floats(torch.from_numpy(records[min(world, len(records) - 1)])),
            "samples": _floats(torch.from_numpy(samples)),
            "status": wp.zeros(4, dtype=wp.int32, device="cpu"),
        }

    def _operators(self, coefficients: Sequence[torch.Tensor], world: int) -> torch.Tensor:
        """Stress and plastic operator of every particle, side by side, (P, 0, 9, 36 or 45)."""
        sizes = _operator_sizes(coefficients)
        return torch.cat(
            [
                _row(coefficients[index].detach(), world).expand(self.node_count, -1)[:, :size]
                for index, size in zip((_OPERATOR, _PLASTIC), sizes)
            ],
            dim=1,
        )

    def _scalars(self, plan: Plan, first_frame: int) -> np.ndarray:
        driven, colliders = len(self.model.driven_index), len(self.model.colliders)
        return np.array(
            [
                self.node_count, driven, plan.frames, plan.substeps, colliders, first_frame,
                self._capacity(), self._keeps_grids(plan), SORT_PERIOD,
            ]
        )  # fmt: skip

    def _reals(self, plan: Plan) -> Any:
        dt, h = plan.substep_s, self.model.spacing_m
        pull = [dt * g for g in self.model.gravity_m_per_s2]
        return _floats(torch.tensor([dt, h, 1.0 / h, 1.0 / plan.frame_dt_s, *pull]))

    def _capacity(self) -> int:
        """Grid nodes that there is room for; grows when a body says that it needs more."""
        kept = getattr(self._kept, "capacity", 0)
        return max(kept, 4096, self.node_count)

    def _keeps_grids(self, plan: Plan) -> bool:
        """Whether the backward pass keeps the grids of a sort period, or makes each one again."""
        return 16 * self._capacity() * min(SORT_PERIOD, plan.substeps) <= KEPT_GRID_BYTES

    def _room(self, floats: int, grid_floats: int) -> dict[str, Any]:
        """Working memory of this thread, kept from world to world."""
        wanted = {
            "work": (floats, torch.float32),
            "grid": (grid_floats, torch.float32),
            "iwork": (native.work_ints(self.node_count, self._capacity()), torch.int32),
        }
        rooms = self._kept.__dict__.setdefault("rooms", {})
        for name, (size, dtype) in wanted.items():
            if name not in rooms or rooms[name].numel() < size:
                rooms[name] = torch.zeros(size, dtype=dtype)
        return {name: wp.from_torch(rooms[name]) for name in wanted}

    def _map(self, run: Callable[[int], None]) -> None:
        if self._threads == 1 or self.worlds == 1:
            for world in range(self.worlds):
                run(world)
            return
        if self._pool is None or self._pool_process != os.getpid():
            # Threads do not live on in a forked process, so it makes its own.
            self._pool, self._pool_process = ThreadPoolExecutor(self._threads), os.getpid()
        list(self._pool.map(run, range(self.worlds)))


def _keep_sums(
    made: Gradients, sums: dict[str, torch.Tensor], sizes: list[int], world: int
) -> None:
    """Put what the body summed in one world into its row."""
    for to, name in zip(made.start, ("grad_x", "grad_v", "grad_i")):
        to[world] = sums[name][0]
    made.driven[world] = sums["grad_driven"]
    for to, row in zip(made.coefficients, sums["grad_coef"]):
        to[world] = row
    made.coefficients[_FRICTION][world] = sums["grad_friction"]
    parts = sums["grad_operator"].split(sizes, dim=-1)
    for index, part in zip((_OPERATOR, _PLASTIC), parts):
        if part.shape[-1]:
            made.coefficients[index][world] = part


def _stack(tables: Sequence[ColliderTable]) -> tuple[np.ndarray, np.ndarray]:
    """Records of all frames, (B or 1, frames, n, K, 25), and the meshes' samples."""
    return np.stack([t.records for t in tables], axis=1), tables[0].samples


def _operator_sizes(coefficients: Sequence[torch.Tensor]) -> list[int]:
    """Numbers of a particle's stress and of its plastic operator; 0 where there is none."""
    sizes = (coefficients[index].shape[-1] for index in (_OPERATOR, _PLASTIC))
    return [size if size > 1 else 0 for size in sizes]


def _row(value: torch.Tensor, world: int) -> torch.Tensor:
    """Row of a tensor whose first axis is B, or 1 for shared by all worlds."""
    return value[min(world, value.shape[0] - 1)]


def _floats(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().to(torch.float32).contiguous().view(-1)
    return wp.from_torch(flat if flat.numel() else torch.zeros(1))


def _ints(array: np.ndarray) -> Any:
    flat = np.ascontiguousarray(array, dtype=np.int32).ravel()
    return wp.array(flat if flat.size else np.zeros(1, np.int32), dtype=wp.int32, device="cpu")
