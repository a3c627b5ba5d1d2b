"""The natural shape under an object's own weight: against closed forms and the simulator."""

import numpy as np
import pytest
from episode_fit_cases import block, settled, true_twin

from physgym.sim.spring_mass import rest_lengths
from recon.identify.sag import unloaded


def test_a_column_of_springs_sags_as_statics_says():
    """Spring i carries everything above it: it is shorter by (n - i) m g / k."""
    count, mass, k = 10, 0.02, 5000.0
    nodes = np.zeros((count, 3))
    nodes[:, 2] = 0.02 * np.arange(count)
    edges = np.stack([np.arange(count - 1), np.arange(1, count)], 1)
    weight = np.tile([0.0, 0.0, -9.81 * mass], (count, 1))
    held = np.arange(count) == 0
    natural = unloaded(nodes, edges, np.full(count - 1, k), weight, held)
    carried = mass * 9.81 * (count - 1 - np.arange(count - 1))
    # Conjugate gradients end at 2 % of the load.
    assert np.diff(natural[:, 2]) - 0.02 == pytest.approx(carried / k, rel=0.02, abs=1e-6)
    assert natural[0] == pytest.approx(nodes[0])


def test_a_block_comes_back_to_the_shape_it_was_made_in():
    """Let a block sink under its own weight in the simulator; its springs were longer before."""
    nodes, _ = block(5, 4, 4)
    twin = true_twin(nodes, stiffness_n=0.2)
    edges, length = twin.parameters["springs"], twin.parameters["spring_rest_length_m"]
    low = settled(twin)
    weight = np.tile([0.0, 0.0, -9.81 * 0.1 / len(nodes)], (len(nodes), 1))
    natural = unloaded(low, edges, 0.2 / length, weight, low[:, 2] < 0.008)
    before = np.abs(rest_lengths(low, edges) - length).mean()
    after = np.abs(rest_lengths(natural, edges) - length).mean()
    assert before > 2e-4  # it did sink
    # First order in a strain of a few percent, and friction holds some of the spread below.
    assert after < 0.3 * before


def test_what_nothing_carries_stays():
    nodes, _ = block(3, 3, 3)
    edges = np.array([[0, 1], [1, 2]])
    weight = np.ones((27, 3))
    for held in (np.zeros(27, bool), np.ones(27, bool)):
        assert np.array_equal(unloaded(nodes, edges, np.ones(2), weight, held), nodes)


def test_a_loose_part_goes_no_farther_than_a_share_of_the_size():
    nodes = np.array([[0.0, 0, 0], [0.0, 0, 0.1], [0.1, 0, 0.1]])
    edges = np.array([[0, 1], [1, 2]])  # the arm has no stiffness up and down
    weight = np.tile([0.0, 0.0, -1.0], (3, 1))
    natural = unloaded(nodes, edges, np.full(2, 10.0), weight, np.array([True, False, False]))
    assert np.isfinite(natural).all()
    assert np.linalg.norm(natural - nodes, axis=1).max() <= 0.08 * np.sqrt(0.02) + 1e-9
