"""Anchors simulated through a recording, held and pushed as recorded, with gradients.

Shapes: B worlds, T ticks, A anchors, S springs, K driven points.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from physgym.errors import BlowUpError
from physgym.grip import Grip, GripSprings, Pusher, grip_springs, phases
from physgym.sim.contact import GroundPlane
from physgym.sim.rollout import RolloutTrajectory
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassParameters,
    SpringMassSolver,
    rest_lengths,
)
from physgym.sim.timestep import StepLimit, substep_count
from recon.identify.anchor_steps import BodyModes
from recon.identify.anchors import AnchorSprings, asymmetry_of
from recon.identify.sag import unloaded

__all__ = ["AnchorBody", "AnchorPhysics", "AnchorRollouts"]

_GRIP_REACH = 2.5  # of a driven point, in spacings of anchors
_GRIP_NEIGHBOURS = 16
_MOST_SAG = (0.7, 1.4)  # natural over seen length of a spring
# Of the largest stable step at rest; the rest is for shapes in which springs line up: a body that
# is squeezed to a half needs a tenth of it, one that is drawn to twice its length nearly all.
_SAFETY = 0.7
_COARSEST_S = 2e-4  # what lands with 1 m/s lands 0.2 mm late; softer bodies are cheap anyway


@dataclass(frozen=True, eq=False)
class AnchorBody:
    """What of the anchors stays.

    Attributes:
        anchors: at rest [m], shape (A, 3).
        springs: between them.
        mass_kg: of the body, shared equally.
        law_power: p_k.
        gravity: [m/s^2], shape (3,).
        ground: or None.
        carried: anchors that the ground carries in the first frame, shape (A,), bool; the first
            shape is then in equilibrium with the weight, not free of stress.
        directed: springs pull each end by its own stiffness, as in the authors' code; else both by
            the mean.
    """

    anchors: np.ndarray
    springs: AnchorSprings
    mass_kg: float
    law_power: float
    gravity: np.ndarray
    ground: GroundPlane | None
    carried: np.ndarray
    directed: bool = False

    @property
    def spacing_m(self) -> float:
        """Usual distance to the nearest anchor [m]."""
        first = (self.springs.rank == 0).any(axis=1)
        return float(np.median(self.springs.rest_length_m[first]))

    @property
    def size_m(self) -> float:
        """Longest side [m]."""
        return float(np.ptp(self.anchors, axis=0).max())

    @property
    def grip_radius_m(self) -> float:
        """Reach of a driven point [m]."""
        return _GRIP_REACH * self.spacing_m

    @property
    def grip_neighbours(self) -> int:
        """Most anchors of a driven point."""
        return _GRIP_NEIGHBOURS


@dataclass(frozen=True, eq=False)
class AnchorPhysics:
    """What is identified; every tensor may have a gradient.

    Attributes:
        log_stiffness: natural logarithm of k_i [N], shape (B or 1, A or 1).
        kappa: of the soft vector, a number.
        dashpot_ns_per_m: along every spring [N s/m], shape (B or 1,).
        friction: Coulomb's, of the ground, shape (B or 1,).
        restitution: of an anchor that meets the ground, shape (B or 1,).
        tangential_factor: of a ground of law `GroundLaw.FACTOR`, in place of the two above, shape
            (B or 1,).
        grip_ratio: stiffness of a grip's springs over that of the anchors' own on average, shape
            (B or 1,).
    """

    log_stiffness: torch.Tensor
    kappa: torch.Tensor
    dashpot_ns_per_m: torch.Tensor
    friction: torch.Tensor
    restitution: torch.Tensor
    tangential_factor: torch.Tensor = field(default_factory=lambda: torch.ones(1))
    grip_ratio: torch.Tensor = field(default_factory=lambda: torch.ones(1))


def _beside(own: torch.Tensor, grips: torch.Tensor) -> torch.Tensor:
    """Columns of worlds, of which either may have one row for all."""
    worlds = max(len(own), len(grips))
    return torch.cat([own.expand(worlds, -1), grips.expand(worlds, -1)], dim=1).float()


class AnchorRollouts:
    """Simulates a body through ticks in which the same grips hold and the same boxes push.

    A grip takes hold of the anchors that are near it at rest: later grips, which depend on where
    the body is by then, are left out by whoever asks (`Handling.until`).

    Args:
        body: what stays.
        grips: what holds it, on the ticks of a clock.
        pushers: what pushes it.
        dt_s: time between ticks [s].
        ticks: how many there are.
    """

    def __init__(
        self,
        body: AnchorBody,
        grips: Sequence[Grip],
        pushers: Sequence[Pusher],
        dt_s: float,
        ticks: int,
    ) -> None:
        self.body, self.grips, self.pushers, self.dt_s = body, grips, pushers, dt_s
        self.ticks = ticks
        self._springs = [self._held(grip) for grip in grips]
        self._modes: dict[tuple[int, ...], BodyModes] = {}
        self._own = threading.local()  # a solver keeps what its last rollout needs

    def __call__(
        self,
        physics: AnchorPhysics,
        velocity: torch.Tensor,
        ticks: int,
        *,
        truncate: bool = False,
    ) -> torch.Tensor:
        """Simulate from rest shape.

        Args:
            physics: of B worlds.
            velocity: of all anchors at the start [m/s], shape (3,).
            ticks: T.
            truncate: let gradients end with their tick, as Spring-Gaus does; that of the velocity
                is then as if it were added anew at every tick.

        Returns:
            Anchors [m], shape (B, T, A, 3).

        Raises:
            BlowUpError: if a world leaves the finite numbers.
        """
        worlds = max(len(physics.log_stiffness), len(physics.dashpot_ns_per_m))
        count = len(self.body.anchors)
        rest = torch.as_tensor(self.body.anchors, dtype=torch.float32)
        position = rest.expand(worlds, count, 3)
        begun = velocity.float().expand(worlds, count, 3)
        speed = begun
        made = [position[:, None]]
        pulls = self.body.springs.pulls(physics.log_stiffness, physics.kappa)
        for first, last, acting in phases([*self.grips, *self.pushers], ticks):
            given = self._parameters(physics, pulls, acting)
            spans = [(t, t + 1) for t in range(first, last)] if truncate else [(first, last)]
            for start, stop in spans:
                if truncate:
                    # The state keeps v - v0, so that v0 has a gradient in every frame.
                    position, speed = position.detach(), (speed - begun).detach() + begun
                rolled, speed = self._rolled(position, speed, acting, given, start, stop)
                made.append(rolled[:, 1:])
                position = rolled[:, -1]
        return torch.cat(made, dim=1)

    def natural_lengths(self, stiffness: torch.Tensor) -> torch.Tensor:
        """Of the springs between anchors, without the weight (`recon.identify.sag`).

        Args:
            stiffness: of these springs [N], shape (B, S).

        Returns:
            [m], shape (B, S), float32; no gradient flows through them.
        """
        body, length = self.body, self.body.springs.rest_length_m
        if not body.carried.any():
            return torch.as_tensor(length, dtype=torch.float32)[None]
        weight_n = np.tile(body.gravity * body.mass_kg / len(body.anchors), (len(body.anchors), 1))
        made = []
        for world in stiffness.detach().double().numpy():
            shape = unloaded(
                body.anchors, body.springs.edges, world / length, weight_n, body.carried
            )
            ratio = rest_lengths(shape, body.springs.edges) / length
            made.append(length * np.clip(ratio, *_MOST_SAG))
        return torch.as_tensor(np.stack(made), dtype=torch.float32)

    def _rolled(
        self,
        position: torch.Tensor,
        speed: torch.Tensor,
        acting: tuple[int, ...],
        given: SpringMassParameters,
        first: int,
        last: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        worlds, count = position.shape[:2]
        span = slice(first, last + 1)
        path = [self.grips[g].position[span] for g in acting if g < len(self.grips)]
        empty = np.zeros((last - first + 1, 0, 3))
        driven = torch.as_tensor(np.concatenate([empty, *path], axis=1), dtype=torch.float32)
        solver = self._solver(acting, worlds, given)
        state = solver.initial_state(torch.zeros(solver.node_count, 3))
        held = driven[0].expand(worlds, -1, 3)
        state.position = torch.cat([position, held], dim=1)
        state.velocity = torch.cat([speed, torch.zeros_like(held)], dim=1)
        boxes = [self.pushers[g - len(self.grips)] for g in acting if g >= len(self.grips)]
        pose = np.stack([b.pose[span] for b in boxes], axis=1)[None] if boxes else None
        poses = None if pose is None else torch.as_tensor(pose)

        def roll() -> RolloutTrajectory:
            ways = driven.expand(worlds, *driven.shape)
            return solver.rollout(state, ways, self.dt_s, parameters=given, collider_pose=poses)

        solver.substeps = self._substeps(solver, acting, given)
        try:
            rolled = roll()
        except BlowUpError:
            if solver.substeps is None:
                raise
            solver.substeps = None  # from the bound that holds in every shape
            rolled = roll()
        return rolled.position[:, :, :count], rolled.velocity[:, -1, :count]

    def _substeps(
        self, solver: SpringMassSolver, acting: tuple[int, ...], given: SpringMassParameters
    ) -> int | None:
        """Of a tick, from the modes at rest; None leaves them to the solver.

        The solver's own number holds for networks that crumple and turn inside out, and is three
        times as large where damping limits it, twice where stiffness does.
        """
        if self.body.directed:
            return None  # eigenvalues of what is not symmetric may be anywhere
        model, made = solver.model, given.coefficients(solver.model, 0.0)

        def highest(values: torch.Tensor) -> np.ndarray:
            return values.detach().amax(dim=0).double().numpy()

        if acting not in self._modes:
            inv_mass = highest(made.inv_mass)
            self._modes[acting] = BodyModes(model.rest_position, model.edges, inv_mass)
        # The law's slope at a strain of 1, as `physgym.sim.spring_mass` takes it.
        stiffer = 2.0**model.law_exponent * (1.0 + 0.5 * model.law_exponent)
        dashpot = float(highest(made.dashpot).max())
        step_s = self._modes[acting].step_s(stiffer * highest(made.stiffness), dashpot)
        count = substep_count(self.dt_s, StepLimit(step_s, 0.0, 0.0, 0), safety=_SAFETY)
        fewest = math.ceil(self.dt_s / _COARSEST_S)
        if count >= fewest:
            return count
        solver.substeps = None
        return fewest if solver.plan(self.dt_s, 1, given).substeps > fewest else None

    def _held(self, grip: Grip) -> GripSprings:
        return grip_springs(
            self.body.anchors,
            grip.position[grip.start],
            radius_m=self.body.grip_radius_m,
            neighbours=self.body.grip_neighbours,
            shortest_m=0.1 * self.body.spacing_m,
        )

    def _grips_of(self, acting: tuple[int, ...]) -> list[int]:
        return [g for g in acting if g < len(self.grips)]

    def _parameters(
        self, physics: AnchorPhysics, pulls: torch.Tensor, acting: tuple[int, ...]
    ) -> SpringMassParameters:
        """Springs between anchors, then those of the grips."""
        held, stiffness = self._grips_of(acting), pulls.mean(dim=-1)
        own = self.natural_lengths(stiffness)
        grips = np.concatenate([np.zeros(0), *(self._springs[g].rest_length_m for g in held)])
        extra = len(grips)
        length = torch.as_tensor(grips, dtype=torch.float32).expand(len(own), extra)
        usual = physics.log_stiffness.mean(dim=-1, keepdim=True).exp()
        hold = usual * physics.grip_ratio[:, None]
        points = sum(self.grips[g].position.shape[1] for g in held)
        nodes = len(self.body.anchors)
        made = SpringMassParameters(
            # Stiffness of a spring that the soft vector switches off has no logarithm.
            log_stiffness=torch.zeros(1, 1),
            eta=_beside(stiffness, hold.expand(-1, extra)),
            rest_length_m=torch.cat([own, length], dim=1),
            dashpot_ns_per_m=physics.dashpot_ns_per_m.float()[:, None],
            mass_kg=torch.full((1, nodes + points), self.body.mass_kg / nodes),
            drag_per_s=torch.zeros(1),
            restitution=physics.restitution.float(),
            friction=physics.friction.float(),
            tangential_factor=physics.tangential_factor.float(),
        )
        if not self.body.directed:
            return made
        uneven = asymmetry_of(pulls).float()
        even = uneven.new_zeros(len(uneven), extra)
        return made.replace(asymmetry=torch.cat([uneven, even], dim=1))

    def _solver(
        self, acting: tuple[int, ...], worlds: int, given: SpringMassParameters
    ) -> SpringMassSolver:
        solvers: dict[tuple[tuple[int, ...], int], SpringMassSolver]
        solvers = self._own.__dict__.setdefault("solvers", {})
        if (acting, worlds) not in solvers:
            body, held = self.body, self._grips_of(acting)
            nodes = len(body.anchors)
            rest, edges, base = [body.anchors], [body.springs.edges], nodes
            for g in held:
                points = self.grips[g].position[self.grips[g].start]
                springs = self._springs[g]
                edges.append(np.stack([springs.node, springs.point + base], axis=1))
                rest.append(points)
                base += len(points)
            boxes = [self.pushers[g - len(self.grips)] for g in acting if g >= len(self.grips)]
            x, y, z = (float(part) for part in body.gravity)
            model = SpringMassModel(
                np.concatenate(rest),
                np.concatenate(edges),
                driven_index=np.arange(nodes, base),
                law=ForceLaw.SOFT,
                law_exponent=body.law_power,
                gravity_m_per_s2=(x, y, z),
                ground=body.ground,
                colliders=tuple(box.collider(body.spacing_m) for box in boxes),
                directed=body.directed,
            )
            one = SpringMassParameters(**{k: v.detach() for k, v in vars(given).items()})
            solvers[acting, worlds] = SpringMassSolver(model, one, worlds=worlds, device="cpu")
        return solvers[acting, worlds]
