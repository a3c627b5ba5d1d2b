"""A clock with one time step for recordings whose stamps are uneven.

Cameras stamp unevenly and drop frames; solvers want one time step. So every recorded frame belongs
to the tick nearest to it.
Shapes: T ticks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import DataError

__all__ = ["EvenClock", "even_clock"]

_MOST_TICKS = 50  # for each frame: every tick is simulated, and most of them would tell nothing


@dataclass(frozen=True, eq=False)
class EvenClock:
    """Ticks, and where recorded frames lie on them.

    Attributes:
        dt_s: time between ticks [s].
        ticks: T.
        tick: of each recorded frame, increasing, shape (frames,).
        stamp_s: of each recorded frame, from the first, shape (frames,).
    """

    dt_s: float
    ticks: int
    tick: np.ndarray
    stamp_s: np.ndarray

    @property
    def tick_s(self) -> np.ndarray:
        """Time of every tick from the first frame [s], shape (T,)."""
        return self.dt_s * np.arange(self.ticks)

    def at_ticks(self, values: np.ndarray) -> np.ndarray:
        """Values of recorded frames, between them on straight lines, shape (T, ...)."""
        flat = np.asarray(values, np.float64).reshape(len(self.stamp_s), -1)
        made = [np.interp(self.tick_s, self.stamp_s, column) for column in flat.T]
        return np.stack(made, axis=1).reshape(self.ticks, *np.shape(values)[1:])

    def at_stamps(self, values: np.ndarray) -> np.ndarray:
        """Values of ticks at the recorded frames, shape (frames, ...)."""
        where = np.clip(self.stamp_s / self.dt_s, 0.0, self.ticks - 1)
        low = np.minimum(where.astype(int), max(self.ticks - 2, 0))
        share = (where - low).reshape(-1, *[1] * (np.ndim(values) - 1))
        high = np.minimum(low + 1, self.ticks - 1)
        return np.asarray(values[low] + share * (values[high] - values[low]))


def even_clock(time_s: np.ndarray) -> EvenClock:
    """A clock at the usual distance of the stamps.

    Args:
        time_s: [s], increasing, shape (frames,).

    Returns:
        The clock; its first tick is the first frame.

    Raises:
        DataError: if there are fewer than three frames, or pauses without frames are nearly all of
            the time.
    """
    if len(time_s) < 3:
        raise DataError(
            f"{len(time_s)} frames",
            where="episode",
            expected="at least three that are in time",
            fix="record longer; physgym check shows what each camera recorded",
        )
    stamp = np.asarray(time_s, np.float64) - time_s[0]
    usual = float(np.median(np.diff(stamp)))
    # Stretched a little so that the last frame is a tick: the mean rate is truer than the median.
    ticks = max(3, round(stamp[-1] / usual) + 1)
    if ticks > _MOST_TICKS * len(stamp):
        pause = int(np.diff(stamp).argmax())
        raise DataError(
            f"no frame for {stamp[pause + 1] - stamp[pause]:.4g} s after frame {pause}",
            where="episode: stamps",
            expected=f"frames in one of {_MOST_TICKS} instants or more, {usual:.3g} s apart",
            fix="cut the recording there, or correct the stamps",
        )
    dt = float(stamp[-1]) / (ticks - 1)
    return EvenClock(dt, ticks, np.round(stamp / dt).astype(int), stamp)
