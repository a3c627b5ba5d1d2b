"""Grips: what holds, from when to when, and what a network does under them."""

import dataclasses

import numpy as np
import pytest

from physgym.errors import DataError, TwinError
from physgym.grip import Grip, Pusher, grip_springs, phases, simulate_gripped
from physgym.sim.spring_mass import rest_lengths, springs_from_points
from physgym.twin import Twin

DT_S = 1 / 30


def _twin(nodes, *, gravity=(0.0, 0.0, -9.81), drag=1.0, **extra):
    edges = springs_from_points(nodes, radius_m=0.035, max_neighbours=30)
    length = rest_lengths(nodes, edges)
    parameters = {
        "springs": edges,
        "spring_rest_length_m": length,
        "log_stiffness_ratio": np.zeros(len(edges)),
        "mass_kg": np.array(0.1),
        "gravity_m_per_s2": np.array(gravity),
        "stiffness_n": np.array(20.0),
        "dashpot_ns_per_m": np.array(0.05),
        "drag_per_s": np.array(drag),
        "spacing_m": np.array(0.02),
        "length_exponent": np.array(0.0),
        "grip_radius_m": np.array(0.03),
        "grip_neighbours": np.array(20, np.int32),
        "grip_stiffness_ratio": np.array(1.0),
        **{k: np.array(v) for k, v in extra.items()},
    }
    return Twin("block", "volume", "spring_mass", "phystwin", nodes, np.zeros(0, int), parameters)


@pytest.fixture(scope="module")
def block():
    axis = np.arange(4) * 0.02
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def _path(points, frames, velocity=(0.0, 0.0, 0.0), until=None):
    time = np.minimum(np.arange(frames), frames if until is None else until) * DT_S
    return points[None] + time[:, None, None] * np.asarray(velocity)


def test_springs_reach_as_far_as_they_are_told(block):
    point = np.array([[0.03, 0.03, 0.075]])
    held = grip_springs(block, point, radius_m=0.025, neighbours=50, shortest_m=1e-3)
    away = np.linalg.norm(block - point, axis=1)
    assert sorted(held.node) == sorted(np.flatnonzero(away <= 0.025))
    assert held.rest_length_m == pytest.approx(away[held.node])
    few = grip_springs(block, point, radius_m=0.025, neighbours=2, shortest_m=1e-3)
    assert sorted(few.rest_length_m) == pytest.approx(sorted(away)[:2])


def test_a_grip_that_reaches_nothing_holds_the_nearest(block):
    far = np.array([[0.03, 0.03, 0.2], [0.03, 0.03, 0.4]])
    held = grip_springs(block, far, radius_m=0.01, neighbours=5, shortest_m=1e-3)
    assert len(held.node)
    assert set(held.point) == {0}


def test_phases_split_where_grips_change():
    path = np.zeros((10, 1, 3))
    grips = [Grip(path, 2, 6), Grip(path, 0, 10)]
    assert phases(grips, 10) == [(0, 2, (1,)), (2, 5, (0, 1)), (5, 9, (1,))]
    assert phases([], 4) == [(0, 3, ())]


def test_without_a_grip_it_falls_freely(block):
    twin = _twin(block, drag=0.0)
    made = simulate_gripped(twin, [], DT_S, frames=10)
    fall = -0.5 * 9.81 * (np.arange(10) * DT_S) ** 2
    # Symplectic Euler lags by half a substep of speed: g t h / 2 with h under 1 ms.
    assert (made - made[0]).mean(axis=1)[:, 2] == pytest.approx(fall, abs=2e-3)
    assert np.ptp(made - made[0], axis=1).max() < 1e-4


