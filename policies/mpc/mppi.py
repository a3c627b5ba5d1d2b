"""MPPI: the next mean is the cost-weighted average of the samples.

Williams et al., "Information-Theoretic Model Predictive Control", IEEE T-RO 34(6), 2018, eq. 26
(weights ``exp(-(cost - lowest) / temperature)``), with smooth noise and the control cost left to
the effort term of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.limits import GripperLimits
from physgym.world import World
from policies.mpc.planner import Planner, PlannerConfig, bad_field

__all__ = ["Mppi", "MppiConfig"]


@dataclass(frozen=True)
class MppiConfig(PlannerConfig):
    """Settings of MPPI.

    Attributes:
        temperature_m: cost difference that lowers a sample's weight by a factor e; small values
            follow the best sample, large ones average all.
    """

    temperature_m: float = 0.005

    def __post_init__(self) -> None:
        """Refuse what cannot be planned with.

        Raises:
            DataError: naming the field.
        """
        super().__post_init__()
        if not self.temperature_m > 0:
            raise bad_field(self, "temperature_m", "above zero")


class Mppi(Planner):
    """Model-predictive path integral control.

    Args:
        world: the twin, in as many worlds as there are samples.
        limits: limits of the grippers.
        config: settings.
    """

    config: MppiConfig

    def __init__(
        self, world: World, limits: GripperLimits, config: MppiConfig | None = None
    ) -> None:
        super().__init__(world, limits, config or MppiConfig())

    def _refine(self, commands: np.ndarray, costs: np.ndarray) -> None:
        weight = np.exp(-(costs - costs.min()) / self.config.temperature_m)
        self._mean = np.einsum("b,btgx->tgx", weight / weight.sum(), commands)
