"""SpringMassModel: what all worlds share. SpringMassParameters: what each world may have its own.

Shapes: B worlds, N nodes, S springs, K driven points. A first axis of length 1 is shared by all
worlds; a spring axis of length 1 is shared by all springs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.contact import BoxCollider, GroundLaw, GroundPlane, SelfCollision
from physgym.sim.spring_mass.force_law import ForceLaw, clamp_one_sided, stiffness_coefficient
from physgym.sim.spring_mass.topology import exclusion_rows, merge_springs, rest_lengths

__all__ = ["Coefficients", "SpringMassModel", "SpringMassParameters"]

_ROUND_OFF = 1e-6  # of an asymmetry computed in float32
_LEAST_FACTOR = 1e-30


@dataclass(frozen=True)
class SpringMassModel:
    """Topology and constants of a spring-mass object.

    Attributes:
        rest_position: shape in which no spring is stretched [m], shape (N, 3).
        edges: springs as node pairs, shape (S, 2); any order, no repeats.
        driven_index: nodes that are driven, shape (K,).
        law: elastic law of the springs.
        law_exponent: p of the laws ``soft`` and ``power``.
        gravity_m_per_s2: gravity vector [m/s^2].
        ground: a plane that nodes stay above, or None.
        self_collision: impulses between near nodes, or None.
        colliders: boxes that move as they are told; a node meets them in this order, then the
            ground. Driven nodes pass through them.
        stiffness_range: every stiffness is clamped to this range, in the law's unit.
        driven_dashpot: True lets dashpots see the true velocity of driven points; False is
            PhysTwin's
            published behaviour, where they see a driven point at rest.
        directed: springs may pull their two ends with unlike forces, as Spring-Gaus's do (see
            ``asymmetry`` of the parameters). Momentum is then not kept, nor need energy be.
    """

    rest_position: np.ndarray
    edges: np.ndarray
    driven_index: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    law: ForceLaw = ForceLaw.STRAIN
    law_exponent: float = 0.5
    gravity_m_per_s2: tuple[float, float, float] = (0.0, 0.0, -9.81)
    ground: GroundPlane | None = None
    self_collision: SelfCollision | None = None
    colliders: tuple[BoxCollider, ...] = ()
    stiffness_range: tuple[float, float] = (0.0, 1.0e7)
    driven_dashpot: bool = True
    directed: bool = False

    def __post_init__(self) -> None:
        rest = np.array(self.rest_position, dtype=np.float64)
        edges = np.array(self.edges, dtype=np.int32).reshape(-1, 2)
        driven = np.array(self.driven_index, dtype=np.int32).reshape(-1)
        if rest.ndim != 2 or rest.shape[1] != 3 or not np.isfinite(rest).all():
            raise DataError(
                f"rest_position has shape {rest.shape} or missing values",
                where="SpringMassModel.rest_position",
                expected="(N, 3), finite, metres",
                fix="drop or fill missing points first",
            )
        for name, index in (("edges", edges), ("driven_index", driven)):
            if index.size and (index.min() < 0 or index.max() >= len(rest)):
                raise DataError(
                    f"{name} names node {int(index.max())} or {int(index.min())}",
                    where=f"SpringMassModel.{name}",
                    expected=f"nodes 0 to {len(rest) - 1}",
                    fix="build the springs from the same points",
                )
        if len(merge_springs(edges)) != len(edges):
            raise DataError(
                "springs repeat, or join a node to itself",
                where="SpringMassModel.edges",
                expected="each pair of different nodes once",
                fix="pass the pairs through topology.merge_springs",
            )
        if len(np.unique(driven)) != len(driven):
            raise DataError(
                "a node is driven twice",
                where="SpringMassModel.driven_index",
                expected="different nodes",
                fix="remove repeats",
            )
        colliders = tuple(self.colliders)
        if not all(isinstance(box, BoxCollider) for box in colliders):
            raise DataError(
                f"colliders = {colliders}",
                where="SpringMassModel.colliders",
                expected="a tuple of BoxCollider",
                fix="put a single box into a tuple",
            )
        object.__setattr__(self, "colliders", colliders)
        if not math.isfinite(self.law_exponent) or self.law_exponent < 0.0:
            raise DataError(
                f"law_exponent = {self.law_exponent}",
                where="SpringMassModel.law_exponent",
                expected="a finite number, 0 or more",
                fix="use 0.5 for Spring-Gaus, 1 for a linear power law",
            )
        for name, value in (("rest_position", rest), ("edges", edges), ("driven_index", driven)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @property
    def node_count(self) -> int:
        """N."""
        return len(self.rest_position)

    @property
    def spring_count(self) -> int:
        """S."""
        return len(self.edges)

    def excluded_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of nodes that never collide.

        Returns:
            Compressed rows, see `topology.exclusion_rows`.
        """
        collision = self.self_collision or SelfCollision(1.0)
        return exclusion_rows(
            self.node_count,
            self.edges,
            self.rest_position,
            hops=collision.excluded_hops,
            distance_m=collision.distance_m,
        )

    def default_parameters(
        self,
        *,
        stiffness: float,
        mass_kg: float,
        dashpot_ns_per_m: float = 0.0,
        drag_per_s: float = 0.0,
        restitution: float = 0.0,
        friction: float = 0.0,
        collider_restitution: float = 0.0,
        collider_friction: float = 0.5,
    ) -> SpringMassParameters:
        """Uniform parameters with the rest shape's lengths.

        Args:
            stiffness: of every spring, in the law's unit.
            mass_kg: mass of the whole object [kg], shared equally by its nodes.
            dashpot_ns_per_m: damping along every spring [N s/m].
            drag_per_s: velocity decay rate [1/s].
            restitution: of the ground, 0 to 1.
            friction: Coulomb coefficient of the ground.
            collider_restitution: of the box colliders, 0 to 1.
            collider_friction: Coulomb coefficient of the box colliders.

        Returns:
            Parameters shared by all worlds.
        """
        lengths = torch.as_tensor(rest_lengths(self.rest_position, self.edges), dtype=torch.float32)
        return SpringMassParameters(
            log_stiffness=torch.full((1, self.spring_count), math.log(stiffness)),
            rest_length_m=lengths[None],
            dashpot_ns_per_m=torch.tensor([[dashpot_ns_per_m]]),
            mass_kg=torch.full((1, self.node_count), mass_kg / self.node_count),
            drag_per_s=torch.tensor([drag_per_s]),
            restitution=torch.tensor([restitution]),
            friction=torch.tensor([friction]),
            collider_restitution=torch.tensor([collider_restitution]),
            collider_friction=torch.tensor([collider_friction]),
        )


