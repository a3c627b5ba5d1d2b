"""MpmSolver: the Solver contract for continuum objects, with gradients.

Shapes: B worlds, T frames, P particles, D driven particles, K boundaries.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.device import resolve_device
from physgym.sim.model import State, check_finite
from physgym.sim.mpm.collider import ColliderTable, collider_table, rest_poses
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.plain import PlainEngine
from physgym.sim.mpm.rollout import INTERNAL, MpmEngine, MpmTrajectory, Particles, rollout
from physgym.sim.mpm.stability import raise_left, step_limit
from physgym.sim.mpm.stress_hook import StressHook
from physgym.sim.rollout import Plan

__all__ = ["MpmSolver"]


class Begun(NamedTuple):
    """A rollout that is about to run."""

    start: Particles
    driven: torch.Tensor
    plan: Plan
    tables: list[ColliderTable]


class MpmSolver:
    """Steps B worlds of one continuum object.

    MLS-MPM with quadratic B-splines and APIC (Hu 2018, Jiang 2015), explicit. A driven particle is
    placed on a straight path between frames and moves the grid around it like a clamp.

    Limitations: an object that touches the ground stops up to a node's distance above it (contact
    acts on grid nodes); objects closer than two nodes stick together; a fluid forgets its shear.

    Args:
        model: particles, material, boundaries.
        parameters: shared by all worlds or one per world; tensors may require gradients.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:index]"``.
        substeps: substeps per frame; None takes them from the wave and particle speed.
        safety: fraction of the limit ``h / (c + |v|)`` to use when ``substeps`` is None.
        threads: CPU threads; None takes all that this process may use.
        engine: ``"auto"``, ``"native"`` (SIMD, CPU only) or ``"plain"`` (reference, and CUDA).
        hook: changes the stress after the elastic law; needs the plain engine.
    """

    def __init__(
        self,
        model: MpmModel,
        parameters: MpmParameters,
        *,
        worlds: int = 1,
        device: str = "auto",
        substeps: int | None = None,
        safety: float = 0.4,
        threads: int | None = None,
        engine: str = "auto",
        hook: StressHook | None = None,
    ) -> None:
        if worlds < 1 or (substeps is not None and substeps < 1):
            raise DataError(
                f"worlds = {worlds}, substeps = {substeps}",
                where="MpmSolver",
                expected="at least one world and one substep",
                fix="pass positive whole numbers, or substeps=None",
            )
        parameters.check(model, worlds)
        self.model, self.parameters, self.worlds = model, parameters, worlds
        self.node_count = model.particle_count
        self.device = resolve_device(device)
        self.driven_index = torch.as_tensor(
            model.driven_index.copy(), dtype=torch.long, device=self.device
        )
        self.substeps, self.safety, self.hook = substeps, safety, hook
        # Engines count positions from a node of the lattice.
        self._lattice = torch.tensor(model.lattice_m, dtype=torch.float32, device=self.device)
        self._engine = self._make_engine(engine, threads)
        self._rest: tuple[tuple[int, float], ColliderTable] | None = None

    def _make_engine(self, engine: str, threads: int | None) -> MpmEngine:
        native = self.device == "cpu" and self.hook is None
        if engine not in ("auto", "native", "plain") or (engine == "native" and not native):
            raise DataError(
                f"engine {engine!r} on {self.device}"
                + ("" if self.hook is None else " with a stress hook"),
                where="MpmSolver.engine",
                expected="'auto', 'plain', or 'native' on the CPU without a hook",
                fix="use engine='auto'",
            )
        if native and engine != "plain":
            from physgym.sim.mpm.native_engine import NativeEngine

            return NativeEngine(self.model, self.worlds, threads or len(os.sched_getaffinity(0)))
        return PlainEngine(self.model, self.worlds, self.device, self.hook)

    def initial_state(
        self,
        position: torch.Tensor | None = None,
        velocity: torch.Tensor | None = None,
        deformation: torch.Tensor | None = None,
    ) -> State:
        """A State of particles at rest in their shape, unless a deformation is given.

        Args:
            position: [m], shape (P, 3) or (B, P, 3); the rest position when absent.
            velocity: [m/s], the same shape; zero when absent.
            deformation: elastic F, shape (P, 3, 3) or (B, P, 3, 3); identity when absent. A body
                that starts rotated by R (particles at ``R X``) starts with F = R.

        Returns:
            A State of B worlds; gradients flow through.

        Raises:
            DataError: if a shape is wrong, a value is not finite, or F is inverted.
        """
        if position is None:
            position = torch.tensor(self.model.rest_position, dtype=torch.float32)
        position, velocity = (
            None
            if value is None
            else torch.as_tensor(value, dtype=torch.float32, device=self.device)
            for value in (position, velocity)
        )
        assert position is not None
        velocity = torch.zeros_like(position) if velocity is None else velocity
        if deformation is None:
            deformation = torch.eye(3).expand(self.node_count, 3, 3)
        f = torch.as_tensor(deformation, dtype=torch.float32, device=self.device)
        x, v, f9 = (
            self._batched(value, name)
            for value, name in (
                (position, "position"),
                (velocity, "velocity"),
                (f.flatten(-2), "deformation"),
            )
        )
        volume = torch.linalg.det(f9.detach().unflatten(-1, (3, 3)))
        if not bool((volume > 0.0).all()):
            world, particle = (int(i) for i in (~(volume > 0.0)).nonzero()[0])
            raise DataError(
                f"det F = {float(volume[world, particle]):.3g} of particle {particle}",
                where=f"initial_state: deformation[{world}, {particle}]",
                expected="a deformation gradient with a positive determinant",
                fix="start from a deformation that does not turn matter inside out",
            )
        internal = torch.cat([f9, torch.zeros_like(f9)], dim=-1)
        return State(x.clone(), v.clone(), internal.flatten(1))

    def _batched(self, value: torch.Tensor, name: str) -> torch.Tensor:
        if value.dim() == 2:
            value = value.expand(self.worlds, *value.shape)
        width = 9 if name == "deformation" else 3
        check_finite(value, (self.worlds, self.node_count, width), name)
        return value

    def plan(
        self,
        dt_s: float,
        frames: int,
        parameters: MpmParameters | None = None,
        *,
        speed_m_per_s: float = 0.0,
    ) -> Plan:
        """How a rollout would cut time.

        Args:
            dt_s: time between frames [s].
            frames: frames to advance.
            parameters: used instead of the solver's own.
            speed_m_per_s: fastest particle that is expected [m/s].

        Returns:
            Frames, substeps and frame length.

        Raises:
            DataError: if the frame length makes no sense.
        """
        given = self.parameters if parameters is None else parameters
        with torch.no_grad():
            limit = step_limit(self.model, given.coefficients(self.model), speed_m_per_s)
        needed = limit.substeps(dt_s, safety=self.safety)
        return Plan(frames, self.substeps or needed, float(dt_s))

    def rollout(
        self,
        state: State,
        driven: torch.Tensor,
        dt_s: float,
        *,
        parameters: MpmParameters | None = None,
        collider_poses: torch.Tensor | np.ndarray | None = None,
    ) -> MpmTrajectory:
        """Advance T - 1 frames; differentiable in the state, the driven points and the parameters.

        Without an override the number of substeps follows from the speeds at frame 0 and what
        gravity can add, so a rollout and the same frames in single steps may differ in it.

        Args:
            state: the state at frame 0; driven particles are taken from ``driven``.
            driven: driven particles at every frame [m], shape (B, T, D, 3).
            dt_s: time between frames [s].
            parameters: used instead of the solver's own, for identification.
            collider_poses: position [m] and quaternion (w first) of every boundary at every frame,
                shape (B or 1, T, K, 7); at rest when absent. No gradient flows to them.

        Returns:
            Positions, velocities and deformation at all T frames and the final state.

        Raises:
            BlowUpError: if a world leaves the finite numbers, or a particle the domain.
            DataError: if a shape is wrong or a value is not finite.
        """
        given = self.parameters if parameters is None else parameters
        begun = self._begin(state, driven, dt_s, given, collider_poses)
        coefficients: list[torch.Tensor] = [
            c.to(self.device) for c in given.coefficients(self.model)
        ]
        if self.hook is not None:
            coefficients += list(self.hook.parameters())
        made = rollout(
            self._engine, begun.plan, begun.tables, begun.start, begun.driven, coefficients
        )
        return self._end(made, begun.plan)

    def _begin(
        self,
        state: State,
        driven: torch.Tensor,
        dt_s: float,
        given: MpmParameters,
        collider_poses: torch.Tensor | np.ndarray | None,
    ) -> Begun:
        """Checked inputs of a rollout, counted from a node of the lattice, and how time is cut."""
        if given is not self.parameters:
            given.check(self.model, self.worlds)
        driven = torch.as_tensor(driven, dtype=torch.float32, device=self.device)
        frames = driven.shape[1] if driven.dim() == 4 else 0
        check_finite(driven, (self.worlds, max(frames, 1), len(self.driven_index), 3), "driven")
        driven = driven - self._lattice
        start = self._particles(state)
        if len(self.driven_index):
            moved = start.position.index_copy(1, self.driven_index, driven[:, 0])
            start = start._replace(position=moved)
        poses = self._poses(collider_poses, frames)
        speed = self._speed(start, driven, poses, dt_s)
        plan = self.plan(dt_s, frames - 1, given, speed_m_per_s=speed)
        tables = self._tables(plan, poses, moving=collider_poses is not None)
        return Begun(start, driven, plan, tables)

    def _end(self, made: Particles, plan: Plan) -> MpmTrajectory:
        """States at all frames, (B, T, P, ...), as a trajectory in the world."""
        x, v, internal = made.position + self._lattice, made.velocity, made.internal
        self._check_domain(x, plan)
        final = State(x[:, -1].clone(), v[:, -1].clone(), internal[:, -1].flatten(1).clone())
        return MpmTrajectory(position=x, final=final, velocity=v, internal=internal)

    def step(
        self,
        state_in: State,
        state_out: State,
        driven: torch.Tensor,
        dt_s: float,
        *,
        collider_poses: torch.Tensor | np.ndarray | None = None,
    ) -> None:
        """Advance one frame; driven points move on a straight line to where they must end.

        Args:
            state_in: the state at the start; left as it is.
            state_out: receives the state at the end; may be the same object as ``state_in``.
            driven: [m], where the driven points end, shape (B, D, 3).
            dt_s: length of the frame [s].
            collider_poses: of every boundary at the start and the end, shape (B or 1, 2, K, 7).

        Raises:
            BlowUpError: if a world leaves the finite numbers, or a particle the domain.
            DataError: if a shape is wrong or a value is not finite.
        """
        with torch.no_grad():
            start = state_in.position[:, self.driven_index]
            end = torch.as_tensor(driven, dtype=torch.float32, device=self.device)
            check_finite(end, tuple(start.shape), "driven")
            path = torch.stack([start, end], dim=1)
            final = self.rollout(state_in, path, dt_s, collider_poses=collider_poses).final
        state_out.position, state_out.velocity, state_out.internal = (
            final.position,
            final.velocity,
            final.internal,
        )

    def _particles(self, state: State) -> Particles:
        internal = state.internal.float()
        check_finite(internal, (self.worlds, self.node_count * INTERNAL), "state.internal")
        made = Particles(
            state.position.float() - self._lattice,
            state.velocity.float(),
            internal.unflatten(1, (self.node_count, INTERNAL)),
        )
        for name, value in (("position", made.position), ("velocity", made.velocity)):
            check_finite(value, (self.worlds, self.node_count, 3), f"state.{name}")
        return made

    def _poses(self, given: Any, frames: int) -> np.ndarray:
        """Poses of the boundaries at all frames, float64."""
        count = len(self.model.colliders)
        if given is None:
            rest = self._rest_poses()
            return np.broadcast_to(rest, (1, frames, count, 7))
        poses = np.asarray(given, np.float64)
        norm = np.linalg.norm(poses[..., 3:7], axis=-1) if poses.ndim == 4 else np.zeros(1)
        if (
            poses.shape not in ((1, frames, count, 7), (self.worlds, frames, count, 7))
            or not np.isfinite(poses).all()
            or not (np.abs(norm - 1.0) < 1e-3).all()
        ):
            raise DataError(
                f"collider_poses of shape {poses.shape}",
                where="MpmSolver: collider_poses",
                expected=f"finite, (1 or {self.worlds}, {frames}, {count}, 7), unit quaternions",
                fix="give position and quaternion (w first) of every boundary at every frame",
            )
        poses = poses.copy()
        poses[..., :3] -= self.model.lattice_m
        return poses

    def _rest_poses(self) -> np.ndarray:
        """Of the boundaries, from the lattice's node, shape (K, 7)."""
        rest = rest_poses(self.model.colliders)
        rest[:, :3] -= self.model.lattice_m
        return rest

    def _tables(self, plan: Plan, poses: np.ndarray, *, moving: bool) -> list[ColliderTable]:
        """What kernels read of the boundaries in each frame; made once while they are at rest."""
        dt_s, count = plan.frame_dt_s, plan.substeps
        if moving:
            return [
                collider_table(self.model.colliders, poses[:, f], poses[:, f + 1], count, dt_s)
                for f in range(plan.frames)
            ]
        if self._rest is None or self._rest[0] != (count, dt_s):
            rest = self._rest_poses()[None]
            made = collider_table(self.model.colliders, rest, rest, count, dt_s)
            self._rest = ((count, dt_s), made)
        return [self._rest[1]] * plan.frames

    def _speed(
        self, start: Particles, driven: torch.Tensor, poses: np.ndarray, dt_s: float
    ) -> float:
        """Fastest motion to expect [m/s]: at the start, by gravity, by what is driven."""
        frames = max(0, driven.shape[1] - 1)
        speed = float(start.velocity.detach().norm(dim=-1).max())
        pull = float(np.linalg.norm(self.model.gravity_m_per_s2)) * frames * dt_s
        push = 0.0
        if frames and driven.numel():
            push = float(driven.detach().diff(dim=1).norm(dim=-1).max()) / dt_s
        if frames and poses.size:
            push = max(
                push, float(np.linalg.norm(np.diff(poses[..., :3], axis=1), axis=-1).max()) / dt_s
            )
        return max(speed + pull, push)

    def _check_domain(self, position: torch.Tensor, plan: Plan) -> None:
        if self.model.domain_m is None:
            return
        low, high = (torch.tensor(c, device=position.device) for c in self.model.domain_m)
        out = ((position.detach() < low) | (position.detach() > high)).any(dim=-1)
        if bool(out.any()):
            world, frame, particle = (int(i) for i in out.nonzero()[0])
            raise_left(self.model, world, particle, max(frame - 1, 0), plan)
