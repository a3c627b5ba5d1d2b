"""What to say when a world leaves the finite numbers: which node, when, and what to change."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch

from physgym.errors import BlowUpError, DataError
from physgym.sim.rollout import Plan
from physgym.sim.spring_mass.model import Coefficients, SpringMassModel
from physgym.sim.timestep import StepLimit, stable_step, substep_count

__all__ = ["raise_blow_up", "raise_overflow", "step_limit"]


def step_limit(model: SpringMassModel, coefficients: Coefficients) -> StepLimit:
    """Largest stable step over all worlds.

    Args:
        model: topology and law.
        coefficients: as the kernels get them.

    Returns:
        The limit of a world that is as stiff, as damped and as light as any of the worlds.
    """

    def highest(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().amax(dim=0).cpu().double().numpy()

    rest = coefficients.rest_length.detach().amin(dim=0).cpu().double().numpy()
    ends = 2 if model.directed else 1
    slope = highest(coefficients.stiffness).reshape(ends, -1).T
    if model.law.value == "soft":
        # Slope of u (1 + |u|/L0)^p at a strain of 1, as far as the bound on directions reaches.
        slope = slope * (2.0**model.law_exponent) * (1.0 + 0.5 * model.law_exponent)
    elif model.law.value == "power":
        # p |u|^(p-1) is unbounded at u = 0 for p < 1; it is taken at a strain of one per cent.
        at = 0.01 * rest if model.law_exponent < 1.0 else rest
        slope = slope * (model.law_exponent * at ** (model.law_exponent - 1.0))[:, None]
    dashpot = np.broadcast_to(highest(coefficients.dashpot), rest.shape)
    slope = slope if model.directed else slope[:, 0]
    return stable_step(model.edges, slope, dashpot, highest(coefficients.inv_mass))


def raise_blow_up(
    model: SpringMassModel,
    coefficients: Coefficients,
    plan: Plan,
    world: int,
    node: int,
    substep: int,
) -> NoReturn:
    """Raise with the parameter that most likely is the cause.

    Args:
        model: topology and law.
        coefficients: as the kernels got them.
        plan: how time was cut.
        world: which world.
        node: which node.
        substep: counted from the start of the call.

    Raises:
        BlowUpError: always.
    """
    limit = step_limit(model, coefficients)
    needed = substep_count(plan.frame_dt_s, limit, safety=0.5)
    if plan.substep_s > limit.dt_s:
        fix = (
            f"substeps: {plan.substeps} a frame is a step of {plan.substep_s:.3g} s, the stability "
            f"limit is {limit.dt_s:.3g} s; use substeps=None or at least {needed}, or lower "
            f"log_stiffness or dashpot_ns_per_m of the springs at node {limit.node}"
        )
    else:
        fix = (
            f"the step of {plan.substep_s:.3g} s is below the limit of {limit.dt_s:.3g} s for "
            "strains under 1: look for a jump in the driven points or in the initial state near "
            "this node, else lower `safety`"
        )
    raise BlowUpError(
        f"a node became faster than 1e5 m/s or not a number in frame {substep // plan.substeps}",
        world=world,
        node=node,
        substep=substep,
        fix=fix,
    )


def raise_overflow(model: SpringMassModel, world: int, node: int, count: int) -> NoReturn:
    """Raise because a node has more collision candidates than its list holds.

    Args:
        model: topology and law.
        world: which world.
        node: which node.
        count: candidates that were found.

    Raises:
        DataError: always.
    """
    most = model.self_collision.max_neighbours if model.self_collision else 0
    raise DataError(
        f"node {node} of world {world} has {count} collision candidates",
        where="SelfCollision.max_neighbours",
        expected=f"at most {most}",
        fix="raise max_neighbours, or lower distance_m or skin",
    )
