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
from recon.perception.hands import apart
from recon.perception.lift import View
from recon.perception.perceive import PerceiveConfig, _fine_enough, perceive
from recon.perception.prompt import Prompt
from recon.perception.result import Perception
from recon.perception.rope_points import kept_from_sliding
from recon.perception.segment import mask_iou
from recon.perception.track import PointTracks
from recon.tracks import PhysGymWarning

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
        config=PerceiveConfig(kind="volume"),
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
    again = Perception.load(seen.save(tmp_path / "ball.npz"))
    np.testing.assert_array_equal(again.tracks.position, tracks.position)
    np.testing.assert_array_equal(again.masks, seen.masks)
    np.testing.assert_array_equal(again.clouds[3], seen.clouds[3])
    assert again.report == seen.report


def test_points_that_no_camera_saw_follow_the_tracked_ones(seen: Perception) -> None:
    tracks = seen.tracks
    unseen = np.arange(seen.tracked_count, tracks.node_count)
    assert len(unseen) > 100
    assert not tracks.visible[:, unseen].any()
    assert tracks.rest_position is not None
    away = np.linalg.norm(tracks.rest_position[unseen] - [0, 0, 0.05], axis=1)
    assert np.percentile(away, 95) < 0.058  # the ball's radius and one 8 mm cell
    inner = tracks.rest_position[seen.surface_count :]
    assert np.linalg.norm(inner - [0, 0, 0.05], axis=1).mean() < 0.04


def test_masks_and_grippers_are_handed_on(seen: Perception) -> None:
    assert [camera.name for camera in seen.cameras] == ["front", "side"]
    assert seen.masks is not None
    assert seen.masks.shape == (2, FRAMES, 240, 320)
    _, owners = film(CAMERAS[1], lifted_ball(FRAMES), noise=True)
    # As in test_segment: a pixel of rim all round.
    assert mask_iou(seen.masks[1, -1], owners[-1] == 0) > 0.92
    assert len(seen.grippers) == 1
    np.testing.assert_array_equal(seen.grippers[0].T_world_gripper, grip().T_world_gripper)
    assert seen.hands == ()


def test_a_small_object_is_filled_finely() -> None:
    """At 8 mm a ball of 3 cm would be 38 points, none of them inside."""
    ball = np.random.default_rng(0).normal(size=(4000, 3))
    ball *= 0.5 / np.linalg.norm(ball, axis=1, keepdims=True)
    small = _fine_enough(PerceiveConfig(), 0.03 * ball)
    assert 0.03 / 14 < small.spacing_m < 0.03 / 11
    assert 0.03 / 23 < small.fuse.voxel_m < 0.03 / 19
    assert _fine_enough(PerceiveConfig(), 0.2 * ball) == PerceiveConfig()


def test_what_a_gripper_holds_waits_for_the_jaws_and_then_goes_with_them(seen: Perception) -> None:
    found = driven_from_gripper(seen.grippers[0], lambda t: seen.clouds[t], count=12)
    assert found is not None
    assert found.source == "jaws"
    driven = found.position
    assert driven.shape == (FRAMES, 12, 3)
    np.testing.assert_array_equal(driven[0], driven[2])
    lift = grip().T_world_gripper[:, 2, 3]
    np.testing.assert_allclose(driven[-1, :, 2] - driven[2, :, 2], lift[-1] - lift[2], atol=1e-6)
    local = driven[2] - grip().T_world_gripper[2, :3, 3]
    assert (np.abs(local) < np.array([0.025, 0.025, 0.015]) + 0.02).all()


def test_clouds_lie_on_the_ball_in_every_frame(seen: Perception) -> None:
    for frame in (0, FRAMES - 1):
        body = lifted_ball(FRAMES)[frame][0]
        radius = np.linalg.norm(body.body(seen.clouds[frame]), axis=1)
        assert np.abs(radius - 1).mean() < 0.02  # of 50 mm: 1 mm, noise at its outline included
        assert len(seen.clouds[frame]) > 200


