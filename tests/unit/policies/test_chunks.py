"""Chunks and markers: smooth hand-over, rest at the end, and the way from markers to nodes."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import DataError
from policies.execution.chunks import Stream, brake, move, reach_time_s
from policies.execution.markers import MarkerMap, PointHistory, rest_fraction

NAMES = ("a", "b")
PERIOD_S, GRACE_S, DECELERATION = 0.2, 0.1, 2.0


def _move(position, before, velocity, start_s):
    return move(
        NAMES,
        np.asarray(position, float),
        np.asarray(before, float),
        np.asarray(velocity, float),
        start_s=start_s,
        period_s=PERIOD_S,
        grace_s=GRACE_S,
        deceleration=DECELERATION,
    )


def test_a_chunk_covers_its_velocity_and_ends_at_rest_within_reach():
    stream = Stream()
    stream.add(_move([0.0, 0.0], [0.0, 0.0], [0.25, -0.1], 10.0))
    np.testing.assert_allclose(stream.at(10.2)[0], [0.05, -0.02], atol=1e-12)
    position, velocity = stream.at(20.0)
    assert not velocity.any()
    reach_s = reach_time_s(
        period_s=PERIOD_S, grace_s=GRACE_S, speed=0.25, deceleration=DECELERATION
    )
    np.testing.assert_allclose(position, reach_s * np.array([0.25, -0.1]), atol=1e-12)
    assert stream.resting(10.0 + reach_s + 0.07)
    assert not stream.resting(10.2)


def test_chunk_follows_chunk_without_a_jump_in_position_or_velocity():
    stream, track = Stream(), []
    velocities = [np.array([0.25, 0.0]), np.array([0.1, 0.2]), np.array([-0.2, 0.2])]
    position, before = np.zeros(2), np.zeros(2)
    for index, velocity in enumerate(velocities):
        start_s = index * PERIOD_S
        if index:
            position, before = stream.at(start_s)
        stream.add(_move(position, before, velocity, start_s))
        # Sampled while this chunk is in force; the next is added ahead of its own start.
        track += [stream.at(start_s + t)[0] for t in np.arange(0.0, PERIOD_S, 1e-3)]
    speed = np.diff(np.array(track), axis=0) / 1e-3
    # A jump of 1 mm would show as 1 m/s between two samples; the fastest chunk asks for 0.35.
    assert np.abs(speed).max() < 0.4


def test_before_a_chunk_starts_the_one_before_holds():
    stream = Stream()
    with pytest.raises(LookupError, match="no chunk"):
        stream.at(0.0)
    stream.add(_move([0.0, 0.0], [0.0, 0.0], [0.2, 0.0], 0.0))
    stream.add(_move([0.04, 0.0], [0.2, 0.0], [0.2, 0.0], 0.2))
    position, velocity = stream.at(0.1)
    assert 0.0 < position[0] < 0.04
    assert velocity[0] > 0.15


def test_braking_takes_the_time_that_the_deceleration_needs():
    chunk = brake(NAMES, np.zeros(2), np.array([0.5, 0.1]), start_s=1.0, deceleration=DECELERATION)
    assert chunk.end_s == pytest.approx(1.25)
    np.testing.assert_allclose(chunk.path.position[-1], [0.0625, 0.0125])
    assert not chunk.path.velocity[-1].any()


def _curve(fraction: np.ndarray) -> np.ndarray:
    """A quarter of a circle of length 1, by arc length."""
    angle = 0.5 * np.pi * np.asarray(fraction)
    return np.stack([np.sin(angle), 1 - np.cos(angle), 0 * angle], axis=1) * 2 / np.pi


def test_markers_that_are_the_nodes_pass_straight_through():
    fraction = np.linspace(0, 1, 13)
    points = _curve(fraction)
    mapping = MarkerMap(points, fraction)
    assert mapping.direct
    points[3] = np.nan
    np.testing.assert_array_equal(mapping.nodes(points), points)


@pytest.mark.parametrize("lost", [(), (4,), (7, 8)])
def test_other_markers_are_joined_by_a_smooth_curve(lost):
    markers, nodes = np.linspace(0, 1, 17), np.linspace(0, 1, 11) ** 1.2
    mapping = MarkerMap(_curve(markers), nodes)
    assert not mapping.direct
    cloud = _curve(markers)
    cloud[list(lost)] = np.nan
    # 0.3 mm on 1 m: the error of a cubic over the widest gap, (3/16)^4 / 384 * (pi/2)^3 ~ 1e-5,
    # and the natural end condition.
    np.testing.assert_allclose(mapping.nodes(cloud), _curve(nodes), atol=3e-4)


def test_clouds_that_cannot_be_matched_are_refused():
    mapping = MarkerMap(_curve(np.linspace(0, 1, 8)), np.linspace(0, 1, 11))
    with pytest.raises(DataError, match="7 object points"):
        mapping.nodes(_curve(np.linspace(0, 1, 7)))
    cloud = _curve(np.linspace(0, 1, 8))
    cloud[3:] = np.nan
    with pytest.raises(DataError, match="only 3 markers"):
        mapping.nodes(cloud)
    with pytest.raises(DataError, match="coincide"):
        rest_fraction(np.zeros((4, 3)))


def test_history_gives_the_slope_and_refuses_a_stamp_that_stands_still():
    history = PointHistory()
    with pytest.raises(DataError, match="no object points"):
        history.latest()
    velocity = np.array([[0.1, 0.0, -0.2], [0.3, 0.0, 0.0]])
    for index in range(8):
        nodes = index * 0.02 * velocity
        if index == 6:
            nodes = nodes + np.array([[0.0], [np.nan]])
        assert history.add(0.02 * index, nodes)
    assert not history.add(0.14, nodes)
    stamp_s, latest, slope = history.latest()
    assert stamp_s == 0.14
    np.testing.assert_allclose(latest, 0.14 * velocity)
    np.testing.assert_allclose(slope[0], velocity[0], atol=1e-12)
    assert not slope[1].any()  # a node that was lost for a frame counts as at rest
