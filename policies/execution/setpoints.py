"""From joint trajectories to set points: interpolation, limits, and the watchdog.

Shapes: P points of a trajectory, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from physgym.errors import DataError

__all__ = ["JointPath", "Mode", "SetpointTracker", "sample"]

Mode = Literal["hold", "track", "ramp"]

_SPEED_SLACK = 1.02
"""Accepted average speed over the limit: stamps are whole nanoseconds, set points are sampled."""


@dataclass(frozen=True)
class JointPath:
    """A checked joint trajectory.

    Attributes:
        names: joint names, J of them.
        time_s: time from the start of the path [s], shape (P,), strictly increasing, first >= 0.
        position: [m] or [rad], shape (P, J), finite.
        velocity: [m/s] or [rad/s], shape (P, J), finite; None means straight lines between points.
    """

    names: tuple[str, ...]
    time_s: np.ndarray
    position: np.ndarray
    velocity: np.ndarray | None = None

    def __post_init__(self) -> None:
        points, joints = len(self.time_s), len(self.names)
        if points == 0:
            raise DataError(
                "trajectory has no points",
                where="points",
                expected="at least one point",
                fix="to stop, send the present position with zero velocity",
            )
        _check_times(self.time_s)
        _check_table("positions", self.position, (points, joints), self.names)
        if self.velocity is not None:
            _check_table("velocities", self.velocity, (points, joints), self.names)


def _check_times(time_s: np.ndarray) -> None:
    if not np.isfinite(time_s).all() or time_s[0] < 0.0:
        raise DataError(
            f"time_from_start of point 0 is {time_s[0]:g} s",
            where="points[0].time_from_start",
            expected="finite times, none negative",
        )
    late = np.flatnonzero(np.diff(time_s) <= 0.0)
    if late.size:
        index = int(late[0]) + 1
        raise DataError(
            f"time_from_start does not increase: {time_s[index - 1]:g} s, then {time_s[index]:g} s",
            where=f"points[{index}].time_from_start",
            expected="strictly increasing times",
        )


def _check_table(
    field: str, table: np.ndarray, shape: tuple[int, int], names: tuple[str, ...]
) -> None:
    if table.shape != shape:
        raise DataError(
            f"{field} have shape {table.shape}", where=field, expected=f"(points, joints) = {shape}"
        )
    bad = np.argwhere(~np.isfinite(table))
    if bad.size:
        point, joint = (int(index) for index in bad[0])
        raise DataError(
            f"{field} hold {table[point, joint]} for joint {names[joint]!r}",
            where=f"points[{point}].{field}[{joint}]",
            expected="finite numbers",
        )


class SetpointTracker:
    """Turns the newest trajectory into set points, and stops when the stream goes quiet.

    Modes: ``hold`` (at rest where it is), ``track`` (following a trajectory), ``ramp`` (slowing
    down to rest because the stream went quiet or the trajectory ended in motion). A trajectory that
    has ended at rest is ``hold``: silence is no fault then.

    Args:
        position: where the joints are, shape (J,).
        names: joint names, J of them; trajectories must be in this order.
        limits: lowest and highest position, shape (J, 2).
        velocity_limit: largest speed of each joint, shape (J,).
        timeout_s: a trajectory is given up when no new one came for this long; 0 switches it off.
        ramp_s: time from full motion to rest.
    """

    def __init__(
        self,
        position: np.ndarray,
        *,
        names: tuple[str, ...],
        limits: np.ndarray,
        velocity_limit: np.ndarray,
        timeout_s: float,
        ramp_s: float,
    ) -> None:
        self._names = names
        self._limits = np.asarray(limits, dtype=np.float64)
        self._speed = np.broadcast_to(np.asarray(velocity_limit, np.float64), (len(names),))
        self._timeout_s, self._ramp_s = timeout_s, ramp_s
        self.position = np.array(position, dtype=np.float64)
        self.velocity = np.zeros(len(names))
        self.mode: Mode = "hold"
        self.reason = "no command yet"
        self.clamped = 0
        self._time_s = 0.0
        self._knots: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None
        self._ramp_left_s = 0.0
        self._ramp_speed = np.zeros(len(names))

    def accept(self, path: JointPath, *, start_in_s: float = 0.0) -> None:
        """Replace what is being followed, going on from the present set point and its velocity.

        Args:
            path: joints in this tracker's order.
            start_in_s: when time zero of the path is, from now; negative when it lies in the past,
                and then the part that has passed is left out.

        Raises:
            DataError: if a point is outside the joint limits or needs more than the speed limit;
                what was followed before goes on.
        """
        self._check_limits(path)
        ahead = path.time_s + start_in_s > 0.0
        if not ahead.any():
            raise DataError(
                f"the whole trajectory lies {-(path.time_s[-1] + start_in_s):.3f} s in the past",
                where="header.stamp",
                expected="a stamp of 0 (start now), or one whose last point is still to come",
                fix="check the clocks of the two machines",
            )
        time_s = np.concatenate([[0.0], path.time_s[ahead] + start_in_s])
        position = np.concatenate([self.position[None], path.position[ahead]])
        self._check_speed(time_s, position)
        velocity = None
        if path.velocity is not None:
            velocity = np.concatenate([self.velocity[None], path.velocity[ahead]])
        self._knots = (time_s + self._time_s, position, velocity)
        self.mode, self.reason = "track", "following a trajectory"

    def advance(self, dt_s: float, *, command_age_s: float) -> np.ndarray:
        """The set point one tick on.

        Args:
            dt_s: length of the tick [s].
            command_age_s: age of the newest accepted command [s].

        Returns:
            A copy of the set point, shape (J,), within the limits of position and speed.
        """
        self._time_s += dt_s
        stale = self._timeout_s > 0.0 and command_age_s > self._timeout_s
        if self.mode == "track" and stale:
            self._start_ramp(f"watchdog: no command for {1e3 * command_age_s:.0f} ms")
        if self.mode == "track":
            self._follow(dt_s)
        elif self.mode == "ramp":
            self._ramp(dt_s)
        return self.position.copy()

    def _follow(self, dt_s: float) -> None:
        assert self._knots is not None
        time_s, position, velocity = self._knots
        if self._time_s >= time_s[-1]:
            self._move(position[-1], dt_s)
            moving = velocity is not None and bool(np.any(np.abs(velocity[-1]) > 1e-6))
            if moving:
                assert velocity is not None
                self.velocity = velocity[-1].copy()
                self._start_ramp("the trajectory ended in motion")
            elif np.array_equal(self.position, position[-1]):
                self.velocity = np.zeros_like(self.position)
                self.mode, self.reason = "hold", "the trajectory is done"
            return
        self._move(sample(time_s, position, velocity, self._time_s)[0], dt_s)

    def _move(self, target: np.ndarray, dt_s: float) -> None:
        reach = self._speed * dt_s * _SPEED_SLACK
        wanted = np.clip(target, self.position - reach, self.position + reach)
        wanted = np.clip(wanted, self._limits[:, 0], self._limits[:, 1])
        # A cubic may overshoot between two legal points: it is cut here, and counted.
        self.clamped += int(np.any(np.abs(wanted - target) > 1e-9))
        self.velocity = (wanted - self.position) / dt_s
        self.position = wanted

    def _start_ramp(self, reason: str) -> None:
        self.mode, self.reason = "ramp", reason
        self._knots = None
        self._ramp_left_s = self._ramp_s
        self._ramp_speed = self.velocity.copy()

    def _ramp(self, dt_s: float) -> None:
        self._ramp_left_s = max(0.0, self._ramp_left_s - dt_s)
        self.velocity = self._ramp_speed * (self._ramp_left_s / self._ramp_s)
        self._move(self.position + self.velocity * dt_s, dt_s)
        if self._ramp_left_s == 0.0:
            self.velocity = np.zeros_like(self.position)
            self.mode = "hold"

    def _check_limits(self, path: JointPath) -> None:
        low, high = self._limits[:, 0], self._limits[:, 1]
        # 1e-6: a limit that went through float32 on its way must still be reachable.
        outside = np.argwhere((path.position < low - 1e-6) | (path.position > high + 1e-6))
        if outside.size:
            point, joint = (int(index) for index in outside[0])
            raise DataError(
                f"joint {self._names[joint]!r} is sent to {path.position[point, joint]:.4f}",
                where=f"points[{point}].positions[{joint}]",
                expected=f"{low[joint]:.4f} to {high[joint]:.4f}",
            )
        if path.velocity is None:
            return
        fast = np.argwhere(np.abs(path.velocity) > self._speed * _SPEED_SLACK)
        if fast.size:
            point, joint = (int(index) for index in fast[0])
            raise DataError(
                f"joint {self._names[joint]!r} is sent at {path.velocity[point, joint]:.4f}/s",
                where=f"points[{point}].velocities[{joint}]",
                expected=f"at most {self._speed[joint]:.4f}/s",
            )

    def _check_speed(self, time_s: np.ndarray, position: np.ndarray) -> None:
        # 1e-4: a point that repeats the present set point up to float32 may come at any time.
        step = np.maximum(np.abs(np.diff(position, axis=0)) - 1e-4, 0.0)
        mean = step / np.diff(time_s)[:, None]
        fast = np.argwhere(mean > self._speed * _SPEED_SLACK)
        if fast.size:
            point, joint = (int(index) for index in fast[0])
            raise DataError(
                f"joint {self._names[joint]!r} would have to move at {mean[point, joint]:.3f}/s "
                f"to reach its next point in {np.diff(time_s)[point]:.3f} s",
                where=f"segment {point} of the trajectory, counted from the present set point",
                expected=f"at most {self._speed[joint]:.4f}/s",
                fix="start the trajectory where the joints are, or give it more time",
            )


def sample(
    time_s: np.ndarray, position: np.ndarray, velocity: np.ndarray | None, now_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where a path is: cubic Hermite between points when velocities are given, else straight lines.

    Args:
        time_s: times of the points [s], shape (P,), P at least 2.
        position: shape (P, J).
        velocity: shape (P, J), or None.
        now_s: when; before the first point and after the last, the path stands still there.

    Returns:
        Position and velocity, each of shape (J,).
    """
    rest = np.zeros_like(position[0])
    if now_s <= time_s[0]:
        return position[0].copy(), rest
    if now_s >= time_s[-1]:
        return position[-1].copy(), rest
    index = int(np.clip(np.searchsorted(time_s, now_s, side="right") - 1, 0, len(time_s) - 2))
    span = time_s[index + 1] - time_s[index]
    u = (now_s - time_s[index]) / span
    p0, p1 = position[index], position[index + 1]
    if velocity is None:
        return p0 + u * (p1 - p0), (p1 - p0) / span
    v0, v1 = velocity[index], velocity[index + 1]
    where = (
        (2 * u**3 - 3 * u**2 + 1) * p0
        + (u**3 - 2 * u**2 + u) * span * v0
        + (3 * u**2 - 2 * u**3) * p1
        + (u**3 - u**2) * span * v1
    )
    speed = (
        6 * (u**2 - u) / span * (p0 - p1) + (3 * u**2 - 4 * u + 1) * v0 + (3 * u**2 - 2 * u) * v1
    )
    return where, speed
