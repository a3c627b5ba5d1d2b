"""Gaussians that follow nodes, anchors and particles: exact where theory says exact."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.splats import GaussianCloud, rasterize
from physgym.splats.harmonics import harmonics, rotate_harmonics
from physgym.splats.skinning import (
    bind,
    deformed,
    inverse_distance,
    linear_blend,
    moved,
    nearest_rotation,
    node_rotations,
)

TURN = torch.from_numpy(Rotation.from_rotvec([0.9, -1.4, 2.0]).as_matrix())
SHIFT = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def block() -> torch.Tensor:
    axis = torch.linspace(-0.05, 0.05, 5, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def cloud_in(count: int = 40, degree: int = 3) -> GaussianCloud:
    draw = torch.Generator().manual_seed(0)
    return GaussianCloud(
        0.1 * (torch.rand(count, 3, generator=draw) - 0.5),
        0.4 * torch.randn(count, 3, generator=draw) - 4.5,
        torch.randn(count, 4, generator=draw),
        torch.randn(count, generator=draw) + 1,
        0.4 * torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
    )


def test_a_rigid_motion_is_followed_exactly_in_every_world():
    nodes, mean = block(), cloud_in().mean.double()
    positions = torch.stack([nodes, nodes @ TURN.T + SHIFT, nodes + SHIFT])
    made = linear_blend(bind(mean, nodes), positions)
    truth = torch.stack([mean, mean @ TURN.T + SHIFT, mean + SHIFT])
    # The pull towards the rotation known before is 1e-3, applied twice: 1e-6 of 5 cm.
    assert (made.mean - truth).abs().max() < 1e-7
    assert (made.rotation[1] - TURN).abs().max() < 5e-6
    assert (made.rotation[2] - torch.eye(3)).abs().max() < 5e-6


def test_a_rigid_motion_leaves_the_picture_that_the_camera_moved_with_sees():
    """Means, axes and harmonics all turn: the image of the moved cloud from a moved camera."""
    cloud, nodes = cloud_in(), block().float()
    K = np.array([[60.0, 0, 20], [0, 60, 20], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = [0, 0, -0.25]
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = TURN, SHIFT
    cameras = [PinholeCamera("a", "", 41, 41, K, p) for p in (pose, whole @ pose)]
    motion = linear_blend(bind(cloud.mean, nodes), nodes @ TURN.T.float() + SHIFT.float())
    there = rasterize(moved(cloud, motion.mean, motion.rotation), cameras[1])
    here = rasterize(cloud, cameras[0])
    assert here.alpha.max() > 0.5
    # float32 poses of a unit world and pixels of 0.25 / 60 m: alpha changes by some 1e-5
    torch.testing.assert_close(there.rgb, here.rgb, atol=2e-4, rtol=0)
    torch.testing.assert_close(there.depth, here.depth, atol=1e-4, rtol=0)
    stiff = deformed(cloud, motion.mean, TURN.float().expand(len(cloud), 3, 3))
    torch.testing.assert_close(rasterize(stiff, cameras[1]).rgb, here.rgb, atol=2e-4, rtol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_turn_with_the_gaussian(degree):
    """The turned colour along d is the old one along R^T d."""
    draw = torch.Generator().manual_seed(degree)
    sh = torch.randn(1, (degree + 1) ** 2, 3, generator=draw, dtype=torch.float64)
    d = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=draw, dtype=torch.float64), dim=1
    )
    turned = harmonics(d, degree) @ rotate_harmonics(sh, TURN)[0]
    assert (turned - harmonics(d @ TURN, degree) @ sh[0]).abs().max() < 1e-13
    twice = rotate_harmonics(rotate_harmonics(sh, TURN), TURN.T)
    assert (twice - sh).abs().max() < 1e-13


def test_inverse_distance_weights_by_hand():
    """Two anchors at 1 and 4: weights 1 and 1/2 of power 0.5, which are 2/3 and 1/3."""
    anchors = torch.tensor([[1.0, 0, 0], [-4.0, 0, 0]], dtype=torch.float64)
    binding = bind(torch.zeros(1, 3, dtype=torch.float64), anchors, power=0.5)
    torch.testing.assert_close(binding.weight, torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64))
    now = torch.stack([anchors, anchors + torch.tensor([[0, 3.0, 0], [0, 0, 3.0]])])
    made = inverse_distance(binding, now)
    wanted = torch.tensor([[[0.0, 0, 0]], [[0, 2, 1]]], dtype=torch.float64)
    torch.testing.assert_close(made, wanted)
    at_rest = inverse_distance(binding, anchors, absolute=True)
    torch.testing.assert_close(at_rest, torch.tensor([[2 / 3 - 4 / 3, 0, 0]], dtype=torch.float64))


def test_a_gaussian_on_an_anchor_is_that_anchor():
    anchors = block()
    binding = bind(anchors[:3], anchors, power=0.5)
    now = anchors + torch.randn(anchors.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    for absolute in (False, True):
        made = inverse_distance(binding, now, absolute=absolute)
        # the other weights are 1e-14 / sqrt(0.025)^-1 each
        assert (made - now[:3]).abs().max() < 1e-12


def test_an_affine_motion_stretches_covariances():
    cloud = cloud_in(degree=0)
    F = torch.eye(3) + 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    made = deformed(cloud, cloud.mean @ F.T, F.expand(len(cloud), 3, 3))
    # Points of the Gaussians, moved: their covariance is what was said.
    root = torch.linalg.cholesky(cloud.covariance().double())
    moved_root = F.double() @ root
    wanted = moved_root @ moved_root.transpose(1, 2)
    torch.testing.assert_close(made.covariance.double(), wanted, rtol=1e-4, atol=1e-8)
    assert torch.equal(made.opacity, cloud.opacity)


def test_harmonics_of_a_stretched_gaussian_turn_with_the_polar_rotation():
    cloud = cloud_in(degree=2)
    stretch = torch.diag(torch.tensor([1.5, 0.8, 1.1]))
    F = (TURN.float() @ stretch).expand(len(cloud), 3, 3)
    made = deformed(cloud, cloud.mean, F)
    torch.testing.assert_close(
        made.colour, rotate_harmonics(cloud.sh, TURN.float()), atol=1e-5, rtol=0
    )


def test_a_line_of_nodes_does_not_spin():
    nodes = torch.stack([torch.linspace(0, 0.3, 31), torch.zeros(31), torch.zeros(31)], -1).double()
    mean = nodes + torch.tensor([0.0, 0.005, 0.0])
    swing = torch.from_numpy(Rotation.from_euler("y", 1.2).as_matrix())
    made = linear_blend(bind(mean, nodes), nodes @ swing.T)
    # A swing about y leaves y alone; the pull to rest turns by its square, 1e-6, of 5 mm.
    assert (made.mean[:, 1] - 0.005).abs().max() < 1e-6


def test_gradients_of_all_three_ways():
    """Against finite differences in float64; flat and equal neighbourhoods included."""
    draw = torch.Generator().manual_seed(4)
    nodes = block()[:30]  # a slab: flat, with equal stretches
    mean = nodes[::7] + 0.003
    binding = bind(mean, nodes, neighbours=6)
    now = (nodes @ TURN.T + 0.002 * torch.randn(30, 3, generator=draw)).requires_grad_()

    def blend(position: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(linear_blend(binding, position))

    # A node's pull is towards a rotation that counts as constant: 1e-3 of the gradient is not seen.
    assert torch.autograd.gradcheck(blend, now, atol=5e-2, rtol=5e-3)
    assert torch.autograd.gradcheck(lambda x: inverse_distance(binding, x), now)
    matrices = torch.randn(4, 3, 3, generator=draw, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(nearest_rotation, matrices)
    sh = torch.randn(4, 9, 3, generator=draw, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c, m: rotate_harmonics(c, nearest_rotation(m)), (sh, matrices)
    )


def test_gradients_of_a_moved_cloud_are_finite_at_rest():
    cloud, nodes = cloud_in(), block().float().requires_grad_()
    motion = linear_blend(bind(cloud.mean, nodes), nodes)
    here = moved(cloud, motion.mean, motion.rotation)
    (here.covariance().sum() + here.sh.sum()).backward()
    assert torch.isfinite(nodes.grad).all()
    torch.testing.assert_close(here.covariance(), cloud.covariance(), rtol=1e-4, atol=1e-8)


def test_one_node_carries_by_translation():
    node = torch.tensor([[0.0, 0.0, 0.0]])
    binding = bind(torch.tensor([[0.1, 0.0, 0.0]]), node)
    made = linear_blend(binding, node + 1.0)
    torch.testing.assert_close(made.mean, torch.tensor([[1.1, 1.0, 1.0]]))
    torch.testing.assert_close(node_rotations(binding, node), torch.eye(3)[None])


def test_bad_nodes_are_refused():
    mean = torch.zeros(2, 3)
    with pytest.raises(DataError, match="0 nodes"):
        bind(mean, torch.zeros(0, 3))
    with pytest.raises(DataError, match="finite"):
        bind(mean, torch.full((3, 3), torch.nan))
