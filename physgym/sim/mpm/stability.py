"""From wave and particle speed to the number of substeps, and what to say when it was too small."""

from __future__ import annotations

import math
from typing import NoReturn

import torch

from physgym.errors import BlowUpError, DataError
from physgym.sim.mpm.material import ElasticLaw
from physgym.sim.mpm.model import Coefficients, MpmModel, is_damped
from physgym.sim.rollout import Plan

__all__ = ["MpmStepLimit", "raise_blow_up", "raise_left", "raise_spread", "step_limit"]


class MpmStepLimit:
    """The step at which the fastest signal crosses one cell.

    ``dt = h / (c + |v|)`` with ``c = sqrt((lambda + 2 mu) / rho)`` in a solid and
    ``sqrt(7 kappa / rho)`` in the fluid; a fluid's viscosity limits it to ``rho h^2 / (3 eta)``
    besides (diffusion on this grid; the tests find blow-up 1.25 times above). In a damped solid
    both act on one oscillator, whose explicit step is stable while ``(dt/dt_wave)^2 +
    dt/dt_diffusion < 1``.

    Attributes:
        dt_s: the step [s].
        wave_m_per_s: c of the stiffest particle [m/s].
        world: its world.
        particle: its number.
        world_dt_s: the step of every world [s], shape (B or 1,).
    """

    def __init__(
        self, world_dt_s: torch.Tensor, wave_m_per_s: float, world: int, particle: int
    ) -> None:
        self.world_dt_s, self.dt_s = world_dt_s, float(world_dt_s.min())
        self.wave_m_per_s, self.world, self.particle = wave_m_per_s, world, particle

    def substeps(self, frame_dt_s: float, *, safety: float) -> int:
        """Number of equal substeps in a frame.

        Args:
            frame_dt_s: length of the frame [s].
            safety: fraction of the limit that is used, in (0, 1].

        Returns:
            At least 1.

        Raises:
            DataError: if the frame length or the safety factor makes no sense.
        """
        if not (frame_dt_s > 0.0 and math.isfinite(frame_dt_s)) or not 0.0 < safety <= 1.0:
            raise DataError(
                f"frame of {frame_dt_s} s with safety {safety}",
                where="MpmSolver",
                expected="a positive frame length and 0 < safety <= 1",
                fix="pass the time between frames in seconds",
            )
        return max(1, math.ceil(frame_dt_s / (safety * self.dt_s) - 1e-9))


def step_limit(
    model: MpmModel, coefficients: Coefficients, speed_m_per_s: float = 0.0
) -> MpmStepLimit:
    """The step limit over all worlds and particles.

    Args:
        model: spacing and material.
        coefficients: as the kernels get them.
        speed_m_per_s: fastest particle that is expected [m/s].

    Returns:
        The limit and what sets it.
    """
    c = Coefficients(*(t.detach().double().cpu() for t in coefficients))
    weight = torch.as_tensor(model.volume_m3.copy())
    weight[torch.as_tensor(model.driven_index.copy(), dtype=torch.long)] *= model.driven_mass_factor
    density = c.mass / weight
    fluid = model.material.law is ElasticLaw.FLUID
    modulus = 7.0 * c.lam if fluid else c.lam + 2.0 * c.mu
    wave = (modulus / density).sqrt()
    at = int(wave.argmax())
    fastest = float(wave.max())
    step = model.spacing_m / (wave + max(0.0, speed_m_per_s))
    if fluid:
        diffusion = c.viscosity / density
        step = torch.minimum(step, model.spacing_m**2 / (3.0 * diffusion + 1e-30))
    elif is_damped(model, c):
        ratio = step * 3.0 * c.viscosity / density / model.spacing_m**2
        step = 2.0 * step / (ratio + (ratio**2 + 4.0).sqrt())
    return MpmStepLimit(step.amin(dim=1), fastest, *divmod(at, wave.shape[1]))


def raise_blow_up(
    model: MpmModel,
    coefficients: Coefficients,
    plan: Plan,
    world: int,
    particle: int,
    substep: int,
) -> NoReturn:
    """Raise with the setting that most likely is the cause.

    Args:
        model: what was simulated.
        coefficients: as the kernels got them.
        plan: how time was cut.
        world: which world.
        particle: which particle.
        substep: counted from the start of the call.

    Raises:
        BlowUpError: always.
    """
    limit = step_limit(model, coefficients)
    if plan.substep_s > 0.5 * limit.dt_s:
        fix = (
            f"substeps: {plan.substeps} a frame is a step of {plan.substep_s:.3g} s; the limit, by "
            f"waves of {limit.wave_m_per_s:.3g} m/s and viscosity, is {limit.dt_s:.3g} s; use "
            f"substeps=None or at least {limit.substeps(plan.frame_dt_s, safety=0.4)}, or lower "
            "stiffness or viscosity"
        )
    else:
        fix = (
            f"the step of {plan.substep_s:.3g} s is below the limit of {limit.dt_s:.3g} s for "
            "small strains: look for driven particles or boundaries that move too fast or press "
            "particles together, else lower `safety`"
        )
    raise BlowUpError(
        f"particle {particle} turned inside out (det F <= 0), moved more than a cell in a substep "
        f"or is not a number, in frame {substep // plan.substeps}",
        world=world,
        node=particle,
        substep=substep,
        fix=fix,
    )


def raise_spread(model: MpmModel, position: torch.Tensor, world: int, frame: int) -> NoReturn:
    """Raise because particles need a grid that is too large.

    Args:
        model: what was simulated.
        position: of all particles of that world when it was seen [m], shape (P, 3).
        world: which world.
        frame: in which frame.

    Raises:
        DataError: always.
    """
    away = (position - position.median(dim=0).values).abs().amax(dim=-1)
    particle = int(away.argmax())
    raise DataError(
        f"particles spread too far for nodes {model.spacing_m} m apart: particle {particle} is "
        f"{float(away[particle]):.3g} m from the middle, in frame {frame}",
        where=f"world {world}: MpmModel.spacing_m",
        expected="a body whose bounding box holds a moderate number of grid nodes",
        fix="use a larger spacing, walls, or a domain_m that stops runaway particles",
    )


def raise_left(model: MpmModel, world: int, particle: int, frame: int, plan: Plan) -> NoReturn:
    """Raise because a particle left the domain.

    Args:
        model: what was simulated.
        world: which world.
        particle: which particle.
        frame: in which frame.
        plan: how time was cut.

    Raises:
        BlowUpError: always.
    """
    raise BlowUpError(
        f"particle {particle} left the domain {model.domain_m} in frame {frame}",
        world=world,
        node=particle,
        substep=(frame + 1) * plan.substeps,
        fix="widen domain_m, or add a ground or walls (colliders) that hold the particles",
    )
