"""Box colliders against closed forms: impact, sliding, pushing, turning, pressing."""

import math

import numpy as np
import pytest
import torch
from box_collider_scenes import free_nodes, quat, run, still

from physgym.sim.contact import BoxCollider, GroundPlane
from physgym.sim.spring_mass import SpringMassModel, springs_from_points

ENGINES = ["plain", "native"]
EPS = 2.0**-24  # rounding of float32
G = 9.81


def along(start, velocity, frames, frame_s, angles_deg=(0.0, 0.0, 0.0)):
    """Pose of one box on a straight line, (1, T, 1, 7)."""
    pose = still(start, frames, angles_deg)
    time = torch.arange(frames + 1)[:, None] * frame_s
    pose[0, :, 0, :3] += time * torch.tensor(velocity)
    return pose


@pytest.mark.parametrize("e", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_plate_hits_a_node(e, engine):
    speed, margin = 0.5, 0.004
    model = free_nodes([[0.1, 0.0, 0.0]], (BoxCollider((0.01, 0.05, 0.05), margin),))
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1, collider_restitution=e)
    pose = along([0.03, 0.0, 0.0], [speed, 0.0, 0.0], 20, 0.01)
    x, v = run(model, parameters, pose, frame_s=0.01, substeps=7, engine=engine)
    t = np.arange(21) * 0.01
    met = (0.1 - 0.03 - 0.01 - margin) / speed
    free = np.maximum(t - met, 0.0)
    # The time of impact is exact; positions of 0.2 m round 140 times.
    assert np.abs(x[:, 0, 0] - 0.1 - (1.0 + e) * speed * free).max() < 140 * 0.2 * EPS
    assert v[-1, 0, 0] == pytest.approx((1.0 + e) * speed, rel=1e-6)
    assert np.abs(v[:, 0, 1:]).max() == 0.0  # along the normal only


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_bounces_off_a_turned_box_as_off_a_mirror(engine):
    # 45 degrees about y: what falls along -z leaves along +x; with friction 0 and restitution 1.
    model = free_nodes([[0.0, 0.0, 0.2]], (BoxCollider((0.05, 0.05, 0.01)),))
    parameters = model.default_parameters(
        stiffness=1.0, mass_kg=1.0, collider_restitution=1.0, collider_friction=0.0
    )
    x, v = run(
        model, parameters, still([0.0, 0.0, 0.0], 10, (0.0, 45.0, 0.0)),
        frame_s=0.02, substeps=3, engine=engine, velocity=[[0.0, 0.0, -2.0]],
    )  # fmt: skip
    assert np.abs(v[-1, 0] - [2.0, 0.0, 0.0]).max() < 1e-6
    height = 0.01 * math.sqrt(2.0)  # of the upper face at x = 0
    gone = 2.0 * (0.2 - (0.2 - height) / 2.0)
    assert np.abs(x[-1, 0] - [gone, 0.0, height]).max() < 1e-6


