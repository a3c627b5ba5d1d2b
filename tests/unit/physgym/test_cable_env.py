"""CableShape-v0: the checkers, reachable goals, limits, and episodes that end for a reason."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from physgym.cell import CellConfig
from physgym.cell.truth import true_twin
from physgym.envs import CABLE_SHAPE
from physgym.envs.tasks.cable import CableShapeEnv, hanging_shape, resample
from physgym.errors import BlowUpError, DataError
from physgym.limits import GripperLimits, limit_velocity
from physgym.twin import Twin


@pytest.fixture(scope="module")
def twin() -> Twin:
    return true_twin(CellConfig())


@pytest.fixture(scope="module")
def env(twin: Twin) -> CableShapeEnv:
    return CableShapeEnv(twin, render_mode="rgb_array")


def test_checkers_are_content(twin: Twin) -> None:
    env = gymnasium.make(CABLE_SHAPE, twin=twin, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(env.unwrapped)
        check_env_sb3(env.unwrapped)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 200


def test_twin_comes_from_a_folder_or_the_package(twin: Twin, tmp_path) -> None:
    env = gymnasium.make(CABLE_SHAPE, twin=str(twin.save(tmp_path / "twin")))
    assert env.unwrapped.world.twin.content_hash() == twin.content_hash()
    observation, info = gymnasium.make(CABLE_SHAPE).reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info["distance_m"] > 0.0


def test_same_seed_same_episode(env: CableShapeEnv) -> None:
    runs = []
    for seed in (3, 3, 4):
        observation, _ = env.reset(seed=seed)
        rng = np.random.default_rng(0)
        frames = [observation]
        for _ in range(5):
            frames.append(env.step(rng.uniform(-1, 1, 6).astype(np.float32))[0])
        runs.append(np.stack(frames))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_observation_has_the_documented_order(env: CableShapeEnv) -> None:
    observation, _ = env.reset(seed=1)
    count = env.point_count
    points, grippers, speed, goal = np.split(observation, np.cumsum([3 * count, 6, 6]))
    points, goal = points.reshape(-1, 3), goal.reshape(-1, 3)
    np.testing.assert_array_equal(points[[0, -1]], grippers.reshape(2, 3))
    np.testing.assert_array_equal(speed, 0.0)
    # float32 of metres, one subtraction.
    np.testing.assert_allclose(
        goal[[0, -1]] - points[[0, -1]], (env.goal - env.points)[[0, -1]], atol=1e-6
    )
    env.step(np.array([0.1, 0, 0, 0, 0, -0.1], dtype=np.float32))
    observation = env.step(np.array([0.1, 0, 0, 0, 0, -0.1], dtype=np.float32))[0]
    np.testing.assert_allclose(observation[3 * count + 6 :][:6], [0.1, 0, 0, 0, 0, -0.1], atol=1e-6)


def test_goal_is_reached_by_carrying_the_grippers_there(env: CableShapeEnv) -> None:
    for seed in range(3):
        _, info = env.reset(seed=seed)
        first = info["distance_m"]
        assert not info["is_success"]
        for _ in range(120):
            way = env.goal[[0, -1]] - env.gripper_position
            action = np.clip(2 * way / env.limits.speed_m_s, -1, 1).astype(np.float32).ravel()
            _, reward, done, _, info = env.step(action)
            if done:
                break
        assert info["is_success"], info
        assert info["distance_m"] < env.success_distance_m < 0.25 * first
        assert reward > 0.9  # the bonus of 1 less a distance below 2 % of the length


def test_success_needs_the_cable_to_stay(env: CableShapeEnv) -> None:
    env.reset(seed=0)
    env.reset(seed=0, options={"goal": env.points, "start": env.points})
    still = np.zeros(6, dtype=np.float32)
    flags = []
    for _ in range(5):
        _, _, done, _, info = env.step(still)
        flags.append((done, info["is_success"]))
    assert flags == [(False, False)] * 4 + [(True, True)]


def test_limits_hold_whatever_the_policy_does(env: CableShapeEnv) -> None:
    env.reset(seed=5)
    limits, before = env.limits, env.gripper_velocity
    outward = np.array([1, 1, 1, -1, -1, -1], dtype=np.float32)
    for index in range(60):
        env.step(outward if index < 40 else -outward)
        velocity, position = env.gripper_velocity, env.gripper_position
        # Positions are float32 metres: 2e-6 covers their rounding.
        assert np.linalg.norm(velocity, axis=1).max() <= limits.speed_m_s + 2e-6
        assert (position >= limits.low_m - 2e-6).all()
        assert (position <= limits.high_m + 2e-6).all()
        apart = np.linalg.norm(position[1] - position[0])
        assert limits.gap_m - 3e-6 <= apart <= limits.reach_m + 3e-6
        before = velocity
    assert before.shape == (2, 3)
    assert env.clamps["speed"] > 0
    assert env.clamps["reach"] > 0


def test_random_commands_never_break_a_limit() -> None:
    limits = GripperLimits(
        low_m=np.array([[-0.3, 0.0, 0.4], [-0.3, -0.5, 0.4]]),
        high_m=np.array([[0.3, 0.5, 0.9], [0.3, 0.0, 0.9]]),
        speed_m_s=0.5,
        acceleration_m_s2=2.0,
        reach_m=0.6,
        gap_m=0.1,
    )
    rng = np.random.default_rng(0)
    position = np.tile([[0.0, 0.2, 0.6], [0.0, -0.2, 0.6]], (200, 1, 1))
    previous = np.zeros_like(position)
    totals = dict.fromkeys(("speed", "acceleration", "workspace", "reach"), 0)
    for _ in range(60):
        wanted = rng.normal(0, 1.0, position.shape) + 0.5 * rng.normal(size=(1, 2, 3))
        previous, changed = limit_velocity(limits, position, wanted, dt_s=0.05, previous=previous)
        position = position + 0.05 * previous
        for name in totals:
            totals[name] += int(changed[name].sum())
        assert np.linalg.norm(previous, axis=2).max() <= limits.speed_m_s + 1e-9
        assert (position >= limits.low_m - 1e-9).all()
        assert (position <= limits.high_m + 1e-9).all()
        apart = np.linalg.norm(position[:, 1] - position[:, 0], axis=1)
        # The limiter allows a micrometre of slack per step, and does not let it add up.
        assert apart.max() <= limits.reach_m + 2e-6
        assert apart.min() >= limits.gap_m - 2e-6
    assert min(totals.values()) > 0


def test_a_gripper_outside_may_only_come_back() -> None:
    limits = GripperLimits(
        low_m=np.array([[0.0, 0.0, 0.0]]), high_m=np.array([[1.0, 1.0, 1.0]]),
        speed_m_s=1.0, acceleration_m_s2=100.0, reach_m=1.0,
    )  # fmt: skip
    outside = np.array([[[1.2, 0.5, 0.5]]])
    further, _ = limit_velocity(limits, outside, np.array([[[0.5, 0, 0]]]), dt_s=0.1)
    back, _ = limit_velocity(limits, outside, np.array([[[-0.5, 0, 0]]]), dt_s=0.1)
    np.testing.assert_allclose(further, 0.0, atol=1e-12)
    np.testing.assert_allclose(back, [[[-0.5, 0, 0]]])


def test_a_failure_ends_the_episode_and_says_why(env: CableShapeEnv, monkeypatch) -> None:
    env.reset(seed=0)
    observation, reward, done, truncated, info = env.step(np.full(6, np.nan, dtype=np.float32))
    assert done
    assert not truncated
    assert info["failure"] == "the action is not finite"
    assert reward < -100
    assert env.observation_space.contains(observation)

    env.reset(seed=0)
    step = env.world.solver.step

    def explode(state_in, state_out, driven, dt_s) -> None:
        # The real solver, made to see a node at infinity: it must notice by itself.
        broken = state_in.clone()
        broken.position[0, 5] = 1e30
        step(broken, state_out, driven, dt_s)

    monkeypatch.setattr(env.world.solver, "step", explode)
    observation, _, done, _, info = env.step(np.zeros(6, dtype=np.float32))
    assert done
    assert "blew up" in info["failure"]
    assert env.observation_space.contains(observation)
    with pytest.raises(BlowUpError):
        env.world.step(np.zeros((1, 2, 3)), dt_s=0.05)


def test_picture_shows_cable_and_goal(env: CableShapeEnv) -> None:
    env.reset(seed=2)
    image = env.render()
    assert image.shape == (480, 640, 3)
    assert image.dtype == np.uint8
    red = (image[..., 0] > 180) & (image[..., 1] < 90)
    green = (image[..., 1] > 140) & (image[..., 0] < 90)
    assert red.sum() > 200
    assert green.sum() > 200


def test_bad_goals_and_twins_are_refused(env: CableShapeEnv, twin: Twin) -> None:
    with pytest.raises(DataError, match="goal of shape"):
        env.reset(options={"goal": np.zeros((3, 3))})
    with pytest.raises(DataError, match="not finite"):
        env.reset(options={"start": np.full((13, 3), np.nan)})
    with pytest.raises(DataError, match="two ends are driven"):
        CableShapeEnv(twin.replace(driven_index=np.array([0, 1])))


def test_hanging_shape_keeps_lengths() -> None:
    rest = np.array([[0.0, y, 0.0] for y in (0.0, 0.03, 0.2, 0.4, 0.6, 0.8, 0.97, 1.0)])
    left, right = np.array([0.1, 0.3, 0.7]), np.array([0.1, -0.3, 0.7])
    shape = hanging_shape(rest, left=left, right=right)
    np.testing.assert_array_equal(shape[[0, -1]], [left, right])
    chords = np.linalg.norm(np.diff(shape, axis=0), axis=1)
    arcs = np.linalg.norm(np.diff(rest, axis=0), axis=1)
    assert (chords <= arcs + 1e-12).all()
    # A chord of arc s and curvature k is shorter by k^2 s^3 / 24: with k = 12 / m, s = 0.2 m, 5 cm.
    assert (chords > 0.7 * arcs).all()
    even = resample(shape, np.array([0, 0.03, 0.2, 0.4, 0.6, 0.8, 0.97, 1.0]), 5)
    np.testing.assert_array_equal(even[[0, -1]], [left, right])
    with pytest.raises(DataError, match="apart"):
        hanging_shape(rest, left=left, right=right - np.array([0, 0.5, 0]))
