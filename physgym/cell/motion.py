"""Scripted gripper motions that excite a cable as a person recording it would."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.cell.config import CellConfig
from physgym.errors import DataError

__all__ = ["Motion", "exciting_motion", "hold_motion"]

_RATE_HZ = 200.0
_RAMP_S = 1.5


@dataclass(frozen=True)
class Motion:
    """Joint positions over time, linear between samples, held after the last.

    Attributes:
        time_s: sample times, increasing from 0, shape (T,).
        joint_position_m: joint positions at those times, shape (T, 6).
    """

    time_s: np.ndarray
    joint_position_m: np.ndarray

    @property
    def duration_s(self) -> float:
        """Time of the last sample [s]."""
        return float(self.time_s[-1])

    def joint_target(self, time_s: float) -> np.ndarray:
        """Where the joints should be.

        Args:
            time_s: time since the start of the motion.

        Returns:
            Joint positions [m], shape (6,).
        """
        return np.array(
            [np.interp(time_s, self.time_s, column) for column in self.joint_position_m.T]
        )


def hold_motion(config: CellConfig) -> Motion:
    """A motion that stays at home.

    Args:
        config: the cell.

    Returns:
        The motion.
    """
    return Motion(np.array([0.0]), config.home[None])


def exciting_motion(
    config: CellConfig, *, seed: int, duration_s: float, speed_m_s: float = 0.4
) -> Motion:
    """A smooth random motion of both grippers, from home at rest to anywhere.

    Centre, distance and direction of the line between the grippers follow sums of sines; the
    tempo is scaled until the mean gripper speed is ``speed_m_s``. The distance stays below 0.93
    cable lengths, so the cable is never pulled straight, and the lowest possible sag stays above
    the table.

    Args:
        config: the cell; its velocity limit bounds the tempo.
        seed: the same seed gives the same motion.
        duration_s: length of the motion.
        speed_m_s: mean gripper speed wanted; recordings of real cables have 0.2 to 0.7.

    Returns:
        The motion, sampled at 200 Hz.

    Raises:
        DataError: if the duration or speed is not positive, or faster than the gantry allows.
    """
    if not (duration_s > 0 and 0 < speed_m_s <= 0.8 * config.velocity_limit_m_s):
        raise DataError(
            f"cannot move for {duration_s} s at {speed_m_s} m/s",
            where="exciting_motion",
            expected=f"a positive time and a mean speed up to "
            f"{0.8 * config.velocity_limit_m_s:.2f} m/s",
            fix="lower speed_m_s or raise CellConfig.velocity_limit_m_s",
        )
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * _RATE_HZ) + 1) / _RATE_HZ
    waves = [_Waves(rng) for _ in range(6)]
    tempo_hz = 0.3
    path = _path(config, waves, time_s, tempo_hz)
    # Speed grows almost in proportion to tempo; a few rounds bring both limits within a percent.
    for _ in range(8):
        velocity = np.gradient(path, time_s, axis=0)
        mean = np.linalg.norm(velocity.reshape(-1, 2, 3), axis=2).mean()
        peak = np.abs(velocity).max()
        scale = min(speed_m_s / mean, 0.95 * config.velocity_limit_m_s / peak)
        if abs(scale - 1) < 0.01:
            break
        tempo_hz *= scale
        path = _path(config, waves, time_s, tempo_hz)
    return Motion(time_s, path)


class _Waves:
    """A sum of three sines in [-1, 1] whose frequencies do not repeat soon."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.frequency = rng.uniform([0.5, 0.9, 1.4], [0.9, 1.4, 2.2])
        self.phase = rng.uniform(0, 2 * np.pi, 3)
        weight = rng.uniform([0.6, 0.3, 0.15], [1.0, 0.6, 0.3])
        self.weight = weight / weight.sum()

    def at(self, cycles: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * self.frequency * cycles[:, None] + self.phase
        return np.asarray(np.sin(angle) @ self.weight)


def _path(
    config: CellConfig, waves: list[_Waves], time_s: np.ndarray, tempo_hz: float
) -> np.ndarray:
    """Joint positions, shape (T, 6), blended from home within the first moments."""
    length = config.length_m
    x, y, z, distance, yaw, pitch = (wave.at(tempo_hz * time_s) for wave in waves)
    half = 0.5 * length * (0.62 + 0.3 * distance)  # distances between 0.32 and 0.92
    yaw, pitch = 0.6 * yaw, 0.4 * pitch
    direction = np.stack(
        [-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)], axis=1
    )
    # Half the cable hangs below the centre at the most, so this height clears the table.
    height = 0.62 * length + 0.1
    centre = np.stack([0.2 * length * x, 0.15 * length * y, height + 0.12 * length * z], axis=1)
    offset = half[:, None] * direction
    path = np.concatenate([centre + offset, centre - offset], axis=1)
    # Smootherstep (Perlin 2002): velocity and acceleration start from zero.
    s = np.clip(time_s / (_RAMP_S / (tempo_hz / 0.3)), 0, 1)[:, None]
    blend = s**3 * (s * (6 * s - 15) + 10)
    low, high = config.joint_limits[:, 0], config.joint_limits[:, 1]
    margin = 0.01
    return np.clip(config.home + blend * (path - config.home), low + margin, high - margin)