def test_a_held_block_is_carried_and_falls_when_let_go(block):
    twin = _twin(block)
    top = block[block[:, 2] > 0.05] + [0.0, 0.0, 0.005]
    grip = Grip(_path(top, 60, (0.0, 0.0, 0.1), until=30), 0, 40)
    made = simulate_gripped(twin, [grip], DT_S, frames=60)
    middle = made.mean(axis=1)[:, 2] - made[0].mean(axis=0)[2]
    # One second at 0.1 m/s; it hangs on springs that give a few millimetres under its weight.
    assert middle[38] == pytest.approx(0.1, abs=0.01)
    # Let go in frame 39: free fall with a drag of 1 / s for 20 frames.
    t = 20 * DT_S
    fall = 9.81 * (t - 1.0 + np.exp(-t))
    assert middle[39] - middle[59] == pytest.approx(fall, rel=0.05)


def test_a_later_grip_takes_the_object_where_it_is_then(block):
    """The springs of a grip are as long as when it takes hold, so it starts without a jerk."""
    twin = _twin(block, gravity=(0.0, 0.0, 0.0), drag=20.0)
    # A whole face, so that the block does not turn; by frame 30 drag has brought it to rest.
    first = Grip(_path(block[:16] - [0.004, 0, 0], 45, (0.2, 0.0, 0.0), until=20), 0, 21)
    there = block[-16:] + np.array([0.2 * 20 * DT_S + 0.004, 0.0, 0.0])
    second = Grip(_path(there, 45), 30, 45)
    made = simulate_gripped(twin, [first, second], DT_S, frames=45)
    assert (made[29] - made[0])[:, 0] == pytest.approx(0.2 * 20 * DT_S, abs=0.01)
    # Springs as long as in the first frame would pull it 13 cm back.
    assert np.abs(made[44] - made[29]).max() < 1e-3


def test_what_cannot_be_gripped_is_refused(block):
    twin = _twin(block)
    with pytest.raises(TwinError, match="driven nodes"):
        simulate_gripped(twin.replace(driven_index=np.array([0])), [], DT_S, frames=3)
    left = {k: v for k, v in twin.parameters.items() if k != "grip_radius_m"}
    grip = Grip(_path(block[:4] - 0.004, 5), 0, 5)
    with pytest.raises(TwinError, match="grip_radius_m"):
        simulate_gripped(dataclasses.replace(twin, parameters=left), [grip], DT_S, frames=5)
    with pytest.raises(DataError, match="Grip"):
        Grip(np.full((3, 1, 3), np.nan), 0, 3)
    with pytest.raises(DataError, match="start < stop"):
        Grip(np.zeros((3, 1, 3)), 2, 2)


def test_a_pusher_moves_a_block_and_leaves_it_where_it_stops(block):
    """A plate runs into a block on a table with friction: it moves as far as the plate and stays.

    Unlike a grip, the plate takes nothing along when it goes back.
    """
    twin = _twin(
        block,
        drag=0.5,
        ground_normal=[0.0, 0.0, 1.0],
        ground_offset_m=0.0,
        restitution=0.0,
        friction=0.5,
    )
    frames = 60
    x = np.interp(np.arange(frames), [0, 30, 59], [-0.03, 0.06, -0.03])
    pose = np.tile([0.0, 0.03, 0.03, 1.0, 0.0, 0.0, 0.0], (frames, 1))
    pose[:, 0] = x
    plate = Pusher(pose, (0.01, 0.05, 0.03), 0, frames)
    made = simulate_gripped(twin, [], DT_S, frames=frames, pushers=[plate])
    face = made[:, :16, 0].mean(axis=1)  # the 16 nodes of the face that is pushed
    assert face[5] == pytest.approx(0.0, abs=1e-3)
    margin = plate.collider(0.02).margin_m
    # The plate's face, its margin, and a slide of a few millimetres on its own speed of 9 cm/s:
    # v^2 / (2 mu g) = 0.8 mm, and the springs' own swing.
    assert face[30] == pytest.approx(0.06 + 0.01 + margin, abs=3e-3)
    assert face[59] == pytest.approx(face[31], abs=3e-3)
    assert made[:, :, 2].min() > -1e-6


def test_pushers_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match="Pusher"):
        Pusher(np.zeros((3, 7)), (0.01, 0.0, 0.01), 0, 3)
    with pytest.raises(DataError, match="Pusher"):
        Pusher(np.zeros((3, 6)), (0.01, 0.01, 0.01), 0, 3)
