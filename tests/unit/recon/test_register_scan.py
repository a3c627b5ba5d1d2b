"""A scan in units of its own is found in the views of another recording."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from video_cases import block_cloud, filmed, ring_of_cameras

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud
from physgym.splats.ply import encode_ply
from recon.identify.register_scan import (
    RegisterConfig,
    ScanPose,
    load_scan,
    perceptual_loss,
    register_scan,
    rotation_of_six,
)
from recon.splats.perceptual import LPIPS_VARIABLE
from recon.splats.posed_images import posed_images


def uneven_cloud() -> GaussianCloud:
    """A block without one of its corners: no rotation but none maps it onto itself."""
    cloud = block_cloud(0.012, height_m=0.05)
    at = cloud.mean - cloud.mean.mean(dim=0)
    return cloud[~(at > torch.tensor([0.01, 0.0, -0.005])).all(dim=1)]


def views_of(cloud: GaussianCloud, cameras: int = 3):
    rig = ring_of_cameras(cameras, 96)
    images, masks = filmed(cloud, cloud.mean[None], rig)
    return posed_images([i[0] for i in images], [m[0] for m in masks], rig, margin=0.4)


def scan_of(cloud: GaussianCloud, turn: np.ndarray, scale: float, shift: np.ndarray):
    """The cloud as another device scanned it: ``x' = scale turn x + shift``."""
    given = ScanPose(scale, turn, shift, np.zeros(3), 0.0, 1.0)
    return given.apply(cloud)


def error(pose: ScanPose, scan: GaussianCloud, cloud: GaussianCloud) -> float:
    """Root mean square distance of the Gaussians from where they are [m]."""
    found = pose.apply(scan).mean - cloud.mean
    return float(found.square().sum(dim=1).mean().sqrt())


def test_rotations_of_six_numbers_are_rotations() -> None:
    six = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = rotation_of_six(six)
    np.testing.assert_allclose(turn @ turn.mT, np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(torch.linalg.det(turn), 1.0, atol=1e-12)
    exact = torch.as_tensor(Rotation.random(5, random_state=1).as_matrix())
    np.testing.assert_allclose(rotation_of_six(exact[:, :2].flatten(1)), exact, atol=1e-12)
    first = six[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(rotation_of_six, (first,))


def test_a_scan_is_found_from_a_near_start() -> None:
    cloud = uneven_cloud()
    turn = Rotation.from_rotvec([0.3, -0.8, 1.9]).as_matrix()
    scan = scan_of(cloud, turn, 7.0, np.array([3.0, -1.0, 2.0]))
    near = Rotation.from_rotvec([0.15, -0.1, 0.1]).as_matrix() @ turn.T
    pose = register_scan(scan, views_of(cloud), RegisterConfig(steps=120), rotation=near)
    assert pose.iou > 0.9
    assert pose.scale == pytest.approx(1 / 7.0, rel=0.02)
    angle = Rotation.from_matrix(pose.rotation @ turn).magnitude()
    # A pixel is 4 mm there; edges are drawn over two, and a thousand pixels share the error.
    assert np.degrees(angle) < 3.0
    assert error(pose, scan, cloud) < 0.0025


@pytest.mark.slow
def test_a_scan_is_found_without_a_start() -> None:
    cloud = uneven_cloud()
    turn = Rotation.from_rotvec([0.3, -0.8, 1.9]).as_matrix()
    scan = scan_of(cloud, turn, 0.2, np.array([0.4, 1.0, -2.0]))
    pose = register_scan(scan, views_of(cloud), RegisterConfig(steps=120))
    assert error(pose, scan, cloud) < 0.0025


def test_a_perceptual_loss_takes_part() -> None:
    cloud = uneven_cloud()
    views, asked = views_of(cloud), []

    def near(drawn: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        asked.append(tuple(drawn.shape))
        return (drawn - seen).square().mean()

    pose = register_scan(cloud, views, RegisterConfig(steps=5), rotation=np.eye(3), perceptual=near)
    assert asked[0] == tuple(views.rgb.shape)
    assert len(asked) == 6
    assert error(pose, cloud, cloud) < 0.01


def test_lpips_weights_of_the_user_become_a_loss(tmp_path, monkeypatch) -> None:
    class Apart(torch.nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return (first - second).square().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.delenv(LPIPS_VARIABLE, raising=False)
    assert perceptual_loss() is None
    file, one = tmp_path / "lpips.pt", torch.zeros(1, 3, 8, 8)
    torch.jit.trace(Apart(), (one, one)).save(str(file))
    monkeypatch.setenv(LPIPS_VARIABLE, str(file))
    near = perceptual_loss()
    drawn = torch.full((2, 6, 5, 3), 0.75, requires_grad=True)
    loss = near(drawn, torch.full((2, 6, 5, 3), 0.5))
    assert float(loss.detach()) == pytest.approx(0.25)  # images from -1 to 1: twice as far apart
    loss.backward()
    assert drawn.grad is not None
    assert bool((drawn.grad > 0).all())
    monkeypatch.setenv(LPIPS_VARIABLE, str(tmp_path / "none.pt"))
    with pytest.raises(DataError, match="LPIPS"):
        perceptual_loss()


def test_scans_that_cannot_be_used_are_refused(tmp_path) -> None:
    cloud = uneven_cloud()
    whole = encode_ply(cloud)
    start = whole.index(b"end_header\n") + len(b"end_header\n")
    point = f"vertex {len(cloud)}".encode()
    files = {
        "NaN": whole[:start] + np.float32(np.nan).tobytes() + whole[start + 4 :],
        "0 Gaussians": whole[:start].replace(point, b"vertex 0"),
        "without": whole.replace(b"property float opacity", b"property float density"),
        "no PLY header": b"solid",
        "cut off": whole[:-9],
        "over 0 units": encode_ply(cloud.replace(mean=torch.zeros_like(cloud.mean))),
        "^0 of .* can be seen": encode_ply(
            cloud.replace(opacity_logit=torch.full((len(cloud),), -9.0))
        ),
        f"{len(cloud)} are larger": encode_ply(
            cloud.replace(log_scale=torch.full_like(cloud.log_scale, 60.0))
        ),
    }
    for what, content in files.items():
        (tmp_path / "scan.ply").write_bytes(content)
        with pytest.raises(DataError, match=what):
            load_scan(tmp_path / "scan.ply")
    with pytest.raises(DataError, match="cannot be read"):
        load_scan(tmp_path / "none.ply")
    with pytest.raises(DataError, match="cannot be read"):
        load_scan(tmp_path)
    (tmp_path / "scan.ply").write_bytes(whole)
    assert len(load_scan(tmp_path / "scan.ply")) == len(cloud)


def test_one_view_and_another_object_are_refused() -> None:
    cloud = uneven_cloud()
    with pytest.raises(DataError, match="1 view"):
        register_scan(cloud, views_of(cloud)[[0]])
    thin = cloud.replace(mean=cloud.mean * torch.tensor([8.0, 0.02, 0.02]))
    with pytest.raises(DataError, match="covers"):
        register_scan(thin, views_of(cloud), RegisterConfig(steps=3), rotation=np.eye(3))
