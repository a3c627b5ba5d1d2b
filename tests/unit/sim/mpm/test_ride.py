"""Points that ride on particles: exact where motion is affine, near where it is not."""

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.sim.mpm import (
    Collider,
    ElasticLaw,
    Material,
    MpmModel,
    MpmParameters,
    MpmSolver,
    ReturnMap,
    fill_box,
)
from physgym.sim.mpm.ride import carry, mount

H_M = 0.02


@pytest.fixture(scope="module")
def particles():
    return fill_box((0.0, 0.0, 0.0), (0.08, 0.06, 0.04), H_M / 2, jitter=0.3)[0]


@pytest.fixture(scope="module")
def points():
    """Of all kinds: inside, on faces and edges, at corners, a little outside."""
    rng = np.random.default_rng(1)
    inside = rng.uniform(0.0, 1.0, (40, 3))
    faces = inside.copy()
    faces[np.arange(40), rng.integers(0, 3, 40)] = rng.integers(0, 2, 40) * 1.04 - 0.02
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.5]])
    return np.concatenate([inside, faces, corners]) * (0.08, 0.06, 0.04)


@pytest.mark.parametrize("with_deformation", [True, False])
def test_affine_motion_is_exact(particles, points, with_deformation):
    f = torch.tensor([[1.3, 0.4, -0.2], [-0.5, 0.8, 0.1], [0.3, 0.2, 0.6]], dtype=torch.float64)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    moved = torch.as_tensor(particles) @ f.T + shift
    gradient = f.expand(len(particles), 3, 3) if with_deformation else None
    made = carry(mount(points, particles), moved, gradient)
    # Round-off at 2 m, times the condition of the least squares.
    torch.testing.assert_close(made, torch.as_tensor(points) @ f.T + shift, rtol=0, atol=1e-12)


def test_worlds_and_frames_ride_as_if_alone(particles, points):
    rng = np.random.default_rng(0)
    x = torch.as_tensor(particles + rng.normal(0, 1e-3, (2, 3, *particles.shape)))
    f = torch.as_tensor(np.eye(3) + rng.normal(0, 0.1, (2, 3, len(particles), 3, 3)))
    ride = mount(points, particles)
    together = carry(ride, x, f), carry(ride, x)
    assert together[0].shape == (2, 3, len(points), 3)
    for b, t in np.ndindex(2, 3):
        torch.testing.assert_close(together[0][b, t], carry(ride, x[b, t], f[b, t]))
        torch.testing.assert_close(together[1][b, t], carry(ride, x[b, t]))


def test_gradients_are_those_of_differences(particles, points):
    ride = mount(points[:3], particles)
    x = torch.as_tensor(particles)[None].clone().requires_grad_()
    f = torch.eye(3, dtype=torch.float64).repeat(1, len(particles), 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: carry(ride, a, b), (x, f), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a: carry(ride, a), (x,), fast_mode=True)


def ridden_and_true(material, frames=6, **values):
    """A block that falls flat on the ground: every second particle is a point to be told."""
    x, volume = fill_box((0.0, 0.0, 0.0), (0.12, 0.08, 0.06), H_M / 2)
    model = MpmModel(x, volume, H_M, material, (Collider.ground(0.0),))
    solver = MpmSolver(model, MpmParameters.of(density_kg_per_m3=1000.0, **values), device="cpu")
    speed = torch.tensor([0.3, 0.0, -1.5]).expand(len(x), 3)
    rolled = solver.rollout(
        solver.initial_state(velocity=speed), torch.zeros(1, frames + 1, 0, 3), 0.01
    )
    cell = np.round((x - x[0]) / (H_M / 2)).astype(int).sum(axis=1)
    told, kept = np.flatnonzero(cell % 2 == 0), np.flatnonzero(cell % 2)
    ride = mount(x[told], x[kept])
    by_f = carry(ride, rolled.position[0][:, kept], rolled.deformation[0][:, kept])
    by_position = carry(ride, rolled.position[0][:, kept])
    true = rolled.position[0][:, told]
    rms = [float((m - true)[-1].square().sum(-1).mean().sqrt()) for m in (by_f, by_position)]
    return rms, float((true[-1] - true[0]).std(dim=0).norm())


def test_particles_left_out_are_found_again_in_an_elastic_body():
    (by_f, by_position), bent_m = ridden_and_true(Material(), young_pa=2e4)
    assert bent_m > 2e-3
    # Second order in the particles' distance (10 mm): a twentieth of it where the body bulges.
    assert by_f < 5e-4
    assert by_position < 5e-4


def test_positions_tell_where_the_elastic_deformation_does_not():
    material = Material(ElasticLaw.HENCKY, ReturnMap.VON_MISES)
    (by_f, by_position), _ = ridden_and_true(material, young_pa=1e5, yield_stress_pa=200.0)
    # Plastic flow is rougher than elastic bending: a tenth of the particles' distance.
    assert by_position < 1e-3
    assert by_f > 2.0 * by_position


def test_a_flat_neighbourhood_is_refused_without_the_deformation():
    sheet = fill_box((0.0, 0.0, 0.0), (0.1, 0.1, 0.01), 0.01)[0]
    ride = mount([[0.05, 0.05, 0.008]], sheet)
    x = torch.as_tensor(sheet)
    with pytest.raises(DataError, match="point 0 lie in a plane"):
        carry(ride, x)
    one = torch.eye(3, dtype=x.dtype).expand(len(x), 3, 3)
    torch.testing.assert_close(
        carry(ride, x, one)[0], torch.tensor([0.05, 0.05, 0.008], dtype=x.dtype)
    )


def test_points_that_were_not_seen_are_refused(particles):
    with pytest.raises(DataError, match="not finite"):
        mount([[np.nan, 0.0, 0.0]], particles)
    with pytest.raises(DataError, match="0 particles"):
        mount([[0.0, 0.0, 0.0]], np.zeros((0, 3)))
