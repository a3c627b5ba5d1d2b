"""What is exported is what the importer reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from episode_cases import DT, H, W, camera, color, depth, write_episode

from physgym.errors import DataError
from recon.episode import Episode, EpisodeWriter
from recon.exporters.phystwin_case import export_case
from recon.importers import convert_episode
from recon.importers.world_axis import TURN_Z_DOWN
from recon.pickles import read_pickle
from recon.tracks import PhysGymWarning


@pytest.mark.parametrize("world_z", ["down", "up"])
def test_an_episode_survives_the_trip_through_a_phystwin_case(tmp_path: Path, world_z: str) -> None:
    with Episode.open(write_episode(tmp_path / "lift", frames=6, start_s=9.0)) as episode:
        case = export_case(episode, tmp_path / "case", world_z=world_z)  # type: ignore[arg-type]
    metadata = json.loads((case / "metadata.json").read_text())
    assert metadata["fps"] == 30
    assert metadata["frame_num"] == 6
    assert metadata["WH"] == [W, H]
    assert json.loads((case / "split.json").read_text())["train"] == [0, 4]
    turn = TURN_Z_DOWN if world_z == "down" else np.eye(4)
    poses = read_pickle(case / "calibrate.pkl")
    assert np.allclose(poses[1], turn @ camera("x", 1).T_world_cam, atol=1e-14)
    assert np.load(case / "depth" / "1" / "3.npy").dtype == np.uint16
    with Episode.open(convert_episode(case, tmp_path / "back")) as back:
        assert back.losses == ()
        for c in range(2):
            assert np.allclose(
                back.cameras[f"cam{c}"].T_world_cam, camera("x", c).T_world_cam, atol=1e-14
            )
            for t, frame in enumerate(back.frames(f"cam{c}")):
                assert np.array_equal(frame.rgb, color(t, c))
                assert frame.depth_m is not None
                assert np.abs(frame.depth_m - depth(t, c)).max() < 1e-6  # whole mm in float32
        mask = back.mask("cam1", 4)
        assert mask is not None
        assert mask[4:13, 10:20].all()
        assert mask.sum() == 90
        pose = back.gripper_pose(0)
        # The poses are taken at the frames' mean stamps, 0.5 ms late: 15 um of 3 cm a second.
        assert np.allclose(pose.position[:5, 0], 0.01 * np.arange(5), atol=2e-4)
        assert back.gripper_closed(0).value.tolist() == [False] * 4 + [True] * 2


def test_a_bent_lens_is_straightened(tmp_path: Path) -> None:
    bent = camera("c", distortion=True)
    # A depth that grows to the right tells where a pixel came from.
    ramp = np.tile(np.linspace(0.5, 1.0, W, dtype=np.float32), (H, 1))
    with EpisodeWriter(tmp_path / "lift", [bent]) as writer:
        writer.write_frame("c", 0.0, color(0), ramp)
    with Episode.open(tmp_path / "lift") as episode:
        case = export_case(episode, tmp_path / "case")
    found = np.load(case / "depth" / "0" / "0.npy")
    ray = np.array([[0.5, -0.3, 1.0]])  # where it falls with the lens, and without
    world = ray @ bent.T_world_cam[:3, :3].T + bent.position
    with_lens = np.round(bent.project(world)[0][0]).astype(int)
    straight = np.round(bent.K[:2, :2] @ ray[0, :2] + bent.K[:2, 2]).astype(int)
    assert abs(with_lens - straight).max() >= 1  # or the test shows nothing
    # One pixel of the ramp is 8 mm; rounding to the nearest pixel costs half of it, twice.
    assert found[straight[1], straight[0]] == pytest.approx(
        1e3 * ramp[with_lens[1], with_lens[0]], abs=8.5
    )


def test_what_does_not_fit_the_layout_is_refused_or_said(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "rgb", [camera("c")]) as writer:
        writer.write_frame("c", 0.0, color(0))
    with Episode.open(tmp_path / "rgb") as episode:
        with pytest.raises(DataError, match="no depth"):
            export_case(episode, tmp_path / "case")
        assert not (tmp_path / "case").exists()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["rgb"]
        (tmp_path / "case").mkdir()
        with pytest.raises(DataError, match="exists already"):
            export_case(episode, tmp_path / "case")
    with EpisodeWriter(tmp_path / "gap", [camera("c")]) as writer:
        for t in (0, 1, 2, 5, 6):
            writer.write_frame("c", t * DT, color(t), depth(t))
    with pytest.warns(PhysGymWarning, match="about 2 frames are missing"):
        episode = Episode.open(tmp_path / "gap")
    with episode, pytest.warns(PhysGymWarning, match="a gap of 0.100 s"):
        export_case(episode, tmp_path / "other")
