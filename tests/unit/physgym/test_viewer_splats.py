"""Gaussians in the viewer: carried, turned and stretched as by `Follower`, and sent exactly."""

import numpy as np
import pytest
import torch

from physgym.frames import matrix_from_quat_wxyz
from physgym.splats import GaussianCloud, Gaussians
from physgym.splats.follower import Follower
from physgym.twin import Twin
from physgym.viewer.splat_motion import SplatMotion

pytest.importorskip("viser", reason="the extra `viewer` is not installed")

from physgym.viewer import splat_scene
from physgym.viewer.app import Viewer
from physgym.viewer.recording import CameraView, Recording, Shot

TURN = matrix_from_quat_wxyz(np.array([0.8, 0.36, -0.48, 0.0]))
SHIFT = np.array([0.3, -0.2, 0.5])


def grid(*sides: int) -> np.ndarray:
    axes = [np.arange(n) * 0.02 for n in sides]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def cloud(nodes: np.ndarray, *, count: int = 80, isotropic: bool = False) -> GaussianCloud:
    draw = torch.Generator().manual_seed(0)
    low, high = (torch.tensor(v).float() for v in (nodes.min(0), nodes.max(0)))
    return GaussianCloud(
        low + (high - low) * torch.rand(count, 3, generator=draw),
        -5.5 + 0.7 * torch.randn(count, 1 if isotropic else 3, generator=draw),
        torch.randn(count, 4, generator=draw),
        torch.randn(count, generator=draw),
        0.3 * torch.randn(count, 1, 3, generator=draw),
    )


def twin(dynamics: str, nodes: np.ndarray, splats: GaussianCloud) -> Twin:
    return Twin("t", "volume", dynamics, "phystwin", nodes, [], {}, splats=splats)


def bent(nodes: np.ndarray) -> np.ndarray:
    """Twisted, bent and stretched unevenly, turned and moved away."""
    x, y, z = nodes.T
    angle = 8.0 * z
    twisted = [
        x * np.cos(angle) - y * np.sin(angle),
        x * np.sin(angle) + y * np.cos(angle),
        z + 3 * x**2,
    ]
    return np.stack(twisted, axis=1) @ TURN.T + SHIFT


def shapes(made: GaussianCloud | Gaussians) -> np.ndarray:
    made_of = made.covariance if isinstance(made, Gaussians) else made.covariance()
    return made_of.numpy()


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("dynamics", ["spring_mass", "mpm"])
def test_it_is_the_follower(dynamics: str, isotropic: bool) -> None:
    nodes = grid(6, 5, 5)
    own = twin(dynamics, nodes, cloud(nodes, isotropic=isotropic))
    wanted = Follower(own).at(bent(nodes))
    mean, covariance = SplatMotion(own).at(bent(nodes))
    # Both are float32; the follower inverts its moments in it too, of a condition of some ten.
    assert mean == pytest.approx(wanted.mean.numpy(), abs=2e-6)
    size = np.abs(shapes(wanted)).max(axis=(1, 2))
    assert (np.abs(covariance - shapes(wanted)).max(axis=(1, 2)) < 1e-4 * size).all()


def test_needles_of_springs_turn_and_keep_their_length() -> None:
    nodes = grid(5, 4, 4)
    own = twin("spring_mass", nodes, cloud(nodes))
    motion = SplatMotion(own)
    _, covariance = motion.at(nodes @ TURN.T + SHIFT)
    # The pull to no turn is 1e-6 of the nodes' rotations.
    size = float(motion.covariance.max())
    assert covariance == pytest.approx(TURN @ motion.covariance @ TURN.T, abs=1e-5 * size)
    _, wider = motion.at(1.3 * nodes)
    assert wider == pytest.approx(motion.covariance, abs=1e-5 * size)


def test_a_continuum_stretches_them() -> None:
    """Sigma_t = F Sigma_0 F^T under one F."""
    nodes = grid(6, 5, 5)
    motion = SplatMotion(twin("mpm", nodes, cloud(nodes)))
    F = np.array([[1.5, 0.2, 0.0], [0.0, 0.8, 0.1], [0.0, 0.0, 1.1]])
    mean, covariance = motion.at(nodes @ F.T + SHIFT)
    # The bias towards the rotation has a ten thousandth of the weight.
    assert mean == pytest.approx(motion.mean @ F.T + SHIFT, abs=2e-5)
    wanted = F @ motion.covariance @ F.T
    assert covariance == pytest.approx(wanted, abs=2e-3 * float(wanted.max()))


