"""The robot drawn into the cameras: against the projection of its own points."""

import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.episode import Episode, EpisodeWriter
from recon.episode_motion import JointTrack
from recon.perception.perceive_config import PerceiveConfig
from recon.perception.perceive_episode import _blocked
from recon.perception.robot_mask import robot_masks

ARM = """
<mujoco>
  <worldbody>
    <body pos="0 0 0.1">
      <joint name="turn" type="hinge" axis="0 0 1"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02"/>
      <body pos="0.3 0 0">
        <joint name="reach" type="slide" axis="1 0 0"/>
        <geom type="sphere" size="0.03"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


def camera(cx, cy):
    """Looks down from a metre, off-centre and with unequal focal lengths."""
    K = np.array([[300.0, 0, cx], [0, 320.0, cy], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3] = np.diag([1.0, -1.0, -1.0])
    T[:3, 3] = [0.1, 0.05, 1.1]
    return PinholeCamera("top", "", 320, 240, K, T)


def track(turn, reach):
    values = np.stack([turn, reach], axis=1)
    empty = np.full_like(values, np.nan)
    return JointTrack(np.arange(len(turn)) / 10.0, ("turn", "reach"), values, empty, empty)


@pytest.mark.parametrize("place", [(159.5, 119.5), (140.0, 150.0)])
def test_the_arm_is_drawn_where_it_projects_to(tmp_path, place):
    (tmp_path / "arm.xml").write_text(ARM)
    turn, reach = np.array([0.0, 0.6, -0.8]), np.array([0.0, 0.05, 0.1])
    view = camera(*place)
    base = np.eye(4)
    base[:3, 3] = [0.02, -0.03, 0.0]
    (masks,) = robot_masks(
        tmp_path / "arm.xml",
        track(turn, reach),
        np.arange(3) / 10.0,
        [view],
        T_world_base=base,
        grow_px=0,
    )
    rows, columns = np.mgrid[:240, :320]
    for mask, angle, out in zip(masks, turn, reach):
        along = np.array([np.cos(angle), np.sin(angle), 0.0])
        tip = base[:3, 3] + [0, 0, 0.1] + (0.3 + out) * along
        (pixel,), (depth,) = view.project(tip[None])
        # A small sphere draws an ellipse of half axes f r / z, to a percent at this distance.
        inside = ((columns - pixel[0]) * depth / 300.0) ** 2 + (
            (rows - pixel[1]) * depth / 320.0
        ) ** 2
        far = np.hypot(columns - pixel[0], rows - pixel[1]) < 60
        assert mask[inside < 0.027**2].all()
        beside = (inside > 0.034**2) & far
        away = np.stack([columns, rows], -1) - pixel
        outward = away @ (along[:2] * [1.0, -1.0])
        assert not mask[beside & (outward > 0)].any()
        assert mask.sum() > 1000


def test_masks_grow(tmp_path):
    (tmp_path / "arm.xml").write_text(ARM)
    joints = track(np.zeros(1), np.zeros(1))
    sizes = [
        robot_masks(tmp_path / "arm.xml", joints, np.zeros(1), [camera(160, 120)], grow_px=g)[0][
            0
        ].sum()
        for g in (0, 4)
    ]
    assert sizes[1] > 1.2 * sizes[0]


def test_a_model_of_another_robot_is_refused(tmp_path):
    (tmp_path / "arm.xml").write_text(ARM)
    joints = JointTrack(np.zeros(1), ("elbow",), *(np.zeros((1, 1)),) * 3)
    with pytest.raises(DataError, match="elbow"):
        robot_masks(tmp_path / "arm.xml", joints, np.zeros(1), [camera(160, 120)])
    with pytest.raises(DataError, match=r"none\.xml"):
        robot_masks(tmp_path / "none.xml", joints, np.zeros(1), [camera(160, 120)])


def test_an_episode_with_joint_states_blocks_the_robot(tmp_path):
    (tmp_path / "arm.xml").write_text(ARM)
    view = camera(160, 120)
    with EpisodeWriter(tmp_path / "episode", [view]) as writer:
        for frame in range(3):
            stamp = 10.0 + frame / 10.0
            rgb, depth = np.zeros((240, 320, 3), np.uint8), np.ones((240, 320), np.float32)
            writer.write_frame("top", stamp, rgb, depth)
            writer.write_joints(stamp, ["turn", "reach"], [0.3 * frame, 0.0])
    config = PerceiveConfig(robot_model=str(tmp_path / "arm.xml"))
    with Episode.open(tmp_path / "episode") as episode:
        time_s = episode.stamps_s("top")
        (blocked,) = _blocked(episode, config, ["top"], time_s, None)
        assert _blocked(episode, PerceiveConfig(), ["top"], time_s, None) is None
    joints = track(0.3 * np.arange(3), np.zeros(3))
    (expected,) = robot_masks(tmp_path / "arm.xml", joints, np.arange(3) / 10.0, [view])
    for mask, drawn in zip(blocked, expected):
        # Stamps and joints go through a bag: a pixel at the edge may fall differently.
        assert (mask != drawn).sum() < 5