class Coefficients(NamedTuple):
    """What the kernels multiply with, made from the parameters by torch; float32, contiguous."""

    stiffness: torch.Tensor  # (B or 1, S); directed: (B or 1, 2 S), first ends, second ends
    rest_length: torch.Tensor  # (B or 1, S)
    dashpot: torch.Tensor  # (B or 1, S or 1)
    inv_mass: torch.Tensor  # (B or 1, N), 0 for driven nodes
    decay: torch.Tensor  # (B or 1,), exp(-h c)
    restitution: torch.Tensor  # (B or 1,)
    friction: torch.Tensor  # (B or 1,); GroundLaw.FACTOR: what a substep leaves of slip
    collider_restitution: torch.Tensor  # (B or 1,)
    collider_friction: torch.Tensor  # (B or 1,)
    # Where the boxes are; given with each rollout, and no gradient flows to it.
    collider_pose: torch.Tensor  # (B or 1, T, C, 7), xyz and unit quat_wxyz


@dataclass(frozen=True)
class SpringMassParameters:
    """What identification fits; any tensor may require a gradient.

    Attributes:
        log_stiffness: natural logarithm of the stiffness in the law's unit, shape (B or 1, S or 1).
        rest_length_m: [m], shape (B or 1, S).
        dashpot_ns_per_m: damping along the springs [N s/m], shape (B or 1, S or 1).
        mass_kg: mass of the nodes [kg], shape (B or 1, N).
        drag_per_s: rate at which velocity decays [1/s], shape (B or 1,).
        restitution: of the ground, clamped to [0, 1], shape (B or 1,).
        friction: Coulomb coefficient of the ground, clamped to 0 and more, shape (B or 1,).
        tangential_factor: of a ground of law `GroundLaw.FACTOR`, in place of the two above: share
            of the tangential velocity that a node on it keeps in ``factor_step_s``, clamped to
            [0, 1], shape (B or 1,).
        asymmetry: a of a directed model: a spring of coefficient A pulls its first end with
            A (1 + a) and its second with A (1 - a); -1 to 1, shape (B or 1, S or 1). The dashpot
            acts on both alike.
        eta: weight of each spring (Spring-Gaus's soft vector), shape (B or 1, S or 1).
        collider_restitution: of all box colliders, clamped to [0, 1], shape (B or 1,).
        collider_friction: Coulomb coefficient of all box colliders, clamped to 0 and more, shape
            (B or 1,).
    """

    log_stiffness: torch.Tensor
    rest_length_m: torch.Tensor
    dashpot_ns_per_m: torch.Tensor
    mass_kg: torch.Tensor
    drag_per_s: torch.Tensor
    restitution: torch.Tensor
    friction: torch.Tensor
    eta: torch.Tensor = field(default_factory=lambda: torch.ones(1, 1))
    tangential_factor: torch.Tensor = field(default_factory=lambda: torch.ones(1))
    asymmetry: torch.Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    collider_restitution: torch.Tensor = field(default_factory=lambda: torch.zeros(1))
    collider_friction: torch.Tensor = field(default_factory=lambda: torch.full((1,), 0.5))

    def replace(self, **changes: torch.Tensor) -> SpringMassParameters:
        """A copy with some tensors changed.

        Args:
            **changes: new tensors by field name.

        Returns:
            The copy; unchanged tensors are shared.
        """
        return replace(self, **changes)

    def check(self, model: SpringMassModel, worlds: int) -> None:
        """Raise where a tensor does not fit the model or holds impossible values.

        Args:
            model: the model they are meant for.
            worlds: B.

        Raises:
            DataError: naming the field.
        """
        springs, nodes = model.spring_count, model.node_count
        shapes: dict[str, tuple[set[int], ...]] = {
            "log_stiffness": ({1, worlds}, {1, springs}),
            "rest_length_m": ({1, worlds}, {springs}),
            "dashpot_ns_per_m": ({1, worlds}, {1, springs}),
            "mass_kg": ({1, worlds}, {nodes}),
            "drag_per_s": ({1, worlds},),
            "restitution": ({1, worlds},),
            "friction": ({1, worlds},),
            "eta": ({1, worlds}, {1, springs}),
            "tangential_factor": ({1, worlds},),
            "asymmetry": ({1, worlds}, {1, springs}),
            "collider_restitution": ({1, worlds},),
            "collider_friction": ({1, worlds},),
        }
        positive = {"rest_length_m", "mass_kg"}
        for name, allowed in shapes.items():
            value = getattr(self, name).detach()
            fits = value.dim() == len(allowed) and all(
                size in sizes for size, sizes in zip(value.shape, allowed, strict=True)
            )
            if not fits or not bool(torch.isfinite(value).all()):
                raise DataError(
                    f"{name} has shape {tuple(value.shape)} or values that are not finite",
                    where=f"SpringMassParameters.{name}",
                    expected=" x ".join("one of " + str(sorted(s)) for s in allowed) + ", finite",
                    fix=f"this solver has {worlds} worlds, {springs} springs, {nodes} nodes",
                )
            if name in positive and not bool((value > 0.0).all()):
                raise DataError(
                    f"{name} has a value of {float(value.min()):.3g}",
                    where=f"SpringMassParameters.{name}",
                    expected="more than 0",
                    fix="drop springs without length and nodes without mass",
                )
        self._check_asymmetry(model)

    def _check_asymmetry(self, model: SpringMassModel) -> None:
        most = float(self.asymmetry.detach().abs().max())
        if most > (1.0 + _ROUND_OFF if model.directed else 0.0):
            raise DataError(
                f"asymmetry reaches {most:.4g}, the model is "
                + ("directed" if model.directed else "not directed"),
                where="SpringMassParameters.asymmetry",
                expected="-1 to 1, and 0 where springs pull both ends alike",
                fix="use SpringMassModel(..., directed=True), or leave it out",
            )

    def coefficients(
        self,
        model: SpringMassModel,
        substep_s: float,
        collider_pose: torch.Tensor | None = None,
    ) -> Coefficients:
        """What the kernels multiply with; gradients flow through.

        Args:
            model: the model they are meant for.
            substep_s: length of a substep [s].
            collider_pose: poses of the colliders with unit quaternions, shape (B or 1, T, C, 7).

        Returns:
            Float32 coefficients.
        """
        free = torch.ones(model.node_count, device=self.mass_kg.device)
        free[torch.as_tensor(model.driven_index.copy(), dtype=torch.long)] = 0.0
        stiffness = stiffness_coefficient(
            model.law,
            self.log_stiffness,
            self.rest_length_m,
            eta=self.eta,
            stiffness_range=model.stiffness_range,
        )
        if model.directed:
            ends = (stiffness * (1.0 + self.asymmetry), stiffness * (1.0 - self.asymmetry))
            stiffness = torch.cat(ends, dim=1)
        made = Coefficients(
            stiffness=stiffness,
            rest_length=self.rest_length_m,
            dashpot=self.dashpot_ns_per_m,
            inv_mass=free / self.mass_kg,
            decay=torch.exp(-substep_s * self.drag_per_s),
            restitution=clamp_one_sided(self.restitution, 0.0, 1.0),
            friction=self._ground_friction(model.ground, substep_s),
            collider_restitution=clamp_one_sided(self.collider_restitution, 0.0, 1.0),
            collider_friction=clamp_one_sided(self.collider_friction, 0.0, float("inf")),
            collider_pose=torch.zeros(1, 1, 0, 7) if collider_pose is None else collider_pose,
        )
        return Coefficients(*(c.to(torch.float32).contiguous() for c in made))

    def _ground_friction(self, ground: GroundPlane | None, substep_s: float) -> torch.Tensor:
        """What the law of the ground multiplies with, shape (B or 1,)."""
        if ground is None or ground.law is GroundLaw.COULOMB:
            return clamp_one_sided(self.friction, 0.0, float("inf"))
        factor = clamp_one_sided(self.tangential_factor, 0.0, 1.0)
        # A power below 1 has no finite slope at 0.
        kept = factor.clamp(min=_LEAST_FACTOR) ** (substep_s / ground.factor_step_s)
        return torch.where(factor > 0.0, kept, 0.0 * factor)
