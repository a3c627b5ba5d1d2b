"""Other people's layouts become episodes, tracks, clouds and views."""

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from episode_cases import H, W, camera, color, depth
from perception_scene import camera_at

from physgym.errors import DataError
from recon.episode import Episode
from recon.importers import convert_episode, load_clouds, load_recordings, load_views
from recon.importers.phystwin_case import convert
from recon.importers.phystwin_final import read_case
from recon.importers.world_axis import TURN_Z_DOWN
from recon.tracks import PhysGymWarning

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_cloth = pytest.mark.skipif(
    not (SHARED / "cloth_pcd").is_dir(), reason=f"the sheets' clouds are not in {SHARED}"
)
needs_views = pytest.mark.skipif(
    not (SHARED / "views4").is_dir(), reason=f"the rope's views are not in {SHARED}"
)
FRAMES, FPS = 6, 25


def write_case(folder: Path, *, z_down: bool = True, **changes: Any) -> Path:
    """A raw PhysTwin case of two cameras; one frame of camera 1 is lost."""
    turn = TURN_Z_DOWN if z_down else np.eye(4)
    cameras = [camera(f"cam{c}", c) for c in range(2)]
    for c in range(2):
        for part in ("color", "depth", "mask"):
            (folder / part / str(c)).mkdir(parents=True)
        for t in range(FRAMES):
            rgb = np.ascontiguousarray(color(t, c)[..., ::-1])
            cv2.imwrite(str(folder / "color" / str(c) / f"{t}.png"), rgb)
            if (c, t) != (1, 4):
                deep = np.round(depth(t, c) * 1e3).astype(np.uint16)
                np.save(folder / "depth" / str(c) / f"{t}.npy", deep)
        (folder / "mask" / str(c) / "0").mkdir()
        (folder / "mask" / str(c) / "1").mkdir()
        mask = np.zeros((H, W), np.uint8)
        mask[3:9, 5:20] = 255
        cv2.imwrite(str(folder / "mask" / str(c) / "0" / "2.png"), mask)
        cv2.imwrite(str(folder / "mask" / str(c) / "1" / "2.png"), mask.T[:H].repeat(2, 1)[:, :W])
        labels = json.dumps({"0": "hand", "1": "sloth"})
        (folder / "mask" / f"mask_info_{c}.json").write_text(labels)
    poses = [turn @ one.T_world_cam for one in cameras]
    (folder / "calibrate.pkl").write_bytes(pickle.dumps(changes.pop("poses", poses)))
    metadata = {
        "intrinsics": [one.K.tolist() for one in cameras],
        "WH": [W, H],
        "fps": FPS,
        "frame_num": FRAMES,
        "serial_numbers": ["111", "222"],
        **changes,
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    path = 0.01 * np.arange(FRAMES)[:, None] + np.array([0.1, 0.2, 0.3])
    np.savez(
        folder / "gripper.npz",
        position=path @ turn[:3, :3].T,
        closed=np.arange(FRAMES) > 2,
    )
    return folder


@pytest.mark.parametrize("z_down", [True, False])
def test_a_raw_phystwin_case_becomes_an_episode_with_z_up(tmp_path: Path, z_down: bool) -> None:
    case = write_case(tmp_path / "single_lift", z_down=z_down)
    with pytest.warns(PhysGymWarning, match="camera 1: 1 images have no partner"):
        out = convert_episode(case, tmp_path / "episode")
    with pytest.warns(PhysGymWarning, match="about 1 frames are missing"):
        episode = Episode.open(out)
    with episode:
        assert episode.name == "single_lift"
        assert episode.metadata["world_turned"] is z_down
        for c, found in enumerate(episode.cameras.values()):
            # Through a quaternion: float64 rounding.
            assert np.allclose(found.T_world_cam, camera("x", c).T_world_cam, atol=1e-14)
            assert found.serial == str(111 * (c + 1))
        assert np.allclose(episode.stamps_s("cam0"), np.arange(FRAMES) / FPS, atol=2e-9)
        assert episode.frame_count("cam1") == FRAMES - 1
        frame = episode.frame("cam1", 4)
        assert np.array_equal(frame.rgb, color(5, 1))
        assert frame.depth_m is not None
        assert np.abs(frame.depth_m - depth(5, 1)).max() < 1e-6  # whole millimetres in float32
        assert episode.mask_labels("cam0") == ("hand", "object")
        hand = episode.mask("cam0", 2, "hand")
        assert hand is not None
        assert hand.sum() == 6 * 15
        pose = episode.gripper_pose(0)
        assert np.allclose(pose.position[-1], [0.15, 0.25, 0.35], atol=1e-12)
        assert episode.gripper_closed(0).value.tolist() == [False] * 3 + [True] * 3


def test_uncut_recordings_keep_their_own_stamps(tmp_path: Path) -> None:
    recording = {"111": {str(t): 70.0 + 0.04 * t for t in range(FRAMES)}}
    case = write_case(tmp_path / "a", frame_num=None, recording=recording)
    metadata = json.loads((case / "metadata.json").read_text())
    del metadata["frame_num"]
    metadata["recording"]["222"] = {str(t): 70.003 + 0.04 * t for t in range(FRAMES)}
    (case / "metadata.json").write_text(json.dumps(metadata))
    (case / "gripper.npz").unlink()
    with pytest.warns(PhysGymWarning, match="no partner"):
        convert_episode(case, tmp_path / "e")
    with pytest.warns(PhysGymWarning, match="about 1 frames"):
        episode = Episode.open(tmp_path / "e")
    with episode:
        assert episode.start_s == 70.0
        assert episode.stamps_s("cam1")[1] == pytest.approx(0.043, abs=2e-9)


def test_which_way_is_up_must_be_clear_or_said(tmp_path: Path) -> None:
    poses = [camera("a", 0).T_world_cam, TURN_Z_DOWN @ camera("b", 1).T_world_cam]
    case = write_case(tmp_path / "odd", poses=poses)
    with pytest.raises(DataError, match="nothing tells whether z is up or down"):
        convert(case, tmp_path / "e")
    with pytest.warns(PhysGymWarning, match="no partner"):
        convert(case, tmp_path / "e", world_z="up")
    assert (tmp_path / "e").is_dir()
    with pytest.raises(DataError, match="sideways"):
        convert(case, tmp_path / "f", world_z="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda p: (p / "calibrate.pkl").write_bytes(b"cos\nsystem\n."), "os.system"),
        (lambda p: (p / "calibrate.pkl").write_bytes(pickle.dumps([np.eye(3)])), "shape"),
        (lambda p: (p / "metadata.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "color" / "1" / "0.png").write_bytes(b"x"), "no image"),
        (lambda p: np.save(p / "depth" / "0" / "1.npy", np.zeros((3, 4))), "shape"),
        (lambda p: np.savez(p / "gripper.npz", place=np.zeros(3)), "place"),
        (lambda p: np.savez(p / "gripper.npz", position=np.zeros((6, 3)), closed=[1]), "reshape"),
    ],
)
@pytest.mark.filterwarnings("ignore::recon.tracks.PhysGymWarning")
def test_a_damaged_case_is_refused(tmp_path: Path, breaking: Any, message: str) -> None:
    case = write_case(tmp_path / "case")
    breaking(case)
    with pytest.raises(DataError, match=message):
        convert_episode(case, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def final_data(*, z_down: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    turn = (TURN_Z_DOWN if z_down else np.eye(4))[:3, :3]
    points = rng.uniform([-0.1, -0.1, 0.01], [0.1, 0.1, 0.1], (10, 20, 3))
    seen = np.ones((10, 20), bool)
    seen[5, 3] = False
    points[~seen] = 0
    return {
        "object_points": points @ turn.T,
        "object_visibilities": seen,
        "object_motions_valid": np.roll(seen, 1, axis=0),
        "object_colors": rng.uniform(size=(10, 20, 3)),
        "controller_points": rng.uniform(0.1, 0.2, (10, 30, 3)) @ turn.T,
        "surface_points": np.zeros((0, 3)),
        "interior_points": rng.uniform(0.02, 0.08, (7, 3)) @ turn.T,
        "controller_mask": np.ones(40, bool),
    }


@pytest.mark.parametrize("z_down", [True, False])
def test_final_data_become_tracks_with_z_up(tmp_path: Path, z_down: bool) -> None:
    meant = final_data(z_down=False)
    (tmp_path / "sloth").mkdir()
    file = tmp_path / "sloth" / "final_data.pkl"
    file.write_bytes(pickle.dumps(final_data(z_down=z_down)))
    (tmp_path / "sloth" / "metadata.json").write_text('{"fps": 15}')
    (tmp_path / "sloth" / "split.json").write_text('{"frame_len": 10, "train": [0, 6]}')
    (tracks,) = load_recordings(tmp_path / "sloth")
    assert tracks.name == "sloth"
    assert tracks.dt_s == pytest.approx(1 / 15)
    assert tracks.driven_index.tolist() == list(range(20, 50))
    assert not tracks.visible[5, 3]
    assert np.isnan(tracks.position[5, 3]).all()
    assert tracks.visible.sum() == 10 * 50 - 1
    # float32 metres of about 0.1
    assert np.allclose(tracks.driven, meant["controller_points"], atol=1e-8)
    assert np.allclose(tracks.position[0, :20], meant["object_points"][0], atol=1e-8)
    assert tracks.rest_position is not None
    case = read_case(file)
    assert np.array_equal(case.motion_valid, meant["object_motions_valid"])
    assert np.allclose(case.interior_points, meant["interior_points"], atol=1e-12)
    assert case.surface_points.shape == (0, 3)
    assert case.train_frames == 6


def test_final_data_alone(tmp_path: Path) -> None:
    content = final_data(z_down=True)
    file = tmp_path / "final_data.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.warns(PhysGymWarning, match="30 frames per second taken"):
        assert read_case(file).tracks.dt_s == pytest.approx(1 / 30)
    content["object_points"][:, ::2] *= -1
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="nothing tells"):
        read_case(file, fps=30)
    assert read_case(file, fps=30, world_z="up").tracks.node_count == 50
    del content["controller_points"]
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="controller_points"):
        read_case(file, fps=30)


@pytest.mark.parametrize("layout", ["camera first", "part first"])
def test_a_folder_of_images_becomes_an_episode(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "photos"
    entries = {}
    for c, name in enumerate(("left", "right")):
        one = camera(name, c)
        entries[name] = {"K": one.K.tolist(), "T_world_cam": one.T_world_cam.tolist()}
        for part in ("color", "depth"):
            place = folder / name / part if layout == "camera first" else folder / part / name
            place.mkdir(parents=True)
            for t in range(4):
                if part == "color":
                    bgr = np.ascontiguousarray(color(t, c)[..., ::-1])
                    cv2.imwrite(str(place / f"frame_{t + 10:04d}.png"), bgr)
                elif c == 0:
                    deep = np.round(depth(t, c) * 1e3).astype(np.uint16)
                    cv2.imwrite(str(place / f"{t + 10}.png"), deep)
                else:
                    np.save(place / f"{t + 10}.npy", depth(t, c))
    (folder / "cameras.yaml").write_text(yaml.safe_dump({"fps": 10, "cameras": entries}))
    with Episode.open(convert_episode(folder, tmp_path / "e")) as episode:
        assert episode.losses == ()
        for c, name in enumerate(("left", "right")):
            T = camera(name, c).T_world_cam
            assert np.allclose(episode.cameras[name].T_world_cam, T, atol=1e-14)
            for t, frame in enumerate(episode.frames(name)):
                assert frame.stamp_s == pytest.approx(0.1 * t, abs=2e-9)
                assert np.array_equal(frame.rgb, color(t, c))
                assert frame.depth_m is not None
                assert np.abs(frame.depth_m - depth(t, c)).max() < 1e-6
    entries["left"]["focal"] = 3
    (folder / "cameras.yaml").write_text(yaml.safe_dump({"fps": 10, "cameras": entries}))
    with pytest.raises(DataError, match="focal"):
        convert_episode(folder, tmp_path / "f")
    with pytest.raises(DataError, match="no importer knows"):
        convert_episode(tmp_path, tmp_path / "f")


def test_colour_alone_is_an_episode_without_depth(tmp_path: Path) -> None:
    place = tmp_path / "photos" / "c" / "color"
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "0.jpg"), color(0))
    one = camera("c")
    entry = {"K": one.K.tolist(), "T_world_cam": (TURN_Z_DOWN @ one.T_world_cam).tolist()}
    content = {"times_s": [7.5], "world_z": "down", "cameras": {"c": entry}}
    (tmp_path / "photos" / "cameras.json").write_text(json.dumps(content))
    with Episode.open(convert_episode(tmp_path / "photos", tmp_path / "e")) as episode:
        assert episode.frame("c", 0).depth_m is None
        assert episode.start_s == 7.5
        assert episode.cameras["c"].position[2] == pytest.approx(0.8)


def _in_millimetres(pose: np.ndarray) -> np.ndarray:
    return np.block([[pose[:3, :3], 1e3 * pose[:3, 3:]], [pose[3:]]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_in_millimetres, "divide the translations by 1000"),
        (lambda pose: pose @ np.diag([1.0, -1.0, -1.0, 1.0]), "OpenGL"),
        (None, ""),
    ],
)
def test_poses_of_another_convention_are_refused(tmp_path: Path, wrong: Any, message: str) -> None:
    """Three cameras about an object: nobody photographs what is behind him."""
    places = ([12.0, 0.0, 0.6], [0.0, 10.0, 0.8], [-11.0, -3.0, 0.5])
    entries = {}
    for name, place in zip("abc", places):
        pose = camera_at([0.05 * v for v in place], [0.0, 0.0, 0.05]).T_world_cam
        shown = pose if wrong is None else wrong(pose)
        entries[name] = {"K": camera(name).K.tolist(), "T_world_cam": shown.tolist()}
        (tmp_path / "photos" / name / "color").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "photos" / name / "color" / "0.png"), color(0))
    (tmp_path / "photos" / "cameras.json").write_text(json.dumps({"fps": 5, "cameras": entries}))
    if wrong is None:
        convert_episode(tmp_path / "photos", tmp_path / "e")
        return
    with pytest.raises(DataError, match="T_world_cam") as refused:
        convert_episode(tmp_path / "photos", tmp_path / "e")
    assert message in str(refused.value)
    assert not (tmp_path / "e").exists()


