"""Pacer: how many steps are due so that a simulation runs with the clock on the wall."""

from __future__ import annotations

__all__ = ["Pacer"]

# Time that a slow simulation is behind by is forgotten beyond this: it runs slower, not in leaps.
_MOST_OWED_S = 0.1
# Weight of a second of the past in the rate that is shown.
_MEMORY_S = 1.0


class Pacer:
    """Counts the time that is owed.

    Args:
        dt_s: length of one step [s].

    Attributes:
        dt_s: of one step.
        speed: simulated seconds per second that are wanted.
        rate: simulated seconds per second of late.
    """

    def __init__(self, dt_s: float) -> None:
        self.dt_s, self.speed, self.rate = dt_s, 1.0, 0.0
        self._owed_s = 0.0

    def due(self, elapsed_s: float) -> int:
        """Steps to do now.

        Args:
            elapsed_s: since the last call [s].

        Returns:
            How many; what was not done by the next call is dropped, not made up for.
        """
        self._owed_s = min(self._owed_s + elapsed_s * self.speed, _MOST_OWED_S * self.speed)
        return int(self._owed_s / self.dt_s)

    def done(self, steps: int, elapsed_s: float) -> None:
        """Note what was done.

        Args:
            steps: since the last call.
            elapsed_s: since the last call [s].
        """
        self._owed_s = max(0.0, self._owed_s - steps * self.dt_s)
        if elapsed_s > 0:
            keep = max(0.0, 1.0 - elapsed_s / _MEMORY_S)
            self.rate = keep * self.rate + (1.0 - keep) * steps * self.dt_s / elapsed_s

    def rest(self) -> None:
        """Forget what is owed: the simulation is paused."""
        self._owed_s, self.rate = 0.0, 0.0
