"""Scripted interactions: what the grippers do to the soft body, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from physgym.cell.soft_config import INTERACTIONS, SoftCellConfig
from physgym.errors import DataError

__all__ = ["GripperMotion", "park_position", "scripted_motion"]

_HOVER_M = 0.09  # a gripper starts this far above where it grips
_TIP_M = 0.012  # lowest jaw centre: the fingertips, 1 cm below it, stay above the table
_SHORTEST_S = 1.0  # a shorter script would throw the body


@dataclass(frozen=True)
class GripperMotion:
    """Keyframes of every gripper, joined by smootherstep: at rest at each of them.

    Attributes:
        time_s: keyframe times, increasing from 0, shape (T,).
        position_m: jaw centres, shape (T, G, 3).
        yaw_rad: turn of the gripper about the vertical; jaws close along y at 0, shape (T, G).
        closed: whether the jaws hold from this keyframe on, bool, shape (T, G).
        solid: whether the closed fingers push what they touch, bool, shape (T, G).
    """

    time_s: np.ndarray
    position_m: np.ndarray
    yaw_rad: np.ndarray
    closed: np.ndarray
    solid: np.ndarray

    @property
    def duration_s(self) -> float:
        """Time of the last keyframe [s]."""
        return float(self.time_s[-1])

    def at(self, time_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The grippers at one moment.

        Args:
            time_s: since the start; held after the last keyframe.

        Returns:
            Position [m], shape (G, 3); yaw [rad], closed and solid, shape (G,) each.
        """
        last = len(self.time_s) - 1
        index = int(np.clip(np.searchsorted(self.time_s, time_s + 1e-9, side="right") - 1, 0, last))
        after = min(index + 1, last)
        span = self.time_s[after] - self.time_s[index]
        s = 0.0 if span <= 0 else float(np.clip((time_s - self.time_s[index]) / span, 0, 1))
        blend = s**3 * (s * (6 * s - 15) + 10)  # Perlin 2002: speed and acceleration end at zero
        position = self.position_m[index] + blend * (
            self.position_m[after] - self.position_m[index]
        )
        yaw = self.yaw_rad[index] + blend * (self.yaw_rad[after] - self.yaw_rad[index])
        return position, yaw, self.closed[index], self.solid[index]


def park_position(gripper: int) -> np.ndarray:
    """Where a gripper waits out of the way.

    Args:
        gripper: its index.

    Returns:
        Jaw centre [m], shape (3,).
    """
    return np.array([0.0, 0.42 if gripper == 0 else -0.42, 0.45])


def scripted_motion(
    interaction: str,
    config: SoftCellConfig,
    vertices: np.ndarray,
    *,
    duration_s: float,
    seed: int = 0,
) -> GripperMotion:
    """Write the script of an interaction for a body as it lies.

    The first tenth approaches, the last tenth holds still. The seed moves the grip by up to a
    centimetre and changes how far and where to the body is moved.

    Args:
        interaction: one of `INTERACTIONS`.
        config: the cell.
        vertices: of the body now, shape (N, 3) [m].
        duration_s: length of the script.
        seed: the same seed gives the same script.

    Returns:
        The script.

    Raises:
        DataError: if the interaction is unknown, too short, or needs a second gripper.
    """
    if interaction not in INTERACTIONS:
        raise _bad(f"interaction {interaction!r}", f"one of {', '.join(INTERACTIONS)}")
    if not _SHORTEST_S <= duration_s <= 120:
        raise _bad(f"a duration of {duration_s} s", f"from {_SHORTEST_S} to 120 s")
    if interaction == "stretch" and config.gripper_count < 2:
        raise _bad("one gripper", "two: the other end of a stretched body must be held")
    script = _Script(config, vertices, np.random.default_rng([seed, 7]))
    return getattr(script, interaction)().motion(duration_s)


