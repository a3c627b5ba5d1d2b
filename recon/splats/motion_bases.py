"""MotionBases: how Gaussians are moved, turned and stretched over time, as a few shared motions.

GIC (Cai et al., "GIC: Gaussian-informed continuum for physical property identification and
simulation", 2024): the offset of a place x at time t is ``D(x, t) = 1/B sum_b c_b(x, t) * m_b(t)``,
motions m_b(t) that all share and coefficients c_b(x, t) of each place. Two things differ: motions
count from their value in the first frame, so that offsets are zero there for any weights, and the
quaternion is a turn from rest, not a change of each Gaussian's own.
Shapes: T times, G places, B bases, A attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from physgym.errors import DataError
from physgym.splats.cloud import matrix_from_quat

__all__ = ["MotionBases", "MotionBasesConfig", "Offset"]

_FREE, _ROUND = 10, 4  # attributes: 3 + 4 + 3, or 3 + 1


@dataclass(frozen=True)
class MotionBasesConfig:
    """Sizes of the networks.

    GIC has 10 octaves of place, 6 of time, widths of 256 and 8 layers, for a GPU and 40 000 steps.
    Here they suit a core of a CPU, a thousand steps and some tens of frames.

    Attributes:
        bases: B.
        free: shift, turn and three stretches (10 attributes); else shift and one stretch (4).
        place_octaves: of the sines of a place; the last has the wavelength ``2^(2 - octaves)`` of
            half the body.
        time_octaves: likewise of a time; the wavelength is of the whole recording. A ball that
            bounces is squashed for one or two frames of twenty.
        time_code: numbers that tell coefficients the time.
        width: of every hidden layer.
        layers: of the network of the motions; half of the way its input comes in again.
    """

    bases: int = 10
    free: bool = True
    place_octaves: int = 2
    time_octaves: int = 5
    time_code: int = 16
    width: int = 96
    layers: int = 4

    def __post_init__(self) -> None:
        """Refuse networks that cannot be.

        Raises:
            DataError: naming the numbers.
        """
        least = (self.bases, self.time_code, self.width, self.layers - 1)
        if min(least) < 1 or min(self.place_octaves, self.time_octaves) < 0:
            raise DataError(
                f"bases, time_code, width {least[:3]}, {self.layers} layers, octaves "
                f"{(self.place_octaves, self.time_octaves)}",
                where="MotionBasesConfig",
                expected="at least 1 of each, 2 layers and 0 octaves",
            )

    @property
    def attributes(self) -> int:
        """A."""
        return _FREE if self.free else _ROUND


class Offset(NamedTuple):
    """What happened to the matter around places since the first frame.

    Attributes:
        shift: in lengths of the unit of the places, shape (T, G, 3).
        quat_wxyz: turn, unit, shape (T, G, 4).
        log_stretch: along the axes of the first frame, before the turn, shape (T, G, 3), or (T, G,
            1) where it is the same along all.
    """

    shift: torch.Tensor
    quat_wxyz: torch.Tensor
    log_stretch: torch.Tensor

    def gradient(self) -> torch.Tensor:
        """The deformation gradient ``R diag(s)``, shape (T, G, 3, 3)."""
        turn = matrix_from_quat(self.quat_wxyz)
        return turn * self.log_stretch.exp()[..., None, :]


class MotionBases(torch.nn.Module):
    """Offsets of places over time; none before it is trained.

    Args:
        config: sizes.
        seed: of the weights.
    """

    def __init__(self, config: MotionBasesConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or MotionBasesConfig()
        width, count = config.width, config.bases * config.attributes
        place, time = _waves(3, config.place_octaves), _waves(1, config.time_octaves)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.code = torch.nn.Sequential(
                torch.nn.Linear(time, width),
                torch.nn.ReLU(),
                torch.nn.Linear(width, config.time_code),
            )
            inputs = [time if k == 0 else width for k in range(config.layers)]
            inputs[config.layers // 2] += time
            self.motion = torch.nn.ModuleList(torch.nn.Linear(n, width) for n in inputs)
            self.motion_head = torch.nn.Linear(width, count)
            self.from_place = torch.nn.Linear(place, width)
            self.from_time = torch.nn.Linear(config.time_code, width, bias=False)
            self.hidden = torch.nn.Linear(width, width)
            self.coefficient_head = torch.nn.Linear(width, count)
        # Of a product one factor must not be zero, or neither would ever learn.
        torch.nn.init.zeros_(self.motion_head.weight)
        torch.nn.init.zeros_(self.motion_head.bias)
        # Places begin by moving together: what the bases share is what the whole body does.
        torch.nn.init.ones_(self.coefficient_head.bias)

    def forward(self, place: torch.Tensor, time: torch.Tensor) -> Offset:
        """Offsets since time 0.

        Args:
            place: in the first frame, -1 to 1 over the body, shape (G, 3).
            time: 0 in the first frame, 1 in the last, shape (T,).

        Returns:
            The offsets.
        """
        made = self.attributes(place, time)
        free = self.config.free
        quat = made[..., 3:7] if free else torch.zeros_like(made[..., :1]).expand(*made.shape)
        one = torch.zeros_like(quat)
        one[..., 0] = 1.0
        turn = torch.nn.functional.normalize(quat + one, dim=-1)
        return Offset(made[..., :3], turn, made[..., 7:] if free else made[..., 3:])

    def attributes(self, place: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """``1/B sum_b c_b(x, t) * (m_b(t) - m_b(0))``.

        Args:
            place: as in `forward`.
            time: as in `forward`.

        Returns:
            Shape (T, G, A).
        """
        config = self.config
        waves = _encoded(time[:, None], config.time_octaves)
        still = _encoded(torch.zeros_like(time[:1, None]), config.time_octaves)
        motion = self._motions(torch.cat([still, waves]))
        motion = (motion[1:] - motion[:1]) / config.bases  # (T, B, A)
        # Exactly zero at the start: rows of a matrix product may round differently.
        motion = torch.where(time[:, None, None] == 0.0, 0.0, motion)
        from_place = self.from_place(_encoded(place, config.place_octaves))
        hidden = torch.relu(from_place + self.from_time(self.code(waves))[:, None])
        hidden = torch.relu(self.hidden(hidden))  # (T, G, width)
        # The head's output is summed over bases at once: a hundred numbers a place never exist.
        weight = self.coefficient_head.weight.unflatten(0, (config.bases, config.attributes))
        bias = self.coefficient_head.bias.unflatten(0, (config.bases, config.attributes))
        head = torch.einsum("baw,tba->twa", weight, motion)
        return torch.baddbmm((bias * motion).sum(dim=1)[:, None], hidden, head)

    def _motions(self, waves: torch.Tensor) -> torch.Tensor:
        """m_b(t), shape (T, B, A)."""
        now = waves
        for k, layer in enumerate(self.motion):
            if k == self.config.layers // 2:
                now = torch.cat([now, waves], dim=-1)
            now = torch.relu(layer(now))
        shape = (self.config.bases, self.config.attributes)
        made: torch.Tensor = self.motion_head(now).unflatten(-1, shape)
        return made


def _waves(axes: int, octaves: int) -> int:
    """Numbers that `_encoded` makes."""
    return axes * (1 + 2 * octaves)


def _encoded(values: torch.Tensor, octaves: int) -> torch.Tensor:
    """Values with sines and cosines of ``2^k pi v`` (Mildenhall et al., "NeRF", 2020, eq. 4)."""
    if octaves == 0:
        return values
    scale = torch.pi * 2.0 ** torch.arange(octaves).to(values)
    angle = (values[..., None] * scale).flatten(-2)
    return torch.cat([values, angle.sin(), angle.cos()], dim=-1)
