"""HeterogeneityField: smooth, bounded variation of stiffness over a body's rest shape.

MoSA (2026), Sec. 3.1 and Eq. 15: one global parameter times ``1 + h(X)``, with h kept near a zero
mean and a small variance. Shapes: P particles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from physgym.errors import DataError
from physgym.sim.mpm.adapter_arrays import read_config, read_weights, write_config

__all__ = ["HeterogeneityConfig", "HeterogeneityField", "HeterogeneityPenalty"]

PREFIX = "heterogeneity."


@dataclass(frozen=True)
class HeterogeneityConfig:
    """What the field is made of.

    Attributes:
        bound: h_max, the largest relative change, in (0, 1).
        hidden: width of the two hidden layers.
        octaves: sine pairs of each coordinate; the finest wave is ``2^(2 - octaves)`` box lengths.
    """

    bound: float = 0.5
    hidden: int = 64
    octaves: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.bound < 1.0 or self.hidden < 1 or self.octaves < 0:
            raise DataError(
                f"bound {self.bound}, hidden {self.hidden}, octaves {self.octaves}",
                where="HeterogeneityConfig",
                expected="a bound in (0, 1), a width of at least 1, no negative number of octaves",
                fix="a bound of 1 allows matter without stiffness",
            )


class HeterogeneityPenalty(NamedTuple):
    """The two terms of MoSA, Eq. 15.

    Attributes:
        mean_squared: of h, squared; keeps the global parameter the body's mean.
        variance: of h over particles.
    """

    mean_squared: torch.Tensor
    variance: torch.Tensor


class HeterogeneityField(torch.nn.Module):
    """``1 + h(X)`` with ``h = h_max tanh(net(X))``; exactly 1 everywhere at the start.

    Args:
        low_m: lower corner of the body's box at rest [m], shape (3,).
        high_m: upper corner [m], shape (3,).
        config: what it is made of.
        seed: of the hidden layers; the output layer starts at zero.
    """

    def __init__(
        self,
        low_m: np.ndarray,
        high_m: np.ndarray,
        config: HeterogeneityConfig = HeterogeneityConfig(),
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.low_m: torch.Tensor
        self.high_m: torch.Tensor
        for name, value in (("low_m", low_m), ("high_m", high_m)):
            self.register_buffer(name, torch.tensor(np.asarray(value), dtype=torch.float32))
        self._check_box()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = torch.nn.Sequential(
                torch.nn.Linear(3 + 6 * config.octaves, config.hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(config.hidden, config.hidden),
                torch.nn.SiLU(),
            )
        self.head = torch.nn.Linear(config.hidden, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def around(
        cls,
        rest_position: np.ndarray,
        config: HeterogeneityConfig = HeterogeneityConfig(),
        *,
        seed: int = 0,
    ) -> HeterogeneityField:
        """A field in the box of some particles.

        Args:
            rest_position: [m], shape (P, 3).
            config: what it is made of.
            seed: of the hidden layers.

        Returns:
            The field.
        """
        return cls(rest_position.min(axis=0), rest_position.max(axis=0), config, seed=seed)

    def forward(self, rest_position: torch.Tensor) -> torch.Tensor:
        """h, in (-h_max, h_max).

        Args:
            rest_position: [m], shape (P, 3).

        Returns:
            Shape (P,).
        """
        return self.config.bound * torch.tanh(self.head(self.features(rest_position))[:, 0])

    def features(self, rest_position: torch.Tensor) -> torch.Tensor:
        """What the last layer sums up.

        Args:
            rest_position: [m], shape (P, 3).

        Returns:
            Shape (P, hidden).
        """
        middle, half = 0.5 * (self.low_m + self.high_m), 0.5 * (self.high_m - self.low_m)
        x = (rest_position.to(middle) - middle) / half.clamp(min=1e-6)  # a sheet has a flat box
        waves = [x]
        for octave in range(self.config.octaves):
            angle = 0.5 * math.pi * 2**octave * x
            waves += [torch.sin(angle), torch.cos(angle)]
        made: torch.Tensor = self.net(torch.cat(waves, dim=-1))
        return made

    def factors(self, rest_position: torch.Tensor) -> torch.Tensor:
        """What `MpmParameters.heterogeneity` takes.

        Args:
            rest_position: [m], shape (P, 3).

        Returns:
            ``1 + h``, shape (1, P).
        """
        return 1.0 + self(rest_position)[None]

    def regulariser(self, rest_position: torch.Tensor) -> HeterogeneityPenalty:
        """What keeps the field small and unbiased; weigh and add both terms to the loss.

        Args:
            rest_position: [m], shape (P, 3).

        Returns:
            Both terms, scalars.
        """
        h = self(rest_position)
        return HeterogeneityPenalty(h.mean() ** 2, h.var(correction=0))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Weights, box and configuration, all float32.

        Returns:
            Arrays by name; every name starts with ``heterogeneity.``.
        """
        weights = {
            f"{PREFIX}{name}": value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.state_dict().items()
        }
        return weights | write_config(asdict(self.config), PREFIX)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> HeterogeneityField:
        """The inverse of `to_arrays`; names without the prefix are left alone.

        Args:
            arrays: arrays by name.

        Returns:
            The field, on the CPU.

        Raises:
            DataError: if one is missing, misshapen, unknown or not finite.
        """
        made = cls(np.zeros(3), np.ones(3), read_config(HeterogeneityConfig, arrays, PREFIX))
        read_weights(made, arrays, PREFIX)
        made._check_box()
        return made

    def _check_box(self) -> None:
        low, high = self.low_m, self.high_m
        fits = low.shape == (3,) and high.shape == (3,)
        if not fits or not bool((high >= low).all() and torch.isfinite(high - low).all()):
            raise DataError(
                f"a box from {low.tolist()} to {high.tolist()}",
                where="HeterogeneityField",
                expected="two finite corners, the lower one first",
                fix="pass the smallest and the largest rest coordinates",
            )