class _Script:
    """Keyframes in the making; times are fractions of the duration."""

    def __init__(
        self, config: SoftCellConfig, vertices: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.config, self.vertices, self.rng = config, vertices, rng
        self.low, self.high = vertices.min(axis=0), vertices.max(axis=0)
        self.centre = 0.5 * (self.low + self.high)
        self.thin = config.kind in ("rope", "cloth")
        count = config.gripper_count
        self.position = np.stack([park_position(k) for k in range(count)])
        self.yaw = np.zeros(count)
        self.closed, self.solid = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self.frames: list[tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def motion(self, duration_s: float) -> GripperMotion:
        self._key(1.0)
        time, position, yaw, closed, solid = (np.array(column) for column in zip(*self.frames))
        return GripperMotion(time * duration_s, position, yaw, closed, solid)

    def lift(self) -> _Script:
        self._grip({0: self._top()})
        sway = self.rng.uniform(-0.03, 0.03, 2)
        up = self.rng.uniform(0.10, 0.12) if not self.thin else self.rng.uniform(0.17, 0.21)
        self._move(0.55, {0: [0, 0, up]})
        self._move(0.75, {0: [*sway, 0.0]})
        self._move(0.9, {0: [*-sway, 0.0]})
        return self

    def stretch(self) -> _Script:
        a, b = self._ends()
        across = (b - a)[:2] / np.linalg.norm((b - a)[:2])
        # The jaws close across the pull.
        self.yaw[:] = np.arctan2(across[1], across[0])
        self._grip({0: a, 1: b})
        up = self.rng.uniform(0.06, 0.08)
        self._move(0.4, {0: [0, 0, up], 1: [0, 0, up]})
        distance = float(np.linalg.norm((b - a)[:2]))
        strain = {"rope": 0.97 * self.config.size[0] / distance - 1, "cloth": 0.04}.get(
            self.config.kind, self.rng.uniform(0.15, 0.22)
        )
        pull = 0.5 * max(strain, 0.02) * distance * np.array([*across, 0.0])
        self._move(0.65, {0: -pull, 1: pull})
        self._move(0.9, {0: 0.7 * pull, 1: -0.7 * pull})
        return self

    def push(self) -> _Script:
        if self.config.kind == "cloth":  # a sheet is pinched at its rim and shoved inwards
            rim = self._nearest([self.low[0], self.centre[1], 0.0])
            self._grip({0: rim})
            self._move(0.85, {0: [self.rng.uniform(0.08, 0.11), 0, 0.004]})
            return self
        sideways = self.config.kind == "rope" or self.rng.random() < 0.5
        axis = 1 if sideways else 0
        height = max(_TIP_M, min(0.035, 0.4 * self.high[2]))
        start = self.centre + self.rng.uniform(-0.012, 0.012, 3)
        if self.thin:
            start = self._nearest(self.centre)
        start[axis] = self._rim(start, axis) - 0.035
        start[2] = height
        way = np.zeros(3)
        way[axis] = self.rng.uniform(0.10, 0.13)
        self.yaw[0] = 0.5 * np.pi * axis
        self._approach({0: start}, closed=False, solid=True)
        self._move(0.8, {0: way})
        self._move(0.9, {0: -0.3 * way})
        return self

    def squeeze(self) -> _Script:
        if self.thin:
            return self._bring_together()
        depth = self.rng.uniform(0.22, 0.30)
        if self.config.gripper_count < 2:  # pressed against the table
            top = self._top()
            top[2] = self.high[2] + 0.015
            self._approach({0: top}, closed=False, solid=True)
            press = 0.005 + depth * (self.high[2] - self.low[2])
            self._move(0.55, {0: [0, 0, -press]})
            self._move(0.9, {0: [0, 0, press]})
            return self
        starts: dict[int, np.ndarray] = {}
        moves: dict[int, np.ndarray] = {}
        middle = self.centre + np.append(self.rng.uniform(-0.008, 0.008, 2), 0.0)
        for gripper, sign in ((0, 1.0), (1, -1.0)):
            start = middle.copy()
            start[1] = (self.high[1] if sign > 0 else self.low[1]) + sign * 0.035
            start[2] = max(_TIP_M, min(0.035, 0.4 * self.high[2]))
            starts[gripper] = start
            inwards = 0.023 + 0.5 * depth * (self.high[1] - self.low[1])
            moves[gripper] = np.array([0, -sign * inwards, 0])
        self._approach(starts, closed=False, solid=True)
        self._move(0.55, moves)
        self._move(0.65, {})
        self._move(0.9, {k: -move for k, move in moves.items()})
        return self

    def fold(self) -> _Script:
        if self.config.kind == "cloth":
            near = [self.low[0], self.low[1], 0.0], [self.low[0], self.high[1], 0.0]
            far = [self.high[0], self.low[1], 0.0], [self.high[0], self.high[1], 0.0]
            if self.config.gripper_count == 2:
                grips = {0: self._nearest(near[1]), 1: self._nearest(near[0])}
                goals = {0: self._nearest(far[1]), 1: self._nearest(far[0])}
            else:
                grips, goals = {0: self._nearest(near[0])}, {0: self._nearest(far[1])}
            reach = self.rng.uniform(0.8, 0.95)
        elif self.config.kind == "rope":
            grips, goals = {0: self.vertices[0].copy()}, {0: self.vertices[-1] + [0, 0.05, 0]}
            reach = self.rng.uniform(0.75, 0.9)
        else:  # a solid is bent over by its top
            top = self._top()
            # About as far as a column turning at its foot would take it: farther crushes it.
            over = min(0.06, 0.6 * top[2]) * self.rng.uniform(0.85, 1.0)
            grips, goals = {0: top}, {0: top + np.array([over, 0, -0.25 * over**2 / top[2]])}
            reach = 1.0
        self._grip(grips)
        moves = {k: reach * (goals[k] - grips[k]) for k in grips}
        for step in range(1, 5):  # half a circle, flattened
            part = {
                k: 0.25 * move
                + [0, 0, 0.3 * abs(np.linalg.norm(move[:2])) * _arch(step, self.thin)]
                for k, move in moves.items()
            }
            self._move(0.15 + 0.15 * step, part)
        if self.thin:
            self._open(0.8)
            self._move(0.9, {k: [0, 0, _HOVER_M] for k in moves})
        return self

    def drop(self) -> _Script:
        self._grip({0: self._top()})
        sway = self.rng.uniform(-0.02, 0.02, 2)
        self._move(0.5, {0: [*sway, self.rng.uniform(0.06, 0.09)]})
        self._open(0.55)
        self._move(0.7, {0: [0, 0, _HOVER_M]})
        return self

    def _bring_together(self) -> _Script:
        a, b = self._ends()
        self._grip({0: a, 1: b} if self.config.gripper_count == 2 else {0: a})
        way = 0.2 * (b - a) * self.rng.uniform(0.8, 1.2)
        way[2] = 0.004
        self._move(0.6, {k: way * (1, -1)[k] for k in range(self.config.gripper_count)})
        self._move(0.9, {k: -0.5 * way * (1, -1)[k] for k in range(self.config.gripper_count)})
        return self

    def _top(self) -> np.ndarray:
        """A place to grip from above, a little off the middle."""
        if self.config.kind == "rope":
            index = int(self.rng.uniform(0.3, 0.7) * len(self.vertices))
            return self.vertices[index].copy()
        if self.config.kind == "cloth":
            corner = self.rng.integers(0, 2, 2)
            point = np.where(corner, self.high[:2], self.low[:2])
            return self._nearest([*point, 0.0])
        crown = self.vertices[self.vertices[:, 2] > self.high[2] - 0.025]
        point = crown.mean(axis=0) + np.append(self.rng.uniform(-0.01, 0.01, 2), 0.0)
        point[2] = self.high[2] - 0.018
        return np.asarray(point)

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Two opposite places to grip."""
        if self.config.kind == "rope":
            return self.vertices[0].copy(), self.vertices[-1].copy()
        axis = 1 if self.config.kind == "toy" else 0
        ends = []
        for side in (self.low, self.high):
            tip = self.vertices[np.abs(self.vertices[:, axis] - side[axis]) < 0.012].mean(axis=0)
            ends.append(self._nearest(tip) if self.thin else tip)
        return ends[0], ends[1]

    def _rim(self, start: np.ndarray, axis: int) -> float:
        """Lowest coordinate along an axis of what the finger would meet there."""
        beside = np.abs(self.vertices[:, 1 - axis] - start[1 - axis]) < 0.03
        return float(self.vertices[beside, axis].min())

    def _nearest(self, point: object) -> np.ndarray:
        distance = np.linalg.norm(self.vertices - np.asarray(point, dtype=float), axis=1)
        return self.vertices[np.argmin(distance)].copy()

    def _grip(self, points: dict[int, np.ndarray]) -> None:
        self._approach(points, closed=True, solid=False)

    def _approach(self, points: dict[int, np.ndarray], *, closed: bool, solid: bool) -> None:
        for gripper, point in points.items():
            self.position[gripper] = point
            self.position[gripper, 2] = max(_TIP_M, point[2])
            self.position[gripper, 2] += _HOVER_M
            self.solid[gripper] = solid
        self._key(0.0)
        for gripper in points:
            self.position[gripper, 2] -= _HOVER_M
        self._key(0.1)
        for gripper in points:
            self.closed[gripper] = closed
        self._key(0.13)

    def _move(self, until: float, shifts: Mapping[int, ArrayLike]) -> None:
        for gripper, shift in shifts.items():
            self.position[gripper] += np.asarray(shift, dtype=float)
            self.position[gripper, 2] = max(_TIP_M, self.position[gripper, 2])
        self._key(until)

    def _open(self, at: float) -> None:
        self.closed[:] = False
        self._key(at)

    def _key(self, at: float) -> None:
        self.frames.append(
            (at, self.position.copy(), self.yaw.copy(), self.closed.copy(), self.solid.copy())
        )


def _arch(step: int, thin: bool) -> float:
    """Rise of each quarter of the way: up, up, down, down; a solid's top only goes over."""
    return (1.0, 0.5, -0.5, -0.8)[step - 1] if thin else 0.0


def _bad(what: str, expected: str) -> DataError:
    return DataError(
        f"cannot script {what}",
        where="scripted_motion",
        expected=expected,
        fix="change the interaction, its duration or SoftCellConfig.gripper_count",
    )
