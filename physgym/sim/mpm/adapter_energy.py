"""What an adapted stress does to the energy: the operator has no energy function behind it.

Shapes: B worlds, T frames, P particles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from physgym.sim.mpm.elastic_torch import polar_rotation, prior_stress, strain_energy
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.rollout import MpmTrajectory
from physgym.sim.mpm.stress_adapter import StressAdapter
from physgym.sim.mpm.voigt import from_voigt, to_voigt

__all__ = ["EnergyReport", "energy_report", "skew_operator"]


@dataclass(frozen=True)
class EnergyReport:
    """Energy and work at every frame, each (B, T) [J].

    Work is the integral of power over stored frames by the trapezoidal rule: frames must resolve
    the motion, or the rule is as wrong as the sampling.

    Attributes:
        kinetic_j: with the particles' affine motion.
        elastic_j: stored by the elastic law alone.
        gravity_j: potential energy, 0 at the height 0.
        adapter_work_j: work done on the matter's strain by the stress that the adapter adds.
        skew_work_j: the part of it by the operator's non-symmetric part, which no energy function
            could have: what a closed loop of strain gains (negative) or loses (positive).
    """

    kinetic_j: torch.Tensor
    elastic_j: torch.Tensor
    gravity_j: torch.Tensor
    adapter_work_j: torch.Tensor
    skew_work_j: torch.Tensor

    @property
    def total_j(self) -> torch.Tensor:
        """Kinetic, elastic and potential energy."""
        return self.kinetic_j + self.elastic_j + self.gravity_j


def skew_operator(operator: torch.Tensor, lam_over_mu: torch.Tensor) -> torch.Tensor:
    """The part of an operator that makes the small-strain stiffness K C non-symmetric.

    With the isotropic stiffness C of the elastic law, ``(K C - (K C)^T) / 2`` acts on the strain
    ``C^-1 stress``: as a map of the stress it is ``(K - C K^T C^-1) / 2``, transposes taken with
    shears weighted by 2.

    Args:
        operator: K on (xx, yy, zz, xy, xz, yz), shape (..., 6, 6).
        lam_over_mu: ratio of Lame's constants, broadcast against the batch.

    Returns:
        Shape (..., 6, 6).
    """
    weight = operator.new_tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    transposed = operator.mT * weight / weight[:, None]
    normal = operator.new_zeros(6, 6)
    normal[:3, :3] = 1.0
    one = torch.eye(6, dtype=operator.dtype, device=operator.device)
    ratio = lam_over_mu[..., None, None]
    stiffness = 2.0 * one + ratio * normal  # C / mu on tensor strains
    inverse = 0.5 * one - ratio / (4.0 + 6.0 * ratio) * normal
    return 0.5 * (operator - stiffness @ transposed @ inverse)


@torch.no_grad()
def energy_report(
    model: MpmModel,
    parameters: MpmParameters,
    adapter: StressAdapter,
    trajectory: MpmTrajectory,
    dt_s: float,
) -> EnergyReport:
    """Energies and the adapter's work over a trajectory.

    Args:
        model: what was simulated.
        parameters: with which parameters.
        adapter: with which adapter.
        trajectory: states at all frames.
        dt_s: time between frames [s].

    Returns:
        The report.
    """
    device = trajectory.position.device
    c = parameters.coefficients(model)
    volume = torch.tensor(model.volume_m3, dtype=torch.float32, device=device)
    mass = c.mass.to(device)[:, None]
    velocity, affine = trajectory.velocity, trajectory.internal[..., 9:]
    # APIC's affine motion has the inertia m h^2 / 4 on a quadratic B-spline (Jiang 2015).
    spin = 0.25 * model.spacing_m**2 * affine.square().sum(-1)
    kinetic = (0.5 * mass * (velocity.square().sum(-1) + spin)).sum(-1)
    stored = strain_energy(
        model.material.law, trajectory.deformation, c.mu[:, None], c.lam[:, None]
    )
    pull = torch.tensor(model.gravity_m_per_s2, device=device)
    gravity = -(mass * (trajectory.position @ pull)).sum(-1)
    powers = []
    for internal in trajectory.internal.unbind(1):
        powers.append(_powers(model, c, adapter, internal, volume))
    power = torch.stack(powers, dim=-1)  # (2, B, T)
    steps = 0.5 * dt_s * (power[..., 1:] + power[..., :-1])
    work = torch.cat([torch.zeros_like(power[..., :1]), steps.cumsum(-1)], dim=-1)
    return EnergyReport(kinetic, (volume * stored).sum(-1), gravity, work[0], work[1])


def _powers(model, c, adapter, internal, volume):
    """Power of the added stress and of the non-symmetric part, (2, B) [W]."""
    f, rate = internal.unflatten(-1, (2, 3, 3)).unbind(-3)
    tau = prior_stress(model.material.law, internal, c.mu, c.lam, c.viscosity)
    operator = adapter.operator(f, tau)
    r = polar_rotation(f)
    turned = to_voigt(r.mT @ tau @ r)[..., None]
    one = torch.eye(6, dtype=f.dtype, device=f.device)
    skew = skew_operator(operator, c.lam / c.mu)
    found = []
    for matrix in (operator - one, skew):
        stress = r @ from_voigt((matrix @ turned)[..., 0]) @ r.mT
        found.append((volume * (stress * rate).sum((-2, -1))).sum(-1))
    return torch.stack(found)
