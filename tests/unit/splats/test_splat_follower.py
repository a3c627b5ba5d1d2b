"""A twin's appearance goes where its nodes go, turns and, of a continuum, stretches with them."""

import numpy as np
import pytest
import torch

from physgym.errors import TwinError
from physgym.frames import matrix_from_quat_wxyz
from physgym.splats import GaussianCloud, Gaussians
from physgym.splats.follower import Follower
from physgym.twin import Twin

TURN = matrix_from_quat_wxyz(np.array([0.8, 0.36, -0.48, 0.0]))
SHIFT = np.array([0.3, -0.2, 0.5])


def grid(*sides: int, spacing_m: float = 0.02) -> np.ndarray:
    axes = [np.arange(n) * spacing_m for n in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def splats(nodes: np.ndarray, *, isotropic: bool, degree: int, count: int = 60) -> GaussianCloud:
    draw = torch.Generator().manual_seed(0)
    low, high = (torch.tensor(v).float() for v in (nodes.min(0), nodes.max(0)))
    return GaussianCloud(
        low + (high - low) * torch.rand(count, 3, generator=draw),
        -4.0 + 0.3 * torch.randn(count, 1 if isotropic else 3, generator=draw),
        torch.randn(count, 4, generator=draw),
        torch.randn(count, generator=draw),
        0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
    )


def twin(dynamics: str, nodes: np.ndarray, cloud: GaussianCloud | None) -> Twin:
    return Twin("t", "volume", dynamics, "phystwin", nodes, [], {}, splats=cloud)


@pytest.mark.parametrize("dynamics", ["spring_mass", "mpm"])
@pytest.mark.parametrize(("isotropic", "degree"), [(True, 0), (False, 0), (True, 1)])
def test_it_moves_rigidly_with_a_body_that_does(dynamics, isotropic, degree) -> None:
    nodes = grid(5, 4, 4)
    own = twin(dynamics, nodes, splats(nodes, isotropic=isotropic, degree=degree))
    made = Follower(own).at(nodes @ TURN.T + SHIFT)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = TURN, SHIFT
    wanted = own.place(pose).splats
    # float32 metres of some 0.5, and the pull to no turn of the nodes' rotations, 1e-6
    assert torch.allclose(made.mean, wanted.mean, atol=1e-5)
    covariance = made.covariance if isinstance(made, Gaussians) else made.covariance()
    assert torch.allclose(covariance, wanted.covariance(), rtol=1e-3, atol=1e-7)
    assert torch.allclose(
        made.colour if isinstance(made, Gaussians) else made.sh, wanted.sh, atol=1e-3
    )


@pytest.mark.parametrize("dynamics", ["spring_mass", "mpm"])
def test_at_rest_it_is_as_it_was(dynamics) -> None:
    nodes = grid(5, 4, 4)
    cloud = splats(nodes, isotropic=False, degree=1)
    made = Follower(twin(dynamics, nodes, cloud)).at(nodes)
    assert torch.allclose(made.mean, cloud.mean, atol=1e-6)
    covariance = made.covariance if isinstance(made, Gaussians) else made.covariance()
    assert torch.allclose(covariance, cloud.covariance(), rtol=1e-4, atol=1e-9)


def test_a_continuum_stretches_its_gaussians() -> None:
    """Sigma_t = F Sigma_0 F^T of a body under one F, and means go with it."""
    nodes = grid(6, 5, 5)
    cloud = splats(nodes, isotropic=True, degree=0)
    F = torch.tensor([[1.5, 0.2, 0.0], [0.0, 0.8, 0.1], [0.0, 0.0, 1.1]])
    made = Follower(twin("mpm", nodes, cloud)).at(nodes @ F.double().numpy().T + SHIFT)
    # the bias towards the rotation has a ten thousandth of the weight
    assert torch.allclose(
        made.mean, cloud.mean @ F.T + torch.tensor(SHIFT, dtype=torch.float32), atol=2e-5
    )
    assert torch.allclose(made.covariance, F @ cloud.covariance() @ F.T, rtol=2e-3, atol=1e-7)


def test_a_flat_continuum_keeps_its_thickness() -> None:
    """Particles in one plane say nothing across it."""
    nodes = grid(7, 7, 1)
    cloud = splats(nodes, isotropic=True, degree=0)
    stretched = nodes * [1.4, 1.0, 1.0]
    made = Follower(twin("mpm", nodes, cloud)).at(stretched @ TURN.T)
    back = torch.tensor(TURN, dtype=torch.float32).T
    covariance = back @ made.covariance @ back.T
    ratio = covariance.diagonal(dim1=1, dim2=2) / cloud.covariance().diagonal(dim1=1, dim2=2)
    assert torch.allclose(ratio, torch.tensor([1.96, 1.0, 1.0]), rtol=2e-3)


def test_wrong_nodes_and_twins_are_refused() -> None:
    nodes = grid(3, 3, 3)
    with pytest.raises(TwinError, match="no appearance"):
        Follower(twin("spring_mass", nodes, None))
    follower = Follower(twin("spring_mass", nodes, splats(nodes, isotropic=True, degree=0)))
    for wrong in (nodes[:-1], np.full_like(nodes, np.nan)):
        with pytest.raises(TwinError, match="positions of shape"):
            follower.at(wrong)
