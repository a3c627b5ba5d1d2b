"""Gaussians are cloned, split and taken away, and an optimiser goes on as if nothing happened."""

import numpy as np
import pytest
import torch
from ball_views import around, ball

from physgym.splats import GaussianCloud, rasterize
from recon.splats.cloud_optimizer import CloudOptimizer
from recon.splats.densify import DensifyConfig, ImageGradient, densify

EXTENT_M = 1.0


def cloud(scales: list[float], opacities: list[float]) -> GaussianCloud:
    count = len(scales)
    quat = torch.zeros(count, 4)
    quat[:, 0] = 1.0
    mean = torch.zeros(count, 3)
    mean[:, 0] = torch.arange(count)
    opacity = torch.tensor(opacities)
    return GaussianCloud(
        mean,
        torch.tensor(scales).log()[:, None].repeat(1, 3),
        quat,
        torch.log(opacity / (1 - opacity)),
        torch.zeros(count, 1, 3),
    )


def densified(
    given: GaussianCloud, slope: list[float], *, fixed_scale: bool = False, **config
) -> GaussianCloud:
    optimizer = CloudOptimizer(given, {"mean": 0.1})
    densify(
        optimizer,
        torch.tensor(slope),
        EXTENT_M,
        DensifyConfig(**config),
        torch.Generator().manual_seed(0),
        fixed_scale=fixed_scale,
    )
    return optimizer.cloud().detach()


def test_small_ones_that_pull_are_cloned_and_big_ones_split() -> None:
    made = densified(cloud([0.001, 0.001, 0.05], [0.5] * 3), [0.0, 1.0, 1.0])
    radius = made.log_scale.exp()[:, 0]
    # 0 stays, 1 stands twice, 2 became two halves that are 1.6 times smaller
    assert sorted(np.round(radius.tolist(), 5)) == [0.001, 0.001, 0.001, 0.03125, 0.03125]
    assert sorted(made.mean[radius < 0.01, 0].tolist()) == [0.0, 1.0, 1.0]
    halves = made.mean[radius > 0.01]
    assert not torch.equal(halves[0], halves[1])
    # within a few of its standard deviations of where it was
    assert (halves - torch.tensor([2.0, 0.0, 0.0])).abs().max() < 4 * 0.05


def test_faint_and_huge_ones_go() -> None:
    given = cloud([0.001, 0.001, 0.5], [0.5, 0.001, 0.5])
    assert densified(given, [0.0, 1.0, 1.0]).mean[:, 0].tolist() == [0.0]
    assert densified(given, [0.0, 0.0, 0.0]).mean[:, 0].tolist() == [0.0]


def test_a_coarse_start_is_no_rubbish() -> None:
    """All wider than a tenth of the object: they are split, and none goes for its size."""
    made = densified(cloud([0.3, 0.3, 0.3], [0.5] * 3), [0.0, 0.0, 1.0])
    assert sorted(np.round(made.log_scale.exp()[:, 0].tolist(), 4)) == [0.1875, 0.1875, 0.3, 0.3]


def test_a_fixed_radius_is_neither_split_nor_judged() -> None:
    given = cloud([0.001, 0.001, 0.5], [0.5, 0.001, 0.5])
    made = densified(given, [0.0, 1.0, 1.0], fixed_scale=True)
    assert made.mean[:, 0].tolist() == [0.0, 2.0, 2.0]
    assert torch.unique(made.log_scale).tolist() == torch.unique(given.log_scale[[0, 2]]).tolist()


def test_the_worst_come_first_where_there_is_little_room() -> None:
    made = densified(cloud([0.001] * 4, [0.5] * 4), [1.0, 3.0, 2.0, 0.5], most=6)
    assert sorted(made.mean[:, 0].tolist()) == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert len(densified(cloud([0.001] * 4, [0.5] * 4), [1.0] * 4, most=3)) == 4


def test_image_slopes_are_those_of_pixels_moved() -> None:
    """Across the line of sight a metre is f / z pixels; images count as two wide."""
    camera = around(1)[0]
    given = ball(50)
    weight = torch.rand(1, camera.height, camera.width, generator=torch.Generator().manual_seed(0))
    mean = given.mean.clone().requires_grad_()
    loss = (rasterize(given.replace(mean=mean), camera).alpha * weight).sum()
    (gradient,) = torch.autograd.grad(loss, mean)
    tally = ImageGradient(50)
    tally.add(given.mean, gradient, [camera])
    tally.add(given.mean, torch.zeros_like(gradient), [camera])  # not drawn: does not count
    found = tally.mean()
    which = int(found.argmax())
    T = torch.tensor(camera.T_world_cam).float()
    z = float((given.mean[which] - T[:3, 3]) @ T[:3, 2])
    slopes = []
    for axis in (0, 1):  # a step of a hundredth of a pixel along the image's own axes
        step = 0.01 * z / camera.K[0, 0] * T[:3, axis]
        both = []
        for sign in (1, -1):
            moved = given.mean.clone()
            moved[which] += sign * step
            drawn = rasterize(given.replace(mean=moved), camera).alpha
            both.append(float((drawn.double() * weight).sum()))
        slopes.append((both[0] - both[1]) / 0.02)
    wanted = np.hypot(*slopes) * camera.width / 2
    # float32 images, and Gaussians that enter or leave at 1 / 255
    assert float(found[which]) == pytest.approx(wanted, rel=0.05)


def test_moments_follow_their_gaussians() -> None:
    given = cloud([0.01, 0.02, 0.03], [0.5] * 3)
    optimizer = CloudOptimizer(given, {"mean": 0.1, "sh": 0.1})
    pull = torch.tensor([1.0, -1.0, 0.5])[:, None]

    def step() -> None:
        (optimizer.cloud().mean * pull[: len(optimizer)]).sum().backward()
        optimizer.step()

    step()
    assert torch.allclose(optimizer.cloud().mean[:, 0], torch.tensor([-0.1, 1.1, 1.9]))
    kept = torch.tensor([2, 0])
    before = optimizer.cloud().detach()
    optimizer.change(kept, given[:1])
    assert len(optimizer) == 3
    assert torch.equal(optimizer.cloud().mean[:2], before.mean[kept])
    moments = optimizer._adam.state[optimizer.cloud().mean]["exp_avg"]
    # (1 - 0.9) times the gradient of the one step, and none for what is new
    assert torch.allclose(moments[:, 0], torch.tensor([0.05, 0.1, 0.0]))
    step()  # goes on


def test_a_field_without_a_rate_stays_and_a_set_field_forgets() -> None:
    given = cloud([0.01, 0.02], [0.5] * 2)
    optimizer = CloudOptimizer(given, {"mean": 0.1})
    (optimizer.cloud().mean.sum() + 0 * optimizer.cloud().sh.sum()).backward()
    assert optimizer.grad("sh") is None
    optimizer.step()
    assert torch.equal(optimizer.cloud().sh, given.sh)
    optimizer.set("mean", given.mean)
    assert torch.equal(optimizer.cloud().mean.detach(), given.mean)
    assert optimizer.cloud().mean not in optimizer._adam.state
    optimizer.set_rate("mean", 0.5)
    optimizer.cloud().mean.sum().backward()
    optimizer.step()
    assert torch.allclose(optimizer.cloud().mean, given.mean - 0.5)
