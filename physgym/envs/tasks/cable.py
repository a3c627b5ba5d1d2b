"""CableShape: bring a cable held by two grippers into a goal shape.

Shapes: N nodes of the twin, P points of the observation.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from PIL import Image, ImageDraw
from scipy.optimize import brentq

from physgym.envs.base import TwinEnv
from physgym.errors import DataError
from physgym.limits import GripperLimits
from physgym.sim.model import State
from physgym.twin import Twin
from physgym.world import World

__all__ = ["CableShapeEnv", "bundled_twin", "cable_limits", "hanging_shape", "resample"]

_SUCCESS_STEPS = 5
_SETTLE_S = 2.0


def bundled_twin() -> Twin:
    """The cable twin that comes with the package.

    Returns:
        The twin.
    """
    with as_file(files("physgym") / "assets" / "twins" / "cable") as folder:
        return Twin.load(folder)


def cable_limits(
    length_m: float,
    *,
    speed_m_s: float = 0.3,
    acceleration_m_s2: float = 3.0,
    height_m: float | None = None,
) -> GripperLimits:
    """Limits for two grippers that share a cable: left on +y, right on -y, above a table at z = 0.

    Args:
        length_m: length of the cable.
        speed_m_s: gripper speed limit.
        acceleration_m_s2: gripper acceleration limit.
        height_m: middle of the workspace above the table; 0.75 cable lengths when absent.

    Returns:
        Limits that keep the cable off the table and never pull it straight.
    """
    height = 0.75 * length_m if height_m is None else height_m
    reach, up = 0.35 * length_m, 0.2 * length_m
    near, far = 0.05 * length_m, 0.6 * length_m
    return GripperLimits(
        low_m=np.array([[-reach, near, height - up], [-reach, -far, height - up]]),
        high_m=np.array([[reach, far, height + up], [reach, -near, height + up]]),
        speed_m_s=speed_m_s,
        acceleration_m_s2=acceleration_m_s2,
        reach_m=0.93 * length_m,
        gap_m=0.2 * length_m,
    )


class CableShapeEnv(TwinEnv):
    """Two grippers, a cable twin, a goal shape that some gripper motion reaches.

    Action, float32 in [-1, 1], shape (6,): velocity x, y, z of the left, then of the right gripper,
    in units of the speed limit.

    Observation, float32, flat, of length 3 P + 12 + 3 P, all in metres from the middle of the
    workspace except the velocities:

    1. P points along the cable from the left end to the right, evenly spaced at rest;
    2. positions of the left and of the right gripper;
    3. velocities of the left and of the right gripper over the speed limit;
    4. the goal's P points, in the same order.

    Reward per step: minus the mean distance of nodes to the goal over the cable's length, minus a
    hundredth of the mean squared action, plus 1 on the step that succeeds. Success: the mean
    distance has stayed below ``success_distance_m`` for 5 steps; the episode then ends.

    Reset options: ``{"goal": (N, 3)}`` sets the goal, in world coordinates; ``{"start": (N, 3)}``
    sets where the cable is.

    Args:
        twin: a twin, its folder, or nothing for the bundled cable.
        render_mode: ``"rgb_array"`` or nothing.
        dt_s: time that one action lasts.
        point_count: P.
        success_distance_m: mean distance that counts as reached.
        limits: limits of the grippers; `cable_limits` of the twin's length when absent.
        device: where the twin is simulated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's form

    def __init__(
        self,
        twin: Twin | str | Path | None = None,
        *,
        render_mode: str | None = None,
        dt_s: float = 0.05,
        point_count: int = 16,
        success_distance_m: float = 0.02,
        limits: GripperLimits | None = None,
        device: str = "auto",
    ) -> None:
        world = World(bundled_twin() if twin is None else twin, worlds=1, device=device)
        if world.gripper_count != 2 or world.twin.kind != "rope":
            raise DataError(
                f"a {world.twin.kind} in {world.gripper_count} grippers",
                where="CableShapeEnv.twin",
                expected="a rope whose two ends are driven",
                fix="reconstruct a twin from a recording that drives both ends",
            )
        super().__init__(world, limits or cable_limits(world.length_m), dt_s=dt_s)
        self.render_mode = render_mode
        self.point_count, self.success_distance_m = point_count, success_distance_m
        self._centre = 0.5 * (self.limits.low_m.min(axis=0) + self.limits.high_m.max(axis=0))
        size = 6 * point_count + 12
        bound = np.full(size, 2.0 * world.length_m, dtype=np.float32)
        bound[3 * point_count + 6 : 3 * point_count + 12] = 1.0
        self.observation_space = spaces.Box(-bound, bound, dtype=np.float32)
        self._arc = _arc_length(world.twin.rest_position)
        self._home = self._settled_home()
        self.goal = self.points
        self._held = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: a cable at rest and a goal that is reachable from it.

        Args:
            seed: seeds start and goal.
            options: ``goal`` and ``start``, each (N, 3) in metres.

        Returns:
            Observation and info.

        Raises:
            DataError: if a goal or start has the wrong shape or is not finite.
        """
        super().reset(seed=seed)
        options = options or {}
        start = self._excursion(self._home, duration_s=1.0)
        if "start" in options:
            shape = self._checked_shape("start", options["start"])
            start = self.world.state_from(shape)
        if "goal" in options:
            goal = self._checked_shape("goal", options["goal"])
        else:
            state = self._excursion(self._home, duration_s=1.5)
            goal = np.asarray(state.position[0].cpu(), dtype=np.float64)
        self.restart(start)
        self.goal, self._held = goal, 0
        return self._observation(), self._info("")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the grippers for one control interval.

        Args:
            action: see the class, shape (6,).

        Returns:
            Observation, reward, terminated, truncated (always false: a wrapper counts time), info.
        """
        failure = self.move(action)
        if failure:
            # As bad as standing a cable length away for the rest of a default episode.
            return self._observation(), -200.0, True, False, self._info(failure)
        distance = self.distance_m
        self._held = self._held + 1 if distance < self.success_distance_m else 0
        effort = float(np.mean(np.square(np.clip(action, -1.0, 1.0))))
        done = self._held >= _SUCCESS_STEPS
        reward = -distance / self.world.length_m - 0.01 * effort + float(done)
        return self._observation(), reward, done, False, self._info("")

    @property
    def distance_m(self) -> float:
        """Mean distance of the nodes to their goals [m]."""
        return float(np.linalg.norm(self.points - self.goal, axis=1).mean())

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """A picture of cable (red), grippers (dark) and goal (green), from the front and above.

        Returns:
            RGB image, uint8, shape (480, 640, 3), or nothing without ``render_mode``.
        """
        if self.render_mode != "rgb_array":
            return None
        image = Image.new("RGB", (640, 480), (245, 246, 248))
        draw = ImageDraw.Draw(image)
        scale = 300.0 / self.world.length_m
        # Front view looks along -x (left is +y); the view from above has x going up.
        for title, up_axis, middle in (("front", 2, 150.0), ("top", 0, 400.0)):
            draw.text((8, middle - 140.0 if up_axis == 2 else middle - 75.0), title, (90, 90, 90))

            def pixels(points: np.ndarray, up: int = up_axis, y: float = middle) -> list[tuple]:
                local = points - self._centre
                return [(320.0 - scale * p[1], y - scale * p[up]) for p in local]

            draw.line(pixels(self.goal), fill=(60, 170, 90), width=3)
            draw.line(pixels(self.points), fill=(205, 60, 40), width=4)
            for x, y in pixels(self.gripper_position):
                draw.rectangle((x - 6, y - 6, x + 6, y + 6), fill=(40, 48, 60))
        return np.asarray(image, dtype=np.uint8)

    def _settled_home(self) -> State:
        middle = 0.5 * (self.limits.low_m + self.limits.high_m)
        half = 0.3 * self.world.length_m
        left, right = middle[0].copy(), middle[1].copy()
        left[:2], right[:2] = (0.0, half), (0.0, -half)
        shape = hanging_shape(self.world.twin.rest_position, left=left, right=right)
        return self.settled(self.world.state_from(shape), duration_s=2 * _SETTLE_S)

    def _excursion(self, state: State, *, duration_s: float) -> State:
        """A settled state some random smooth gripper motion away."""
        steps = round(duration_s / self.dt_s)
        shared, own = self.np_random.uniform(-1, 1, (1, 3)), self.np_random.uniform(-1, 1, (2, 3))
        direction = self.limits.speed_m_s * (0.5 * shared + 0.7 * own)
        # Half a sine: smooth at both ends, so the cable is left with little swing.
        envelope = np.sin(np.pi * (np.arange(steps) + 0.5) / steps)
        motion = envelope[:, None, None] * direction
        return self.settled(self.reached(state, motion), duration_s=_SETTLE_S)

    def _observation(self) -> np.ndarray:
        parts = (
            resample(self.points, self._arc, self.point_count) - self._centre,
            self.gripper_position - self._centre,
            self.gripper_velocity / self.limits.speed_m_s,
            resample(self.goal, self._arc, self.point_count) - self._centre,
        )
        flat = np.concatenate([part.ravel() for part in parts]).astype(np.float32)
        space = cast(spaces.Box, self.observation_space)
        return np.clip(flat, space.low, space.high)

    def _info(self, failure: str) -> dict[str, Any]:
        return {
            "is_success": self._held >= _SUCCESS_STEPS,
            "distance_m": self.distance_m,
            **self.common_info(failure),
        }

    def _checked_shape(self, what: str, value: Any) -> np.ndarray:
        shape = np.asarray(value, dtype=np.float64)
        expected = (self.world.node_count, 3)
        if shape.shape != expected or not np.isfinite(shape).all():
            raise DataError(
                f"{what} of shape {shape.shape}"
                + ("" if np.isfinite(shape).all() else " with numbers that are not finite"),
                where=f'reset(options={{"{what}": ...}})',
                expected=f"{expected}, metres, in the order of the twin's nodes",
            )
        return shape


