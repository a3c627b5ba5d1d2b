"""The rasteriser against a dense float64 reference, finite differences and gsplat."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from splat_reference import dense_flow
from splat_scenes import (
    CAMERA,
    ENGINES,
    PLACES,
    cloud_of,
    dense,
    look_at,
    raw,
    scene,
    weights_for,
)

from physgym.splats import GaussianCloud, Gaussians, rasterize
from physgym.splats.harmonics import harmonics
from physgym.splats.projection import full_covariance, project

C0 = 0.28209479177387814  # harmonic of degree 0


@pytest.mark.parametrize(("engine", "device"), PLACES)
@pytest.mark.parametrize(("degree", "antialiased"), [(0, True), (1, False), (2, False), (3, True)])
def test_images_and_every_gradient_agree_with_the_dense_reference(
    engine: str, device: str, degree: int, antialiased: bool
) -> None:
    made = {name: value.requires_grad_() for name, value in scene(120, degree=degree).items()}
    features = torch.randn(120, 7, dtype=torch.float64, requires_grad=True)
    pose = torch.from_numpy(CAMERA.T_world_cam.copy()).requires_grad_()
    true = dense(made, T_world_cam=pose, features=features, antialiased=antialiased)
    images = [true.rgb, true.alpha, true.depth, true.features]
    weights = weights_for(images, true.sure)
    assert true.sure.float().mean() > 0.99  # little was left out
    sum((w * i).sum() for w, i in zip(weights, images)).backward()

    cloud = cloud_of(made, grad=True, device=device)
    features_f = features.detach().float().to(device).requires_grad_()
    pose_f = pose.detach().float()[None].to(device).requires_grad_()
    render = rasterize(
        cloud,
        CAMERA,
        T_world_cam=pose_f,
        features=features_f,
        antialiased=antialiased,
        engine=engine,
    )
    for w, image, wanted in zip(weights, raw(render), images):
        # Worst seen 3e-6: float32 through some 20 blended layers. The issue asks for 1e-4.
        assert ((image - wanted) * (w != 0)).abs().max() < 1e-5
    sum((w.float() * i).sum() for w, i in zip(weights, raw(render))).backward()
    pairs = {name: (getattr(cloud, name), value) for name, value in made.items()}
    pairs |= {"features": (features_f, features)}
    for name, (mine, wanted) in pairs.items():
        error = (mine.grad.cpu() - wanted.grad).abs().max() / wanted.grad.abs().max()
        assert error < 3e-5, f"{name}: {error}"  # worst seen 5e-6, the remainder's cancellation
    error = (pose_f.grad[0].cpu() - pose.grad).abs().max() / pose.grad.abs().max()
    assert error < 3e-5, f"pose: {error}"


@pytest.mark.parametrize("engine", ENGINES)
def test_plain_tensors_give_what_a_cloud_gives(engine: str) -> None:
    """Covariances as 3 x 3 and as six numbers, RGB, and their gradients."""
    made = scene(80, degree=0, seed=3)
    cloud = cloud_of(made)
    rgb = (cloud.sh[:, 0] * C0 + 0.5).clamp(min=0.0)
    wanted = rasterize(cloud, CAMERA, engine=engine)
    grads = []
    for covariance in (cloud.covariance(), cloud.gaussians().covariance):
        leaf = covariance.clone().requires_grad_()
        drawn = Gaussians(cloud.mean, leaf, cloud.opacity, rgb)
        render = rasterize(drawn, CAMERA, engine=engine)
        torch.testing.assert_close(render.rgb, wanted.rgb, atol=2e-6, rtol=0)
        (render.rgb * torch.linspace(0, 1, 50)[:, None]).sum().backward()
        grads.append(leaf.grad)
    # An off-diagonal number stands for two entries of the matrix.
    twice = torch.tensor([1.0, 2, 2, 1, 2, 1])
    even = torch.stack([grads[0][:, i, j] for i in range(3) for j in range(i, 3)], dim=-1)
    torch.testing.assert_close(even * twice, grads[1], rtol=1e-4, atol=1e-3)
    assert torch.equal(grads[0], grads[0].transpose(1, 2))


@pytest.mark.parametrize(("engine", "device"), PLACES)
def test_the_reference_and_the_gradient_agree_with_finite_differences(
    engine: str, device: str
) -> None:
    """Along random directions in every input at once, pose included."""
    made = scene(40, degree=1, seed=5)
    pose = torch.from_numpy(CAMERA.T_world_cam.copy())
    draw = torch.Generator().manual_seed(2)
    names = list(made)
    step = {n: torch.randn(made[n].shape, generator=draw, dtype=torch.float64) for n in names}
    twist = np.array([0.3, -0.2, 0.4])

    def turned(s: float) -> torch.Tensor:
        moved = pose.clone()
        moved[:3, :3] = pose[:3, :3] @ torch.from_numpy(Rotation.from_rotvec(s * twist).as_matrix())
        moved[:3, 3] += s * torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
        return moved

    weight = weights_for([torch.zeros(37, 50, 3)], torch.ones(37, 50, dtype=torch.bool))[0]

    def loss(s: float) -> float:
        moved = {n: made[n] + s * 0.1 * step[n] for n in names}
        return float((dense(moved, T_world_cam=turned(s)).rgb * weight).sum())

    # Central differences: error of second order in h, and jumps of alpha at 1/255 that the gradient
    # does not see (a pixel more or less at the rim of a Gaussian): few at h = 1e-6.
    h = 1e-6
    wanted = (loss(h) - loss(-h)) / (2 * h)
    velocity = (turned(h) - turned(-h)) / (2 * h)
    cloud = cloud_of(made, grad=True, device=device)
    pose_f = pose.float()[None].to(device).requires_grad_()
    render = rasterize(cloud, CAMERA, T_world_cam=pose_f, engine=engine)
    (render.rgb[0].cpu() * weight.float()).sum().backward()
    found = sum((getattr(cloud, n).grad.cpu() * 0.1 * step[n]).sum() for n in names)
    found = found + (pose_f.grad[0].cpu() * velocity).sum()
    assert abs(float(found) - wanted) < 2e-4 * abs(wanted) + 1e-3


@pytest.mark.parametrize(("engine", "device"), PLACES)
def test_flow_agrees_with_its_definition_and_so_do_its_gradients(engine: str, device: str) -> None:
    """Both states deformed at random, two cameras, a feature beside."""
    states = [scene(50, degree=0, seed=seed) for seed in (6, 7)]
    for name in ("mean", "log_scale", "quat_wxyz"):  # near each other, so that flows are pixels
        states[1][name] = states[0][name] + 0.1 * states[1][name]
    for state in states:
        for value in state.values():
            value.requires_grad_()
    cameras = [CAMERA, look_at((-1.1, -0.9, 0.4))]
    clouds = [cloud_of(state, grad=True, device=device) for state in states]
    features = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    made = rasterize(
        clouds[0], cameras, flow_to=clouds[1], features=features.to(device), engine=engine
    )
    total, mine = 0.0, 0.0
    for at, camera in enumerate(cameras):
        before, after = (dense(state, camera) for state in states)
        wanted = dense_flow(before, after)
        keep = before.sure & (before.alpha > 0.05)  # a share of a thin rim is all rounding
        # Flows of some 10 pixels; the channels hold 50 times that at the middle, in float32.
        assert ((made.flow[at].cpu() - wanted) * keep[..., None]).abs().max() < 1e-3
        feature = before.weight @ features.double()
        assert ((made.features[at].cpu() - feature) * before.sure[..., None]).abs().max() < 1e-5
        weight = weights_for([wanted], keep)[0]
        total = total + (weight * wanted).sum()
        mine = mine + (weight.float() * made.flow[at].cpu()).sum()
    total.backward()
    mine.backward()
    for cloud, state in zip(clouds, states):
        for name in ("mean", "log_scale", "quat_wxyz"):
            found, wanted = getattr(cloud, name).grad.cpu(), state[name].grad
            assert (found - wanted).abs().max() < 2e-4 * wanted.abs().max(), name


@pytest.mark.parametrize(("engine", "device"), PLACES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_large_opaque_and_outlying_gaussians(engine: str, device: str, antialiased: bool) -> None:
    """Early stops, Gaussians over many tiles, behind the camera, at its side, flat, and thinner
    than a pixel: images and gradients agree with the reference."""
    made = scene(150, degree=0, seed=11, size=0.3)
    made["opacity_logit"] = made["opacity_logit"] + 3.0
    made["log_scale"][:30] = math.log(1e-3)
    made["log_scale"][30:60, 2] = math.log(1e-3)
    made["mean"][100:] *= 5.0
    made["mean"][149] = torch.from_numpy(CAMERA.position)  # in the optical centre
    for value in made.values():
        value.requires_grad_()
    true = dense(made, antialiased=antialiased)
    images = [true.rgb, true.alpha, true.depth]
    assert (true.alpha > 0.999).float().mean() > 0.05  # pixels that end early are there
    weights = weights_for(images, true.sure)
    sum((w * i).sum() for w, i in zip(weights, images)).backward()
    cloud = cloud_of(made, grad=True, device=device)
    found = raw(rasterize(cloud, CAMERA, antialiased=antialiased, engine=engine))
    for image, wanted, w in zip(found, images, weights):
        # Huge Gaussians whose means lie at slopes of several: depth 5 m, 1e-6 of it a layer.
        assert ((image - wanted) * (w != 0)).abs().max() < 1e-4
    sum((w.float() * i).sum() for w, i in zip(weights, found)).backward()
    for name, wanted in made.items():
        grad = getattr(cloud, name).grad.cpu()
        assert torch.isfinite(grad).all(), name
        # float32 behind 1 / (1 - alpha) of up to 1000, and determinants of flat Gaussians
        assert (grad - wanted.grad).abs().max() < 1e-3 * wanted.grad.abs().max(), name


@pytest.mark.parametrize("engine", ["native", "warp"])
def test_more_tiles_than_expected_are_made_room_for(engine: str) -> None:
    """600 faint Gaussians over all twelve tiles: twice what the lists first have room for."""
    made = scene(600, degree=0, seed=13, size=1.0)
    made["opacity_logit"] = torch.full((600,), -4.0, dtype=torch.float64)
    cloud = cloud_of(made)
    found, wanted = (rasterize(cloud, CAMERA, engine=name) for name in (engine, "plain"))
    assert wanted.alpha.min() > 0.5
    assert (found.alpha - wanted.alpha).abs().mean() < 1e-5  # float32, some hundred layers deep
    assert (found.rgb - wanted.rgb).abs().max() < 0.01  # a layer more or less at alpha = 1/255


def test_projection_and_harmonics_are_gsplats() -> None:
    """Against the torch reference that gsplat ships for its kernels, which runs on the CPU."""
    theirs = pytest.importorskip("gsplat.cuda._torch_impl")
    made = scene(200, degree=3, seed=14)
    made["mean"][50:] *= 4.0  # some behind, some far to the side, where the Jacobian is held
    drawn = GaussianCloud(**{n: v.float() for n, v in made.items()}).gaussians()
    pose = torch.from_numpy(CAMERA.T_world_cam.copy()).float()[None]
    K = torch.from_numpy(CAMERA.K.copy()).float()[None]
    border = K.clone()
    border[:, :2, 2] += 0.5  # gsplat's pixel centres are at halves
    size = (CAMERA.width, CAMERA.height)
    mine = project(drawn.mean, drawn.covariance, pose, K, *size)
    radii, pixel, depth, conic, ratio = theirs._fully_fused_projection(
        drawn.mean, full_covariance(drawn.covariance), torch.linalg.inv(pose), border, *size,
        calc_compensations=True,
    )  # fmt: skip
    seen = (radii > 0).all(-1)
    assert 50 < int(seen.sum()) < 150
    spread = mine.covariance + 0.3 * torch.eye(2)
    inverse = torch.linalg.inv(spread)
    near = {"rtol": 1e-3, "atol": 1e-4}  # float32, determinants of long thin images
    torch.testing.assert_close(mine.pixel[seen] + 0.5, pixel[seen], **near)
    torch.testing.assert_close(mine.depth[seen], depth[seen], **near)
    wanted = torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], dim=-1)
    torch.testing.assert_close(wanted[seen], conic[seen], **near)
    mine_ratio = (torch.linalg.det(mine.covariance) / torch.linalg.det(spread)).clamp(min=0).sqrt()
    torch.testing.assert_close(mine_ratio[seen], ratio[seen], rtol=0.01, atol=1e-3)
    unit = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    for degree in range(4):
        basis = theirs._eval_sh_bases_fast((degree + 1) ** 2, unit)
        assert (harmonics(unit, degree) - basis).abs().max() < 1e-12


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["gsplat", "warp"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_engines_on_cuda_agree_with_the_native_engine(engine: str, antialiased: bool) -> None:
    if engine == "gsplat":
        pytest.importorskip("gsplat")
    made = scene(300, degree=3, seed=12)
    found = []
    for device, drawn_by in (("cpu", "native"), ("cuda", engine)):
        leaf = cloud_of(made).to(device)
        cloud = GaussianCloud(
            **{f.name: getattr(leaf, f.name).requires_grad_() for f in dataclasses.fields(leaf)}
        )
        pose = torch.from_numpy(CAMERA.T_world_cam.copy()).float()[None].to(device)
        pose.requires_grad_()
        render = rasterize(
            cloud, CAMERA, T_world_cam=pose, antialiased=antialiased,
            flow_to=cloud.replace(mean=cloud.mean.detach() + 0.01), engine=drawn_by,
        )  # fmt: skip
        loss = render.rgb.square().sum() + render.alpha.sum() + render.depth.sum()
        loss.backward()
        grads = [getattr(cloud, f.name).grad for f in dataclasses.fields(cloud)] + [pose.grad]
        images = [render.rgb, render.alpha, render.depth, render.flow]
        found.append([t.detach().cpu() for t in (*images, *grads)])
    for k, (cpu, cuda) in enumerate(zip(*found)):
        error = (cpu - cuda).abs() / cpu.abs().max()
        # A pixel whose alpha is 1/255 within float32 may be drawn by one alone: 0.4 %, and rare.
        assert error.max() < 0.02, k
        assert error.mean() < 1e-4, k
