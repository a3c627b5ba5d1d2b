"""SafetyFilter: what goes through, what is changed, what is rejected, and the count of each."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.envs.tasks.cable import cable_limits
from physgym.errors import DataError
from policies.safety import SafeCommand, SafetyFilter

DT_S = 0.05
LIMITS = cable_limits(1.0)
HOME = np.array([[0.0, 0.3, 0.75], [0.0, -0.3, 0.75]])


def send(
    guard: SafetyFilter,
    velocity: np.ndarray | None,
    *,
    position: np.ndarray = HOME,
    age_s: float = 0.02,
) -> SafeCommand:
    return guard.filter(
        velocity, gripper_position=position, dt_s=DT_S, stamp_s=10.0 - age_s, now_s=10.0
    )


def test_a_good_command_goes_through_unchanged() -> None:
    guard = SafetyFilter(LIMITS)
    velocity = np.array([[0.05, 0.0, 0.02], [0.0, 0.05, 0.0]])
    sent = send(guard, velocity)
    np.testing.assert_array_equal(sent.velocity, velocity)
    np.testing.assert_allclose(sent.target, HOME + DT_S * velocity)
    assert not sent.held
    assert sent.reasons == ()
    assert guard.passed == 1
    assert not guard.counts


def test_each_limit_is_applied_and_counted() -> None:
    guard = SafetyFilter(LIMITS)
    fast = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert send(guard, fast).reasons == ("speed", "acceleration")
    for _ in range(10):
        sent = send(guard, fast)
    np.testing.assert_allclose(sent.velocity[0], [LIMITS.speed_m_s, 0, 0])
    assert sent.reasons == ("speed",)

    guard.reset()
    edge = HOME.copy()
    edge[0, 2] = LIMITS.high_m[0, 2]
    sent = send(guard, np.array([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]]), position=edge)
    np.testing.assert_allclose(sent.velocity, 0.0, atol=1e-12)
    assert "workspace" in sent.reasons

    guard.reset()
    taut = np.array([[0.0, 0.465, 0.75], [0.0, -0.465, 0.75]])  # reach_m is 0.93 m
    sent = send(guard, np.array([[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]]), position=taut)
    np.testing.assert_allclose(sent.velocity, 0.0, atol=1e-6)
    assert sent.reasons == ("reach",)
    assert guard.counts == {
        "speed": 11,
        "acceleration": guard.counts["acceleration"],
        "workspace": 1,
        "reach": 1,
    }
    assert guard.passed == 0


def test_sliding_along_the_reach_is_allowed() -> None:
    guard = SafetyFilter(LIMITS)
    taut = np.array([[0.0, 0.465, 0.75], [0.0, -0.465, 0.75]])
    sent = send(guard, np.array([[0.1, 0.0, 0.0], [0.1, 0.0, 0.0]]), position=taut)
    np.testing.assert_allclose(sent.velocity, [[0.1, 0, 0], [0.1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("velocity", "age_s", "reason"),
    [
        (np.full((2, 3), np.nan), 0.02, "not finite"),
        (np.array([[np.inf, 0, 0], [0, 0, 0]]), 0.02, "not finite"),
        (np.zeros((2, 3)) + 0.1, 0.5, "stale"),
        (np.zeros((2, 3)) + 0.1, -0.5, "stale"),
        (np.zeros((2, 3)) + 0.1, float("nan"), "stale"),
        (np.zeros(6), 0.02, "shape"),
        (None, 0.02, "no command"),
    ],
)
def test_a_bad_command_brakes_and_then_holds(
    velocity: np.ndarray | None, age_s: float, reason: str
) -> None:
    guard = SafetyFilter(LIMITS)
    cruise = np.array([[0.25, 0.0, 0.0], [0.25, 0.0, 0.0]])
    position = HOME.copy()
    for _ in range(3):
        position = send(guard, cruise, position=position).target
    before = dict(guard.counts)
    sent = send(guard, velocity, position=position, age_s=age_s)
    assert sent.held
    assert sent.reasons == (reason,)
    # Not a jump to zero: a gantry that stops at once would tear at the cable.
    change = np.linalg.norm(sent.velocity - cruise, axis=1)
    np.testing.assert_allclose(change, LIMITS.acceleration_m_s2 * DT_S)
    for _ in range(3):
        sent = send(guard, velocity, position=sent.target, age_s=age_s)
    np.testing.assert_array_equal(sent.velocity, 0.0)
    assert guard.counts[reason] - before.get(reason, 0) == 4


def test_unknown_gripper_position_is_an_error() -> None:
    guard = SafetyFilter(LIMITS)
    with pytest.raises(DataError, match="gripper position"):
        send(guard, np.zeros((2, 3)), position=np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="max_age_s"):
        SafetyFilter(LIMITS, max_age_s=0.0)
