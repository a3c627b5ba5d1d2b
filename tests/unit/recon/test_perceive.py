"""Driven points, and the whole pipeline from views to Tracks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from perception_scene import Body, camera_at, film, lifted_ball, truth_error

from physgym.errors import DataError
from physgym.frames import T_from_parts
from recon.perception.driven import (
    GripperTrack,
    driven_from_gripper,
    driven_from_tracks,
    farthest_points,
    join_driven,
)
from recon.perception.perceive import PerceiveConfig, Perception, perceive
from recon.perception.prompt import Prompt
from recon.perception.track import PointTracks
from recon.tracks import PhysGymWarning, Tracks

FRAMES = 10
CAMERAS = [
    camera_at([0.45, -0.1, 0.35], [0, 0, 0.07], name="front"),
    camera_at([0.2, 0.42, 0.35], [0, 0, 0.07], name="side"),
]


def poses(height_m: np.ndarray, x_m: float = 0.0) -> np.ndarray:
    place = np.stack([np.full(len(height_m), x_m), np.zeros(len(height_m)), height_m], axis=1)
    return T_from_parts(np.broadcast_to(np.eye(3), (len(height_m), 3, 3)), place)


def grip() -> GripperTrack:
    """Jaws that close on the top of the ball in frame 2 and go up with it."""
    ball = lifted_ball(FRAMES)
    top = np.array([bodies[0].world(np.array([0, 0, 1.0]))[2] for bodies in ball])
    return GripperTrack(poses(top), np.arange(FRAMES) >= 2, (0.025, 0.025, 0.015))


@pytest.fixture(scope="module")
def seen() -> Perception:
    films = [film(camera, lifted_ball(FRAMES), noise=True) for camera in CAMERAS]
    return perceive(
        [view for view, _ in films],
        np.arange(FRAMES) / 30,
        name="ball",
        grippers=[grip()],
        config=PerceiveConfig(kind="volume", driven_count=12),
    )


def test_a_lifted_ball_becomes_tracks(seen: Perception, tmp_path: Path) -> None:
    tracks, count = seen.tracks, seen.tracked_count
    error = truth_error(
        lifted_ball(FRAMES), tracks.position[:, :count].astype(float), tracks.visible[:, :count]
    )
    assert np.median(error) < 1.5e-3  # a pixel is 2 mm, depth noise 0.5 mm
    assert count > 60
    assert tracks.visible[0, :count].all()
    assert tracks.time_s[-1] == pytest.approx(0.3)
    assert seen.table is not None
    assert abs(seen.table.offset_m) < 5e-4  # as in test_segment
    again = Tracks.load(tracks.save(tmp_path / "ball.npz"))
    np.testing.assert_array_equal(again.position, tracks.position)


def test_points_that_no_camera_saw_follow_the_tracked_ones(seen: Perception) -> None:
    tracks = seen.tracks
    unseen = np.arange(seen.tracked_count, tracks.node_count - len(tracks.driven_index))
    assert len(unseen) > 100
    assert not tracks.visible[:, unseen].any()
    assert tracks.rest_position is not None
    away = np.linalg.norm(tracks.rest_position[unseen] - [0, 0, 0.05], axis=1)
    assert np.percentile(away, 95) < 0.058  # the ball's radius and one 8 mm cell
    inner = tracks.rest_position[seen.surface_count : -len(tracks.driven_index)]
    assert np.linalg.norm(inner - [0, 0, 0.05], axis=1).mean() < 0.04
    assert seen.report["driven_source"] == "jaws"


def test_driven_points_wait_for_the_jaws_and_then_go_with_them(seen: Perception) -> None:
    driven = seen.tracks.driven
    assert driven.shape == (FRAMES, 12, 3)
    np.testing.assert_array_equal(driven[0], driven[2])
    lift = grip().T_world_gripper[:, 2, 3]
    np.testing.assert_allclose(driven[-1, :, 2] - driven[2, :, 2], lift[-1] - lift[2], atol=1e-6)
    local = driven[2] - grip().T_world_gripper[2, :3, 3]
    assert (np.abs(local) < np.array([0.025, 0.025, 0.015]) + 0.02).all()


def test_clouds_lie_on_the_ball_in_every_frame(seen: Perception) -> None:
    for frame in (0, FRAMES - 1):
        body = lifted_ball(FRAMES)[frame][0]
        radius = np.linalg.norm(body.body(seen.clouds[frame].points), axis=1)
        assert np.abs(radius - 1).mean() < 0.02  # of 50 mm: 1 mm, noise at its outline included
        assert len(seen.clouds[frame]) > 200


def test_a_prompt_in_one_camera_reaches_the_others() -> None:
    scene = lifted_ball(10)[:2]
    # A second, larger thing on the table, so that the largest is not the object.
    other = Body(np.eye(3) * 0.07, np.array([-0.12, -0.16, 0.07]), np.array([0.3, 0.8, 0.3]))
    films = [film(camera, [[*bodies, other] for bodies in scene]) for camera in CAMERAS]
    v, u = np.argwhere(films[0][1][0] == 0).mean(axis=0)
    with pytest.warns(PhysGymWarning, match="nothing drives"):
        found = perceive(
            [view for view, _ in films],
            np.array([0.0, 0.1]),
            name="prompted",
            prompts={"front": Prompt(clicks=np.array([[u, v]]))},
            config=PerceiveConfig(kind="volume", whole=False),
        )
    for mask, (_, owners) in zip(found.masks, films, strict=True):
        assert (mask[0] & (owners[0] == 0)).sum() > 0.85 * (owners[0] == 0).sum()
        assert (mask[0] & (owners[0] == 1)).sum() < 0.05 * (owners[0] == 0).sum()
    assert len(found.tracks.driven_index) == 0


def test_a_wrong_call_says_what_is_missing() -> None:
    view, owners = film(CAMERAS[0], lifted_ball(2))
    with pytest.raises(DataError, match="3 stamps"):
        perceive([view], np.arange(3.0), name="a")
    with pytest.raises(DataError, match="prompts for"):
        perceive([view], np.arange(2.0), name="a", prompts={"back": Prompt(rgb=(1, 2, 3))})
    nothing = [[np.zeros(owner.shape, bool) for owner in owners]]
    with pytest.raises(DataError, match="0 points were tracked"):
        perceive([view], np.arange(2.0), name="a", masks=nothing)
    empty, _ = film(CAMERAS[0], [[], []])
    with pytest.raises(DataError, match="nothing stands"):
        perceive([empty], np.arange(2.0), name="a")
    with pytest.raises(DataError, match="PerceiveConfig"):
        PerceiveConfig(spacing_m=-1.0)


def test_a_tool_drives_from_its_first_touch_and_an_idle_one_never() -> None:
    height = np.linspace(0.2, 0.0, 11)  # 2 cm a frame, onto a patch at z = 0
    patch = np.random.default_rng(0).uniform(-0.05, 0.05, (2000, 3)) * [1, 1, 0]
    tool = GripperTrack(poses(height), np.zeros(11, bool), (0.01, 0.01, 0.02))
    driven = driven_from_gripper(tool, lambda _: patch, count=8)
    assert driven is not None
    assert driven.source == "tool"
    assert driven.start == 9  # its underside is 2 cm below its origin: at 2 cm it touches
    assert driven.position.shape == (11, 8, 3)
    np.testing.assert_array_equal(driven.position[0], driven.position[9])
    idle = GripperTrack(poses(height + 1.0), np.zeros(11, bool), (0.01, 0.01, 0.02))
    assert driven_from_gripper(idle, lambda _: patch) is None
    assert driven_from_gripper(idle, lambda _: patch[:0]) is None


def test_hand_tracks_are_filled_rigidly_where_hidden() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(-0.03, 0.03, (60, 3))
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    position = np.stack([start, start + np.array([0.1, 0, 0]), start @ turn.T])
    visible = np.ones((3, 60), bool)
    visible[2, 40:] = False
    visible[1:, 55:] = False
    shown = np.where(visible[..., None], position, np.nan)
    tracks = PointTracks(shown, visible, np.zeros(60, int), np.zeros((60, 3), np.uint8))
    driven = driven_from_tracks(tracks, count=50)
    order = farthest_points(start[:55], 50)
    # A rigid hand: what was hidden is where the rest says, to rounding.
    np.testing.assert_allclose(driven.position, position[:, :55][:, order], atol=1e-9)
    few = tracks.select(np.arange(2))
    with pytest.raises(DataError, match="2 points of the hand"):
        driven_from_tracks(few)


def test_two_owners_hold_until_the_first_lets_go() -> None:
    one, two = (
        driven_from_gripper(
            GripperTrack(poses(np.zeros(8), x), np.arange(8) < end, (0.02, 0.02, 0.02)),
            lambda _: np.random.default_rng(1).uniform(-0.2, 0.2, (20000, 3)),
            count=5,
        )
        for x, end in ((-0.1, 8), (0.1, 6))
    )
    assert one is not None
    assert two is not None
    both = join_driven([one, two])
    assert both.position.shape == (8, 10, 3)
    assert (both.start, both.stop) == (0, 6)
    with pytest.raises(DataError, match="no driven points"):
        join_driven([])


def test_farthest_points_spread() -> None:
    line = np.linspace(0, 1, 101)[:, None] * [1, 0, 0]
    chosen = np.sort(farthest_points(line, 5))
    assert chosen[0] == 0
    assert chosen[-1] == 100
    assert np.diff(chosen).min() >= 20
    assert farthest_points(line[:3], 5).tolist() == [0, 1, 2]


def test_the_kind_is_guessed_with_a_warning() -> None:
    view, owners = film(CAMERAS[0], lifted_ball(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = perceive([view], np.arange(2.0), name="a", masks=[[owner == 0 for owner in owners]])
    assert found.geometry.kind == "volume"
    assert any("looks like a volume" in str(w.message) for w in caught)