@pytest.mark.parametrize("degrees", [15.0, 40.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_coulomb_sliding_on_a_tilted_box(degrees, engine):
    mu, angle, frames, substeps, frame_s = 0.5, math.radians(degrees), 20, 10, 0.01
    normal = np.array([math.sin(angle), 0.0, math.cos(angle)])
    downhill = np.array([math.cos(angle), 0.0, -math.sin(angle)])
    model = free_nodes(
        [0.02 * normal], (BoxCollider((1.0, 1.0, 0.02)),), gravity_m_per_s2=(0.0, 0.0, -G)
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1, collider_friction=mu)
    x, v = run(
        model, parameters, still([0.0, 0.0, 0.0], frames, (0.0, degrees, 0.0)),
        frame_s=frame_s, substeps=substeps, engine=engine,
    )  # fmt: skip
    rate = G * max(0.0, math.sin(angle) - mu * math.cos(angle))
    steps, h = frames * substeps, frame_s / substeps
    gone = x[-1, 0] - 0.02 * normal
    assert v[-1, 0] @ downhill == pytest.approx(rate * steps * h, abs=1e-5)
    # Semi-implicit Euler sums h v after each step, so h^2 a n (n + 1) / 2; 200 roundings of 0.1 m.
    # The start is on the surface within a rounding, so the first step may slide freely.
    want = rate * h * h * steps * (steps + 1) / 2.0
    assert gone @ downhill == pytest.approx(want, abs=200 * 0.1 * EPS + G * h * h)
    assert abs(gone @ normal) < 1e-7
    assert (rate == 0.0) == (degrees == 15.0)  # one sticks, one slides


@pytest.mark.parametrize("engine", ENGINES)
def test_a_turning_box_drags_a_node_to_its_speed_and_round(engine):
    spin, radius, frames, frame_s, substeps = 1.0, 0.1, 100, 0.01, 10
    mu = 0.2
    model = free_nodes(
        [[radius, 0.0, 0.02]], (BoxCollider((0.3, 0.3, 0.02)),), gravity_m_per_s2=(0.0, 0.0, -G)
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1, collider_friction=mu)
    pose = still([0.0, 0.0, 0.0], frames)
    for f in range(frames + 1):
        pose[0, f, 0, 3:] = torch.tensor(quat(0.0, 0.0, math.degrees(spin * f * frame_s)))
    x, v = run(model, parameters, pose, frame_s=frame_s, substeps=substeps, engine=engine)
    # From rest the slip is along y: the drag is mu g until the speed of the surface is reached.
    assert v[2, 0, 1] == pytest.approx(mu * G * 2 * frame_s, rel=0.02)
    assert v[2, 0, 1] < 0.5 * spin * radius
    # Then it goes round with the box. A step along the tangent opens the circle by
    # (h w r)^2 / 2 r, 5e-8 m, a thousand times.
    turned = v[-1, 0, :2] - spin * np.array([-x[-1, 0, 1], x[-1, 0, 0]])
    assert np.abs(turned).max() < 1e-4  # h w^2 r
    assert math.hypot(*x[-1, 0, :2]) == pytest.approx(radius, rel=0.02)
    # What the surface gained while the node slid: V^2 / (2 mu g) of arc.
    late = (spin * radius) ** 2 / (2.0 * mu * G) / radius
    angle = math.atan2(x[-1, 0, 1], x[-1, 0, 0])
    assert angle == pytest.approx(spin * frames * frame_s - late, abs=0.01)
    assert x[-1, 0, 2] == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_turning_bar_sweeps_a_node(engine):
    # The surface point's speed is spin times arm; e = 1 doubles it for a node at rest.
    spin, frames, frame_s = 4.0, 10, 0.005
    model = free_nodes([[0.1, 0.03, 0.0]], (BoxCollider((0.2, 0.01, 0.05)),))
    parameters = model.default_parameters(
        stiffness=1.0, mass_kg=0.1, collider_restitution=1.0, collider_friction=0.0
    )
    pose = still([0.0, 0.0, 0.0], frames)
    for f in range(frames + 1):
        pose[0, f, 0, 3:] = torch.tensor(quat(0.0, 0.0, math.degrees(spin * f * frame_s)))
    _, v = run(model, parameters, pose, frame_s=frame_s, substeps=50, engine=engine)
    # Contact where the node's distance from the turned middle line is 0.01 m.
    reach = math.hypot(0.1, 0.03)
    tilt = math.atan2(0.03, 0.1) - math.asin(0.01 / reach)
    normal = np.array([-math.sin(tilt), math.cos(tilt), 0.0])
    arm = 0.1 * math.cos(tilt) + 0.03 * math.sin(tilt)
    # The normal is taken at the end of the substep, spin h = 4e-4 rad late.
    assert np.abs(v[-1, 0] - 2.0 * spin * arm * normal).max() < 4e-4 * 2.0 * spin * arm
    assert tilt < spin * frames * frame_s


@pytest.mark.parametrize("engine", ENGINES)
def test_a_conveyor_brings_a_node_to_its_speed(engine):
    mu, belt, frame_s = 0.3, 0.4, 0.01
    model = free_nodes(
        [[0.0, 0.0, 0.02]], (BoxCollider((1.0, 0.3, 0.02)),), gravity_m_per_s2=(0.0, 0.0, -G)
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1, collider_friction=mu)
    pose = along([0.0, 0.0, 0.0], [belt, 0.0, 0.0], 30, frame_s)
    _, v = run(model, parameters, pose, frame_s=frame_s, substeps=10, engine=engine)
    want = np.minimum(mu * G * frame_s * np.arange(31), belt)
    assert np.abs(v[:, 0, 0] - want).max() < 1.5e-3 * mu * G  # one substep, 1 ms, of either side


def block(spacing=0.01, shape=(5, 4, 3), **kwargs):
    """A lattice on the table with springs to the nearest 18 sites."""
    axes = [spacing * np.arange(n) for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    edges = springs_from_points(points, radius_m=1.5 * spacing, max_neighbours=18)
    return SpringMassModel(points, edges, ground=GroundPlane(), **kwargs)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plate_pushes_a_block_over_the_table(engine):
    speed, margin, half, frame_s, moving, after = 0.1, 0.005, 0.004, 0.02, 40, 20
    model = block(colliders=(BoxCollider((half, 0.05, 0.03), margin),))
    parameters = model.default_parameters(
        stiffness=10.0, mass_kg=0.12, dashpot_ns_per_m=0.05, friction=0.4
    )
    pose = along([-0.02, 0.015, 0.03], [speed, 0.0, 0.0], moving, frame_s)
    pose = torch.cat([pose, pose[:, -1:].repeat(1, after, 1, 1)], dim=1)
    x, v = run(model, parameters, pose, frame_s=frame_s, substeps=80, engine=engine)
    front = pose[0, :, 0, 0].numpy() + half + margin
    rear = x[..., 0].min(axis=1)
    # The table comes after the plate: it holds back the lowest nodes, which carry a column of
    # three, by 3 mu g h^2 = 0.7 um until the next substep.
    assert (rear - front).min() > -3.0 * 0.4 * G * (frame_s / 80) ** 2
    assert abs(rear[moving] - front[moving]) < 1e-4
    # Pushed, it keeps the plate's speed: over the last half, so that the start has died away.
    half_way = moving // 2
    gone = x[moving, :, 0].mean() - x[half_way, :, 0].mean()
    assert gone == pytest.approx(speed * (moving - half_way) * frame_s, rel=0.01)
    # The plate stops; the table takes v^2 / (2 mu g) = 1.3 mm at most, then it rests.
    further = x[-1, :, 0].mean() - x[moving, :, 0].mean()
    assert 0.0 <= further < speed**2 / (2.0 * 0.4 * G) + 1e-4
    assert np.abs(v[-1].mean(axis=0)).max() < 1e-3
    assert x[..., 2].min() > -1e-7


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plate_presses_a_block_onto_the_table(engine):
    half, margin, frame_s, frames = 0.004, 0.004, 0.02, 30
    model = block(colliders=(BoxCollider((0.06, 0.06, half), margin),))
    parameters = model.default_parameters(
        stiffness=10.0, mass_kg=0.12, dashpot_ns_per_m=0.05, friction=0.4
    )
    start = 0.02 + half + margin + 0.005
    pose = along([0.02, 0.015, start], [0.0, 0.0, -0.03], frames // 2, frame_s)
    pose = torch.cat([pose, pose[:, -1:].repeat(1, frames - frames // 2, 1, 1)], dim=1)
    x, v = run(model, parameters, pose, frame_s=frame_s, substeps=80, engine=engine)
    under = pose[0, :, 0, 2].numpy() - half - margin
    assert under[-1] < 0.017  # a fifth of the height is gone
    assert x[..., 2].min() > -1e-8  # the table comes last: only its own rounding is left
    # Under the plate but for rounding of the box's own frame, some 3e-9 m on each of three terms.
    assert (x[..., 2].max(axis=1) - under).max() < 2e-8
    assert x[-1, :, 2].max() > under[-1] - 1e-6  # and against it
    assert np.abs(v[-1]).max() < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_push_gives_momentum_along_its_normal_only(engine):
    rng = np.random.default_rng(2)
    points = rng.uniform(0.0, 0.05, (40, 3))
    model = SpringMassModel(
        points,
        springs_from_points(points, radius_m=0.04, max_neighbours=12),
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        colliders=(BoxCollider((0.01, 0.2, 0.2), 0.002),),
    )
    parameters = model.default_parameters(
        stiffness=5.0, mass_kg=0.4, dashpot_ns_per_m=0.02, collider_restitution=0.5,
        collider_friction=0.0,
    )  # fmt: skip
    pose = along([-0.03, 0.0, 0.0], [0.5, 0.0, 0.0], 20, 0.01)
    x, v = run(model, parameters, pose, frame_s=0.01, substeps=20, engine=engine)
    momentum = 0.01 * v.sum(axis=1)
    # 400 steps of 40 roundings of velocities near 0.5 m/s, as a random walk, 10 sigma.
    assert np.abs(momentum[:, 1:]).max() < 10 * 0.01 * 0.5 * EPS * math.sqrt(400 * 40)
    assert momentum[-1, 0] > 0.4 * 0.5  # faster than the plate
    assert (x[..., 0].min(axis=1) > pose[0, :, 0, 0].numpy() + 0.012 - 1e-7).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_in_a_box_leaves_by_the_nearest_face_and_driven_nodes_stay(engine):
    points = [[0.035, 0.0, 0.0], [0.0, -0.018, 0.0], [0.0, 0.0, 0.009], [0.0, 0.0, 0.0]]
    model = free_nodes(
        points, (BoxCollider((0.04, 0.02, 0.01), 0.001),), driven_index=np.array([3])
    )
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1)
    pose = still([0.0, 0.0, 0.0], 2)
    x, v = run(model, parameters, pose, frame_s=0.01, substeps=2, engine=engine)
    want = [[0.041, 0.0, 0.0], [0.0, -0.021, 0.0], [0.0, 0.0, 0.011], [0.0, 0.0, 0.0]]
    assert np.abs(x[-1] - want).max() < 1e-8
    assert np.abs(v).max() == 0.0  # what is put back is not thrown


@pytest.mark.parametrize("engine", ENGINES)
def test_the_margin_rounds_edges(engine):
    # Straight at a corner, along its diagonal: stopped a margin away from the corner.
    diagonal = np.ones(3) / math.sqrt(3.0)
    corner = np.array([0.02, 0.01, 0.015])
    model = free_nodes([corner + 0.1 * diagonal], (BoxCollider(tuple(corner), 0.006),))
    parameters = model.default_parameters(stiffness=1.0, mass_kg=0.1)
    pose = still([0.0, 0.0, 0.0], 20)
    x, v = run(
        model, parameters, pose, frame_s=0.01, substeps=10, engine=engine, velocity=[-diagonal]
    )
    assert np.abs(x[-1, 0] - corner - 0.006 * diagonal).max() < 1e-6
    assert np.abs(v[-1]).max() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_the_margin_keeps_a_thin_box_from_slipping_between_nodes(engine):
    # A bar 4 mm thick goes up between two columns of nodes 2 cm apart, or it does not.
    points = [[0.02 * i, 0.02 * j, 0.0] for i in range(2) for j in range(3)]
    ends = {}
    for margin in (0.0, 0.01):
        model = SpringMassModel(
            np.array(points),
            springs_from_points(np.array(points), radius_m=0.03, max_neighbours=8),
            gravity_m_per_s2=(0.0, 0.0, 0.0),
            colliders=(BoxCollider((0.002, 0.05, 0.002), margin),),
        )
        parameters = model.default_parameters(stiffness=5.0, mass_kg=0.06, dashpot_ns_per_m=0.02)
        pose = along([0.01, 0.02, -0.03], [0.0, 0.0, 0.2], 20, 0.02)
        x, _ = run(model, parameters, pose, frame_s=0.02, substeps=60, engine=engine)
        ends[margin] = x[-1, :, 2]
    assert np.abs(ends[0.0]).max() == 0.0
    assert ends[0.01].min() > 0.04  # carried along


@pytest.mark.parametrize("mu", [0.9, 0.002])
@pytest.mark.parametrize("engine", ENGINES)
def test_closed_fingers_lift_a_block_by_friction_only(mu, engine):
    frame_s, closing, lifting, half = 0.02, 10, 20, 0.004
    fingers = (BoxCollider((half, 0.02, 0.02)),) * 2
    model = block(shape=(4, 4, 4), colliders=fingers)
    parameters = model.default_parameters(
        stiffness=15.0, mass_kg=0.064, dashpot_ns_per_m=0.05, friction=0.4, collider_friction=mu
    )
    poses = []
    for side, start in ((1.0, -half - 0.001), (-1.0, 0.03 + half + 0.001)):
        pose = along([start, 0.015, 0.018], [side * 0.015, 0.0, 0.0], closing, frame_s)
        up = along(pose[0, -1, 0, :3].numpy(), [0.0, 0.0, 0.1], lifting, frame_s)
        poses.append(torch.cat([pose, up[:, 1:]], dim=1))
    x, v = run(
        model, parameters, torch.cat(poses, dim=2), frame_s=frame_s, substeps=120, engine=engine
    )
    # Squeezed by 2 mm on each side, 13 %, the 16 rows of springs of 15 N press with some 30 N or
    # 60 N with the slanted ones: friction of 0.002 cannot hold the weight of 0.63 N, 0.9 can.
    height, risen = 0.1 * lifting * frame_s, x[-1, :, 2].mean() - x[0, :, 2].mean()
    if mu > 0.5:
        assert risen == pytest.approx(height, abs=0.004)
        assert v[-1, :, 2].mean() == pytest.approx(0.1, abs=0.01)
    else:
        assert risen < 0.5 * height
