"""Recordings of the foreign benchmark: shapes, flight, grip and depth noise are what they say."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # tests.benchmarks
from tests.benchmarks.foreign_recorder import (
    BASELINE_M,
    DISPARITY_NOISE_PX,
    Reality,
    noisy_depth,
)
from tests.benchmarks.foreign_scenes import CENTRE, SCENES, TABLE_M, cameras_of, mesh_of


def _ring_volume_m3() -> float:
    """Between regular 32-gons of radius 80 and 80 - 0.22 * 160 mm, 40 mm high."""
    outer_m, inner_m = 0.08, 0.08 - 0.22 * 0.16
    return 0.5 * 32 * math.sin(2 * math.pi / 32) * (outer_m**2 - inner_m**2) * 0.04


@pytest.mark.parametrize(
    ("name", "volume_m3"),
    [
        ("short8", 0.1 * 0.08 * 0.06),
        ("L_push", (49 - 16) / 49 * 0.15 * 0.15 * 0.06),  # 4 x 4 of 7 x 7 cells are cut out
        ("ring_squeeze", _ring_volume_m3()),
    ],
)
def test_volumes_are_those_of_the_shapes(name: str, volume_m3: float) -> None:
    mesh = mesh_of(SCENES[name])
    assert (mesh.volume_m3 > 0).all()
    assert mesh.volume_m3.sum() == pytest.approx(volume_m3, rel=1e-9)  # flat faces: exact
    assert mesh.node_volume_m3.sum() == pytest.approx(volume_m3, rel=1e-9)
    assert np.ptp(mesh.nodes, axis=0) == pytest.approx(SCENES[name].size_m)


def test_the_ball_becomes_a_sphere_with_more_cells() -> None:
    sphere_m3 = math.pi / 6 * 0.1**3
    lost = []
    for cells in (4, 8, 16):
        mesh = mesh_of(dataclasses.replace(SCENES["exact_ball"], cells=cells))
        assert (mesh.volume_m3 > 0).all()
        lost.append(1.0 - mesh.volume_m3.sum() / sphere_m3)
    # A polyhedron inside; flat facets lose with the square of their size.
    assert lost[0] > 0
    assert np.divide(lost[:-1], lost[1:]) == pytest.approx([4.0, 4.0], rel=0.25)


def test_what_flies_follows_the_parabola() -> None:
    scene, stop_s = SCENES["ball_spin"], 0.1
    reality = Reality(scene)
    start = np.average(reality.nodes, axis=0, weights=reality.mass_kg)
    reality.advance(stop_s)
    centre = np.average(reality.nodes, axis=0, weights=reality.mass_kg)
    fall = np.array([0.0, 0.0, -9.81])
    expected = start + np.array(scene.velocity_m_per_s) * stop_s + 0.5 * fall * stop_s**2
    # Euler's steps of h are off by g t h / 2: exactly that much further down.
    expected += 0.5 * fall * stop_s * scene.timestep_s
    assert centre == pytest.approx(expected, abs=1e-6)


def test_what_flies_keeps_its_spin_as_steps_get_small() -> None:
    lost = []
    for timestep_s in (1 / 480, 1 / 960):
        reality = Reality(dataclasses.replace(SCENES["ball_spin"], timestep_s=timestep_s))
        start = _angular_momentum(reality)
        reality.advance(0.1)
        lost.append(np.linalg.norm(_angular_momentum(reality) - start) / np.linalg.norm(start))
    # Measured 7.7 and 2.1 %: second order would be a factor of 4.
    assert lost[0] < 0.1
    assert lost[0] / lost[1] > 3.0


def _angular_momentum(reality: Reality) -> np.ndarray:
    """About the centre of mass [kg m^2/s], shape (3,)."""
    arm = reality.nodes - np.average(reality.nodes, axis=0, weights=reality.mass_kg)
    velocity = reality.data.qvel[reality.dofs]
    return (reality.mass_kg[:, None] * np.cross(arm, velocity)).sum(axis=0)


def test_the_gripper_carries_what_is_between_its_jaws() -> None:
    scene = SCENES["L_lift_drop"]
    (gripper,) = scene.actors
    reality = Reality(scene)
    reality.advance(0.31)
    held = sorted(reality.held)
    assert held
    offset = reality.nodes[held] - gripper.path(0.31)
    assert (np.abs(offset) <= np.array(gripper.half_m) + 1e-3).all()
    reality.advance(0.7)
    raised_m = gripper.path(0.7)[2] - gripper.path(0.31)[2]
    assert raised_m > 0.01
    # Ties are springs: 2.6 mm behind on a way of 12.5 mm, measured.
    assert reality.nodes[held] - gripper.path(0.7) == pytest.approx(offset, abs=0.3 * raised_m)


def test_depth_noise_is_that_of_disparity() -> None:
    focal_px, depth_m = 300.0, 0.6
    found = noisy_depth(np.full((240, 320), depth_m), focal_px, np.random.default_rng(0))
    seen = found > 0
    # 0.4 % of the pixels, and blobs where a normal number is above 2.6: another 0.5 %.
    assert 0.97 < seen.mean() < 0.998
    # s z^2 / (f b), with steps of 1/32 px and 1 mm, which add their squares / 12.
    per_px_m = depth_m**2 / (focal_px * BASELINE_M)
    variance = (per_px_m * DISPARITY_NOISE_PX) ** 2 + (per_px_m / 32) ** 2 / 12 + 1e-6 / 12
    # Neighbours share noise over 4 pixels: some 4000 independent numbers, 1.2 % of a deviation.
    assert found[seen].std() == pytest.approx(math.sqrt(variance), rel=0.05)
    assert found[seen].mean() == pytest.approx(depth_m, abs=2e-4)


@pytest.mark.parametrize("name", list(SCENES))
def test_every_camera_looks_at_the_object(name: str) -> None:
    scene = SCENES[name]
    for camera in cameras_of(scene):
        target = np.array([[*CENTRE, TABLE_M + scene.look_up_m]])
        pixel, depth_m = camera.project(target)
        middle = ((scene.width - 1) / 2, (scene.height - 1) / 2)
        assert pixel[0] == pytest.approx(middle)
        assert scene.distance_m <= depth_m[0] <= 1.21 * scene.distance_m
