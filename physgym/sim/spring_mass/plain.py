"""PlainEngine: frames by the plain kernels. The reference on CPU, the engine on CUDA.

On CUDA a frame is captured once into a graph and replayed; gradients record a frame on Warp's tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp

from physgym.sim.rollout import Gradients, Plan
from physgym.sim.spring_mass import kernels
from physgym.sim.spring_mass.blowup import raise_blow_up, raise_overflow
from physgym.sim.spring_mass.layout import Layout
from physgym.sim.spring_mass.model import Coefficients, SpringMassModel

__all__ = ["PlainEngine"]

_NO_BLOW_UP = np.iinfo(np.int64).max


class _Candidates(NamedTuple):
    """Near nodes of each node, and room for their number of contacts."""

    node: Any  # (B, N, M) int
    count: Any  # (B, N) int
    contacts: Any  # (B, N) int


class _Segment(NamedTuple):
    """Substeps that share one list of candidates."""

    start: int
    stop: int
    candidates: _Candidates | None


class PlainEngine:
    """Runs frames with one launch per stage of a substep.

    Args:
        model: topology and constants.
        layout: springs in compressed rows.
        worlds: B.
        device: Warp name of the device.
    """

    def __init__(self, model: SpringMassModel, layout: Layout, worlds: int, device: str) -> None:
        self.model, self.worlds, self.device = model, worlds, device
        slot = np.full(model.node_count, -1, dtype=np.int32)
        slot[model.driven_index] = np.arange(len(model.driven_index))

        def put(array: np.ndarray) -> Any:
            return wp.array(array, dtype=int, device=device)

        self._slot = put(slot)
        pull = layout.row_pull if model.directed else layout.row_spring
        self._rows = [put(a) for a in (layout.row_start, layout.row_node, pull)]
        self._shape = (worlds, model.node_count)
        self._first_bad = wp.full(worlds, _NO_BLOW_UP, dtype=wp.int64, device=device)
        ground = model.ground
        self._ground = (
            0 if ground is None else 1 + ground.law.value,
            wp.vec3(*(ground.normal if ground else (0.0, 0.0, 1.0))),
            float(ground.offset_m if ground else 0.0),
        )
        self._grid: Any = None
        if model.self_collision is not None:
            start, node = model.excluded_pairs()
            self._excluded = (put(start), put(node))
            self._grid = wp.HashGrid(64, 64, 64, device=device)

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
        positions, velocities = position.new_empty(shape), position.new_empty(shape)
        positions[:, 0], velocities[:, 0] = position, velocity
        given = self._coefficients(coefficients, requires_grad=False)
        state = [self._vec3(position.clone()), self._vec3(velocity.clone())]
        spare = self._spare()
        path = driven.detach().transpose(0, 1).contiguous()
        control = [self._vec3(path[0].clone()), self._vec3(path[0].clone())]
        poses = self._poses(coefficients)
        control += [wp.clone(p) for p in (poses[0], poses[0])] if poses else []
        graph: Any = None
        self._first_bad.fill_(_NO_BLOW_UP)
        for frame in range(plan.frames):
            self._synchronize()
            wp.copy(control[0], self._vec3(path[frame]))
            wp.copy(control[1], self._vec3(path[frame + 1]))
            for offset in (0, 1) if poses else ():
                wp.copy(control[2 + offset], poses[frame + offset])
            if graph is not None:
                wp.capture_launch(graph)
            elif self.device.startswith("cuda") and self._grid is None:
                self._run_frame(plan, given, state, spare, control)  # compiles the kernels
                if frame + 1 < plan.frames:
                    with wp.ScopedCapture(self.device) as capture:
                        self._run_frame(plan, given, state, spare, control)
                    graph = capture.graph
            else:
                self._run_frame(plan, given, state, spare, control)
            self._synchronize()
            self._check(plan, frame, coefficients)
            positions[:, frame + 1] = wp.to_torch(state[0])
            velocities[:, frame + 1] = wp.to_torch(state[1])
        return positions, velocities

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
        """See `physgym.sim.rollout.Engine.backward`; memory is that of one frame's substeps."""
        given = self._coefficients(coefficients, requires_grad=True)
        grad_driven = torch.zeros_like(driven)
        poses = self._poses(coefficients)
        grad_x, grad_v = grad_positions[:, -1].clone(), grad_velocities[:, -1].clone()
        for frame in reversed(range(plan.frames)):
            start = [self._vec3(a[:, frame].clone(), True) for a in (positions, velocities)]
            control = [self._vec3(driven[:, f].clone(), True) for f in (frame, frame + 1)]
            control += poses[frame : frame + 2]
            self._synchronize()
            segments = self._segments(plan, given, start, control)
            tape = wp.Tape()
            with tape:
                end = self._substeps(plan, given, start, None, control, segments)
            tape.backward(grads={end[0]: self._vec3(grad_x), end[1]: self._vec3(grad_v)})
            self._synchronize()
            grad_x = grad_positions[:, frame] + wp.to_torch(start[0].grad)
            grad_v = grad_velocities[:, frame] + wp.to_torch(start[1].grad)
            for offset in (0, 1):
                if driven.shape[2]:
                    grad_driven[:, frame + offset] += wp.to_torch(control[offset].grad)
        made = [_like(wp.to_torch(a.grad), c) for a, c in zip(given[:-1], coefficients)]
        pose = torch.zeros_like(coefficients[-1])  # nobody may ask for it
        return Gradients(grad_x, grad_v, grad_driven, (*made, pose))

    def _synchronize(self) -> None:
        """Let torch and Warp see each other's work; they use different CUDA streams."""
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
            wp.synchronize_device(self.device)

    def _vec3(self, tensor: torch.Tensor, requires_grad: bool = False) -> Any:
        tensor = tensor.detach().contiguous()
        if tensor.numel() == 0:
            return wp.zeros(
                tuple(tensor.shape[:-1]),
                dtype=wp.vec3,
                device=self.device,
                requires_grad=requires_grad,
            )
        return wp.from_torch(tensor, dtype=wp.vec3, requires_grad=requires_grad)

    def _empty(self, requires_grad: bool = False) -> Any:
        return wp.zeros(self._shape, dtype=wp.vec3, device=self.device, requires_grad=requires_grad)

    def _coefficients(self, given: Sequence[torch.Tensor], *, requires_grad: bool) -> Coefficients:
        """Warp arrays of the coefficients, with their own memory where gradients gather in them."""
        *fitted, pose = _by_end(Coefficients(*given)) if self.model.directed else given
        made = [
            wp.from_torch(
                c.detach().clone() if requires_grad else c.detach(), requires_grad=requires_grad
            )
            for c in fitted
        ]
        return Coefficients._make([*made, pose])

    def _poses(self, given: Sequence[torch.Tensor]) -> list[Any]:
        """Poses of the colliders frame by frame, (B or 1, C, 7) each; empty without colliders."""
        if not self.model.colliders:
            return []
        path = Coefficients(*given).collider_pose.detach().transpose(0, 1).contiguous()
        return [wp.from_torch(pose) for pose in path]

    def _spare(self) -> list[Any]:
        """Arrays for the stages of a substep: x, v, force, v, v, and two more for boxes."""
        return [self._empty() for _ in range(7 if self.model.colliders else 5)]

    def _run_frame(
        self, plan: Plan, given: Any, state: list[Any], spare: list[Any], control: list[Any]
    ) -> None:
        """One frame in place."""
        segments = self._segments(plan, given, state, control)
        end = self._substeps(plan, given, state, spare, control, segments)
        wp.copy(state[0], end[0])
        wp.copy(state[1], end[1])

    def _substeps(
        self,
        plan: Plan,
        given: Any,
        state: list[Any],
        spare: list[Any] | None,
        control: list[Any],
        segments: list[_Segment],
    ) -> list[Any]:
        """Launch the substeps of some segments; without spare arrays every stage gets new ones."""
        model, h = self.model, plan.substep_s
        inv_frame = 1.0 / plan.frame_dt_s if model.driven_dashpot else 0.0

        def fresh(index: int) -> Any:
            return self._empty(True) if spare is None else spare[index]

        x, v = fresh(0), fresh(1)
        first = segments[0].start
        wp.launch(
            kernels.place_driven,
            self._shape,
            [*state, self._slot, *control[:2], (first + 1) / plan.substeps, inv_frame],
            [x, v],
            device=self.device,
        )
        for segment in segments:
            for substep in range(segment.start, segment.stop):
                force, v1 = fresh(2), fresh(3)
                wp.launch(
                    kernels.spring_forces,
                    self._shape,
                    [
                        x, v, *self._rows, given.stiffness, given.rest_length, given.dashpot,
                        model.law.kernel_kind, model.law_exponent,
                    ],
                    [force],
                    device=self.device,
                )  # fmt: skip
                wp.launch(
                    kernels.velocity_step,
                    self._shape,
                    [v, force, given.inv_mass, given.decay, wp.vec3(*model.gravity_m_per_s2), h],
                    [v1],
                    device=self.device,
                )
                if segment.candidates is not None:
                    v1 = self._collide(x, v1, fresh(4), given, segment.candidates)
                x_out, v_out = (fresh(0), fresh(1)) if spare is None else (x, v)
                moved = self._meet_boxes(plan, substep, [x, v1], given, control, fresh)
                weight = min(substep + 2, plan.substeps) / plan.substeps
                key = wp.int64(substep * self.model.node_count)
                wp.launch(
                    kernels.position_step,
                    self._shape,
                    [
                        *moved, self._slot, given.restitution, given.friction, *self._ground, h,
                        *control[:2], weight, inv_frame, self._first_bad, key,
                    ],
                    [x_out, v_out],
                    device=self.device,
                )  # fmt: skip
                x, v = x_out, v_out
        return [x, v]

    def _meet_boxes(
        self,
        plan: Plan,
        substep: int,
        state: list[Any],
        given: Any,
        control: list[Any],
        fresh: Callable[[int], Any],
    ) -> list[Any]:
        """Contact with the colliders, one after the other; nothing where there are none."""
        for index, box in enumerate(self.model.colliders):
            out = [fresh(5), fresh(6)]
            wp.launch(
                kernels.box_contact,
                self._shape,
                [
                    *state, self._slot, given.collider_restitution, given.collider_friction,
                    wp.vec3(*box.half_m), box.margin_m, plan.substep_s, *control[2:], index,
                    (substep + 1) / plan.substeps, 1.0 / plan.frame_dt_s,
                ],
                out,
                device=self.device,
            )  # fmt: skip
            state = out
        return state

    def _collide(self, x: Any, v: Any, v_out: Any, given: Any, near: _Candidates) -> Any:
        """Impulses between nodes."""
        collision = self.model.self_collision
        assert collision is not None
        wp.launch(
            kernels.count_contacts,
            self._shape,
            [x, v, near.node, near.count, collision.distance_m],
            [near.contacts],
            device=self.device,
        )
        wp.launch(
            kernels.pair_impulses,
            self._shape,
            [
                x, v, given.inv_mass, near.node, near.count, near.contacts,
                collision.distance_m, collision.restitution, collision.friction,
            ],
            [v_out],
            device=self.device,
        )  # fmt: skip
        return v_out

    def _segments(
        self, plan: Plan, given: Any, state: list[Any], control: list[Any]
    ) -> list[_Segment]:
        """Cut a frame so that no node leaves the reach of its list of candidates."""
        collision = self.model.self_collision
        if collision is None:
            return [_Segment(0, plan.substeps, None)]
        made: list[_Segment] = []
        length = plan.substeps
        here = [wp.clone(a, requires_grad=False) for a in state]
        while not made or made[-1].stop < plan.substeps:
            start = made[-1].stop if made else 0
            near = self._collect(here[0])
            while True:
                length = min(length, plan.substeps - start)
                trial = _Segment(start, start + length, near)
                spare = self._spare()
                end = self._substeps(plan, given, here, spare, control, [trial])
                moved = (wp.to_torch(end[0]) - wp.to_torch(here[0])).norm(dim=-1).max()
                if length == 1 or not moved > 0.5 * collision.skin * collision.distance_m:
                    break
                length = max(1, length // 2)
            made.append(trial)
            here = [wp.clone(a) for a in end]
        return made

    def _collect(self, x: Any) -> _Candidates:
        """Find the candidates of every node; raise where the list overflows."""
        collision = self.model.self_collision
        assert collision is not None
        shape = (*self._shape, collision.max_neighbours)
        near = _Candidates(
            wp.zeros(shape, dtype=int, device=self.device),
            wp.zeros(self._shape, dtype=int, device=self.device),
            wp.zeros(self._shape, dtype=int, device=self.device),
        )
        reach = collision.distance_m * (1.0 + collision.skin)
        for world in range(self.worlds):
            self._grid.build(points=x[world], radius=reach)
            wp.launch(
                kernels.collect_candidates,
                self.model.node_count,
                [x, world, self._grid.id, reach, *self._excluded],
                [near.node, near.count],
                device=self.device,
            )
        count = near.count.numpy()
        if count.max(initial=0) > collision.max_neighbours:
            first = divmod(int(count.argmax()), self.model.node_count)
            raise_overflow(self.model, *first, int(count.max()))
        return near

    def _check(self, plan: Plan, frame: int, coefficients: Sequence[torch.Tensor]) -> None:
        bad = self._first_bad.numpy()
        if (bad == _NO_BLOW_UP).all():
            return
        world = int(bad.argmin())
        substep, node = divmod(int(bad[world]), self.model.node_count)
        raise_blow_up(
            self.model,
            Coefficients(*coefficients),
            plan,
            world,
            node,
            frame * plan.substeps + substep,
        )


def _by_end(given: Coefficients) -> Coefficients:
    """The same with a column for each end of a spring where there is one for each spring."""
    dashpot = given.dashpot
    return given._replace(
        rest_length=torch.cat([given.rest_length] * 2, dim=1),
        dashpot=dashpot if dashpot.shape[1] == 1 else torch.cat([dashpot] * 2, dim=1),
    )


def _like(grad: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Gradient of a coefficient from that of the columns that `_by_end` made of it."""
    return grad if grad.shape == value.shape else grad.view(len(grad), 2, -1).sum(dim=1)