def test_where_rotations_cancel_shapes_stay_finite() -> None:
    """Half of a body turned by 180 degrees against the other: what lies between has no rotation."""
    nodes = grid(6, 4, 4)
    torn = np.where(nodes[:, :1] > 0.05, nodes * [1, -1, -1], nodes)
    mean, covariance = SplatMotion(twin("spring_mass", nodes, cloud(nodes))).at(torn)
    assert np.isfinite(mean).all()
    assert np.isfinite(covariance).all()
    # Rotations and their means lengthen nothing.
    assert (np.trace(covariance, axis1=1, axis2=2) < 3 * covariance.max()).all()


@pytest.fixture
def server():
    import viser

    made = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    yield made
    made.stop()


def test_what_is_sent_keeps_gaussians_of_a_third_of_a_millimetre(server) -> None:
    nodes = grid(5, 4, 4)
    splats = cloud(nodes)
    splats = splats.replace(log_scale=splats.log_scale * 0 + float(np.log(3e-4)))
    own = twin("mpm", nodes, splats)
    scene = splat_scene.SplatScene(server, "/s", own)
    scene.update(bent(nodes), None)
    mean, covariance = SplatMotion(own).at(bent(nodes))
    scale = scene.handle.scale
    assert np.asarray(scene.handle.centers) * scale == pytest.approx(mean, abs=1e-6)
    sent = np.asarray(scene.handle.covariances, np.float64) * scale**2
    # float16 has eleven digits of two; in square metres these would be off by a third.
    assert sent == pytest.approx(covariance, abs=2**-10 * float(covariance.max()))


def test_they_take_the_colour_of_what_is_shown(server) -> None:
    nodes = grid(5, 4, 4)
    scene = splat_scene.SplatScene(server, "/s", twin("mpm", nodes, cloud(nodes)))
    own = np.asarray(scene.handle.rgbs).copy()
    red = np.tile(np.array([200, 10, 30], np.uint8), (len(nodes), 1))
    scene.update(nodes, red)
    assert np.abs(np.asarray(scene.handle.rgbs, int) - [200, 10, 30]).max() <= 1
    scene.update(nodes, None)
    assert (np.asarray(scene.handle.rgbs) == own).all()


def test_slow_splats_leave_time_for_the_simulation(server, monkeypatch) -> None:
    nodes = grid(5, 4, 4)
    scene = splat_scene.SplatScene(server, "/s", twin("mpm", nodes, cloud(nodes)))
    clock = [0.0]
    monkeypatch.setattr(splat_scene.time, "monotonic", lambda: clock[0])
    at = scene._motion.at

    def slowly(position):
        clock[0] += 0.5
        return at(position)

    scene._motion.at = slowly
    scene.update(nodes, None)
    clock[0] = 1.9  # a quarter of the time at most: 0.5 s of 2 s
    assert not scene.is_due
    clock[0] = 2.1
    assert scene.is_due


def test_of_too_many_the_faint_and_the_small_are_left_out() -> None:
    nodes = grid(5, 4, 4)
    splats = cloud(nodes)
    opacity = splats.opacity_logit.clone()
    opacity[10:] = -6.0
    some = splat_scene.weightiest(splats.replace(opacity_logit=opacity), 10)
    assert torch.equal(some.mean, splats.mean[:10])
    assert splat_scene.weightiest(splats, 80) is splats


def test_a_recording_without_a_point_is_shown_where_its_cameras_are():
    """Colour images that nobody perceived: there is nothing to frame but the cameras."""
    nothing = Shot(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), (np.zeros((4, 6, 3), np.uint8),))
    pose = np.eye(4)
    pose[:3, 3] = (0.0, -2.0, 1.0)
    cameras = (CameraView("a", np.eye(4), 0.8, 1.5), CameraView("b", pose, 0.8, 1.5))
    for seen in (cameras, ()):
        film = Recording("film", np.arange(3) / 30, lambda number: nothing, cameras=seen)
        viewer = Viewer(None, [film])
        try:
            wanted = np.linalg.norm(pose[:3, 3]) if seen else 0.05
            assert viewer._stage.size_m == pytest.approx(wanted)
        finally:
            viewer._server.stop()
