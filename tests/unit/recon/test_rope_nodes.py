"""A rope as a truss: nodes from a cloud of its surface, and from tracked points."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.identify.rope_nodes import rope_nodes, seen_nodes
from recon.perception.table import Plane

RADIUS_M, BEND_M = 0.006, 0.12
TABLE = Plane(np.array([0.0, 0.0, 1.0]), 0.0)


def arc(share):
    """Centre of a rope that lies in a half circle, and outwards, at shares of its length."""
    angle = np.pi * np.asarray(share)
    outward = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
    return BEND_M * outward + [0.0, 0.0, RADIUS_M], outward


def cloud(rng, count, *, upper=False):
    """Points of its surface, one millimetre off."""
    centre, outward = arc(rng.uniform(0, 1, count))
    turn = rng.uniform(0, np.pi if upper else 2 * np.pi, count)[:, None]
    across = np.cos(turn) * outward + np.sin(turn) * np.array([0.0, 0.0, 1.0])
    return centre + RADIUS_M * across + rng.normal(0, 1e-3, (count, 3))


@pytest.mark.parametrize("upper", [False, True])
def test_nodes_stand_around_the_centre_line(upper):
    points = cloud(np.random.default_rng(0), 4000, upper=upper)
    made = rope_nodes(points, table=TABLE)
    assert made is not None
    centre = made.position.reshape(-1, 4, 3).mean(axis=1)
    # Hundreds of points a section with a noise of 1 mm, so a fifth of the radius is what smoothing
    # leaves; the ends are put back straight, which the bend and the fit's last slope turn off.
    off = np.abs(np.linalg.norm(centre[:, :2], axis=1) - BEND_M)
    assert off[2:-2].max() < RADIUS_M / 4
    assert off.max() < RADIUS_M / 2
    # The length is that of the centre line, to one radius at each end.
    assert made.straight[-1, 0] == pytest.approx(np.pi * BEND_M, abs=2 * RADIUS_M)
    # Curvature varies by a quarter at most: no bends that are noise.
    tangent = np.diff(centre, axis=0)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    curvature = np.diff(heading) / np.linalg.norm(tangent, axis=1)[1:]
    inner = np.abs(curvature[3:-3])
    assert inner.min() > 0.75 / BEND_M
    assert inner.max() < 1.25 / BEND_M


def test_two_nodes_of_a_section_lie_on_the_table():
    made = rope_nodes(cloud(np.random.default_rng(1), 4000), table=TABLE)
    assert made is not None
    height = made.position.reshape(-1, 4, 3)[..., 2]
    assert np.abs(height[:, :2]).max() < 1e-3
    assert height[:, 2:] == pytest.approx(2 * made.radius_m, abs=1e-3)


def test_the_straight_shape_is_longer_inside_the_bend_and_shorter_outside():
    made = rope_nodes(cloud(np.random.default_rng(2), 4000), table=TABLE)
    assert made is not None
    laid = made.position.reshape(-1, 4, 3)
    lengths = np.linalg.norm(np.diff(laid, axis=0), axis=2).sum(axis=0)
    straight = made.straight[-1, 0]
    ratio = lengths / straight
    # A half circle of radius R is as long at distance r from its middle as (R +- r) / R says.
    share = made.radius_m / BEND_M
    assert sorted(ratio) == pytest.approx(
        [1 - share, 1 - share, 1 + share, 1 + share], abs=0.25 * share
    )


def test_no_more_nodes_than_asked_for_and_none_of_a_heap():
    rng = np.random.default_rng(3)
    made = rope_nodes(cloud(rng, 2000), table=TABLE, most_nodes=60)
    assert made is not None
    assert len(made.position) <= 60
    assert rope_nodes(rng.uniform(-0.05, 0.05, (15, 3))) is None


def test_nodes_follow_tracked_points_that_move_rigidly():
    rng = np.random.default_rng(4)
    points = cloud(rng, 400)
    made = rope_nodes(cloud(rng, 4000), table=TABLE)
    assert made is not None
    turn = Rotation.from_euler("zyx", [0.4, -0.3, 0.8])
    shift = np.array([0.1, -0.2, 0.3])
    now = np.stack([points, turn.apply(points) + shift])
    now[1, rng.random(len(points)) < 0.3] = np.nan
    seen = seen_nodes(made.position, points, now, radius_m=made.radius_m)
    assert seen[0] == pytest.approx(made.position, abs=1e-9)
    expected = turn.apply(made.position) + shift
    assert seen[1] == pytest.approx(expected, abs=1e-9)


def test_a_hidden_stretch_is_not_guessed():
    rng = np.random.default_rng(5)
    points = cloud(rng, 400)
    made = rope_nodes(cloud(rng, 4000), table=TABLE)
    assert made is not None
    now = np.repeat(points[None], 2, axis=0)
    now[1, points[:, 0] > 0.0] = np.nan
    seen = np.isfinite(seen_nodes(made.position, points, now, radius_m=made.radius_m)).all(axis=2)
    assert seen[0].all()
    assert not seen[1, made.position[:, 0] > 0.03].any()
    assert seen[1, made.position[:, 0] < -0.03].all()


def test_as_many_sections_as_a_twin_has():
    """A twin of the rope brought into another recording has its own number of sections."""
    x = np.linspace(0.0, 0.4, 400)
    around = np.linspace(0.0, 2 * np.pi, 8, endpoint=False)
    ring = 0.006 * np.stack([0 * around, np.cos(around), np.sin(around) + 1.0], axis=1)
    points = (np.stack([x, 0.02 * np.sin(9 * x), 0 * x], axis=1)[:, None] + ring).reshape(-1, 3)
    free = rope_nodes(points)
    told = rope_nodes(points, sections=13)
    assert free is not None
    assert told is not None
    assert len(told.position) == 52 != len(free.position)
    # The same line, other places on it: ends agree to a fraction of the radius.
    ends = [n.position.reshape(-1, 4, 3).mean(axis=1)[[0, -1]] for n in (free, told)]
    assert np.abs(ends[0] - ends[1]).max() < 0.002
