"""Boundaries: signed distances, motion, and what they do to bodies, on both engines."""

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from physgym.sim.mpm import (
    Box,
    Collider,
    Condition,
    MeshDistance,
    MpmModel,
    MpmParameters,
    MpmSolver,
    Sphere,
    fill_box,
)
from physgym.sim.mpm.collider import collider_table

ENGINES = ("plain", "native")
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
FACES = np.array([
    [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
    [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
])  # fmt: skip


def simulate(collider, engine, *, poses=None, frames=5, frame_s=0.01, low=(-0.06, -0.06, 0.0),
             velocity=(0.0, 0.0, 0.0), gravity=(0.0, 0.0, -9.81), friction=0.5):  # fmt: skip
    x, volume = fill_box(low, tuple(c + 0.12 for c in low), 0.02)
    model = MpmModel(x, volume, 0.04, colliders=(collider,), gravity_m_per_s2=gravity)
    solver = MpmSolver(
        model, MpmParameters.of(young_pa=2e5, friction=friction), substeps=25, device="cpu",
        engine=engine,
    )  # fmt: skip
    state = solver.initial_state(velocity=torch.tensor([velocity]).expand(len(x), 3))
    driven = torch.zeros(1, frames + 1, 0, 3)
    return solver.rollout(state, driven, frame_s, collider_poses=poses)


def test_samples_of_a_mesh_are_the_distance_to_it():
    half = np.array([0.3, 0.2, 0.1])
    mesh = MeshDistance.from_mesh(CORNERS * half, FACES, spacing_m=0.05)
    index = np.stack(np.meshgrid(*map(np.arange, mesh.samples_m.shape), indexing="ij"), -1)
    p = np.asarray(mesh.origin_m) + mesh.spacing_m * index
    d = np.abs(p) - half
    want = np.linalg.norm(np.maximum(d, 0.0), axis=-1) + np.minimum(d.max(-1), 0.0)
    np.testing.assert_allclose(mesh.samples_m, want, atol=1e-6)
    assert (mesh.samples_m < 0.0).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_box_mesh_acts_like_a_box(engine):
    # Box faces on samples, so that interpolation is exact at them; edges are what differs.
    half = (0.24, 0.24, 0.08)
    mesh = MeshDistance.from_mesh(CORNERS * half, FACES, spacing_m=0.04)
    tilt = (float(np.cos(0.1)), 0.0, float(np.sin(0.1)), 0.0)
    place = (0.0, 0.0, -0.095)
    speed = (0.3, 0.0, -1.0)
    made = [
        simulate(Collider(shape, position_m=place, quat_wxyz=tilt), engine, velocity=speed)
        for shape in (mesh, Box(half))
    ]
    np.testing.assert_allclose(made[0].position, made[1].position, atol=1e-4)
    free = torch.tensor(speed)[2] * 0.05 - 0.5 * 9.81 * 0.05**2
    fallen = made[0].position[0, -1, :, 2].mean() - made[0].position[0, 0, :, 2].mean()
    assert fallen > free + 0.02  # it hit


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rising_plate_lifts_the_body(engine):
    rest = np.array([0.0, 0.0, -0.05, 1.0, 0.0, 0.0, 0.0])
    poses = np.tile(rest, (1, 9, 1, 1))
    poses[0, :, 0, 2] += 0.4 * 0.02 * np.arange(9)
    plate = Collider(Box((0.2, 0.2, 0.05)), position_m=(0.0, 0.0, -0.05))
    made = simulate(plate, engine, poses=poses, frames=8, frame_s=0.02)
    assert made.velocity[0, -1, :, 2].mean() == pytest.approx(0.4, rel=0.15)  # it still swings
    assert made.position[0, -1, :, 2].min() > poses[0, -1, 0, 2] + 0.05 - 0.02


@pytest.mark.parametrize("engine", ENGINES)
def test_a_turning_sticky_box_turns_the_body_with_it(engine):
    rate, frames, frame_s = 3.0, 6, 0.02
    angle = 0.5 * rate * frame_s * np.arange(frames + 1)
    poses = np.zeros((1, frames + 1, 1, 7))
    poses[0, :, 0, 3], poses[0, :, 0, 6] = np.cos(angle), np.sin(angle)
    holder = Collider(Box((0.2, 0.2, 0.2)), Condition.STICKY)
    made = simulate(holder, engine, poses=poses, frames=frames, frame_s=frame_s,
                    low=(-0.02, -0.08, -0.06))  # fmt: skip
    # Inside the solid every node moves as the solid does: a rigid rotation about z.
    full = rate * frame_s * frames
    turn = np.array([[np.cos(full), -np.sin(full), 0], [np.sin(full), np.cos(full), 0], [0, 0, 1]])
    want = made.position[0, 0].numpy() @ turn.T
    # First order in time: 150 substeps of 2.4 mrad turn 0.1 m by some 0.1 % too far.
    np.testing.assert_allclose(made.position[0, -1], want, atol=4e-4)


def test_engines_agree_on_a_ball_that_is_hit_in_flight():
    made = [
        simulate(Collider(Sphere(0.08), position_m=(0.03, 0.02, -0.07)), engine,
                 velocity=(0.1, 0.0, -1.5), friction=0.3)
        for engine in ENGINES
    ]  # fmt: skip
    np.testing.assert_allclose(made[0].position, made[1].position, atol=2e-6)


def test_poses_in_a_frame_turn_at_a_constant_rate():
    start = np.array([[[0.0, 0, 0, 1, 0, 0, 0]]])
    half = 0.25 * np.pi
    stop = np.array([[[0.1, 0, 0, np.cos(half), 0, 0, np.sin(half)]]])
    records = collider_table(
        (Collider(Sphere(0.1)),), start, -stop * [-1, 1, 1, 1, 1, 1, 1], 4, 0.5
    )
    # The quaternion's sign is of no meaning: the short way is taken.
    turns = records.records[0, :, 0, 6:15].reshape(4, 3, 3)
    angles = np.arctan2(turns[:, 1, 0], turns[:, 0, 0])
    np.testing.assert_allclose(angles, 0.5 * np.pi * np.array([0.25, 0.5, 0.75, 1.0]), atol=1e-6)
    np.testing.assert_allclose(records.records[0, :, 0, 23], np.pi, rtol=1e-6)
    np.testing.assert_allclose(records.records[0, :, 0, 18], 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    "given",
    [
        {"shape": Sphere(0.0)},
        {"shape": Box((0.1, -0.1, 0.1))},
        {"shape": Sphere(0.1), "quat_wxyz": (1.0, 1.0, 0.0, 0.0)},
        {"shape": Sphere(0.1), "position_m": (float("nan"), 0.0, 0.0)},
    ],
)
def test_shapes_that_make_no_sense_are_refused(given):
    with pytest.raises(DataError, match="Collider 'thing'"):
        Collider(**given, name="thing")


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, -0.6, 0.8)])
def test_the_ground_is_where_its_normal_says(normal):
    ground = Collider.ground(0.3, normal=normal)
    rest = np.array([[[*ground.position_m, *ground.quat_wxyz]]])
    record = collider_table((ground,), rest, rest, 1, 0.1).records[0, 0, 0]
    np.testing.assert_allclose(record[6:15].reshape(3, 3)[:, 2], normal, atol=1e-6)
    assert record[15:18] @ np.array(normal) == pytest.approx(0.3, abs=1e-6)
