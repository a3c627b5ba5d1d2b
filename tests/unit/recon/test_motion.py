"""What identification sees: bodies that are filled, bad motions that are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from motion_cases import block, flight, soft_drop
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from recon.identify.motion import Motion, rigid_fit
from recon.identify.solid import GivenSolid, PointSolid, TetSolid
from recon.tracks import Tracks


def sphere(count: int, radius_m: float = 0.1) -> np.ndarray:
    """Points evenly on a sphere (Fibonacci)."""
    i = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    ring = np.sin(polar)
    return radius_m * np.stack([np.cos(turn) * ring, np.sin(turn) * ring, np.cos(polar)], axis=1)


def test_points_on_a_sphere_enclose_the_ball() -> None:
    solid = PointSolid.of(sphere(400))
    # The closing dips by up to 4 percent of the radius between points that are 18 mm apart.
    assert solid.volume_m3 == pytest.approx(4 / 3 * np.pi * 0.1**3, rel=0.05)
    filling = solid.fill(2000)
    assert abs(len(filling.position) - 2000) < 200
    assert np.linalg.norm(filling.position, axis=1).max() < 0.101
    assert filling.volume_m3.sum() == pytest.approx(solid.volume_m3)


def test_a_hole_stays_open() -> None:
    around, across = np.meshgrid(np.linspace(0, 2 * np.pi, 60), np.linspace(0, 2 * np.pi, 24))
    ring = 0.1 + 0.03 * np.cos(across.ravel())
    points = np.stack(
        [
            np.cos(around.ravel()) * ring,
            np.sin(around.ravel()) * ring,
            0.03 * np.sin(across.ravel()),
        ],
        axis=1,
    )
    solid = PointSolid.of(points)
    truth = 2 * np.pi**2 * 0.1 * 0.03**2
    # The convex hull has twice the volume; the tube's inside is found though no point is there.
    assert solid.volume_m3 == pytest.approx(truth, rel=0.1)
    assert np.hypot(*solid.fill(1000).position[:, :2].T).min() > 0.06


def test_tetrahedra_are_filled_to_their_volume() -> None:
    from physgym.cell.fem_bodies import box

    body = box((0.2, 0.1, 0.05), 0.025)
    solid = TetSolid(body.nodes, body.tets)
    assert solid.volume_m3 == pytest.approx(1e-3)
    filling = solid.fill(1000)
    half = np.array([0.1, 0.05, 0.025])
    assert (np.abs(filling.position) < half).all()
    # A lattice whose particles fill a box: the outermost are half a spacing inside.
    assert np.abs(filling.position).max(axis=0) == pytest.approx(
        half - filling.spacing_m / 2, abs=2e-3
    )


def test_given_particles_are_used_as_they_are() -> None:
    given = GivenSolid(block(6), np.full(216, 1e-6))
    assert given.fill(216).position is given.position
    assert 40 < len(given.fill(64).position) < 100


def test_points_in_a_plane_are_refused() -> None:
    flat = block() * [1, 1, 0]
    with pytest.raises(DataError, match="span no volume"):
        PointSolid.of(flat)


def test_rigid_fit_ignores_outliers() -> None:
    rest = block()
    turn = Rotation.from_rotvec([0.2, -0.5, 1.0]).as_matrix()
    moved = rest @ turn.T + [0.1, 0.2, 0.3]
    moved[:6] += 0.2  # of 125 points; the first fit is pulled, the second one is exact
    pose = rigid_fit(rest, moved)
    assert np.allclose(pose.turn, turn, atol=1e-9)
    assert np.allclose(pose.shift, [0.1, 0.2, 0.3], atol=1e-9)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not a number"), (-1.0, "turned inside out")]
)
def test_bad_deformation_gradients_name_point_and_frame(value: float, words: str) -> None:
    motion = soft_drop()
    assert motion.frames is not None
    frames = motion.frames.copy()
    frames[4, 17, 0] *= value
    with pytest.raises(DataError, match=words) as caught:
        dataclasses.replace(motion, frames=frames)
    assert "point 17" in str(caught.value)
    assert "frame 4" in str(caught.value)


def test_too_few_points_or_frames_are_refused() -> None:
    motion = flight()
    with pytest.raises(DataError, match="shape"):
        dataclasses.replace(motion, position=motion.position[:2])
    hidden = motion.position.copy()
    hidden[0, 3:] = np.nan
    with pytest.raises(DataError, match="frame 0"):
        dataclasses.replace(motion, position=hidden)


def test_tracks_become_a_motion() -> None:
    position = flight().position.astype(np.float32)
    visible = np.ones(position.shape[:2], bool)
    visible[3, 5] = False
    driven = np.array([0, 1])
    tracks = Tracks(np.arange(12) / 60.0, position, visible, driven, "cube")
    motion = Motion.from_tracks(tracks)
    assert motion.position.shape == (12, 123, 3)
    assert np.isnan(motion.position[3, 3]).all()  # point 5 is the fourth that is not driven
    assert len(motion.grips) == 1
    assert motion.grips[0].position.shape == (12, 2, 3)
    assert motion.solid.volume_m3 == pytest.approx(1e-3, rel=0.1)
