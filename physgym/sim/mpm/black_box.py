"""BlackBoxStress: a network straight from strain to stress, the baseline without physics.

MoSA (2026), App. A, compares with such a network. It is as fair as can be: the same inputs, frame
and width as `StressAdapter`, so exactly frame indifferent; but no elastic law, no zero of stress at
rest and no passivity. It is evaluated in every substep by the plain engine: its stress is no linear
map of the law's, so the native engine's held operator cannot stand for it.
Shapes: batches of any shape in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.mpm.adapter_arrays import read_config, read_weights, write_config
from physgym.sim.mpm.elastic_torch import elastic_stress, polar_rotation, right_stretch
from physgym.sim.mpm.material import ElasticLaw
from physgym.sim.mpm.stress_adapter import ModuleHook, check_stress_scale, hidden_layers
from physgym.sim.mpm.voigt import from_voigt, to_voigt

__all__ = ["BlackBoxConfig", "BlackBoxStress"]

PREFIX = "black_box."


@dataclass(frozen=True)
class BlackBoxConfig:
    """What the network is made of.

    Attributes:
        hidden: width of the two hidden layers.
    """

    hidden: int = 64

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise DataError(
                f"hidden = {self.hidden}",
                where="BlackBoxConfig.hidden",
                expected="at least 1",
                fix="64 is the width of the stress adapter",
            )


class BlackBoxStress(torch.nn.Module):
    """``stress = scale R net(U - I) R^T`` of F = R U; the elastic law's stress is not used.

    Args:
        config: what it is made of.
        stress_scale_pa: stress of the material at large strain: Young's modulus, say.
        seed: of all layers.
    """

    def __init__(self, config: BlackBoxConfig, *, stress_scale_pa: float, seed: int) -> None:
        super().__init__()
        check_stress_scale(stress_scale_pa)
        self.config = config
        self.stress_scale_pa: torch.Tensor
        self.register_buffer("stress_scale_pa", torch.tensor(float(stress_scale_pa)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = hidden_layers(6, config.hidden)
            self.head = torch.nn.Linear(config.hidden, 6)

    def forward(self, deformation: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
        """`stress`, for torch and `StressHook`."""
        return self.stress(deformation, stress)

    def stress(self, deformation: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
        """The network's stress.

        Args:
            deformation: elastic F, shape (..., 3, 3).
            stress: not used; there so that it can take the place of a `StressAdapter`.

        Returns:
            Kirchhoff stress [Pa], symmetric, shape (..., 3, 3).
        """
        del stress
        r = polar_rotation(deformation)
        one = torch.eye(3, dtype=deformation.dtype, device=deformation.device)
        strain = to_voigt(right_stretch(deformation, r) - one)
        made = self.stress_scale_pa * self.head(self.net(strain))
        return r @ from_voigt(made) @ r.mT

    def imitate(
        self,
        law: ElasticLaw,
        *,
        young_pa: float,
        poisson_ratio: float,
        strain: float = 0.2,
        steps: int = 1500,
        seed: int = 0,
    ) -> float:
        """Fit the network to an elastic law, so that a body does not fall apart before training.

        Args:
            law: a solid's law.
            young_pa: [Pa].
            poisson_ratio: in (-1, 0.5).
            strain: standard deviation of the strains that it is shown.
            steps: of the optimiser.
            seed: of the strains.

        Returns:
            Root mean square error over that of the stress, on strains that were not shown.
        """
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor([young_pa / (2.0 * (1.0 + poisson_ratio))])
        lam = scale * 2.0 * poisson_ratio / (1.0 - 2.0 * poisson_ratio)
        weights = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(weights, lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

        def misfit() -> torch.Tensor:
            # Most strains are small, as a body's are most of the time.
            size = strain * torch.rand(512, 1, 1, generator=generator) ** 2
            f = torch.eye(3) + size * torch.randn(512, 3, 3, generator=generator)
            f = f[torch.linalg.det(f) > 0.1].to(self.stress_scale_pa)
            wanted = elastic_stress(law, f, scale.to(f), lam.to(f))
            gap = self.stress(f, wanted) - wanted
            return gap.square().mean() / wanted.square().mean()

        for _ in range(steps):
            optimiser.zero_grad()
            loss = misfit()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            return float(misfit().sqrt())

    def hook(self) -> ModuleHook:
        """This network for `MpmSolver`'s plain engine."""
        return ModuleHook(self)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Weights and configuration, all float32.

        Returns:
            Arrays by name; every name starts with ``black_box.``.
        """
        weights = {
            f"{PREFIX}{name}": value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.state_dict().items()
        }
        return weights | write_config(asdict(self.config), PREFIX)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> BlackBoxStress:
        """The inverse of `to_arrays`; names without the prefix are left alone.

        Args:
            arrays: arrays by name.

        Returns:
            The network, on the CPU.

        Raises:
            DataError: if one is missing, misshapen, unknown or not finite.
        """
        made = cls(read_config(BlackBoxConfig, arrays, PREFIX), stress_scale_pa=1.0, seed=0)
        read_weights(made, arrays, PREFIX)
        check_stress_scale(float(made.stress_scale_pa))
        return made
