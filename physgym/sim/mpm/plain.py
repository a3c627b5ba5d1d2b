"""PlainEngine: frames by the plain kernels. The reference on CPU, the engine on CUDA.

The grid covers a window around the particles of all worlds, with room to move; a frame in which a
particle leaves it is run again with more room. Gradients record one substep at a time on Warp's
tape; the states in between are kept for the square root of a frame's substeps and computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp

from physgym.sim.mpm import collide, kernels
from physgym.sim.mpm.collider import ColliderTable, Condition
from physgym.sim.mpm.material import ElasticLaw
from physgym.sim.mpm.model import Coefficients, MpmModel, is_damped
from physgym.sim.mpm.rollout import Gradients, Particles
from physgym.sim.mpm.stability import raise_blow_up
from physgym.sim.mpm.stress_hook import StressHook, apply_hook, turn_hook
from physgym.sim.mpm.warp_arrays import WarpArrays
from physgym.sim.mpm.window import Window, place_window
from physgym.sim.rollout import Plan

__all__ = ["PlainEngine"]

_NONE = np.iinfo(np.int64).max
_COUNT = len(Coefficients._fields)


class _Frame(NamedTuple):
    """What the substeps of one frame read."""

    given: Coefficients  # Warp arrays
    window: Window
    records: Any  # (B or 1, n, K, 25)
    samples: Any
    control: list[Any]  # driven particles at the frame's start and end, (B, D) vec3
    extra: list[torch.Tensor]  # the stress hook's own tensors
    damped: bool  # a solid with viscosity


class PlainEngine:
    """Runs frames with one launch per stage of a substep.

    Args:
        model: particles, material and boundaries.
        worlds: B.
        device: Warp name of the device.
        hook: changes the stress after the elastic law, or None.
    """

    def __init__(
        self, model: MpmModel, worlds: int, device: str, hook: StressHook | None = None
    ) -> None:
        self.model, self.worlds, self.device, self.hook = model, worlds, device, hook
        slot = np.full(model.particle_count, -1, dtype=np.int32)
        slot[model.driven_index] = np.arange(len(model.driven_index))
        self._slot = wp.array(slot, dtype=int, device=device)
        self._volume = wp.array(model.volume_m3, dtype=float, device=device)
        self._shape = (worlds, model.particle_count)
        self._isotropic = wp.zeros((1, 1), dtype=wp.mat33, device=device)  # is not read
        self._warp = WarpArrays(self._shape, device)
        self._status = wp.zeros((worlds, 3), dtype=wp.int64, device=device)

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
        for frame in range(plan.frames):
            margin = 2
            while True:
                here = Particles(*(a[:, frame] for a in states))
                setup = self._frame(plan, tables[frame], here, driven, coefficients, frame, margin)
                self._status.fill_(_NONE)
                arrays = self._place(plan, setup, self._warp.of_state(here), 0)
                for substep in range(plan.substeps):
                    arrays = self._substep(plan, setup, arrays, substep)
                self._warp.synchronize()
                if not self._left(plan, frame, coefficients):
                    break
                margin *= 2
            for made, array in zip(states, self._warp.particles(arrays)):
                made[:, frame + 1] = array
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
        self._warp.grad = True
        try:
            return self._backward(plan, tables, states, driven, coefficients, grads)
        finally:
            self._warp.grad = False

    def _backward(
        self,
        plan: Plan,
        tables: Sequence[ColliderTable],
        states: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        grads: Particles,
    ) -> Gradients:
        total = [torch.zeros_like(c) for c in coefficients]
        grad_driven = torch.zeros_like(driven)
        adjoint = [g[:, -1].contiguous().clone() for g in grads]
        for frame in reversed(range(plan.frames)):
            here = Particles(*(a[:, frame] for a in states))
            margin, starts = 2, None
            while starts is None:
                setup = self._frame(plan, tables[frame], here, driven, coefficients, frame, margin)
                self._status.fill_(_NONE)
                starts = self._checkpoints(plan, setup, here)
                if self._left(plan, frame, coefficients):
                    margin, starts = 2 * margin, None
            for substep, arrays in self._states_backwards(plan, setup, starts):
                adjoint = self._turn(plan, setup, arrays, substep, adjoint, total)
            tape = wp.Tape()
            start = self._warp.of_state(here)
            with tape:
                end = self._place(plan, setup, start, 0)
            tape.backward(grads=self._warp.seeds(end, adjoint))
            self._warp.synchronize()
            adjoint = [
                g[:, frame] + made
                for g, made in zip(grads, self._warp.particles([a.grad for a in start]))
            ]
            if len(self.model.driven_index):
                for offset in (0, 1):
                    grad_driven[:, frame + offset] += wp.to_torch(setup.control[offset].grad)
            for sum_, array in zip(total, setup.given):
                if array is not None:
                    sum_ += wp.to_torch(array.grad).view(sum_.shape)
        return Gradients(Particles(*adjoint), grad_driven, tuple(total))

    def _checkpoints(self, plan: Plan, setup: _Frame, here: Particles) -> list[list[Any]]:
        """States at the start of each of the segments of a frame."""
        length = math.ceil(math.sqrt(plan.substeps))
        arrays = self._place(plan, setup, self._warp.of_state(here), 0)
        starts = [arrays]
        for substep in range(plan.substeps):
            arrays = self._substep(plan, setup, arrays, substep)
            if (substep + 1) % length == 0 and substep + 1 < plan.substeps:
                starts.append(arrays)
        self._warp.synchronize()
        return starts

    def _states_backwards(
        self, plan: Plan, setup: _Frame, starts: list[list[Any]]
    ) -> Iterator[tuple[int, list[Any]]]:
        """Substeps in reverse with the states at their starts; two levels of checkpoints."""
        length = math.ceil(math.sqrt(plan.substeps))
        for index in reversed(range(len(starts))):
            begin, stop = index * length, min((index + 1) * length, plan.substeps)
            kept = [starts[index]]
            for substep in range(begin, stop - 1):
                kept.append(self._substep(plan, setup, kept[-1], substep))
            for substep in reversed(range(begin, stop)):
                yield substep, kept[substep - begin]

    def _turn(
        self,
        plan: Plan,
        setup: _Frame,
        arrays: list[Any],
        substep: int,
        adjoint: list[torch.Tensor],
        total: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Adjoint of a substep's start from that of its end."""
        for a in arrays:
            a.grad.zero_()
        before, after = wp.Tape(), wp.Tape()
        with before:
            f, tau = self._stress(plan, setup, arrays, substep)
        tau_out = self._hooked(setup, f, tau)
        with after:
            end = self._move(plan, setup, arrays, f, tau_out, substep)
        after.backward(grads=self._warp.seeds(end, adjoint))
        if self.hook is not None:
            self._warp.synchronize()
            made = turn_hook(
                self.hook,
                wp.to_torch(f),
                wp.to_torch(tau),
                setup.extra,
                wp.to_torch(tau_out.grad),
            )
            wp.to_torch(f.grad).add_(made[0])
            wp.to_torch(tau.grad).copy_(made[1])
            for sum_, grad in zip(total[_COUNT:], made[2:]):
                sum_ += grad
        before.backward()
        self._warp.synchronize()
        return [t.clone() for t in self._warp.particles([a.grad for a in arrays])]

    def _substep(self, plan: Plan, setup: _Frame, arrays: list[Any], substep: int) -> list[Any]:
        f, tau = self._stress(plan, setup, arrays, substep)
        return self._move(plan, setup, arrays, f, self._hooked(setup, f, tau), substep)

    def _stress(self, plan: Plan, setup: _Frame, arrays: list[Any], substep: int) -> list[Any]:
        """Deformation gradient after the return map, and stress."""
        _x, _v, f_in, affine = arrays
        c, material = setup.given, self.model.material
        f, tau = self._warp.empty(wp.mat33), self._warp.empty(wp.mat33)
        fluid = int(material.law is ElasticLaw.FLUID)
        self._warp.launch(
            kernels.deform,
            self._shape,
            [
                f_in, affine, c.mu, c.lam, c.yield_stress, c.alpha, c.cohesion, c.viscosity,
                self._isotropic if c.plastic is None else c.plastic,
                material.return_map.kernel_kind, fluid, int(c.plastic is not None),
                plan.substep_s, self._key(substep),
            ],
            [f, self._status],
        )  # fmt: skip
        kind = material.law.kernel_kind
        self._warp.launch(
            kernels.stress, self._shape, [f, affine, c.mu, c.lam, c.viscosity, kind], [tau]
        )
        if c.operator is not None:
            prior, tau = tau, self._warp.empty(wp.mat33)
            self._warp.launch(kernels.apply_operator, self._shape, [f, prior, c.operator], [tau])
        return [f, tau]

    def _hooked(self, setup: _Frame, f: Any, tau: Any) -> Any:
        if self.hook is None:
            return tau
        self._warp.synchronize()
        made = apply_hook(self.hook, wp.to_torch(f), wp.to_torch(tau), setup.extra)
        return wp.from_torch(made.contiguous(), dtype=wp.mat33, requires_grad=self._warp.grad)

    def _move(
        self, plan: Plan, setup: _Frame, arrays: list[Any], f: Any, tau: Any, substep: int
    ) -> list[Any]:
        """Particles to grid, grid, grid to particles."""
        model, h, dt = self.model, self.model.spacing_m, plan.substep_s
        x, v, _f_in, affine = arrays
        if setup.damped:
            elastic, tau = tau, self._warp.empty(wp.mat33)
            viscosity = setup.given.viscosity
            self._warp.launch(
                kernels.add_viscous, self._shape, [f, affine, elastic, viscosity], [tau]
            )
        v = self._pressed(plan, setup, x, v, substep)
        shape = (self.worlds, *setup.window.shape)
        mass, momentum = self._warp.grid(float, shape), self._warp.grid(wp.vec3, shape)
        key, origin = self._key(substep), setup.window.origin
        self._warp.launch(
            kernels.scatter,
            self._shape,
            [x, v, affine, tau, setup.given.mass, self._volume, origin, h, dt, key],
            [mass, momentum, self._status],
        )
        velocity = self._warp.grid(wp.vec3, shape)
        pull = wp.vec3(*(dt * g for g in model.gravity_m_per_s2))
        self._warp.launch(kernels.grid_velocity, shape, [mass, momentum, pull], [velocity])
        for index, collider in enumerate(model.colliders):
            if collider.condition is Condition.PENALTY:
                continue
            after = self._warp.grid(wp.vec3, shape)
            self._warp.launch(
                collide.apply_collider,
                shape,
                [
                    mass, velocity, setup.records, setup.samples, setup.given.friction, substep,
                    index, origin, h,
                ],
                [after],
            )  # fmt: skip
            velocity = after
        x_out, v_out, affine_out = (
            self._warp.empty(wp.vec3),
            self._warp.empty(wp.vec3),
            self._warp.empty(wp.mat33),
        )
        self._warp.launch(
            kernels.gather,
            self._shape,
            [x, velocity, origin, h, dt, key],
            [x_out, v_out, affine_out, self._status],
        )
        return self._place(plan, setup, [x_out, v_out, f, affine_out], substep + 1)

    def _pressed(self, plan: Plan, setup: _Frame, x: Any, v: Any, substep: int) -> Any:
        """Velocities after planes have pushed the particles."""
        c = setup.given
        for index, collider in enumerate(self.model.colliders):
            if collider.condition is not Condition.PENALTY:
                continue
            after = self._warp.empty(wp.vec3)
            self._warp.launch(
                collide.press_particles,
                self._shape,
                [
                    x, v, c.mass, c.mu, c.lam, self._volume, setup.records, c.friction, substep,
                    index, self.model.spacing_m, plan.substep_s,
                ],
                [after],
            )  # fmt: skip
            v = after
        return v

    def _place(self, plan: Plan, setup: _Frame, arrays: list[Any], substep: int) -> list[Any]:
        """Put driven particles where they are at a substep's start."""
        if not len(self.model.driven_index):
            return arrays
        x, v = self._warp.empty(wp.vec3), self._warp.empty(wp.vec3)
        step_s = plan.substep_s if substep < plan.substeps else 0.0  # the frame ends as it is seen
        self._warp.launch(
            kernels.place_driven,
            self._shape,
            [
                *arrays[:2], self._slot, *setup.control, substep / plan.substeps,
                1.0 / plan.frame_dt_s, wp.vec3(*(step_s * g for g in self.model.gravity_m_per_s2)),
            ],
            [x, v],
        )  # fmt: skip
        return [x, v, *arrays[2:]]

    def _frame(
        self,
        plan: Plan,
        table: ColliderTable,
        here: Particles,
        driven: torch.Tensor,
        coefficients: Sequence[torch.Tensor],
        frame: int,
        margin: int,
    ) -> _Frame:
        self._warp.synchronize()
        *scalars, operator, plastic = (c.detach().clone() for c in coefficients[:_COUNT])
        arrays: list[Any] = [wp.from_torch(c, requires_grad=self._warp.grad) for c in scalars]
        for value, size, dtype in ((operator, 6, kernels.mat66), (plastic, 3, wp.mat33)):
            used = value.shape[-1] == size * size
            made = self._warp.of(value.unflatten(-1, (size, size)), dtype) if used else None
            arrays.append(made)
        given = Coefficients(*arrays)
        control = [
            self._warp.of(driven[:, f].detach().clone(), wp.vec3) for f in (frame, frame + 1)
        ]
        reach = here.position.detach()
        if len(self.model.driven_index):
            reach = torch.cat([reach, driven[:, frame].detach(), driven[:, frame + 1].detach()], 1)
        return _Frame(
            given,
            place_window(self.model, reach, margin, frame),
            wp.array(table.records, dtype=float, device=self.device),
            wp.array(table.samples, dtype=float, device=self.device),
            control,
            [c.detach() for c in coefficients[_COUNT:]],
            is_damped(self.model, coefficients, gradient=self._warp.grad),
        )

    def _left(self, plan: Plan, frame: int, coefficients: Sequence[torch.Tensor]) -> bool:
        """True where a particle left the window; raises where one blew up."""
        left, bad = self._status.numpy()[:, 1:].T
        if bad.min() < left.min():
            world = int(bad.argmin())
            substep, particle = divmod(int(bad[world]), self.model.particle_count)
            given = Coefficients(*coefficients[:_COUNT])
            raise_blow_up(self.model, given, plan, world, particle, frame * plan.substeps + substep)
        return bool(left.min() < _NONE)

    def _key(self, substep: int) -> Any:
        return wp.int64(substep * self.model.particle_count)
