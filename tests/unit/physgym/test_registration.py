"""Registration against ground truth: known poses, and shapes from the soft cell."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from registration_scenes import (
    NOISE_M,
    bumpy_nodes,
    bumpy_surface,
    directions,
    pose,
    seen_around,
)
from scipy.spatial.transform import Rotation

import physgym
from physgym.errors import DataError, TwinError
from physgym.frames import apply_T
from physgym.registration import (
    RegistrationWarning,
    register_rigid,
)
from physgym.registration.rigid import turn_angle_rad
from physgym.registration.surface import find_surface
from physgym.sim.build import build_solver
from physgym.sim.spring_mass.topology import rest_lengths, springs_from_points
from physgym.twin import Twin

UP = np.array([0.0, 0.0, 1.0])
SPACING_M = 0.014
CABLE = Path(physgym.__file__).parent / "assets/twins/cable"


def network(points: np.ndarray, spacing_m: float, **parameters: object) -> Twin:
    edges = springs_from_points(points, radius_m=2.2 * spacing_m, max_neighbours=12)
    return Twin(
        name="thing",
        kind="volume",
        dynamics="spring_mass",
        method="phystwin",
        rest_position=points,
        driven_index=[],
        parameters={
            "springs": edges,
            "spring_rest_length_m": rest_lengths(points, edges),
            "log_stiffness_ratio": np.zeros(len(edges)),
            "stiffness_n": 30.0,
            "mass_kg": 0.1,
            "dashpot_ns_per_m": 0.05,
            "drag_per_s": 0.1,
            "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]),
            **parameters,
        },
    )


@pytest.fixture(scope="module")
def bumpy() -> Twin:
    return network(bumpy_nodes(SPACING_M), SPACING_M)


# Placing


def rolled_out(twin: Twin, frames: int = 15) -> np.ndarray:
    """Positions under gravity alone, driven nodes held."""
    solver = build_solver(twin, worlds=1, device="cpu")
    state = solver.initial_state(torch.tensor(twin.rest_position))
    held = torch.tensor(twin.rest_position[twin.driven_index])[None, None]
    held = held.expand(1, frames, -1, -1).contiguous()
    return solver.rollout(state, held, dt_s=0.02).position[0].numpy()


def test_a_placed_twin_moves_as_the_twin_did_seen_from_the_other_frame() -> None:
    # Physics knows no frame: with gravity turned too, the motion of the placed twin is the motion
    # of the twin, turned. This fails if any direction in the parameters stays behind.
    T = pose(Rotation.from_rotvec([0.7, -1.1, 0.4]), (0.3, -0.2, 0.5))
    cable = Twin.load(CABLE)
    # Strongly curved to one side at rest, so that the roll of its clamps shows.
    curved = np.tile([0.15, 0.0], (cable.node_count - 2, 1))
    cable = cable.replace(parameters={**cable.parameters, "natural_curvature_rad": curved})
    for twin in (cable, network(bumpy_nodes(0.03), 0.03)):
        gravity = np.array([0.0, 0.0, -9.81])
        twin = twin.replace(parameters={**twin.parameters, "gravity_m_per_s2": gravity})
        placed = twin.place(T)
        turned = placed.replace(
            parameters={**placed.parameters, "gravity_m_per_s2": T[:3, :3] @ gravity}
        )
        assert np.array_equal(placed.parameters["gravity_m_per_s2"], gravity)
        truth = apply_T(T, rolled_out(twin))
        error = np.abs(rolled_out(turned) - truth).max()
        moved = np.abs(truth - truth[:1]).max()
        # float32 positions of about a metre are good to 6e-8, fifteen frames multiply that.
        assert moved > 0.01
        assert error < 1e-3 * moved


def test_placing_turns_what_is_fixed_to_the_object_and_nothing_else() -> None:
    T = pose(Rotation.from_euler("z", 90, degrees=True), (1.0, 0.0, 0.0))
    cable = Twin.load(CABLE)
    placed = cable.place(T)
    kept = set(cable.parameters) - {"clamp_tangent", "clamp_director"}
    for key in kept:
        assert np.array_equal(placed.parameters[key], cable.parameters[key]), key
    for key in ("clamp_tangent", "clamp_director"):
        expected = cable.parameters[key] @ T[:3, :3].T
        np.testing.assert_allclose(placed.parameters[key], expected, atol=1e-12)
    back = placed.place(np.linalg.inv(T))
    np.testing.assert_allclose(back.rest_position, cable.rest_position, atol=3e-7)  # float32 of 1 m
    thing = network(bumpy_nodes(0.03), 0.03, surface_position_m=bumpy_surface(50))
    moved = thing.place(T).parameters["surface_position_m"]
    np.testing.assert_allclose(moved, apply_T(T, bumpy_surface(50)), atol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        1.01 * np.eye(4),
        np.diag([1.0, 1.0, -1.0, 1.0]),
        np.full((4, 4), np.nan),
        np.eye(3),
        "nowhere",
    ],
)
def test_placing_refuses_what_is_not_rigid(bumpy: Twin, bad: object) -> None:
    with pytest.raises(TwinError, match="no rigid transform"):
        bumpy.place(bad)


def test_placing_refuses_parameters_it_cannot_turn_and_warns_of_a_residual() -> None:
    T = pose(Rotation.from_rotvec([0.0, 0.0, 1.0]), (0.0, 0.0, 0.0))
    points = bumpy_nodes(0.03)
    with pytest.raises(TwinError, match="fibre_direction"):
        network(points, 0.03, fibre_direction=np.ones((4, 3))).place(T)
    learned = network(points, 0.03).replace(residual={"weight": np.ones(3)})
    with pytest.warns(RegistrationWarning, match="learned residual"):
        learned.place(T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned.place(pose(Rotation.identity(), (0.1, 0.0, 0.0)))


# Rigid


def test_the_outside_of_a_ball_is_found() -> None:
    line = np.arange(-0.06, 0.061, 0.01)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    ball = grid[np.linalg.norm(grid, axis=1) < 0.055]
    surface = find_surface(ball, kind="volume")
    present = set(map(tuple, np.round(ball / 0.01).astype(int)))
    shifts = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    bare = [
        any(tuple(p + s) not in present for s in shifts) for p in np.round(ball / 0.01).astype(int)
    ]
    # By definition of a lattice's outside: a node with a bare side. A node whose bare side lies in
    # a notch that the ball does not fit into may be missed; no inner node may be found.
    found = np.isin(np.arange(len(ball)), surface.index)
    assert not (found & ~np.array(bare)).any()
    assert (found & np.array(bare)).sum() > 0.9 * np.sum(bare)
    outward = ball[surface.index] / np.linalg.norm(ball[surface.index], axis=1, keepdims=True)
    # Planes through ten nodes of a staircase are good to some 20 degrees.
    assert np.quantile((surface.normals * outward).sum(axis=1), 0.05) > 0.85


@pytest.mark.parametrize(
    ("cameras", "upright", "count"), [(1, True, 10), (2, True, 6), (1, False, 4)]
)
def test_poses_from_partial_clouds(bumpy: Twin, cameras: int, upright: bool, count: int) -> None:
    points = bumpy.rest_position.astype(np.float64)
    dense = bumpy_surface(25000)
    angles, shifts = [], []
    for seed in range(count):
        rng = np.random.default_rng([seed, cameras])
        turn = (
            Rotation.from_rotvec(rng.uniform(-np.pi, np.pi) * UP)
            if upright
            else Rotation.from_quat(rng.normal(size=4))
        )
        T = pose(turn, tuple(rng.uniform(-0.3, 0.3, 3)))
        cloud = seen_around(apply_T(T, dense), cameras, rng)
        fit = register_rigid(points, cloud, up=UP if upright else None)
        angles.append(np.rad2deg(turn_angle_rad(fit.T_world_object, T)))
        off = apply_T(fit.T_world_object, points) - apply_T(T, points)
        shifts.append(1e3 * np.linalg.norm(off, axis=1).mean())
        assert not fit.ambiguous
    # 1.5 mm noise over thousands of points leaves little; what is left comes from the nodes'
    # discs, flat over 14 mm on bumps of 2 cm radius (a sagitta of 1.2 mm), seen on one side.
    assert np.median(shifts) < 0.6
    assert max(shifts) < 1.5
    assert np.median(angles) < 0.7
    assert max(angles) < 2.0


def test_alike_poses_are_told() -> None:
    line = [np.arange(-half, half + 1e-9, 0.01) for half in (0.07, 0.05, 0.03)]
    block = np.stack(np.meshgrid(*line, indexing="ij"), -1).reshape(-1, 3)
    shell = block[(np.abs(block) > np.array([0.069, 0.049, 0.029])).any(axis=1)]
    rng = np.random.default_rng(0)
    fine = [np.arange(-half, half + 1e-9, 0.002) for half in (0.07, 0.05, 0.03)]
    dense = np.stack(np.meshgrid(*fine, indexing="ij"), -1).reshape(-1, 3)
    dense = dense[(np.abs(dense) > np.array([0.0699, 0.0499, 0.0299])).any(axis=1)]
    T = pose(Rotation.from_rotvec(0.4 * UP), (0.1, 0.0, 0.03))
    cloud = seen_around(apply_T(T, dense), 2, rng)
    fit = register_rigid(block, cloud, up=UP)
    # A box looks the same after half a turn; which of both is taken is chance.
    assert fit.ambiguous
    assert np.rad2deg(fit.second_turn_rad) == pytest.approx(180, abs=5)
    aligned = apply_T(fit.T_world_object, shell)
    off = np.linalg.norm(aligned[:, None] - apply_T(T, shell)[None], axis=2).min(axis=1)
    assert off.mean() < 1.5 * NOISE_M
    ball = 0.06 * directions(800)
    seen = seen_around(0.06 * directions(20000) + [0.2, 0.1, 0.06], 1, rng)
    with pytest.warns(RegistrationWarning, match="explains the cloud as well"):
        found = network(ball, 0.0075).register(seen)
    assert found.ambiguous
    # Turns do not matter, the centre does; it is good to the noise of one view.
    np.testing.assert_allclose(found.position.mean(axis=0), [0.2, 0.1, 0.06], atol=0.002)


# Twins


def test_a_twin_is_found_and_can_be_placed_there(bumpy: Twin) -> None:
    rng = np.random.default_rng(3)
    T = pose(Rotation.from_rotvec(2.0 * UP), (0.2, -0.1, 0.05))
    cloud = seen_around(apply_T(T, bumpy_surface(25000)), 2, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bumpy.register(cloud)
    assert not found.deformed
    assert found.position.dtype == np.float32
    assert found.strain_rms == 0.0
    assert found.second_cost_ratio > 1.25
    # Half of all points are within 0.67 sigma of the surface; discs are flat to a millimetre.
    assert found.misfit_m < NOISE_M
    # A node stands for a patch of one spacing, points are evenly spread over it.
    assert found.gap_m < 0.6 * SPACING_M
    assert found.gap_m <= found.rms_m < 1.5 * found.gap_m
    placed = bumpy.place(found.T_world_object)
    np.testing.assert_allclose(placed.rest_position, found.position, atol=1e-6)
    again = bumpy.register(cloud)
    assert np.array_equal(again.position, found.position)


def test_another_object_is_told(bumpy: Twin) -> None:
    rng = np.random.default_rng(5)
    bottle = directions(8000) * [0.035, 0.035, 0.15]
    with pytest.warns(RegistrationWarning) as told:
        found = bumpy.register(seen_around(bottle, 2, rng))
    # A bottle of twice the length: bending a ball to it strains its springs, or leaves much out.
    assert any("strained" in str(w.message) or "off the" in str(w.message) for w in told)
    assert found.warnings == tuple(str(w.message) for w in told)
    right = bumpy.register(seen_around(bumpy_surface(25000), 2, rng))
    assert right.warnings == ()
    assert found.gap_m > 1.5 * right.gap_m


def test_clouds_that_are_none_are_refused(bumpy: Twin) -> None:
    cloud = bumpy_surface(100)
    broken = cloud.copy()
    broken[7, 1] = np.nan
    with pytest.raises(DataError, match=r"cloud\[7\]"):
        bumpy.register(broken)
    with pytest.raises(DataError, match="at least 20"):
        bumpy.register(cloud[:19])
    with pytest.raises(DataError, match=r"\(N, 3\)"):
        bumpy.register(cloud[:, :2])
    with pytest.raises(DataError, match="noise_m"):
        bumpy.register(cloud, noise_m=0.0)
    with pytest.raises(DataError, match="up is"):
        bumpy.register(cloud, up=(0.0, 0.0, 0.0))
    with pytest.raises(TwinError, match="no springs"):
        bumpy.replace(parameters={}).register(cloud)
    for small in (np.tile(cloud[:1], (50, 1)), 1e-3 * cloud):  # one point; millimetres for metres
        with pytest.raises(DataError, match="cells"):
            bumpy.register(small)