@needs_cloth
def test_cloth_clouds() -> None:
    for action, driven, fixed in (("lift", 13, []), ("fold", 42, [13])):
        clouds = load_clouds(SHARED / "cloth_pcd" / f"{action}_tan.npz")
        assert clouds.frame_count == 25
        assert clouds.time_s[-1] == pytest.approx(2.4)
        assert clouds.driven_vertex.tolist() == [driven]
        assert clouds.fixed_vertex.tolist() == fixed
        assert clouds.table_z_m == pytest.approx(0.055, abs=1e-3)  # as the README rounds it
        assert [one.name for one in clouds.cameras] == ["overhead", "side"]
        assert clouds.mesh_vertices is not None
        # The sheet starts flat on the table, gripped where the commanded path begins: the arm
        # comes within 6 cm of the corner (the gripper's own length above the sheet).
        start = clouds.mesh_vertices[driven] - clouds.driven_path[0]
        assert np.linalg.norm(start) < 0.06
        high = [cloud[:, 2].max() for cloud in clouds.clouds]
        assert max(high) > 0.2  # it is lifted well off the table
    with pytest.raises(DataError, match="no clouds"):
        load_clouds(SHARED / "cloth_pcd" / "lift_setup.npz")


@needs_views
def test_four_views_agree_with_their_cloud() -> None:
    views = load_views(SHARED / "views4")
    assert len(views.cameras) == 4
    assert views.points.shape == (3491, 3)
    # The rope lies on the table: z is up now, up to 3.6 cm of rope and noise.
    assert -0.005 < views.points[:, 2].min() < views.points[:, 2].max() < 0.04
    for one, mask in zip(views.cameras, views.masks):
        assert one.position[2] > 0.3
        pixels = np.round(one.project(views.points)[0]).astype(int)
        inside = mask[pixels[:, 1], pixels[:, 0]].mean()
        assert inside > 0.8  # 82 to 90 %, says the README
    with pytest.raises(DataError, match="no views"):
        load_views(SHARED / "cloth_pcd")
