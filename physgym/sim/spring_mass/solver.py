"""SpringMassSolver: the Solver contract for spring-mass objects, with gradients."""

from __future__ import annotations

import os

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.device import resolve_device
from physgym.sim.model import State, check_finite
from physgym.sim.rollout import Engine, Plan, RolloutTrajectory, rollout
from physgym.sim.spring_mass.blowup import step_limit
from physgym.sim.spring_mass.collider_pose import check_collider_pose
from physgym.sim.spring_mass.layout import make_layout
from physgym.sim.spring_mass.model import SpringMassModel, SpringMassParameters
from physgym.sim.spring_mass.native_engine import NativeEngine
from physgym.sim.spring_mass.plain import PlainEngine
from physgym.sim.timestep import StepLimit, substep_count

__all__ = ["SpringMassSolver"]


class SpringMassSolver:
    """Steps B worlds of one spring-mass object.

    Semi-implicit Euler, node by node: ``v' = (v + h (F/m + g)) exp(-h c)``, then impulses
    (between nodes, then of the box colliders), then ``x' = x + h v'`` with ground contact. Driven
    points are placed at the end of a substep before its forces are taken, as PhysTwin does.

    Limitations: explicit, so stiff light springs need many substeps; gradients of contact are those
    of the impulse taken, not of the contact that almost happened. A node that crosses a whole box
    in one substep is missed, and one that is deeper than half a box leaves on the other side.

    Args:
        model: topology and constants.
        parameters: shared by all worlds or one per world; tensors may require gradients.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda[:index]"``.
        substeps: substeps per frame; None takes them from the stability limit.
        safety: fraction of the stability limit to use when ``substeps`` is None.
        threads: CPU threads; None takes all that this process may use.
        engine: ``"auto"``, ``"native"`` (SIMD, CPU only) or ``"plain"`` (reference, and CUDA).
    """

    def __init__(
        self,
        model: SpringMassModel,
        parameters: SpringMassParameters,
        *,
        worlds: int = 1,
        device: str = "auto",
        substeps: int | None = None,
        safety: float = 0.5,
        threads: int | None = None,
        engine: str = "auto",
    ) -> None:
        if worlds < 1 or (substeps is not None and substeps < 1):
            raise DataError(
                f"worlds = {worlds}, substeps = {substeps}",
                where="SpringMassSolver",
                expected="at least one world and one substep",
                fix="pass positive whole numbers, or substeps=None",
            )
        parameters.check(model, worlds)
        self.model, self.parameters, self.worlds = model, parameters, worlds
        self.node_count = model.node_count
        self.device = resolve_device(device)
        self.driven_index = torch.as_tensor(
            model.driven_index.copy(), dtype=torch.long, device=self.device
        )
        self.substeps, self.safety = substeps, safety
        self._engine = self._make_engine(engine, threads)
        self._kept_limit: tuple[tuple[torch.Tensor, ...], tuple[int, ...], StepLimit] | None = None

    def _make_engine(self, engine: str, threads: int | None) -> Engine:
        native = self.device == "cpu"
        if engine not in ("auto", "native", "plain") or (engine == "native" and not native):
            raise DataError(
                f"engine {engine!r} on {self.device}",
                where="SpringMassSolver.engine",
                expected="'auto', 'plain', or 'native' on the CPU",
                fix="use engine='auto'",
            )
        layout = make_layout(self.model.node_count, self.model.edges)
        if native and engine != "plain":
            count = threads or len(os.sched_getaffinity(0))
            return NativeEngine(self.model, layout, self.worlds, count)
        return PlainEngine(self.model, layout, self.worlds, self.device)

    def initial_state(self, position: torch.Tensor, velocity: torch.Tensor | None = None) -> State:
        """A State from observed nodes.

        Args:
            position: [m], shape (N, 3) or (B, N, 3).
            velocity: [m/s], the same shape; zero when absent.

        Returns:
            A State of B worlds.

        Raises:
            DataError: if a shape is wrong or a value is not finite.
        """
        shape = (self.worlds, self.node_count, 3)
        if velocity is None:
            velocity = torch.zeros(self.node_count, 3)
        made = []
        for name, value in (("position", position), ("velocity", velocity)):
            value = torch.as_tensor(value, dtype=torch.float32, device=self.device)
            value = value.expand(shape) if value.dim() == 2 and value.shape == shape[1:] else value
            check_finite(value, shape, name)
            made.append(value.clone())
        return State(made[0], made[1], torch.zeros(self.worlds, 0, device=self.device))

    def plan(
        self, dt_s: float, frames: int, parameters: SpringMassParameters | None = None
    ) -> Plan:
        """How a rollout would cut time.

        Args:
            dt_s: time between frames [s].
            frames: frames to advance.
            parameters: used instead of the solver's own.

        Returns:
            Frames, substeps and frame length.
        """
        if not (np.isfinite(dt_s) and dt_s > 0.0):
            raise DataError(
                f"dt_s = {dt_s}",
                where="SpringMassSolver",
                expected="a positive time between frames in seconds",
                fix="check the time stamps",
            )
        count = self.substeps
        if count is None:
            limit = self._step_limit(self.parameters if parameters is None else parameters)
            count = substep_count(dt_s, limit, safety=self.safety)
        return Plan(frames, count, float(dt_s))

    def _step_limit(self, parameters: SpringMassParameters) -> StepLimit:
        """The stability limit, kept until a tensor of the parameters changes."""
        tensors = tuple(vars(parameters).values())
        versions = tuple(t._version for t in tensors)
        kept = self._kept_limit
        if kept is None or versions != kept[1] or any(a is not b for a, b in zip(tensors, kept[0])):
            with torch.no_grad():
                limit = step_limit(self.model, parameters.coefficients(self.model, 0.0))
            self._kept_limit = kept = (tensors, versions, limit)
        return kept[2]

    def rollout(
        self,
        state: State,
        driven: torch.Tensor,
        dt_s: float,
        *,
        parameters: SpringMassParameters | None = None,
        collider_pose: torch.Tensor | None = None,
    ) -> RolloutTrajectory:
        """Advance T - 1 frames; differentiable in the state, the driven points and the parameters.

        Args:
            state: the state at frame 0; driven nodes are taken from ``driven``.
            driven: driven points at every frame [m], shape (B, T, K, 3).
            dt_s: time between frames [s].
            parameters: used instead of the solver's own, for identification.
            collider_pose: pose of every box collider at every frame in the world's frame, x y z [m]
                and quat_wxyz, shape (B or 1, T, C, 7); needed exactly where the model has
                colliders. Within a frame the centre moves on a straight line and the quaternion by
                normalised linear interpolation, the short way round. No gradient flows to it.

        Returns:
            Positions and velocities at all T frames and the final state.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
            DataError: if a shape is wrong or a value is not finite.
        """
        given = self.parameters if parameters is None else parameters
        if parameters is not None:
            parameters.check(self.model, self.worlds)
        driven = torch.as_tensor(driven, dtype=torch.float32, device=self.device)
        frames = driven.shape[1] if driven.dim() == 4 else 0
        check_finite(driven, (self.worlds, max(frames, 1), len(self.driven_index), 3), "driven")
        position, velocity = state.position.float(), state.velocity.float()
        for name, value in (("state.position", position), ("state.velocity", velocity)):
            check_finite(value, (self.worlds, self.node_count, 3), name)
        position = position.index_copy(1, self.driven_index, driven[:, 0])
        plan = self.plan(dt_s, frames - 1, given)
        pose = check_collider_pose(collider_pose, self.worlds, frames, len(self.model.colliders))
        coefficients = given.coefficients(self.model, plan.substep_s, pose)
        coefficients = type(coefficients)(*(c.to(self.device) for c in coefficients))
        x, v = rollout(self._engine, plan, position, velocity, driven, coefficients)
        final = State(x[:, -1].clone(), v[:, -1].clone(), state.internal.clone())
        return RolloutTrajectory(position=x, final=final, velocity=v)

    def step(
        self,
        state_in: State,
        state_out: State,
        driven: torch.Tensor,
        dt_s: float,
        *,
        collider_pose: torch.Tensor | None = None,
    ) -> None:
        """Advance one frame; driven points move on a straight line to where they must end.

        Args:
            state_in: the state at the start; left as it is.
            state_out: receives the state at the end; may be the same object as ``state_in``.
            driven: [m], where the driven points end, shape (B, K, 3).
            dt_s: length of the frame [s].
            collider_pose: as `rollout`'s, at the start and at the end of the frame, shape
                (B or 1, 2, C, 7); the solver remembers no pose, so that a state is all of a world.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
            DataError: if a shape is wrong or a value is not finite.
        """
        with torch.no_grad():
            start = state_in.position[:, self.driven_index]
            end = torch.as_tensor(driven, dtype=torch.float32, device=self.device)
            check_finite(end, tuple(start.shape), "driven")
            path = torch.stack([start, end], dim=1)
            final = self.rollout(state_in, path, dt_s, collider_pose=collider_pose).final
        state_out.position, state_out.velocity, state_out.internal = (
            final.position,
            final.velocity,
            final.internal,
        )
