"""CEM: the next mean and spread are those of the best samples.

Rubinstein and Kroese, "The Cross-Entropy Method", 2004, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.limits import GripperLimits
from physgym.world import World
from policies.mpc.planner import Planner, PlannerConfig, bad_field

__all__ = ["Cem", "CemConfig"]


@dataclass(frozen=True)
class CemConfig(PlannerConfig):
    """Settings of CEM.

    Attributes:
        elite_share: share of the samples that the next round is fitted to.
        smallest_noise: floor of the spread over the speed limit, so that it does not collapse.
    """

    iterations: int = 3
    elite_share: float = 0.15
    smallest_noise: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what cannot be planned with.

        Raises:
            DataError: naming the field.
        """
        super().__post_init__()
        if not 0 < self.elite_share <= 0.5:
            raise bad_field(self, "elite_share", "above 0, up to 0.5")
        if not self.smallest_noise > 0:
            raise bad_field(self, "smallest_noise", "above zero")


class Cem(Planner):
    """Cross-entropy method.

    Args:
        world: the twin, in as many worlds as there are samples.
        limits: limits of the grippers.
        config: settings.
    """

    config: CemConfig

    def __init__(
        self, world: World, limits: GripperLimits, config: CemConfig | None = None
    ) -> None:
        super().__init__(world, limits, config or CemConfig())

    def _refine(self, commands: np.ndarray, costs: np.ndarray) -> None:
        count = max(2, round(self.config.elite_share * len(costs)))
        # A stable sort, so that equal costs fall the same way on every machine.
        elites = commands[np.argsort(costs, kind="stable")[:count]]
        self._mean = elites.mean(axis=0)
        knots = np.einsum("ht,btgx->bhgx", self._knots_of, elites - self._mean)
        floor = self.config.smallest_noise * self.limits.speed_m_s
        self._spread = np.maximum(floor, knots.std(axis=0))
