"""Whole geometry from partial clouds: volumes, sheets, ropes, and a user's mesh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from perception_scene import camera_at, film, lifted_ball
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.perception.complete import (
    Silhouette,
    _middle,
    complete,
    complete_sheet,
    complete_volume,
    guess_kind,
)
from recon.perception.fuse import fuse_frame
from recon.perception.mesh import align_mesh, fill_mesh, load_mesh, winding_number
from recon.perception.rope_line import line_length_m, rope_line, rope_lines
from recon.perception.table import Plane
from recon.tracks import PhysGymWarning

TABLE = Plane(np.array([0, 0, 1.0]), 0.0)
PCD = Path(__file__).parents[4] / "shared" / "data" / "views4" / "pcd.ply"


def rope_cloud(curl: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """The upper side of a rope of radius 8 mm, and its centre line."""
    rng = np.random.default_rng(0)
    along = np.linspace(0, 1, 4000)
    line = np.stack([0.6 * along, 0.08 * np.sin(curl * along), np.full(4000, 0.008)], axis=1)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, [0, 0, 1.0])
    angle = rng.uniform(-0.2, np.pi + 0.2, (4000, 1))
    skin = line + 0.008 * (np.cos(angle) * side + np.sin(angle) * [0, 0, 1.0])
    return skin + rng.normal(0, 0.0007, skin.shape), line


@pytest.mark.parametrize("count", [1, 3])
def test_a_ball_is_filled(count: int) -> None:
    places = ([0.45, -0.1, 0.4], [-0.3, 0.4, 0.4], [-0.2, -0.45, 0.35])[:count]
    cameras = [camera_at(place, [0, 0, 0.05]) for place in places]
    films = [film(camera, lifted_ball(1), noise=True) for camera in cameras]
    views, masks = [view for view, _ in films], [owner[0] == 0 for _, owner in films]
    cloud = fuse_frame(views, masks, 0).points
    looks = [
        Silhouette(camera, view.depth_m[0], mask)
        for camera, view, mask in zip(cameras, views, masks, strict=True)
    ]
    ball = complete_volume(cloud, spacing_m=0.006, table=TABLE, silhouettes=looks)
    every = np.concatenate([ball.surface, ball.interior])
    volume = len(every) * 0.006**3 / (4 / 3 * np.pi * 0.05**3)
    # Three cameras: within half a cell all round, 18 % of the volume. One camera sees a third of
    # the ball; what it cannot see is guessed.
    low, high = (0.85, 1.25) if count == 3 else (0.4, 1.25)
    assert low < volume < high
    assert len(ball.interior) > 0.4 * len(every)
    assert (np.linalg.norm(every - [0, 0, 0.05], axis=1) < 0.056).mean() > 0.93


def test_a_ball_in_the_air_has_an_underside_though_no_camera_sees_it() -> None:
    places = ([0.45, -0.1, 0.7], [-0.3, 0.4, 0.7], [-0.2, -0.45, 0.65])
    middle = np.array([0.0, 0.0, 0.3])
    scene = [lifted_ball(1)[0][:1]]
    scene[0][0].centre = middle
    looks, views, masks = [], [], []
    for place in places:
        camera = camera_at(place, list(middle))
        view, owner = film(camera, scene)
        views.append(view)
        masks.append([owner[0] == 0])
        looks.append(Silhouette(camera, view.depth_m[0], owner[0] == 0))
    cloud = fuse_frame(views, [mask[0] for mask in masks], 0).points
    # From 41 degrees above, the lowest point that is seen is 0.05 (1 - cos 41) = 12 mm over it.
    assert cloud[:, 2].min() > 0.25 + 0.009
    how = {"spacing_m": 0.005, "table": TABLE, "silhouettes": looks}
    ball = complete_volume(cloud, **how)
    every = np.concatenate([ball.surface, ball.interior])
    low = every[:, 2].min() - 0.0025
    assert abs(low - 0.25) < 0.005  # a cell
    assert 0.85 < len(every) * 0.005**3 / (4 / 3 * np.pi * 0.05**3) < 1.2
    floor = Plane(np.array([0.0, 0.0, 1.0]), 0.258)
    cut = complete_volume(cloud, **how, floors=[floor])
    cells = np.concatenate([cut.surface, cut.interior])
    assert 0.256 < cells[:, 2].min() - 0.0025 < 0.263
    # One camera whose image cuts the object off, and one line of sight, tell no middle.
    touching = looks[1].mask.copy()
    touching[0, 0] = True
    assert _middle([looks[0], replace(looks[1], mask=touching)]) is None
    assert _middle(looks[:1] * 2) is None
    found = _middle(looks)
    assert found is not None
    np.testing.assert_allclose(found, middle, atol=2e-3)  # a pixel


def test_silhouettes_carve_what_the_hull_would_fill() -> None:
    # Two balls side by side: the hull joins them by a bridge that every camera looks through.
    camera = camera_at([0.5, 0.0, 0.4], [0, 0, 0.04])
    scene = [[lifted_ball(1)[0][0], lifted_ball(1)[0][0]]]
    for body, shift in zip(scene[0], (-0.08, 0.08), strict=True):
        body.centre = np.array([0.0, shift, 0.05])
    view, owner = film(camera, scene)
    mask = owner[0] >= 0
    cloud = fuse_frame([view], [mask], 0).points
    between = []
    carving: list[list[Silhouette]] = [[], [Silhouette(camera, view.depth_m[0], mask)]]
    for looks in carving:
        whole = complete_volume(cloud, spacing_m=0.008, table=TABLE, silhouettes=looks)
        between.append((np.abs(whole.surface[:, 1]) < 0.015).sum())
    assert between[0] > 20
    assert between[1] < 0.2 * between[0]


def test_a_hollow_volume_is_warned_of() -> None:
    skin = trimesh.creation.icosphere(4, 0.05).vertices + np.array([0, 0, 0.05])
    with pytest.warns(PhysGymWarning, match="none inside"):
        complete_volume(np.asarray(skin), spacing_m=0.06)
    with pytest.raises(DataError, match="span no volume"):
        complete_volume(np.asarray(skin) * np.array([1, 1, 0]), spacing_m=0.01)


def test_holes_of_a_sheet_are_filled() -> None:
    rng = np.random.default_rng(0)
    flat = rng.uniform(-0.14, 0.14, (20000, 2))
    flat = flat[np.hypot(flat[:, 0] - 0.03, flat[:, 1]) > 0.015]
    cloud = np.column_stack([flat, 0.02 * np.sin(15 * flat[:, 0])])
    nodes = complete_sheet(cloud, spacing_m=0.008).surface
    truth = 0.02 * np.sin(15 * nodes[:, 0])
    # A chord of 30 mm over the hole misses the wave by A k^2 c^2 / 8 = 0.5 mm, the tilt of the
    # fitted plane and the mean over a cell as much again.
    assert np.abs(nodes[:, 2] - truth).max() < 3e-3
    assert (np.hypot(nodes[:, 0] - 0.03, nodes[:, 1]) < 0.012).sum() >= 5
    assert len(nodes) == pytest.approx((0.28 / 0.008) ** 2, rel=0.1)


def test_the_centre_line_of_a_rope() -> None:
    cloud, truth = rope_cloud()
    line, radius = rope_line(cloud, spacing_m=0.01, table=TABLE)
    away = cKDTree(truth).query(line)[0]
    assert away.mean() < 2e-3  # a quarter of the radius, from its upper side alone
    assert line_length_m(line) == pytest.approx(line_length_m(truth), rel=0.02)
    assert radius == pytest.approx(0.008, rel=0.3)
    step = np.linalg.norm(np.diff(line, axis=0), axis=1)
    assert step.std() < 0.05 * step.mean()  # even along the length, chords of bends aside


def test_a_rope_that_is_hidden_in_the_middle_stays_one() -> None:
    cloud, truth = rope_cloud()
    seen = cloud[np.abs(cloud[:, 0] - 0.3) > 0.02]
    line, _ = rope_line(seen, spacing_m=0.01, table=TABLE)
    assert line_length_m(line) == pytest.approx(line_length_m(truth), rel=0.03)


def test_rope_nodes_keep_their_end_over_time() -> None:
    clouds = [rope_cloud(curl)[0] for curl in (6.0, 5.5, 5.0)]
    clouds.append(clouds[-1][clouds[-1][:, 0] < 0.3])  # half of it leaves the view
    lines = rope_lines(clouds, count=30, table=TABLE)
    assert np.isnan(lines[3]).all()
    step = np.linalg.norm(np.diff(lines[:3], axis=0), axis=2)
    assert step.max() < 0.06  # turned round, the ends would jump by 0.6 m


def test_kinds_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    sheet = rng.uniform(-0.15, 0.15, (5000, 3)) * [1, 1, 0.01]
    ball = trimesh.creation.icosphere(5, 0.05).vertices
    assert guess_kind(rope_cloud()[0]) == "rope"
    assert guess_kind(sheet) == "sheet"
    assert guess_kind(np.asarray(ball[ball[:, 2] > 0])) == "volume"
    assert complete("rope", rope_cloud()[0], spacing_m=0.02).radius_m is not None


@pytest.mark.skipif(not PCD.is_file(), reason="shared/data/views4 is not here")
def test_a_real_rope_has_a_centre_line_in_its_cloud() -> None:
    cloud = np.asarray(trimesh.load(PCD).vertices)
    line, _ = rope_line(cloud, spacing_m=0.01)
    # Its box is 0.53 x 0.30 m; a curved line between its corners is longer than the diagonal.
    assert 0.61 < line_length_m(line) < 0.85
    assert guess_kind(cloud) == "rope"
    assert cKDTree(line).query(cloud)[0].max() < 0.04  # the whole cloud lies along it


def body_mesh() -> trimesh.Trimesh:
    """A box with a ball on one corner: no turn maps it onto itself."""
    box = trimesh.creation.box((0.12, 0.08, 0.06))
    ball = trimesh.creation.icosphere(2, 0.03)
    ball.apply_translation([0.05, 0.02, 0.05])
    return trimesh.util.concatenate([box, ball])


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_a_mesh_is_laid_onto_what_is_seen_of_it(suffix: str, tmp_path: Path) -> None:
    mesh = body_mesh()
    mesh.export(tmp_path / f"body{suffix}")
    vertices, faces = load_mesh(tmp_path / f"body{suffix}")
    turn = Rotation.from_euler("z", 70, degrees=True).as_matrix()
    skin, face = trimesh.sample.sample_surface(mesh, 3000, seed=1)
    front = (mesh.face_normals[face] @ turn.T) @ [0.6, 0.2, 0.77] > 0.2
    noise = np.random.default_rng(0).normal(0, 0.001, (int(front.sum()), 3))
    cloud = skin[front] @ turn.T + [0.1, -0.05, 0.03] + noise
    found = align_mesh(vertices, faces, cloud, up=np.array([0, 0, 1.0]), table=TABLE)
    truth = vertices @ turn.T + [0.1, -0.05, 0.03]
    # Noise of 1 mm on a thousand points leaves 0.03 mm; the samples of the surface are 3 mm apart.
    assert np.linalg.norm(found.vertices - truth, axis=1).mean() < 1.5e-3
    assert found.scale == pytest.approx(1.0)


def test_a_mesh_is_filled_and_an_open_one_still_has_an_inside() -> None:
    ball = trimesh.creation.icosphere(3, 0.05)
    whole = fill_mesh(ball.vertices, ball.faces, spacing_m=0.01)
    assert len(whole.interior) > 150
    assert np.linalg.norm(whole.interior, axis=1).max() < 0.05
    points = np.array([[0, 0, 0.0], [0.03, 0, 0], [0.08, 0, 0]])
    np.testing.assert_allclose(
        winding_number(ball.vertices, ball.faces, points), [1, 1, 0], atol=1e-3
    )
    opened = ball.faces[ball.triangles_center[:, 2] < 0.045]
    assert (winding_number(ball.vertices, opened, points) > 0.5).tolist() == [True, True, False]


def test_a_file_that_is_no_mesh_says_so(tmp_path: Path) -> None:
    (tmp_path / "body.obj").write_text("hello")
    with pytest.raises(DataError, match=r"body\.obj"):
        load_mesh(tmp_path / "body.obj")


def test_scattered_points_are_no_rope() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4) * 0.05] * 3), -1).reshape(-1, 3)
    with pytest.raises(DataError, match="far apart"):
        rope_line(grid, spacing_m=0.01)
    assert guess_kind(grid) == "volume"