def resample(points: np.ndarray, arc_length_m: np.ndarray, count: int) -> np.ndarray:
    """Points at even arc lengths along a polyline.

    Args:
        points: nodes [m], shape (N, 3).
        arc_length_m: arc length of each node at rest, shape (N,).
        count: how many points, P.

    Returns:
        Points [m], shape (P, 3); both ends are kept.
    """
    wanted = np.linspace(0.0, arc_length_m[-1], count)
    return np.stack([np.interp(wanted, arc_length_m, column) for column in points.T], axis=1)


def hanging_shape(rest_position: np.ndarray, *, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A first guess of a cable at rest between two grippers at equal height: a catenary.

    The first and last edges, which the grippers hold, lie on the line between the grippers.

    Args:
        rest_position: nodes at rest [m], shape (N, 3).
        left: where the first node is [m], shape (3,).
        right: where the last node is [m], shape (3,).

    Returns:
        Nodes [m], shape (N, 3).

    Raises:
        DataError: if the grippers are further apart than the cable is long.
    """
    arc = _arc_length(rest_position)
    clamp_left, clamp_right = arc[1], arc[-1] - arc[-2]
    line = right - left
    span = float(np.linalg.norm(line)) - clamp_left - clamp_right
    free = arc[-1] - clamp_left - clamp_right
    if not 0 < span < 0.999 * free:
        raise DataError(
            f"grippers {np.linalg.norm(line):.3f} m apart",
            where="hanging_shape",
            expected=f"between {clamp_left + clamp_right:.3f} and {arc[-1]:.3f} m of cable",
        )
    along = line / np.linalg.norm(line)
    # Catenary y = a cosh(x / a): its length over a span is 2 a sinh(span / 2 a).
    a = brentq(lambda a: 2 * a * np.sinh(span / (2 * a)) - free, span / 50, 100 * span)
    s = arc[1:-1] - clamp_left - free / 2
    x = a * np.arcsinh(s / a) + span / 2 + clamp_left
    drop = np.sqrt(a**2 + (free / 2) ** 2) - np.sqrt(a**2 + s**2)
    inner = left + x[:, None] * along - drop[:, None] * np.array([0.0, 0.0, 1.0])
    return np.concatenate([left[None], inner, right[None]])


def _arc_length(points: np.ndarray) -> np.ndarray:
    edges = np.linalg.norm(np.diff(points.astype(np.float64), axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(edges)])
