"""Anchors of Spring-Gaus against what the paper and its code say (notes, section 18)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.sim.spring_mass import ForceLaw, SpringMassModel, SpringMassSolver
from physgym.splats.skinning import bind, inverse_distance
from recon.identify.anchors import anchor_springs, occupied_voxels, soft_vector, volume_sample

ZERO = torch.zeros((), dtype=torch.float64)


def ball(count: int = 3000, *, hollow: bool = False) -> np.ndarray:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return 0.05 * points * (1.0 if hollow else rng.uniform(size=(count, 1)) ** (1 / 3))


def test_the_soft_vector_has_the_values_of_the_notes() -> None:
    eta = soft_vector(ZERO, 256, 16)
    assert eta[15] == 1.0
    assert eta[16] == 1.0
    np.testing.assert_allclose(eta[136], 2 - np.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(eta[255], 2 - 2 ** (239 / 240), rtol=1e-12)
    assert (soft_vector(ZERO - 60.0, 256, 16) > 1 - 1e-12).all()  # all springs
    assert soft_vector(ZERO + 400.0, 256, 16).sum() == pytest.approx(17.0, abs=0.01)  # u = 0 is one
    whole = soft_vector(ZERO, 256, 0)
    assert whole[128] == pytest.approx(2 - np.sqrt(2))


def test_the_gradient_of_the_soft_vector_is_that_of_differences() -> None:
    kappa = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: soft_vector(k, 48, 16), (kappa,))


def test_a_spring_of_two_anchors_pulls_as_the_code_law_says() -> None:
    anchors = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    springs = anchor_springs(anchors, neighbours=1, certain=1)
    stiffness = springs.stiffness(torch.full((2,), np.log(1000.0)), torch.zeros(()))
    np.testing.assert_allclose(stiffness, [1000.0], rtol=1e-5)
    model = SpringMassModel(
        anchors, springs.edges, law=ForceLaw.SOFT, law_exponent=0.5, gravity_m_per_s2=(0, 0, 0)
    )
    given = model.default_parameters(stiffness=1000.0, mass_kg=2.0)
    solver = SpringMassSolver(model, given, device="cpu", substeps=1)
    state = solver.initial_state(torch.tensor([[0.0, 0, 0], [1.21, 0, 0]]))
    moved = solver.rollout(state, torch.zeros(1, 2, 0, 3), 1e-4)
    # 1000 * 0.21 * 1.1 N on 1 kg each for 1e-4 s; float32 positions of 1 resolve 1e-7 of 1.21.
    np.testing.assert_allclose(moved.velocity[0, 1, 0], [0.0231, 0, 0], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(moved.velocity[0, 1, 1], [-0.0231, 0, 0], rtol=1e-4, atol=1e-9)


def test_weights_sum_to_one_and_an_anchor_carries_what_lies_on_it() -> None:
    anchors = torch.as_tensor(ball(100))
    points = torch.as_tensor(ball(300, hollow=True))
    points[0] = anchors[7]
    binding = bind(points, anchors, neighbours=16, power=0.5)
    np.testing.assert_allclose(binding.weight.sum(dim=1), 1.0, rtol=1e-12)
    moved = anchors + torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    at = inverse_distance(binding, moved)
    # The floor of 1e-14 leaves 15 neighbours at some centimetres a share of 1e-12.
    np.testing.assert_allclose(at[0], moved[7], atol=1e-10)


def test_rigid_motion_of_all_anchors_costs_no_force() -> None:
    anchors = ball(120)
    springs = anchor_springs(anchors, neighbours=24, certain=8)
    model = SpringMassModel(anchors, springs.edges, law=ForceLaw.SOFT, gravity_m_per_s2=(0, 0, 0))
    given = model.default_parameters(stiffness=50.0, mass_kg=0.1, dashpot_ns_per_m=0.1)
    solver = SpringMassSolver(model, given, device="cpu", substeps=1)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    state = solver.initial_state(
        torch.as_tensor(anchors @ turn.T + 0.02), torch.full((120, 3), 0.3)
    )
    moved = solver.rollout(state, torch.zeros(1, 2, 0, 3), 1e-4)
    # Float32 lengths of 2 cm err by 2e-9 m: 50 N * 1e-7 * 24 springs * 1e-4 s / 0.8 g.
    np.testing.assert_allclose(moved.velocity[0, 1], 0.3, atol=2e-5)


def test_springs_are_joined_once_with_the_rank_of_either_end() -> None:
    anchors = ball(60)
    springs = anchor_springs(anchors, neighbours=10, certain=4)
    distance = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1)
    order = np.argsort(distance, axis=1)[:, 1:11]
    for (i, j), (rank_ij, rank_ji) in zip(springs.edges, springs.rank, strict=True):
        for a, b, rank in ((i, j, rank_ij), (j, i, rank_ji)):
            place = np.flatnonzero(order[a] == b)
            assert rank == (place[0] if len(place) else 10)
    assert len(springs.edges) == len({(min(i, j), max(i, j)) for i in range(60) for j in order[i]})


def test_stiffness_of_a_spring_is_the_mean_of_what_both_ends_say() -> None:
    springs = anchor_springs(ball(60), neighbours=10, certain=4)
    log_k = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    log_k.requires_grad_()
    kappa = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    made = springs.stiffness(log_k, kappa)
    eta = [*soft_vector(kappa.detach(), 10, 4).tolist(), 0.0]
    k = log_k.detach().exp().numpy()
    for s in range(0, len(springs.edges), 7):
        (i, j), (a, b) = springs.edges[s], springs.rank[s]
        assert float(made[s].detach()) == pytest.approx(0.5 * (eta[a] * k[i] + eta[b] * k[j]))
    assert torch.autograd.gradcheck(springs.stiffness, (log_k, kappa))
    one = springs.stiffness(torch.full((1,), 0.7, dtype=torch.float64), kappa)
    every = springs.stiffness(torch.full((60,), 0.7, dtype=torch.float64), kappa)
    np.testing.assert_allclose(one.detach(), every.detach(), rtol=1e-12)


def test_joined_springs_keep_the_momentum_that_directed_ones_lose() -> None:
    anchors = ball(60)
    springs = anchor_springs(anchors, neighbours=10, certain=4)
    model = SpringMassModel(anchors, springs.edges, law=ForceLaw.SOFT, gravity_m_per_s2=(0, 0, 0))
    k = springs.stiffness(torch.linspace(2.0, 5.0, 60), torch.zeros(()))
    given = model.default_parameters(stiffness=1.0, mass_kg=0.1)
    given = given.replace(log_stiffness=k.clamp(min=1e-6).log()[None])
    solver = SpringMassSolver(model, given, device="cpu")
    squeezed = torch.as_tensor(anchors * (1.1, 0.9, 1.0))
    moved = solver.rollout(solver.initial_state(squeezed), torch.zeros(1, 30, 0, 3), 1e-3)
    speed = moved.velocity[0].norm(dim=-1).max()
    # Directed springs with these stiffnesses drift at the order of the speeds; here is round-off.
    assert float(moved.velocity[0, -1].mean(dim=0).norm()) < 1e-5 * float(speed)


@pytest.mark.parametrize("hollow", [False, True])
def test_anchors_fill_a_ball_that_gaussians_show_from_outside(hollow: bool) -> None:
    anchors = volume_sample(ball(hollow=hollow), 200)
    assert len(anchors) == 200
    radius = np.linalg.norm(anchors, axis=1)
    assert radius.max() < 0.0515  # a closing of the surface's points is a little wider
    # Half the radius is an eighth of the volume; anchors on the surface stand for half a cell each,
    # so the share inside is smaller. A hollow ball has none there.
    assert 0.04 < np.mean(radius < 0.025) < 0.125
    assert np.mean(radius > 0.045) > 0.3  # and they reach the surface
    again = volume_sample(ball(hollow=hollow), 200)
    np.testing.assert_array_equal(anchors, again)


def test_the_authors_sampling_leaves_a_ball_hollow() -> None:
    points = ball(hollow=True)
    anchors = volume_sample(points, 200, filled=False)
    assert len(anchors) == 200
    assert np.linalg.norm(anchors, axis=1).min() > 0.04
    voxels = occupied_voxels(points, 0.01)
    assert set(map(tuple, np.floor(points / 0.01).astype(int))) == set(
        map(tuple, np.floor(voxels / 0.01).astype(int))
    )


def test_bodies_that_fall_apart_and_points_without_volume_are_refused() -> None:
    two = np.concatenate([ball(40), ball(40) + 1.0])
    with pytest.raises(DataError, match="2 bodies"):
        anchor_springs(two, neighbours=12, certain=4)
    with pytest.raises(DataError, match="span no volume"):
        volume_sample(ball() * (1.0, 1.0, 0.0), 100)
    with pytest.raises(DataError, match="3 points"):
        volume_sample(ball(3), 100)
