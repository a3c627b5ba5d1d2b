"""Recordings as the viewer takes them."""

import numpy as np
import pytest

from physgym.camera import PinholeCamera
from recon.episode import Frame
from recon.playable import _colours_of, _from_depth, of_tracks
from recon.tracks import Tracks

K = np.array([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1.0]])


def looking_down(height_m=1.0):
    T_world_cam = np.diag([1.0, -1.0, -1.0, 1.0])
    T_world_cam[2, 3] = height_m
    return PinholeCamera("top", "", 64, 48, K, T_world_cam)


def picture(depth_m=1.0):
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, 32:] = (200, 10, 10)
    return Frame(0.0, rgb, np.full((48, 64), depth_m, np.float32))


def test_a_point_has_the_colour_of_the_pixel_that_sees_it_and_grey_where_none_does():
    points = np.array([[0.1, 0, 0], [-0.1, 0, 0], [0.1, 0, -0.2], [5.0, 0, 0]])
    colours = _colours_of(points, [looking_down()], [picture()])
    assert list(colours[0]) == [200, 10, 10]
    assert list(colours[1]) == [0, 0, 0]
    assert list(colours[2]) == list(colours[3])  # behind the floor, out of view
    assert len(set(colours[2].tolist())) > 1
    assert list(colours[2]) != [200, 10, 10]


def test_without_a_perception_the_depth_is_shown():
    points, colours = _from_depth([looking_down()], [picture()])
    assert points[:, 2] == pytest.approx(0.0, abs=1e-9)
    assert (colours[points[:, 0] > 0.01] == [200, 10, 10]).all()
    nothing, _ = _from_depth([looking_down()], [picture(9.0)])
    assert len(nothing) == 0


def test_tracks_show_what_is_known_in_every_frame():
    position = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    visible = np.ones((4, 5), bool)
    position[2, 3], visible[2, 3] = np.nan, False
    tracks = Tracks(
        time_s=np.arange(4) * 0.1,
        position=position,
        visible=visible,
        driven_index=np.array([0]),
        name="t",
    )
    (recording,) = of_tracks([tracks], goal=position[0])
    assert len(recording.shot(2).points) == 4
    assert len(recording.shot(1).points) == 5
    assert recording.prediction is None
    assert recording.goal is not None
    shot = recording.shot(0)
    assert list(shot.colours[0]) != list(shot.colours[1])  # what a gripper moves stands out
