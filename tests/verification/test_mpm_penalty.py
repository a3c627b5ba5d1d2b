"""Planes that push particles: statics, Coulomb friction, energy, and finite elements beside."""

import math

import numpy as np
import pytest
import torch
from mpm_scenes import parameters

from physgym.cell.fem_bodies import cylinder
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_scenes import drop
from physgym.errors import DataError
from physgym.sim.mpm import Collider, Condition, Material, MpmModel, MpmSolver, Sphere, fill_box
from recon.identify.motion import rigid_fit

ENGINES = ("plain", "native")
GROUND = Collider.ground(condition=Condition.PENALTY)


def run(model, values, frames, frame_s, *, velocity=None, engine="native", start=None):
    solver = MpmSolver(model, parameters(values), device="cpu", engine=engine)
    v = None if velocity is None else torch.tensor(velocity)
    x = None if start is None else torch.tensor(start)
    with torch.no_grad():
        return solver.rollout(solver.initial_state(x, v), torch.zeros(1, frames + 1, 0, 3), frame_s)


@pytest.mark.parametrize("engine", ENGINES)
def test_block_slides_down_a_slope_as_coulomb_says(engine):
    angle, frames, frame_s = math.radians(30.0), 10, 0.01
    # Bottom particles stand half a particle above the plane: just in touch.
    x, volume = fill_box((-0.06, -0.06, 0.0), (0.06, 0.06, 0.08), 0.02)
    down = 9.81 * np.array([math.sin(angle), 0.0, -math.cos(angle)])
    model = MpmModel(x, volume, 0.04, Material(), (GROUND,), gravity_m_per_s2=tuple(down))
    speed = []
    for friction in (0.0, 0.25, 0.9):
        made = run(model, {"young_pa": 3e5, "friction": friction}, frames, frame_s, engine=engine)
        speed.append(float(made.velocity[0, -1, :, 0].mean()))
    t = frames * frame_s
    assert speed[0] == pytest.approx(9.81 * math.sin(angle) * t, rel=1e-3)
    slowed = 9.81 * (math.sin(angle) - 0.25 * math.cos(angle)) * t
    # The block sinks into its springs and swings for a while, so the load is not steady.
    assert speed[1] == pytest.approx(slowed, rel=0.05)
    assert abs(speed[2]) < 0.05 * speed[0]  # 0.9 > tan(30 degrees): it sticks


def test_a_resting_block_sinks_in_by_its_weight_over_a_cell_of_its_own_matter():
    # nu = 0: a column that neither bulges nor leans. Start at rest in the closed form and nothing
    # moves: pressure rho g H = M depth / h, M = E.
    young, rho, g, height, h = 1e5, 1000.0, 9.81, 0.16, 0.04
    x, volume = fill_box((-0.08, -0.08, 0.0), (0.08, 0.08, height), 0.5 * h)
    sink = rho * g * height * h / young
    made = run(
        MpmModel(x, volume, h, Material(), (GROUND,)),
        {"young_pa": young, "poisson_ratio": 0.0, "density_kg_per_m3": rho, "friction": 0.0},
        120, 0.02,
    )  # fmt: skip
    z = made.position[0, 40:, :, 2].double().numpy()
    bottom = x[:, 2] < 0.6 * 0.5 * h
    low = z[:, bottom].mean()  # the swing is damped by the transfers alone: mean of many periods
    # The lowest layer carries all but its own half; it stands half a particle deep.
    assert 0.25 * h - low == pytest.approx(sink, rel=0.06)


def test_a_bounce_gains_nothing_and_loses_little():
    x, volume = fill_box((-0.06, -0.06, 0.02), (0.06, 0.06, 0.14), 0.01)
    model = MpmModel(x, volume, 0.02, Material(), (GROUND,), gravity_m_per_s2=(0.0, 0.0, 0.0))
    velocity = np.tile([0.0, 0.0, -1.0], (len(x), 1))
    made = run(model, {"young_pa": 1e5, "poisson_ratio": 0.0}, 20, 0.01, velocity=velocity)
    speed = made.velocity[0, -1, :, 2].mean()
    # With nu = 0 a flat landing is one wave down and up, after which all of the speed is back;
    # two particles in a cell see a wave front of a cell, which costs a tenth.
    assert 0.85 < float(speed) < 1.0


