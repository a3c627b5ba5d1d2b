"""The soft cell against elasticity, geometry and its own ground truth."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import Counter

import cv2
import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.cell.depth_noise import DepthNoiseConfig
from physgym.cell.soft import SoftCell
from physgym.cell.soft_body import build_body
from physgym.cell.soft_config import INTERACTIONS, KINDS, SoftCellConfig
from physgym.cell.soft_motion import scripted_motion
from physgym.cell.soft_surface import build_surface
from physgym.errors import DataError, DeviceError

GRAVITY_M_S2 = 9.81
# Coarse bodies and small pictures: the physics and the geometry are the same.
COARSE = {"block": 0.033, "toy": 0.028, "rope": 0.03, "cloth": 0.04}


def small(kind: str, **changes: object) -> SoftCellConfig:
    config = SoftCellConfig(kind=kind, spacing_m=COARSE[kind], camera_width=160, camera_height=120)
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def toy() -> SoftCell:
    return SoftCell(small("toy"))


def first_hit_m(
    camera: PinholeCamera, pixels: np.ndarray, surface: np.ndarray, faces: np.ndarray
) -> np.ndarray:
    """Depth at which pixels' rays first meet a mesh, inf where they miss (Moeller, Trumbore)."""
    rays = camera.pixel_rays(pixels) @ camera.T_world_cam[:3, :3].T
    a, b, c = (surface[faces[:, k]] for k in range(3))
    p = np.cross(rays[:, None], (c - a)[None])
    determinant = (p * (b - a)).sum(axis=2)
    determinant = np.where(np.abs(determinant) < 1e-15, np.nan, determinant)
    offset = camera.position - a
    u = (p * offset).sum(axis=2) / determinant
    q = np.cross(offset, b - a)
    v = (rays @ q.T) / determinant
    depth = ((c - a) * q).sum(axis=1) / determinant
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth > 0)
    return np.where(hit, depth, np.inf).min(axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_rest_shapes_are_whole_and_weigh_what_they_should(kind: str) -> None:
    config = SoftCellConfig(kind=kind)
    body = build_body(config)
    assert body.vertex_mass_kg.min() > 0
    sx, sy, sz = config.size
    volume = {"block": sx * sy * sz, "rope": np.pi * sy**2 / 4 * sx, "cloth": sx * sy * sz}
    if kind in volume:
        assert body.vertex_mass_kg.sum() == pytest.approx(config.density * volume[kind])
    # Closed: merged by place, every edge of the drawn surface runs as often one way as the other
    # (once each, but for the inner edges of a cloth, whose two sides merge too).
    surface = build_surface(body, kind)
    points, normals = surface.mesh(body.vertices)
    merged = surface.vertex_index
    if kind == "rope":
        merged = np.unique(points.round(7), axis=0, return_inverse=True)[1].ravel()
    triangles = merged[surface.faces]
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    count = Counter(map(tuple, edges.tolist()))
    assert count == Counter(map(tuple, edges[:, ::-1].tolist()))
    assert max(count.values()) == (2 if kind == "cloth" else 1)
    a, b, c = (points[surface.faces[:, k]] for k in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0  # volume: the outside is outside
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-9)


def test_a_dropped_block_rests_sunk_by_its_own_weight() -> None:
    cell = SoftCell(small("block", young_pa=3e3, poisson=0.0, spacing_m=0.025, start_height_m=0.02))
    rest = cell.body.vertices
    high, low = rest[:, 2] > rest[:, 2].max() - 1e-6, rest[:, 2] < 1e-6
    start_j = sum(cell.energy_j)
    for _ in range(45):
        cell.step(1 / 30)
        # Gravity and motion only give to elasticity, damping and friction; 1e-9 J is rounding.
        assert sum(cell.energy_j) < start_j + 1e-9
    vertices = cell.vertices
    assert cell.energy_j[1] < 1e-6 * start_j
    # A column under its own weight shortens by rho g h^2 / (2 E), 1.6 % here. The small-strain
    # formula errs by that much again, and vertices lie a little beside the mean: 6 %.
    height = rest[:, 2].max()
    shorter = height - (vertices[high, 2].mean() - vertices[low, 2].mean())
    expected = cell.config.density * GRAVITY_M_S2 * height**2 / (2 * cell.config.young)
    assert shorter == pytest.approx(expected, rel=0.06)
    # Contacts are soft: MuJoCo lets a resting body sink by some tenths of a millimetre.
    assert np.abs(vertices[low, 2]).max() < 1e-3


def test_free_fall_is_free() -> None:
    cell = SoftCell(small("block", start_height_m=0.3))
    before = cell.vertices
    cell.step(0.2)
    fallen = before[:, 2] - cell.vertices[:, 2]
    # Semi-implicit steps of h fall g t (t + h) / 2.
    time_s = cell.time_s
    expected = 0.5 * GRAVITY_M_S2 * time_s * (time_s + cell.config.timestep_s)
    np.testing.assert_allclose(fallen, expected, rtol=1e-6)


def test_a_stretched_block_grows_long_and_narrow() -> None:
    block = SoftCell(small("block", poisson=0.3, spacing_m=0.025))
    rest = block.body.vertices
    x, y = rest[:, 0], rest[:, 1]
    ends = x < x.min() + 1e-6, x > x.max() - 1e-6
    sides = (np.abs(x) < 0.03) & (y < y.min() + 1e-6), (np.abs(x) < 0.03) & (y > y.max() - 1e-6)
    frames = list(block.record("stretch", 1.5, images=False, fps=2))
    length, width = (
        [
            np.linalg.norm(f.vertices[one].mean(axis=0) - f.vertices[two].mean(axis=0))
            for f in (frames[0], frames[-1])
        ]
        for one, two in (ends, sides)
    )
    # The script pulls by 15 to 22 % and gives back 30 % of it at the end; the ends bulge out
    # around the grips, so half of the least counts.
    assert length[1] > 1.05 * length[0]
    # Poisson's ratio 0.3 makes a third of that strain; grips at the ends hold some of it back.
    assert width[1] < 0.99 * width[0]


def test_a_rope_keeps_its_length() -> None:
    rope = SoftCell(small("rope"))
    for frame in rope.record("fold", 1.5, fps=10, images=False):
        length = np.linalg.norm(np.diff(frame.vertices, axis=0), axis=1).sum()
        # The edge constraints are compliant: they are tuned to 0.3 % for a fold in one second.
        assert length == pytest.approx(rope.config.size[0], rel=0.003)


def test_a_lifted_toy_leaves_the_table_in_the_jaws(toy: SoftCell) -> None:
    local = None
    for frame in toy.record("lift", 1.5, seed=3, fps=30, images=False):
        held = toy.gripped_vertices(0)
        assert frame.gripper_closed[0] == toy.gripper_closed(0) == (len(held) > 0)
        if not len(held):
            assert frame.vertices[:, 2].min() < 2e-3  # on the table until it is held
            continue
        offset = frame.vertices[held] - frame.gripper_position[0]
        if local is None:
            local = offset
        # The ties follow the gripper: they are springs of 8 ms under less than the toy's weight,
        # and lag by some tenths of a millimetre when it accelerates.
        assert np.abs(offset - local).max() < 2e-3
    assert local is not None
    assert frame.vertices[:, 2].min() > 0.03
    assert not frame.gripper_closed[1]


def test_grippers_are_exactly_where_the_script_says(toy: SoftCell) -> None:
    toy.reset(5)
    motion = scripted_motion("stretch", toy.config, toy.vertices, duration_s=1.5, seed=5)
    for frame in toy.record(motion, 1.5, seed=5, fps=6, images=False):
        position, yaw, closed, _ = motion.at(frame.time_s)
        # Prescribed; the sums of a few hundred steps round in float64.
        np.testing.assert_allclose(frame.gripper_position, position, atol=1e-9)
        np.testing.assert_allclose(frame.gripper_quat_wxyz[:, 3], np.sin(0.5 * yaw), atol=1e-9)
        assert (frame.gripper_closed == closed).all()
        position, quat_wxyz = toy.gripper_pose(1)
        np.testing.assert_array_equal(position, frame.gripper_position[1])
        np.testing.assert_array_equal(quat_wxyz, frame.gripper_quat_wxyz[1])


@pytest.mark.parametrize(
    ("kind", "interaction"),
    [("block", "push"), ("block", "squeeze"), ("cloth", "fold"), ("rope", "drop")],
)
def test_interactions_move_the_body_and_leave_it_whole(kind: str, interaction: str) -> None:
    cell = SoftCell(small(kind))
    frames = list(cell.record(interaction, 1.5, fps=6, images=False, seed=2))
    moved = max(np.linalg.norm(f.vertices - frames[0].vertices, axis=1).max() for f in frames)
    assert moved > {"squeeze": 0.008}.get(interaction, 0.05)
    assert all(f.vertices[:, 2].min() > -0.01 for f in frames)  # soft contact, never through
    rest, elements = cell.body.vertices, cell.body.elements
    ratio = np.linalg.norm(
        frames[-1].vertices[elements[:, 0]] - frames[-1].vertices[elements[:, 1]], axis=1
    ) / np.linalg.norm(rest[elements[:, 0]] - rest[elements[:, 1]], axis=1)
    assert ratio.min() > 0.5
    assert ratio.max() < 1.5  # no edge is torn or crushed


def test_every_kind_has_every_script() -> None:
    for kind, interaction in itertools.product(KINDS, INTERACTIONS):
        config = small(kind)
        vertices = build_body(config).vertices
        motion, again, other = (
            scripted_motion(interaction, config, vertices, duration_s=2.0, seed=seed)
            for seed in (1, 1, 2)
        )
        assert motion.duration_s == pytest.approx(2.0)
        assert (np.diff(motion.time_s) > 0).all()
        assert motion.position_m[..., 2].min() > 0.01  # fingertips stay above the table
        np.testing.assert_array_equal(motion.position_m, again.position_m)
        assert (motion.position_m != other.position_m).any()
        time_s = np.arange(0, 2, 1 / 240)
        speed = np.diff([motion.at(t)[0] for t in time_s], axis=0) * 240
        assert np.linalg.norm(speed, axis=-1).max() < 2.0  # in two seconds; no jumps


def test_depth_is_the_first_hit_of_each_pixels_ray(toy: SoftCell) -> None:
    toy.reset(1)
    for index, camera in enumerate(toy.cameras):
        image = toy.render(index)
        v, u = (axis.ravel() for axis in np.mgrid[0:120:3, 0:160:3])
        hit = first_hit_m(camera, np.stack([u, v], axis=1), toy.surface, toy.surface_faces)
        seen, shown = image.depth_m[v, u], image.mask_object[v, u]
        # The mask is where the ray meets the body before anything else; rasterisation may decide
        # the outline's pixels differently, and those that a gripper covers are excluded.
        expected = np.isfinite(hit) & ~image.mask_gripper[v, u]
        assert shown.sum() > 30
        assert (shown != expected).mean() < 0.005
        both = shown & np.isfinite(hit)
        # float32 depth buffer: microns. Facets seen edge-on change depth fast within a pixel.
        error = np.abs(seen[both] - hit[both])
        assert np.median(error) < 1e-5
        assert np.quantile(error, 0.95) < 1e-3
        table = ~image.mask_object & ~image.mask_gripper
        points = camera.unproject(image.depth_m)[table]
        near = (np.abs(points[:, :2]) < 0.45).all(axis=1) & (points[:, 2] > -0.3)
        assert near.sum() > 2000
        assert np.abs(points[near, 2]).max() < 1e-4  # the table top is z = 0


def test_vertices_are_on_what_the_camera_sees(toy: SoftCell) -> None:
    *_, frame = toy.record("lift", 1.5, fps=4, seed=1)
    gaps = []
    for camera, image in zip(toy.cameras, frame.images):
        pixels, depth = camera.project(frame.surface)
        inside = camera.visible(pixels)
        u, v = np.round(pixels[inside]).astype(int).T
        shown = image.mask_object[v, u]
        gap = depth[inside][shown] - image.depth_m[v, u][shown]
        gaps.append(gap[np.abs(gap) < 0.01])  # the others are on the far side
    gap = np.concatenate(gaps)
    assert len(gap) > 100
    # Rounding to a pixel moves the ray by up to half a pixel, 1.5 mm in these small pictures.
    assert np.median(np.abs(gap)) < 1.5e-3


def test_texture_moves_with_the_material() -> None:
    cell = SoftCell(
        SoftCellConfig(kind="block", camera_count=1, camera_width=320, camera_height=240)
    )
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    frames = list(itertools.islice(cell.record("push", 2.0, seed=4), 22, 26))
    errors, motions = [], []
    for before, after in itertools.pairwise(frames):
        grey = [cv2.cvtColor(f.images[0].rgb, cv2.COLOR_RGB2GRAY) for f in (before, after)]
        assert grey[0][before.images[0].mask_object].std() > 15  # of 255: there is texture
        field = flow.calc(*grey, None)
        pixels, depth = cell.cameras[0].project(before.surface)
        moved = cell.cameras[0].project(after.surface)[0] - pixels
        u, v = np.round(pixels).astype(int).T
        image = before.images[0]
        inner = cv2.erode(image.mask_object.astype(np.uint8), np.ones((9, 9)))[v, u] > 0
        front = inner & (np.abs(depth - image.depth_m[v, u]) < 2e-3)
        errors.append(np.linalg.norm(field[v, u][front] - moved[front], axis=1))
        motions.append(np.linalg.norm(moved[front], axis=1))
    assert np.median(np.concatenate(motions)) > 1.0  # pixels a frame: there is motion to see
    # Sub-pixel: what a well-textured surface gives (DIS reports about 0.2 px on such images).
    assert np.median(np.concatenate(errors)) < 0.35


def test_the_same_seed_gives_the_same_bits(toy: SoftCell) -> None:
    noisy = SoftCell(dataclasses.replace(toy.config, depth_noise=DepthNoiseConfig()))
    runs = [list(noisy.record("squeeze", 1.0, fps=3, seed=seed)) for seed in (7, 7, 8)]
    for one, two in zip(runs[0], runs[1]):
        assert one.vertices.tobytes() == two.vertices.tobytes()
        for first, second in zip(one.images, two.images):
            assert first.depth_m.tobytes() == second.depth_m.tobytes()
            assert first.rgb.tobytes() == second.rgb.tobytes()
    assert (runs[0][0].vertices != runs[2][0].vertices).any()
    exact = noisy.render(0, noise=False).depth_m
    seen = noisy.render(0).depth_m
    valid = (seen > 0) & (exact < 1)
    # At most z^2 s / (f b) = 12 mm at 1 m in these small pictures; five of those.
    assert 0 < np.abs(seen - exact)[valid].max() < 0.06
    assert (seen == 0).sum() > (exact == 0).sum()


def test_frames_come_one_at_a_time_on_the_clock(toy: SoftCell) -> None:
    stream = toy.record("drop", 1.0, fps=30, images=False)
    first = next(stream)
    assert first.time_s == 0.0
    assert toy.time_s == 0.0  # nothing is simulated ahead
    assert first.images == ()
    second = next(stream)
    assert second.time_s == pytest.approx(1 / 30)
    assert first.surface.shape[1] == 3
    assert sum(1 for _ in stream) == 28


def test_one_camera_one_gripper_and_names() -> None:
    cell = SoftCell(small("cloth", camera_count=1, gripper_count=1))
    by_name, by_index = cell.render("cam0"), cell.render(0)
    np.testing.assert_array_equal(by_name.rgb, by_index.rgb)
    assert by_name.depth_m.dtype == np.float32
    assert by_name.rgb.shape == (120, 160, 3)
    *_, frame = cell.record("fold", 1.5, fps=4, images=False)
    assert frame.gripper_position.shape == (1, 3)
    with pytest.raises(DataError, match="one gripper"):
        next(cell.record("stretch", 2.0))
    with pytest.raises(DataError, match="camera 'cam1'"):
        cell.render("cam1")


def test_bad_input_is_refused(toy: SoftCell) -> None:
    for field, value in (
        ("kind", "jelly"),
        ("poisson", 0.5),
        ("gripper_count", 3),
        ("spacing_m", 0.2),
        ("spacing_m", 0.002),
        ("camera_width", 4),
        ("timestep_s", 0.05),
        ("young_pa", -1.0),
    ):
        with pytest.raises(DataError, match=field):
            SoftCellConfig(**{field: value})
    with pytest.raises(DataError, match="gripper 2"):
        toy.command(2, closed=True)
    with pytest.raises(DataError, match="position"):
        toy.command(0, position=np.array([0, 0, np.nan]))
    with pytest.raises(DataError, match="interaction"):
        next(toy.record("juggle"))
    with pytest.raises(DataError, match="frames a second"):
        next(toy.record("lift", fps=1000))


def test_pictures_stay_in_their_thread(toy: SoftCell) -> None:
    toy.render(0)
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            toy.render(0)
        except DeviceError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1
