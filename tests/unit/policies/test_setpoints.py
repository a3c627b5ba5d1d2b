"""Set points: interpolation, limits, splicing and the watchdog."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import DataError
from policies.execution.setpoints import JointPath, SetpointTracker

NAMES = ("a", "b")
DT_S = 0.01


def _tracker(*, timeout_s: float = 0.3, ramp_s: float = 0.2) -> SetpointTracker:
    return SetpointTracker(
        np.zeros(2),
        names=NAMES,
        limits=np.array([[-1.0, 1.0], [-1.0, 1.0]]),
        velocity_limit=np.array([0.5, 0.5]),
        timeout_s=timeout_s,
        ramp_s=ramp_s,
    )


def _path(time_s, position, velocity=None) -> JointPath:
    return JointPath(
        NAMES,
        np.asarray(time_s, float),
        np.asarray(position, float),
        None if velocity is None else np.asarray(velocity, float),
    )


def test_a_cubic_with_velocities_follows_a_cubic_exactly():
    # x(t) = 0.3 t^2 - 0.1 t^3 from rest: a cubic Hermite through exact velocities is that cubic.
    time_s = np.array([0.5, 1.0])
    x = 0.3 * time_s**2 - 0.1 * time_s**3
    v = 0.6 * time_s - 0.3 * time_s**2
    tracker = _tracker(timeout_s=0.0)
    tracker.accept(_path(time_s, np.stack([x, -x], 1), np.stack([v, -v], 1)))
    for tick in range(1, 100):
        t = tick * DT_S
        position = tracker.advance(DT_S, command_age_s=t)
        # 1e-12: double rounding only.
        np.testing.assert_allclose(position[0], 0.3 * t**2 - 0.1 * t**3, atol=1e-12)
        assert position[1] == -position[0]
    assert tracker.clamped == 0


def test_positions_only_are_straight_lines_and_end_at_rest():
    tracker = _tracker(timeout_s=0.0)
    tracker.accept(_path([1.0], [[0.2, 0.0]]))
    halfway = [tracker.advance(DT_S, command_age_s=0.0) for _ in range(50)][-1]
    np.testing.assert_allclose(halfway, [0.1, 0.0], atol=1e-12)
    for _ in range(60):
        tracker.advance(DT_S, command_age_s=0.0)
    np.testing.assert_array_equal(tracker.position, [0.2, 0.0])
    assert (tracker.mode, tracker.reason) == ("hold", "the trajectory is done")


def test_a_new_chunk_goes_on_from_the_present_set_point_without_a_jump():
    tracker = _tracker()
    tracker.accept(_path([1.0], [[0.4, 0.0]], [[0.4, 0.0]]))
    track = [tracker.position.copy()]
    for tick in range(60):
        if tick == 30:
            tracker.accept(_path([1.0], [[0.0, 0.3]], [[0.0, 0.0]]))
        track.append(tracker.advance(DT_S, command_age_s=0.0))
    speed = np.diff(np.array(track), axis=0) / DT_S
    # Acceleration of these cubics stays below 6 |x| / T^2 + 4 |v| / T = 4.5 m/s^2; a jump of 1 mm
    # in position alone would show as 10 m/s^2.
    assert np.abs(np.diff(speed, axis=0) / DT_S).max() < 4.5


def test_a_quiet_stream_ramps_to_rest_in_the_stated_time_and_says_why():
    tracker = _tracker(timeout_s=0.3, ramp_s=0.2)
    tracker.accept(_path([2.0], [[0.8, 0.0]], [[0.4, 0.0]]))
    speed, modes = [], []
    for tick in range(1, 101):
        before = tracker.position.copy()
        tracker.advance(DT_S, command_age_s=tick * DT_S)
        speed.append(float(np.abs(tracker.position - before).max() / DT_S))
        modes.append(tracker.mode)
    first = modes.index("ramp")
    assert 29 <= first <= 31  # the age passes 0.3 s at tick 30, give or take one tick
    assert speed[first + 21 :] == [0.0] * len(speed[first + 21 :])  # ramp 0.2 s, one tick more
    assert np.all(np.diff(speed[first - 1 : first + 21]) <= 1e-12)  # never faster again
    assert tracker.mode == "hold"
    assert tracker.reason.startswith("watchdog: no command for 3")


def test_silence_after_a_finished_trajectory_is_no_fault():
    tracker = _tracker()
    tracker.accept(_path([0.1], [[0.02, 0.0]]))
    for tick in range(200):
        tracker.advance(DT_S, command_age_s=tick * DT_S if tick < 15 else 10.0)
    assert (tracker.mode, tracker.reason) == ("hold", "the trajectory is done")


def test_a_trajectory_that_ends_in_motion_is_slowed_down():
    tracker = _tracker(timeout_s=0.0, ramp_s=0.2)
    tracker.accept(_path([0.5], [[0.1, 0.0]], [[0.4, 0.0]]))
    for _ in range(100):
        tracker.advance(DT_S, command_age_s=0.0)
    assert tracker.mode == "hold"
    assert "ended in motion" in tracker.reason
    # 0.1 plus v ramp / 2 = 0.04; half a tick of travel (0.002) is the sampling of the ramp.
    assert tracker.position[0] == pytest.approx(0.14, abs=0.0021)


def test_a_stamp_in_the_past_leaves_out_what_has_passed():
    tracker = _tracker(timeout_s=0.0)
    tracker.accept(_path([0.1, 1.0], [[0.5, 0.5], [0.2, 0.0]]), start_in_s=-0.5)
    for _ in range(51):
        tracker.advance(DT_S, command_age_s=0.0)
    np.testing.assert_array_equal(tracker.position, [0.2, 0.0])
    with pytest.raises(DataError, match="in the past"):
        tracker.accept(_path([0.1], [[0.2, 0.0]]), start_in_s=-0.5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (([1.0], [[0.0, 1.2]], None), "'b' is sent to 1.2"),
        (([1.0], [[0.1, 0.0]], [[0.7, 0.0]]), "'a' is sent at 0.7"),
        (([0.1], [[0.2, 0.0]], None), "'a' would have to move at"),
    ],
)
def test_beyond_the_limits_is_refused_and_the_old_path_goes_on(path, message):
    tracker = _tracker(timeout_s=0.0)
    tracker.accept(_path([1.0], [[0.1, 0.0]]))
    with pytest.raises(DataError, match=message):
        tracker.accept(_path(*path))
    for _ in range(110):
        tracker.advance(DT_S, command_age_s=0.0)
    np.testing.assert_array_equal(tracker.position, [0.1, 0.0])


def test_a_cubic_that_overshoots_is_cut_and_counted():
    tracker = _tracker(timeout_s=0.0)
    # Both ends are legal, but leaving at 0.4 to arrive back at -0.4 speed swings beyond the limit.
    tracker.accept(_path([2.0, 4.0], [[0.95, 0.0], [0.95, 0.0]], [[0.4, 0.0], [-0.4, 0.0]]))
    highest = max(tracker.advance(DT_S, command_age_s=0.0)[0] for _ in range(450))
    assert highest == 1.0
    assert tracker.clamped > 0


def test_paths_refuse_what_is_not_a_path():
    with pytest.raises(DataError, match="no points"):
        JointPath(NAMES, np.zeros(0), np.zeros((0, 2)))
    with pytest.raises(DataError, match=r"does not increase: 0\.5 s, then 0\.5 s"):
        _path([0.5, 0.5], np.zeros((2, 2)))
    with pytest.raises(DataError, match="shape"):
        _path([0.5], np.zeros((1, 3)))
    with pytest.raises(DataError, match="nan for joint 'b'"):
        _path([0.5], [[0.0, np.nan]])