def test_only_planes_push_particles():
    with pytest.raises(DataError, match="PENALTY of a Sphere"):
        Collider(Sphere(0.1), Condition.PENALTY)


def test_a_seventh_plane_that_pushes_is_refused():
    x, volume = fill_box((0.0, 0.0, 0.0), (0.04, 0.04, 0.04), 0.02)
    MpmModel(x, volume, 0.04, Material(), (GROUND,) * 6)
    with pytest.raises(DataError, match="7 planes"):
        MpmModel(x, volume, 0.04, Material(), (GROUND,) * 7)


@pytest.mark.slow
def test_a_fibred_cylinder_spins_off_the_ground_as_finite_elements_say():
    """Off-axis fibres turn a fall into spin; nodes that stop and stick hold it back."""
    angle = math.radians(30.0)
    material = FemMaterial(
        7e4, 0.3, 500.0, fibre_modulus_pa=8e4,
        fibre_direction=(math.cos(angle), math.sin(angle), 0.0),
    )  # fmt: skip
    lying = (0.5, 0.5, -0.5, 0.5)
    truth = drop(
        cylinder(0.08, 0.2, 0.025), material, height_m=0.2, quat_wxyz=lying, frames=24, fps=60.0
    )
    points = np.asarray(truth.points)
    want = spin_of(points)
    found = {}
    for condition in (Condition.PENALTY, Condition.SEPARATE):
        found[condition] = spin_of(rolled(truth, material, condition))
    # 5 rad/s about the cylinder's axis; nodes that stop leave a third of it.
    assert np.linalg.norm(want) > 4.0
    assert np.linalg.norm(found[Condition.PENALTY] - want) < 0.35 * np.linalg.norm(want)
    assert np.linalg.norm(found[Condition.SEPARATE] - want) > 0.5 * np.linalg.norm(want)


def spin_of(points):
    """Mean angular velocity [rad/s] from frame 16 to 23 at 60 frames a second."""
    from scipy.spatial.transform import Rotation

    turn = rigid_fit(points[16], points[23]).turn
    return Rotation.from_matrix(turn).as_rotvec() / (7 / 60)


def rolled(truth, material, condition):
    """The same drop by MPM with the linearised stress of the fibres."""
    from recon.identify.motion import Motion

    motion = Motion.from_recording(truth)
    filling = motion.solid.fill(4000)
    pose = motion.start_pose()
    h = 2.0 * filling.spacing_m
    model = MpmModel(
        pose.apply(filling.position), filling.volume_m3, h, Material(),
        (Collider.ground(1e-5 * h, condition=condition),),
    )  # fmt: skip
    fibre = pose.turn @ np.array(material.fibre_direction)
    lam, mu = material.lambda_pa, material.mu_pa
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    along = np.array([fibre[i] * fibre[j] for i, j in pairs])
    double = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    isotropic = 2.0 * mu * np.diag(1.0 / double)
    isotropic[:3, :3] += lam
    both = isotropic + material.fibre_modulus_pa * np.outer(along, along)
    operator = (both * double) @ np.linalg.inv(isotropic * double)
    given = parameters(
        {
            "young_pa": material.young_pa, "poisson_ratio": material.poisson_ratio,
            "density_kg_per_m3": material.density_kg_per_m3, "friction": 0.3,
        }
    ).replace(stress_operator=torch.tensor(operator).float()[None, None])  # fmt: skip
    solver = MpmSolver(model, given, device="cpu")
    with torch.no_grad():
        made = solver.rollout(solver.initial_state(), torch.zeros(1, 24, 0, 3), 1 / 60)
    return made.position[0].double().numpy()
