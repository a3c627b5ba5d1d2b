"""PinholeCamera against OpenCV, against itself and against bad input."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml

from physgym.camera import PinholeCamera
from physgym.errors import DataError

# Of a D435's colour stream, with more distortion than it has.
DISTORTION = np.array([0.12, -0.25, 0.001, -0.002, 0.05])


def camera(distortion: np.ndarray | None = None) -> PinholeCamera:
    rotation, _ = cv2.Rodrigues(np.array([2.0, 0.3, -0.4]))
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3], T_world_cam[:3, 3] = rotation, [0.2, -0.5, 0.7]
    K = np.array([[92.0, 0, 61.3], [0, 93.0, 44.6], [0, 0, 1]])
    return PinholeCamera(
        "cam0", "123", 120, 90, K, T_world_cam, np.zeros(5) if distortion is None else distortion
    )


def points_ahead(cam: PinholeCamera, count: int = 50) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.uniform(0.3, 2.0, count)
    in_camera = np.stack([rng.uniform(-0.5, 0.5, count) * z, rng.uniform(-0.4, 0.4, count) * z, z])
    return (cam.T_world_cam[:3, :3] @ in_camera).T + cam.position


@pytest.mark.parametrize("distortion", [np.zeros(5), DISTORTION])
def test_projection_is_opencvs(distortion: np.ndarray) -> None:
    cam = camera(distortion)
    points = points_ahead(cam)
    T_cam_world = np.linalg.inv(cam.T_world_cam)
    rvec, _ = cv2.Rodrigues(T_cam_world[:3, :3])
    expected, _ = cv2.projectPoints(points, rvec, T_cam_world[:3, 3], cam.K, cam.distortion)
    pixels, depth = cam.project(points)
    # Same formula in float64; Rodrigues' vector and back costs a few of its digits.
    np.testing.assert_allclose(pixels, expected[:, 0], atol=1e-8)
    np.testing.assert_allclose(depth, (points - cam.position) @ cam.T_world_cam[:3, 2], atol=1e-12)


@pytest.mark.parametrize("distortion", [np.zeros(5), DISTORTION])
def test_unprojection_is_the_way_back(distortion: np.ndarray) -> None:
    cam = camera(distortion)
    depth = np.random.default_rng(1).uniform(0.3, 2.0, (90, 120))
    pixels, back = cam.project(cam.unproject(depth).reshape(-1, 3))
    u, v = np.meshgrid(np.arange(120), np.arange(90))
    np.testing.assert_allclose(back.reshape(90, 120), depth, atol=1e-12)
    # The iteration that undoes distortion converges linearly; 1e-4 px is far below any camera.
    np.testing.assert_allclose(pixels, np.stack([u.ravel(), v.ravel()], axis=1), atol=1e-4)


def test_points_behind_have_no_pixel_and_missing_depth_no_point() -> None:
    cam = camera()
    behind = cam.position - cam.T_world_cam[:3, 2]
    pixels, depth = cam.project(behind[None])
    assert np.isnan(pixels).all()
    assert depth[0] == pytest.approx(-1.0)
    assert not cam.visible(pixels)[0]
    image = np.ones((90, 120))
    image[3, 4], image[5, 6], image[7, 8] = 0.0, np.nan, np.inf
    missing = np.isnan(cam.unproject(image)).all(axis=2)
    assert sorted(zip(*np.nonzero(missing))) == [(3, 4), (5, 6), (7, 8)]


def test_visible_ends_at_the_pixel_borders() -> None:
    corners = np.array([[-0.5, -0.5], [119.49, 89.49], [119.5, 0], [0, 89.5], [-0.51, 0]])
    assert camera().visible(corners).tolist() == [True, True, False, False, False]


def test_scaled_camera_sees_the_same_borders() -> None:
    cam = camera()
    half = cam.scaled(0.5)
    assert (half.width, half.height) == (60, 45)
    points = points_ahead(cam)
    # u + 0.5 counts from the image's border, so it halves exactly.
    np.testing.assert_allclose(
        half.project(points)[0] + 0.5, (cam.project(points)[0] + 0.5) / 2, atol=1e-9
    )


def test_plain_form_survives_yaml_and_json() -> None:
    cam = camera(DISTORTION)
    for text in (
        yaml.safe_load(yaml.safe_dump(cam.to_plain())),
        json.loads(json.dumps(cam.to_plain())),
    ):
        back = PinholeCamera.from_plain(text)
        assert back.to_plain() == cam.to_plain()


def test_arrays_are_copied_and_frozen() -> None:
    K = np.array([[92.0, 0, 60], [0, 92, 45], [0, 0, 1]])
    cam = PinholeCamera("a", "", 120, 90, K, np.eye(4))
    K[0, 0] = 1.0
    assert cam.K[0, 0] == 92.0
    with pytest.raises(ValueError, match="read-only"):
        cam.K[0, 0] = 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("K", np.eye(4)),
        ("K", -np.eye(3)),
        ("T_world_cam", np.diag([1.0, 1, -1, 1])),
        ("T_world_cam", 2 * np.eye(4)),
        ("T_world_cam", np.full((4, 4), np.nan)),
        ("distortion", np.zeros(4)),
        ("width", 0),
    ],
)
def test_what_is_no_camera_is_refused_by_name(field: str, value: object) -> None:
    fields = {**camera().__dict__, field: value}
    with pytest.raises(DataError, match=field):
        PinholeCamera(**fields)


def test_unknown_missing_and_mistyped_fields_are_refused() -> None:
    plain = camera().to_plain()
    for broken in (
        {**plain, "fov": 3},
        {key: value for key, value in plain.items() if key != "K"},
        {**plain, "width": "wide"},
    ):
        with pytest.raises(DataError):
            PinholeCamera.from_plain(broken)


def test_depth_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="depth image"):
        camera().unproject(np.ones((45, 60)))
