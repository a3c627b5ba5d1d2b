"""Views keep their pixels where cameras say: cut, undistorted and made smaller."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.splats.posed_images import PosedImages, cropped_camera, posed_images
from recon.tracks import PhysGymWarning

H, W = 96, 128
POINTS = np.array([[0.0, 0.0, 1.0], [0.12, -0.05, 1.1], [-0.1, 0.08, 0.9], [0.05, 0.1, 1.0]])
BEND = np.array([-0.35, 0.1, 0.002, -0.001, 0.0])


def camera(distortion: np.ndarray | None = None) -> PinholeCamera:
    K = np.array([[160.0, 0, 60.3], [0, 158.0, 45.8], [0, 0, 1]])
    bend = np.zeros(5) if distortion is None else distortion
    return PinholeCamera("cam", "", W, H, K, np.eye(4), bend)


def photo(one: PinholeCamera, sigma: float = 2.5) -> np.ndarray:
    """A blob of light in its own colour where each point falls."""
    u, v = np.meshgrid(np.arange(W), np.arange(H))
    made = np.zeros((H, W, 3))
    for number, (x, y) in enumerate(one.project(POINTS)[0]):
        blob = np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
        made += blob[..., None] * np.eye(3)[number % 3]
    return np.rint(255 * made.clip(0, 1)).astype(np.uint8)


def centres(views: PosedImages) -> np.ndarray:
    """Where the light of each point is found, around where the camera says it is, (N, 2)."""
    pixel, _ = views.cameras[0].project(POINTS)
    rgb = views.rgb[0].numpy()
    height, width = rgb.shape[:2]
    found = []
    for number, (x, y) in enumerate(pixel):
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        near = (u - x) ** 2 + (v - y) ** 2 < 6**2
        light = rgb[..., number % 3] * near
        found.append([(light * u).sum() / light.sum(), (light * v).sum() / light.sum()])
    return np.array(found)


@pytest.mark.parametrize("distortion", [None, BEND])
@pytest.mark.parametrize(("crop", "most_pixels"), [(False, 10**6), (True, 10**6), (True, 1500)])
def test_a_point_stays_where_its_camera_sees_it(distortion, crop, most_pixels) -> None:
    own = camera(distortion)
    image = photo(own)
    mask = cv2.dilate((image.max(axis=2) > 3).astype(np.uint8), np.ones((3, 3))) > 0
    views = posed_images([image], [mask], [own], crop=crop, most_pixels=most_pixels)
    made = views.cameras[0]
    assert not made.distortion.any()
    assert (made.height, made.width) == views.mask.shape[1:]
    assert made.height * made.width <= most_pixels * 1.05  # sizes are rounded
    if crop:
        assert made.height < H or made.width < W
    # centroids of blobs, cut at six pixels and interpolated: good to a tenth of a pixel
    assert np.abs(centres(views) - made.project(POINTS)[0]).max() < 0.15


def test_what_is_beside_the_object_is_black_and_what_hides_it_is_not_known() -> None:
    image = np.full((H, W, 3), 200, np.uint8)
    mask = np.zeros((H, W), bool)
    mask[30:60, 40:90] = True
    hidden = np.zeros((H, W), bool)
    hidden[30:60, 90:95] = True
    views = posed_images([image], [mask], [camera()], hidden=[hidden])
    assert float(views.rgb[views.mask == 0].max()) == 0.0
    assert float(views.rgb[views.mask == 1].min()) == pytest.approx(200 / 255)
    assert int((views.known == 0).sum()) == 30 * 5
    assert int((views.mask == 1).sum()) == 30 * 50


@pytest.mark.parametrize("distortion", [None, BEND])
def test_no_background_colour_is_left_at_the_rim(distortion) -> None:
    """A pixel that is half object has half its colour, whatever was behind."""
    image = np.full((H, W, 3), [10, 255, 250], np.uint8)
    mask = np.zeros((H, W), bool)
    mask[31:60, 41:90] = True
    image[mask] = [200, 100, 0]
    views = posed_images([image], [mask], [camera(distortion)], most_pixels=900)
    share = views.mask[..., None]
    assert bool(((share > 0.1) & (share < 0.9)).any())
    colour = torch.tensor([200, 100, 0]) / 255
    assert torch.allclose(views.rgb, share * colour, atol=1e-5)


def test_windows_beyond_the_image_are_unknown_there() -> None:
    mask = np.zeros((H, W), bool)
    mask[0:40, 0:40] = True
    views = posed_images([np.full((H, W, 3), 9, np.uint8)], [mask], [camera()])
    edge = 16  # least margin
    assert views.mask.shape[1:] == (40 + 2 * edge, 40 + 2 * edge)
    assert float(views.known[0, :edge].max()) == 0.0
    assert float(views.known[0, edge:, edge:].min()) == 1.0
    assert views.cameras[0].K[0, 2] == pytest.approx(camera().K[0, 2] + edge)


def test_cameras_of_several_views_get_windows_of_one_size() -> None:
    masks = np.zeros((2, H, W), bool)
    masks[0, 10:30, 10:90] = True
    masks[1, 40:80, 50:70] = True
    images = np.zeros((2, H, W, 3), np.uint8)
    other = dataclasses.replace(camera(), name="other")
    views = posed_images(images, masks, [camera(), other])
    assert len(views) == 2
    assert views.mask.flatten(1).sum(1).tolist() == [20 * 80, 40 * 20]
    assert views[[1]].cameras[0].name == "other"
    assert views[[1]].mask.sum() == 40 * 20


def test_a_view_without_the_object_is_left_out_loudly() -> None:
    masks = np.zeros((2, H, W), bool)
    masks[0, 10:30, 10:30] = True
    with pytest.warns(PhysGymWarning, match="left out"):
        views = posed_images(np.zeros((2, H, W, 3), np.uint8), masks, [camera(), camera()])
    assert len(views) == 1


@pytest.mark.filterwarnings("ignore:camera cam does not see")
def test_what_does_not_fit_is_refused() -> None:
    image, mask = np.zeros((H, W, 3), np.uint8), np.ones((H, W), bool)
    with pytest.raises(DataError, match="no mask of 1 views"):
        posed_images([image], [~mask], [camera()])
    with pytest.raises(DataError, match="2 images, 1 masks"):
        posed_images([image, image], [mask], [camera()])
    with pytest.raises(DataError, match="0 images"):
        posed_images([], [], [])
    with pytest.raises(DataError, match="camera 'cam'"):
        posed_images([image[:-1]], [mask], [camera()])
    small = camera().scaled(0.5)
    with pytest.raises(DataError, match="one size"):
        posed_images(
            [image, image[: H // 2, : W // 2]],
            [mask, mask[: H // 2, : W // 2]],
            [camera(), small],
            crop=False,
        )


def test_a_cut_camera_sees_the_same_rays() -> None:
    part = cropped_camera(camera(), 20, -7, 30, 40)
    pixel, _ = camera().project(POINTS)
    assert np.allclose(part.project(POINTS)[0] + [-7, 20], pixel, atol=1e-12)
    assert (part.height, part.width) == (30, 40)
