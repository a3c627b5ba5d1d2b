"""GaussianCloud and Gaussians: shapes, covariances, copies."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.splats import GaussianCloud, Gaussians


def make(count: int = 5, basis: int = 4, scales: int = 3) -> GaussianCloud:
    draw = torch.Generator().manual_seed(0)
    return GaussianCloud(
        *(
            torch.randn(s, generator=draw)
            for s in ((count, 3), (count, scales), (count, 4), (count,))
        ),
        torch.randn(count, basis, 3, generator=draw),
    )


def test_covariance_is_that_of_its_axes_and_scales():
    cloud = make()
    turn = Rotation.from_quat(np.roll(cloud.quat_wxyz.numpy(), -1, axis=1)).as_matrix()
    spread = turn * np.exp(2 * cloud.log_scale.numpy())[:, None] @ turn.transpose(0, 2, 1)
    np.testing.assert_allclose(cloud.covariance(), spread, rtol=1e-4, atol=1e-5)  # float32
    drawn = cloud.gaussians()
    np.testing.assert_allclose(drawn.covariance[:, [0, 3, 5]].sum(1), spread.trace(0, 1, 2), 1e-4)
    assert torch.equal(drawn.opacity, torch.sigmoid(cloud.opacity_logit))


def test_isotropic_covariance_is_a_ball():
    ball = make(scales=1)
    wanted = ball.log_scale.mul(2).exp()[:, :, None] * torch.eye(3)
    torch.testing.assert_close(ball.covariance(), wanted, rtol=1e-5, atol=1e-6)


def test_copies_and_parts():
    cloud = make()
    assert len(cloud) == 5
    assert cloud.sh_degree == 1
    assert torch.equal(cloud[torch.tensor([3, 1])].mean, cloud.mean[[3, 1]])
    assert len(cloud[cloud.mean[:, 0] > 0]) == int((cloud.mean[:, 0] > 0).sum())
    other = cloud.replace(mean=cloud.mean + 1)
    assert torch.equal(other.mean, cloud.mean + 1)
    assert other.sh is cloud.sh
    assert cloud.to("cpu").mean is cloud.mean
    assert (
        not make().replace(mean=torch.zeros(5, 3, requires_grad=True)).detach().mean.requires_grad
    )


@pytest.mark.parametrize(
    ("field", "shape"),
    [("mean", (5, 2)), ("log_scale", (5, 2)), ("quat_wxyz", (5, 3)), ("opacity_logit", (5, 1)),
     ("sh", (5, 3)), ("sh", (4, 4, 3)), ("sh", (5, 5, 3))],
)  # fmt: skip
def test_a_wrong_shape_is_named(field, shape):
    with pytest.raises(DataError, match=field):
        make().replace(**{field: torch.zeros(shape)})


def test_a_wrong_type_is_named():
    with pytest.raises(DataError, match="float32"):
        make().replace(mean=torch.zeros(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("field", ["mean", "covariance", "opacity", "colour"])
def test_wrong_drawn_gaussians_are_named(field):
    good = make().gaussians()
    parts = {n: getattr(good, n) for n in ("mean", "covariance", "opacity", "colour")}
    with pytest.raises(DataError, match=field):
        Gaussians(**parts | {field: torch.zeros(5, 2)})