def test_a_prompt_in_one_camera_reaches_the_others() -> None:
    scene = lifted_ball(10)[:2]
    # A second, larger thing on the table, so that the largest is not the object.
    other = Body(np.eye(3) * 0.07, np.array([-0.12, -0.16, 0.07]), np.array([0.3, 0.8, 0.3]))
    films = [film(camera, [[*bodies, other] for bodies in scene]) for camera in CAMERAS]
    v, u = np.argwhere(films[0][1][0] == 0).mean(axis=0)
    found = perceive(
        [view for view, _ in films],
        np.array([0.0, 0.1]),
        name="prompted",
        prompts={"front": Prompt(clicks=np.array([[u, v]]))},
        config=PerceiveConfig(kind="volume", whole=False),
    )
    assert found.masks is not None
    for mask, (_, owners) in zip(found.masks, films, strict=True):
        assert (mask[0] & (owners[0] == 0)).sum() > 0.85 * (owners[0] == 0).sum()
        assert (mask[0] & (owners[0] == 1)).sum() < 0.05 * (owners[0] == 0).sum()
    assert found.tracks.node_count == found.tracked_count


def test_nothing_that_drives_is_warned_of_only_when_the_object_moves() -> None:
    config = PerceiveConfig(kind="volume", whole=False, clouds=False, masks=False)
    moving, owners = film(CAMERAS[0], lifted_ball(6))
    known = [[owner == 0 for owner in owners]]
    with pytest.warns(PhysGymWarning, match="nothing drives"):
        found = perceive([moving], np.arange(6) / 30, name="a", masks=known, config=config)
    assert found.clouds == ()
    assert found.masks is None
    still = View(moving.camera, [moving.rgb[0]] * 3, [moving.depth_m[0]] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perceive([still], np.arange(3) / 30, name="a", masks=[known[0][:1] * 3], config=config)


def test_a_hand_that_cameras_follow() -> None:
    """A second ball, the hand, goes up with the first one."""
    scene = []
    for (ball,) in lifted_ball(6):
        hand = Body(
            np.eye(3) * 0.035, ball.centre + np.array([0.0, 0.09, 0.0]), np.array([0.9, 0.7, 0.6])
        )
        scene.append([ball, hand])
    view, owners = film(CAMERAS[0], scene)
    found = perceive(
        [view],
        np.arange(6) / 30,
        name="a",
        masks=[[owner == 0 for owner in owners]],
        hand_masks={"hand": [[owner == 1 for owner in owners]]},
        config=PerceiveConfig(kind="volume", hand_points=20),
    )
    (hand,) = found.hands
    assert hand.shape == (6, 20, 3)
    went = hand[-1] - hand[0]
    truth = scene[-1][1].centre - scene[0][1].centre
    # A pixel is 2 mm; the hand's texture does not turn.
    assert np.abs(went - truth).mean() < 2e-3
    # A hand that comes into view later was not followed from the start.
    late = [np.zeros_like(owners[0], bool), *(owner == 1 for owner in owners[1:])]
    with pytest.warns(PhysGymWarning, match="hand: left out"):
        none = perceive(
            [view],
            np.arange(6) / 30,
            name="a",
            masks=[[owner == 0 for owner in owners]],
            hand_masks={"hand": [late]},
            config=PerceiveConfig(kind="volume"),
        )
    assert none.hands == ()


def test_two_hands_of_one_mask_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    position = np.repeat(rng.uniform(-0.03, 0.03, (1, 80, 3)), 2, axis=0)
    position[:, 40:] += [0.2, 0.0, 0.0]
    tracks = PointTracks(position, np.ones((2, 80), bool), np.zeros(80, int), np.zeros((80, 3)))
    assert sorted(len(hand.camera_index) for hand in apart(tracks)) == [40, 40]


def test_a_camera_without_depth_is_left_out_and_none_with_depth_is_an_error() -> None:
    films = [film(camera, lifted_ball(2)) for camera in CAMERAS]
    blind = View(CAMERAS[1], films[1][0].rgb, [np.zeros((240, 320), np.float32)] * 2)
    config = PerceiveConfig(kind="volume")
    with pytest.warns(PhysGymWarning, match="no depth in frame 0 of side"):
        found = perceive([films[0][0], blind], np.arange(2.0), name="a", config=config)
    assert [camera.name for camera in found.cameras] == ["front"]
    assert found.masks is not None
    assert found.masks.shape[0] == 1
    with pytest.raises(DataError, match="no camera measured depth"):
        perceive([blind], np.arange(2.0), name="a", config=config)
    clicks = {"side": Prompt(clicks=np.array([[160, 120]]))}
    with pytest.raises(DataError, match=r"prompts for \['side'\] alone"):
        perceive([films[0][0], blind], np.arange(2.0), name="a", prompts=clicks, config=config)


def test_an_object_that_leaves_the_view_ends_its_tracks() -> None:
    scene = lifted_ball(2)
    gone = [
        [Body(b.linear, b.centre + np.array([0, 0.12 * t, 0])) for b in scene[0]] for t in range(8)
    ]
    view, owners = film(CAMERAS[0], gone)
    assert (owners[-1] == 0).sum() == 0
    with pytest.warns(PhysGymWarning, match=r"no camera sees the object in frames \d to 7"):
        found = perceive([view], np.arange(8) / 30, name="a", config=PerceiveConfig(kind="volume"))
    assert len(found.clouds[0]) > 100
    assert len(found.clouds[7]) == 0
    assert found.tracks.visible[0].any()
    assert not found.tracks.visible[7].any()


def test_a_wrong_call_says_what_is_missing() -> None:
    view, owners = film(CAMERAS[0], lifted_ball(2))
    with pytest.raises(DataError, match="3 stamps"):
        perceive([view], np.arange(3.0), name="a")
    with pytest.raises(DataError, match="prompts for"):
        perceive([view], np.arange(2.0), name="a", prompts={"back": Prompt(rgb=(1, 2, 3))})
    nothing = [[np.zeros(owner.shape, bool) for owner in owners]]
    with pytest.raises(DataError, match="in no camera's first frame"):
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
    assert found.kind == "volume"
    assert any("looks like a volume" in str(w.message) for w in caught)


def bent_rope(along: np.ndarray, curve: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre of an arc of that curvature [1/m] at arc lengths [m], and its sideways normal."""
    angle = curve * along
    centre = np.stack([np.sin(angle), 1.0 - np.cos(angle), 0.0 * angle], axis=1) / curve
    return centre + np.array([0, 0, 0.006]), np.stack(
        [-np.sin(angle), np.cos(angle), 0 * angle], axis=1
    )


def test_tracks_are_kept_from_sliding_along_a_rope() -> None:
    rng = np.random.default_rng(0)
    along, side = rng.uniform(0.02, 0.43, 120), rng.uniform(-0.004, 0.004, (120, 1))
    creeps = (along > 0.15) & (along < 0.25) & (rng.random(120) < 0.4)
    clouds, truth, tracked = [], [], []
    for t in range(8):
        curve = 1.0 + 0.5 * t
        centre, normal = bent_rope(rng.uniform(0, 0.45, 3000), curve)
        around = rng.uniform(0, np.pi, (3000, 1))
        skin = centre + 0.006 * (np.cos(around) * normal + np.sin(around) * [0, 0, 1.0])
        clouds.append(skin + rng.normal(0, 0.0005, skin.shape))
        where, normal = bent_rope(along, curve)
        truth.append(where + side * normal)
        where, normal = bent_rope(along + creeps * 0.0015 * t, curve)
        tracked.append(where + side * normal)
    points = PointTracks(
        np.stack(tracked), np.ones((8, 120), bool), np.zeros(120, int), np.zeros((120, 3), np.uint8)
    )
    found = kept_from_sliding(points, clouds)
    away = np.linalg.norm(found.position - np.stack(truth), axis=2)
    assert np.linalg.norm(tracked[-1][creeps] - truth[-1][creeps], axis=1).mean() > 0.010
    # The line is good to a millimetre (test_complete), and so are arc lengths along it.
    assert away[-1, creeps].mean() < 0.002
    assert away[-1, ~creeps].mean() < 0.001
    # Without a line, tracks stay as they are, frame by frame or all of them.
    hidden = [clouds[0], clouds[1][:5], *clouds[2:]]
    np.testing.assert_array_equal(kept_from_sliding(points, hidden).position[1], tracked[1])
    with pytest.warns(PhysGymWarning, match="no line of the rope in frame 0"):
        assert kept_from_sliding(points, [clouds[0][:5], *clouds[1:]]) is points
