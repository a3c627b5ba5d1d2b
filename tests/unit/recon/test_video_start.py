"""The velocity with which a body in a film begins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from spring_gaus_cases import VELOCITY
from video_cases import GROUND, Drop, drop

from physgym.camera import PinholeCamera
from physgym.grip import Grip
from recon.identify.handling import Handling
from recon.identify.video_loss import LossWeights, VideoLoss, mask_centres
from recon.identify.video_start import find_flight, polish_velocity
from recon.splats.posed_images import PosedImages

NOTHING = Handling([], [], 1000)


@pytest.fixture(scope="module")
def fallen() -> Drop:
    return drop()


def test_the_start_velocity_is_read_from_masks(fallen: Drop) -> None:
    video = fallen.video()
    points = fallen.cloud.mean.double().numpy()
    flight = find_flight(video, fallen.scene(video), points, NOTHING)
    # The block touches between frames 2 and 3. Centres of masks are good to a third of a pixel of
    # 4 mm, which over two frames (33 ms) is 40 mm/s.
    assert flight.contact == 3
    np.testing.assert_allclose(flight.velocity_m_per_s, VELOCITY, atol=0.04)
    loss = VideoLoss(video, fallen.cloud, LossWeights())
    better = polish_velocity(
        loss, flight, fallen.scene(video), steps=15, on_step=lambda step, value: None
    )
    # Images tell it to a tenth of that; semi-implicit steps fall g dt^2 / 2 deeper than a parabola.
    np.testing.assert_allclose(better, VELOCITY, atol=0.025)


@pytest.mark.parametrize("radius_px", [10, 60])
def test_an_object_cut_by_the_image_has_no_centre(radius_px: int) -> None:
    """However many pixels it has: the cut is a length, the mask an area."""
    size = 300
    camera = PinholeCamera("c", "", size, size, np.diag([200.0, 200.0, 1.0]), np.eye(4))
    v, u = np.mgrid[:size, :size] - size / 2
    whole = []
    for top in (-1.1, -0.8, 0.0):  # where the image begins, in radii from the middle
        known = v > top * radius_px
        shown = np.float32([known, known & (np.hypot(v, u) < radius_px)])
        seen, mask = torch.from_numpy(shown)[:, None]
        views = PosedImages(torch.zeros(1, size, size, 3), mask, seen, (camera,))
        whole.append(bool(mask_centres(views)[1]))
    assert whole == [True, False, False]


def test_one_camera_tells_the_velocity_by_gravity(fallen: Drop) -> None:
    video = fallen.video()
    one = dataclasses.replace(video, frames=tuple(frame[[0]] for frame in video.frames))
    flight = find_flight(one, fallen.scene(video), fallen.cloud.mean.double().numpy(), NOTHING)
    way = one.frames[0].cameras[0].T_world_cam[:3, 2]
    across = np.eye(3) - np.outer(way, way)
    np.testing.assert_allclose(across @ (flight.velocity_m_per_s - VELOCITY), 0.0, atol=0.05)


def test_a_body_that_stands_or_is_held_has_no_velocity(fallen: Drop) -> None:
    video = fallen.video()
    scene, points = fallen.scene(video), fallen.cloud.mean.double().numpy()
    still = dataclasses.replace(video, frames=tuple(video.frames[0] for _ in video.frames))
    lying = dataclasses.replace(
        scene, ground=dataclasses.replace(GROUND, offset_m=float(points[:, 2].min()))
    )
    for about, film in ((lying, still), (scene, still)):
        flight = find_flight(film, about, points, NOTHING)
        assert not flight.free
        assert not flight.velocity_m_per_s.any()
    path = np.broadcast_to(points[None, :3], (len(video), 3, 3))
    grip = Handling([Grip(path, 0, len(video))], [], 1000)
    assert not find_flight(video, scene, points, grip).free
