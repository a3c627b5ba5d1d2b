"""The rasteriser against closed forms, itself at other threads and cameras, and bad input."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from splat_scenes import (
    CAMERA,
    ENGINES,
    cloud_of,
    join,
    look_at,
    one,
    scene,
    straight,
)

from physgym.errors import DataError, DeviceError
from physgym.splats import Gaussians, rasterize
from physgym.splats.projection import full_covariance


def test_isotropic_gaussians_do_not_care_how_they_are_turned() -> None:
    made = scene(60, degree=0, seed=4)
    made["log_scale"] = made["log_scale"][:, :1]
    ball = cloud_of(made, grad=True)
    as_three = cloud_of(made | {"log_scale": made["log_scale"].expand(-1, 3)}, grad=True)
    other = cloud_of(made | {"quat_wxyz": scene(60, seed=9)["quat_wxyz"]})
    images = [rasterize(c, CAMERA) for c in (ball, as_three, other)]
    assert torch.equal(images[0].rgb, images[2].rgb)
    torch.testing.assert_close(images[0].rgb, images[1].rgb, atol=2e-6, rtol=0)
    for image in images[:2]:
        (image.rgb * torch.linspace(0, 1, 50)[:, None]).sum().backward()
    total = as_three.log_scale.grad.sum(1, keepdim=True)
    torch.testing.assert_close(ball.log_scale.grad, total, rtol=1e-4, atol=1e-3)
    assert ball.quat_wxyz.grad.abs().max() == 0
    # turned with a scene: all of it and the camera by the same rotation
    turn = Rotation.from_rotvec([0.4, -0.7, 1.1]).as_matrix()
    moved = CAMERA.T_world_cam.copy()
    moved[:3] = turn @ moved[:3]
    camera = dataclasses.replace(CAMERA, T_world_cam=moved)
    whole = ball.replace(mean=(ball.mean @ torch.from_numpy(turn.T).float()))
    torch.testing.assert_close(rasterize(whole, camera).rgb, images[0].rgb, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_gaussians_blend_as_the_closed_form_says(engine: str) -> None:
    """In the middle pixel of both, the front one given last: c1 a1 + c2 a2 (1 - a1)."""
    back, front = one((0, 0, 3.0), opacity=0.6), one((0, 0, 2.0), opacity=0.7, rgb=(0.1, 0.9, 0.4))
    ground = torch.tensor([0.2, 0.3, 0.9])
    made = rasterize(join(back, front), straight(), background=ground, engine=engine)
    w1, w2 = 0.7, 0.6 * 0.3
    wanted = w1 * torch.tensor([0.1, 0.9, 0.4]) + w2 * torch.tensor([1.0, 0.5, 0.2])
    torch.testing.assert_close(made.rgb[0, 16, 16], wanted + (1 - w1 - w2) * ground)
    torch.testing.assert_close(made.alpha[0, 16, 16], torch.tensor(w1 + w2))
    depth = (w1 * 2.0 + w2 * 3.0) / (w1 + w2)
    torch.testing.assert_close(made.depth[0, 16, 16], torch.tensor(depth))


@pytest.mark.parametrize("engine", ENGINES)
def test_of_gaussians_at_one_depth_the_first_given_is_in_front(engine: str) -> None:
    """Twenty of them, so that a sort that is not stable would show."""
    colour = torch.linspace(0.0, 1.0, 20)
    same = [one(opacity=0.3, rgb=(float(c), 0.5, 1.0 - float(c))) for c in colour]
    made = rasterize(join(*same), straight(), engine=engine)
    weight = 0.3 * 0.7 ** torch.arange(20)
    torch.testing.assert_close(made.rgb[0, 16, 16, 0], (weight * colour).sum())
    torch.testing.assert_close(made.rgb[0, 16, 16, 2], (weight * (1.0 - colour)).sum())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_one_gaussian_has_its_profile(engine: str, antialiased: bool) -> None:
    """exp(-r^2 / 2 s^2) with s^2 = (f size / z)^2 + blur on the axis, cut where alpha is 1/255."""
    made = rasterize(one(), straight(), antialiased=antialiased, engine=engine).alpha[0, 16]
    variance = (100 * 0.05 / 2) ** 2
    strength = 0.8 * (variance / (variance + 0.3) if antialiased else 1.0)
    r = torch.arange(33) - 16.0
    wanted = strength * torch.exp(-0.5 * r**2 / (variance + 0.3))
    wanted[wanted < 1 / 255] = 0.0
    torch.testing.assert_close(made, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_alpha_stops_at_its_most_and_its_gradient_with_it(engine: str) -> None:
    """An opaque ball: 0.999 and no slope in its middle; its profile is the slope beside."""
    ball = one(opacity=1.0)
    opacity = ball.opacity.clone().requires_grad_()
    drawn = dataclasses.replace(ball, opacity=opacity)
    alpha = rasterize(drawn, straight(), engine=engine).alpha[0, 16]
    assert abs(alpha[16].item() - 0.999) < 1e-6
    (middle,) = torch.autograd.grad(alpha[16], opacity, retain_graph=True)
    (beside,) = torch.autograd.grad(alpha[18], opacity)
    assert middle == 0
    profile = math.exp(-0.5 * 2**2 / ((100 * 0.05 / 2) ** 2 + 0.3))
    torch.testing.assert_close(beside, torch.tensor([profile]), atol=0, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_flow_of_a_shift_is_the_shift_of_its_pixels(engine: str) -> None:
    """All Gaussians at one depth moved sideways by 3 and -2 pixels; and along the axis, a zoom."""
    spread = torch.linspace(-0.2, 0.2, 5)
    grid = torch.stack(torch.meshgrid(spread, spread, indexing="xy"), -1).reshape(-1, 2)
    mean = torch.cat([grid, torch.full((25, 1), 2.0)], dim=1)
    still = Gaussians(
        mean, (0.03**2 * torch.eye(3)).expand(25, 3, 3), torch.full((25,), 0.7), torch.ones(25, 3)
    )
    shifted = dataclasses.replace(still, mean=mean + torch.tensor([0.06, -0.04, 0.0]))
    made = rasterize(still, straight(), flow_to=shifted, engine=engine)
    seen = made.alpha[0] > 0.05
    # float32 means of some 30 pixels and covariances that change a little off the axis
    torch.testing.assert_close(
        made.flow[0][seen], torch.tensor([3.0, -2.0]).expand(int(seen.sum()), 2), atol=0.02, rtol=0
    )
    assert (made.flow[0][made.alpha[0] == 0] == 0).all()
    # Half as far and half as large is the same image; half as far alone is one twice as large.
    near = Gaussians(mean / 2, still.covariance / 4, still.opacity, still.colour)
    same = rasterize(still, straight(), flow_to=near, engine=engine)
    assert same.flow[0][seen].abs().max() < 1e-3
    closer = dataclasses.replace(still, mean=mean * torch.tensor([1.0, 1.0, 0.5]))
    zoom = rasterize(still, straight(), flow_to=closer, blur_px2=1e-6, engine=engine)
    u, v = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(33) - 16.0, indexing="xy")
    wanted = torch.stack([u, v], dim=-1)
    rim = zoom.alpha[0] > 0.05
    # Off the axis the ball's image is stretched by the perspective: a percent of 16 pixels.
    torch.testing.assert_close(zoom.flow[0][rim], wanted[rim], atol=0.2, rtol=0)


def test_bits_do_not_depend_on_threads() -> None:
    made = scene(400, degree=2, seed=7)
    cameras = [look_at((1.2, -1.0, 0.6)), look_at((-1.0, -1.2, 0.1))]
    found = []
    for threads in (1, 2, 3, 7):
        cloud = cloud_of(made, grad=True)
        poses = torch.from_numpy(np.stack([c.T_world_cam for c in cameras])).float()
        poses.requires_grad_()
        render = rasterize(cloud, cameras, T_world_cam=poses, threads=threads)
        (render.rgb.square().sum() + render.depth.sum()).backward()
        grads = [getattr(cloud, field.name).grad for field in dataclasses.fields(cloud)]
        found.append([render.rgb, render.alpha, render.depth, *grads, poses.grad])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize("engine", ["native", "warp"])
def test_cameras_of_one_call_are_those_of_single_calls(engine: str) -> None:
    made = scene(100, degree=3, seed=8)
    cameras = [look_at((1.2, -1.0, 0.6)), look_at((-0.3, 1.4, 0.2))]
    both = cloud_of(made, grad=True)
    render = rasterize(both, cameras, engine=engine)
    render.rgb.square().sum().backward()
    summed = torch.zeros_like(both.mean)
    for at, camera in enumerate(cameras):
        single = cloud_of(made, grad=True)
        alone = rasterize(single, camera, engine=engine)
        assert torch.equal(alone.rgb[0], render.rgb[at])
        alone.rgb.square().sum().backward()
        summed += single.mean.grad
    torch.testing.assert_close(both.mean.grad, summed, rtol=1e-5, atol=1e-4)


def test_nothing_in_view_gives_the_background() -> None:
    behind = one((0, 0, -2.0))
    empty = Gaussians(*(getattr(behind, f.name)[:0] for f in dataclasses.fields(behind)))
    dark = [one(opacity=opacity) for opacity in (0.0, 1 / 256, -0.5)]
    ground = torch.tensor([0.1, 0.2, 0.3])
    for engine in ENGINES:
        for cloud in (behind, empty, *dark):
            mean = cloud.mean.clone().requires_grad_()
            drawn = dataclasses.replace(cloud, mean=mean)
            render = rasterize(drawn, straight(), background=ground, engine=engine)
            assert torch.equal(render.rgb, ground.expand(1, 33, 33, 3))
            assert render.alpha.abs().max() == 0
            assert render.depth.abs().max() == 0
            (render.rgb.sum() + render.depth.sum()).backward()
            assert mean.grad is None or mean.grad.abs().sum() == 0


@pytest.mark.parametrize("engine", ["native", "warp"])
def test_gaussians_without_a_determinant_are_left_out(engine: str) -> None:
    """A point and a line without blur, and 1e9 m: nothing drawn, and no gradient that is NaN."""
    ball = one()
    shapes = [(0.0, 0.0, 0.0), (1e-3, 0.0, 0.0), (1e18, 1e18, 1e18)]
    for shape, blur_px2 in zip(shapes, (0.0, 0.0, 0.3)):
        covariance = torch.diag(torch.tensor(shape))[None].requires_grad_()
        drawn = join(dataclasses.replace(ball, covariance=covariance), one((0.0, 0.0, 3.0)))
        render = rasterize(drawn, straight(), blur_px2=blur_px2, engine=engine)
        alone = rasterize(one((0.0, 0.0, 3.0)), straight(), blur_px2=blur_px2, engine=engine)
        assert torch.equal(render.rgb, alone.rgb)
        render.rgb.sum().backward()
        assert torch.equal(covariance.grad, torch.zeros_like(covariance))


def test_bad_input_is_refused() -> None:
    cloud = cloud_of(scene(20, degree=0))
    broken = cloud.mean.clone()
    broken[7, 1] = math.nan
    for engine in ENGINES:
        with pytest.raises(DataError, match="finite"):
            rasterize(cloud.replace(mean=broken), CAMERA, engine=engine)
    with pytest.raises(DataError, match="Gaussian 7"):
        rasterize(cloud.replace(mean=broken), CAMERA)
    zero = cloud.quat_wxyz.clone()
    zero[3] = 0.0
    with pytest.raises(DataError, match="Gaussian 3"):
        rasterize(cloud.replace(quat_wxyz=zero), CAMERA)
    none = cloud.gaussians()
    for engine in ENGINES:
        with pytest.raises(DataError, match="Gaussian 0"):
            rasterize(dataclasses.replace(none, covariance=-none.covariance), CAMERA, engine=engine)
    with pytest.raises(DataError, match="sizes"):
        rasterize(cloud, [CAMERA, straight()])
    with pytest.raises(DataError, match="sizes"):
        rasterize(cloud, [])
    with pytest.raises(DataError, match="distortion"):
        rasterize(cloud, dataclasses.replace(CAMERA, distortion=np.array([0.1, 0, 0, 0, 0])))
    with pytest.raises(DataError, match="features"):
        rasterize(cloud, CAMERA, features=torch.zeros(19, 2))
    with pytest.raises(DataError, match="flow"):
        rasterize(cloud, CAMERA, flow_to=cloud[:10])
    with pytest.raises(DataError, match="rigid"):
        rasterize(cloud, CAMERA, T_world_cam=2 * torch.eye(4)[None])
    with pytest.raises(DataError, match="sh_degree"):
        rasterize(cloud, CAMERA, sh_degree=1)
    with pytest.raises(DeviceError, match="engine"):
        rasterize(cloud, CAMERA, engine="fastest")
    with pytest.raises(DeviceError, match="gsplat"):
        rasterize(cloud, CAMERA, engine="gsplat")


def test_packed_covariances_unpack() -> None:
    full = full_covariance(torch.arange(6.0))
    assert torch.equal(full, torch.tensor([[0.0, 1, 2], [1, 3, 4], [2, 4, 5]]))
