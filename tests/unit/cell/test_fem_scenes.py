"""Bodies, materials and scenes: their shape, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from physgym.cell.fem_bodies import ball, box, cylinder, tet_volumes, torus
from physgym.cell.fem_material import FemMaterial, effective_modulus
from physgym.cell.fem_scenes import benchmark_objects, compress, drop, flex_drop
from physgym.cell.finite_elements import FiniteElements, Plane
from physgym.errors import DataError

BOX = box((0.1, 0.1, 0.1), 0.05)
PLAIN = FemMaterial(5e4)
BODIES = [
    # body, volume, Euler characteristic of its surface, least share of the volume: the chords of a
    # coarse polygon cut some per cent off a round body.
    (box((0.2, 0.15, 0.1), 0.05), 0.003, 2, 1 - 1e-12),
    (ball(0.1, 0.04), 4 / 3 * math.pi * 1e-3, 2, 0.95),
    (cylinder(0.05, 0.2, 0.025), math.pi * 5e-4, 2, 0.97),
    (torus(0.1, 0.04, 0.02), 2 * math.pi**2 * 1.6e-4, 0, 0.95),
]


@pytest.mark.parametrize(
    ("body", "volume_m3", "euler", "share"), BODIES, ids=lambda v: getattr(v, "name", "")
)
def test_mesh_is_closed_and_fills_the_body(body, volume_m3, euler, share):
    volumes = tet_volumes(body.nodes, body.tets)
    assert volumes.min() > 0
    assert share <= volumes.sum() / volume_m3 <= 1 + 1e-12
    edges = np.sort(body.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    once, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all()
    assert body.surface.sum() - len(once) + len(body.faces) == euler
    a, b, c = (body.nodes[body.faces[:, k]] for k in range(3))
    enclosed = np.einsum("fi,fi->", a, np.cross(b, c)) / 6  # positive: faces look outwards
    assert enclosed == pytest.approx(volumes.sum(), rel=1e-12)
    assert body.node_volume_m3.sum() == pytest.approx(volumes.sum(), rel=1e-12)
    np.testing.assert_allclose(body.node_volume_m3 @ body.nodes, 0, atol=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: box((0.1, 0.1, 0.0), 0.02),
        lambda: box((0.1, 0.1), 0.02),
        lambda: box((0.1, 0.1, 0.1), 0.09),
        lambda: box((1.0, 1.0, 1.0), 0.01),
        lambda: ball(float("nan"), 0.02),
        lambda: cylinder(0.05, -0.2, 0.02),
        lambda: torus(0.05, 0.05, 0.02),
        lambda: FemMaterial(0.0),
        lambda: FemMaterial(5e4, 0.5),
        lambda: FemMaterial(5e4, 0.3, -1.0),
        lambda: FemMaterial(5e4, fibre_modulus_pa=-1.0),
        lambda: FemMaterial(5e4, fibre_direction=(0, 0, 0)),
        lambda: FemMaterial(5e4, gradient_direction=(1, float("inf"), 0)),
        lambda: FemMaterial(5e4, gradient_ends=(0.0, 1.0)),
        lambda: FemMaterial(5e4, damping_s=float("nan")),
        lambda: effective_modulus(PLAIN, [(0, 0, 0)]),
        lambda: effective_modulus(PLAIN, (1, 0, 0)),
        lambda: drop(BOX, PLAIN, height_m=-0.1),
        lambda: drop(BOX, PLAIN, height_m=float("nan")),
        lambda: drop(BOX, PLAIN, height_m=0.1, frames=1),
        lambda: drop(BOX, PLAIN, height_m=0.1, fps=0),
        lambda: drop(BOX, PLAIN, height_m=0.1, friction=-1),
        lambda: drop(BOX, PLAIN, height_m=0.1, quat_wxyz=(0, 0, 0, 0)),
        lambda: drop(BOX, PLAIN, height_m=0.1, velocity_m_per_s=(0, 0)),
        lambda: compress(BOX, PLAIN, strain=0.0),
        lambda: compress(BOX, PLAIN, duration_s=0.0),
        lambda: compress(BOX, PLAIN, frames=1),
        lambda: flex_drop(BOX, FemMaterial(5e4, fibre_modulus_pa=1e4), height_m=0.1),
        lambda: flex_drop(BOX, FemMaterial(5e4, gradient_direction=(1, 0, 0)), height_m=0.1),
        lambda: flex_drop(BOX, PLAIN, height_m=0.1, timestep_s=0.0),
        lambda: Plane(side=0),
        lambda: Plane(friction=-0.1),
        lambda: FiniteElements(BOX.nodes, BOX.tets[:, [0, 2, 1, 3]], PLAIN),
        lambda: FiniteElements(BOX.nodes[:-1], BOX.tets, PLAIN),
        lambda: FiniteElements(BOX.nodes, BOX.tets[:, :3], PLAIN),
        lambda: FiniteElements(BOX.nodes, BOX.tets, PLAIN).advance(-1.0),
        lambda: FiniteElements(BOX.nodes, BOX.tets, PLAIN).drive(np.array([10**6]), np.zeros(3)),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated_is_refused(make):
    with pytest.raises(DataError, match=r"expected:"):
        make()


def test_stiffness_grows_along_its_direction():
    body = box((0.2, 0.1, 0.1), 0.05)
    material = FemMaterial(5e4, gradient_direction=(2, 0, 0), gradient_ends=(0.5, 1.5))
    factor = material.stiffness_factor(body.nodes, body.nodes)
    np.testing.assert_allclose(factor, 1 + body.nodes[:, 0] / 0.2, atol=1e-12)
    assert (FemMaterial(5e4).stiffness_factor(body.nodes, body.nodes) == 1).all()


def test_driven_nodes_go_where_they_are_told():
    solver = FiniteElements(BOX.nodes, BOX.tets, PLAIN)
    top = np.flatnonzero(BOX.nodes[:, 2] > 0.049)
    solver.drive(top, np.array([0.0, 0.1, 0.05]))
    solver.advance(0.02)
    np.testing.assert_allclose(
        solver.position[top] - BOX.nodes[top], np.tile([0, 2e-3, 1e-3], (len(top), 1)), atol=1e-12
    )
    assert solver.time_s == pytest.approx(0.02)


def test_recording_says_what_was_simulated():
    material = FemMaterial(5e4, 0.3, 400.0, 3e4, (0, 3, 4), gradient_direction=(0, 0, 1))
    recording = drop(
        BOX, material, height_m=0.01, frames=5, fps=50.0, quat_wxyz=(2, 0, 0, 2), name="x"
    )
    count = len(BOX.nodes)
    assert recording.points.shape == recording.velocities.shape == (5, count, 3)
    assert recording.deformation_gradient.shape == (5, count, 3, 3)
    np.testing.assert_allclose(recording.time_s, np.arange(5) / 50)
    np.testing.assert_allclose(np.linalg.norm(recording.quat_wxyz), 1)
    np.testing.assert_allclose(recording.rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    assert recording.material["fibre_direction"] == pytest.approx((0, 0.6, 0.8))
    assert recording.material["young_pa"] == 5e4
    assert (recording.name, recording.solver) == ("x", "finite elements")
    assert recording.plate_force_n is None
    again = drop(BOX, material, height_m=0.01, frames=5, fps=50.0, quat_wxyz=(2, 0, 0, 2))
    assert np.array_equal(recording.points, again.points)


def test_benchmark_objects_are_mildly_anisotropic():
    objects = {thing.name: thing for thing in benchmark_objects()}
    assert len(objects) == 4
    for name, thing in objects.items():
        along = np.array(thing.material.fibre_direction)
        across = np.cross(along, [0.3, 0.5, 0.2])
        ratio = np.divide(*effective_modulus(thing.material, [along, across]))
        assert ratio == pytest.approx(1) if name == "plain" else 1.5 < ratio < 2.5
        assert len(thing.tests) == 3
        assert all(test != thing.train for test in thing.tests)
