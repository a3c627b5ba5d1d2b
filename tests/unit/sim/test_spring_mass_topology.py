"""Springs from points, ropes and driven points; the layouts that the kernels read."""

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.sim.spring_mass.blocks import cut_blocks
from physgym.sim.spring_mass.force_law import ForceLaw, clamp_one_sided, stiffness_coefficient
from physgym.sim.spring_mass.layout import LANES, make_layout
from physgym.sim.spring_mass.model import SpringMassModel
from physgym.sim.spring_mass.topology import (
    chain_springs,
    driven_springs,
    exclusion_rows,
    merge_springs,
    springs_from_points,
)


def points(count=80, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 0.1, (count, 3))


def test_cloud_springs_are_the_symmetric_union_of_nearest_neighbours():
    x, radius, most = points(), 0.03, 6
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    want = set()
    for i in range(len(x)):  # the rule, point by point
        for j in np.argsort(distance[i])[:most]:
            if distance[i, j] <= radius:
                want.add((min(i, int(j)), max(i, int(j))))
    got = springs_from_points(x, radius_m=radius, max_neighbours=most)
    assert {tuple(e) for e in got.tolist()} == want
    assert np.bincount(got.ravel()).max() > most  # the union gives some points more


def test_short_springs_are_left_out():
    x = np.array([[0.0, 0, 0], [5e-5, 0, 0], [0.01, 0, 0]])
    got = springs_from_points(x, radius_m=0.02, max_neighbours=5, min_length_m=1e-4)
    assert got.tolist() == [[0, 2], [1, 2]]


def test_driven_springs_reach_free_nodes_only():
    x, driven = points(), np.array([7, 9])
    got = driven_springs(x, driven, radius_m=0.05, max_neighbours=4)
    assert len(got) == 8
    assert (np.isin(got, driven).sum(axis=1) == 1).all()


def test_lonely_driven_point_is_an_error():
    x = np.vstack([points(), [[9.0, 9.0, 9.0]]])
    with pytest.raises(DataError, match="driven point 0"):
        driven_springs(x, np.array([80]), radius_m=0.05, max_neighbours=4)


@pytest.mark.parametrize(
    ("bad", "match"), [(np.full((3, 3), np.nan), "not finite"), (np.zeros((3, 2)), "shape")]
)
def test_bad_points_are_refused(bad, match):
    with pytest.raises(DataError, match=match):
        springs_from_points(bad, radius_m=1.0, max_neighbours=2)


def test_far_points_are_an_error_not_an_empty_object():
    with pytest.raises(DataError, match="metres"):
        springs_from_points(points() * 1000.0, radius_m=0.01, max_neighbours=3)


def test_chain_counts():
    assert len(chain_springs(10, reach=3)) == 9 + 8 + 7
    ring = chain_springs(10, reach=2, closed=True)
    assert (np.bincount(ring.ravel()) == 4).all()


def test_exclusion_covers_hops_and_touching_pairs():
    x = np.stack([0.01 * np.arange(6), np.zeros(6), np.zeros(6)], axis=1)
    x[5] = x[0] + (0.0, 0.003, 0.0)  # near node 0, far along the chain
    start, node = exclusion_rows(6, chain_springs(6, reach=1), x, hops=2, distance_m=0.005)
    rows = [node[start[i] : start[i + 1]].tolist() for i in range(6)]
    assert rows[0] == [0, 1, 2, 5]
    assert rows[2] == [0, 1, 2, 3, 4]


def test_layouts_hold_every_spring_in_one_order():
    x = points(90)
    edges = springs_from_points(x, radius_m=0.04, max_neighbours=7)
    lay = make_layout(len(x), edges[::-1])
    edges = edges[::-1]
    for i in range(len(x)):
        row = lay.row_node[lay.row_start[i] : lay.row_start[i + 1]]
        assert (np.diff(row) > 0).all()
        springs = lay.row_spring[lay.row_start[i] : lay.row_start[i + 1]]
        assert all(set(edges[s]) == {i, j} for s, j in zip(springs, row, strict=True))
        # The chunk of the node holds the same row in its lane, then padding.
        chunk, lane = divmod(int(lay.node_slot[i]), LANES)
        column = slice(lay.chunk_start[chunk], lay.chunk_start[chunk + 1])
        assert lay.column_node[column, lane][: len(row)].tolist() == row.tolist()
        assert (lay.column_spring[column, lane][len(row) :] == -1).all()
        assert lay.chunk_node[chunk, lane] == i
    assert sorted(lay.upper_spring.tolist()) == list(range(len(edges)))
    assert (lay.column_spring.ravel()[lay.spring_slot] == np.arange(len(edges))).all()


@pytest.mark.parametrize(
    ("worlds", "threads"), [(1, 4), (16, 1), (16, 2), (37, 1), (64, 2), (5, 3)]
)
def test_blocks_cover_all_worlds_once(worlds, threads):
    blocks = cut_blocks(worlds, threads)
    covered = [w for b in blocks for w in range(b.start, b.start + b.count)]
    assert covered == list(range(worlds))
    assert all(b.count <= b.width for b in blocks)


def test_one_sided_clamp_lets_a_parameter_come_back():
    x = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
    for sign, want in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, 0.0])):
        x.grad = None
        y = clamp_one_sided(x, 0.0, 2.0)
        (sign * y).sum().backward()
        assert y.tolist() == [0.0, 0.5, 2.0]
        assert x.grad.tolist() == want


def test_spring_gaus_force_of_the_digest():
    # k = 1000, rest length 1, length 1.21, p = 0.5: 1000 * 0.21 * 1.1 = 231 N.
    a = stiffness_coefficient(ForceLaw.SOFT, torch.tensor([[1000.0]]).log(), torch.ones(1, 1))
    assert float(a * 0.21 * 1.21**0.5) == pytest.approx(231.0, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"edges": np.array([[0, 1], [1, 0]])}, "repeat"),
        ({"edges": np.array([[0, 9]])}, "edges"),
        ({"driven_index": np.array([1, 1])}, "twice"),
        ({"rest_position": np.full((3, 3), np.inf)}, "rest_position"),
        ({"law_exponent": -1.0}, "law_exponent"),
    ],
)
def test_bad_models_are_refused(change, match):
    good = {"rest_position": np.eye(3), "edges": merge_springs(np.array([[0, 1], [1, 2]]))}
    SpringMassModel(**good)
    with pytest.raises(DataError, match=match):
        SpringMassModel(**{**good, **change})
