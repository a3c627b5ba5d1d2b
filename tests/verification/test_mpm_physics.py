"""MPM against mechanics: free fall, conservation, statics, waves, sand, sliding, refinement."""

import numpy as np
import pytest
import torch
from mpm_scenes import parameters

from physgym.sim.mpm import (
    Collider,
    Condition,
    ElasticLaw,
    Material,
    MpmModel,
    MpmSolver,
    Plane,
    ReturnMap,
    box_walls,
    fill_box,
)

ENGINES = ("plain", "native")
NO_GRAVITY = (0.0, 0.0, 0.0)


def run(model, values, frames, frame_s, *, substeps=None, velocity=None, engine="native", **more):
    solver = MpmSolver(model, parameters(values), substeps=substeps, device="cpu", engine=engine)
    v = None if velocity is None else torch.tensor(velocity)
    state = solver.initial_state(velocity=v)
    with torch.no_grad():
        return solver.rollout(state, torch.zeros(1, frames + 1, 0, 3), frame_s, **more)


@pytest.mark.parametrize("engine", ENGINES)
def test_free_fall(engine):
    x, volume = fill_box((0, 0, 1.0), (0.1, 0.1, 1.1), 0.02, jitter=0.5)
    model = MpmModel(x, volume, 0.04)
    frames, substeps, frame_s = 5, 10, 0.01
    start = np.array([0.5, -0.2, 1.0])
    made = run(
        model, {"young_pa": 1e4}, frames, frame_s, substeps=substeps, engine=engine,
        velocity=np.tile(start, (len(x), 1)),
    )  # fmt: skip
    n = substeps * np.arange(frames + 1)[:, None, None]
    dt = frame_s / substeps
    # Semi-implicit Euler falls dt^2 n (n + 1) / 2 g, exactly; so the error in time is O(dt).
    want = x + n * dt * start + np.array([0, 0, -9.81]) * dt**2 * n * (n + 1) / 2
    # float32: positions near 1 m are rounded to 6e-8 in each of 50 substeps
    np.testing.assert_allclose(made.position[0], want, atol=5e-6)
    np.testing.assert_allclose(
        made.deformation[0, -1], np.eye(3) + 0 * want[0, :, :, None], atol=1e-4
    )


def angular_momentum(mass, x, v, affine, h):
    """Of particles and of what APIC carries in C; per unit mass of each particle times mass."""
    spin = h**2 / 4.0 * np.stack(
        [affine[:, 2, 1] - affine[:, 1, 2], affine[:, 0, 2] - affine[:, 2, 0],
         affine[:, 1, 0] - affine[:, 0, 1]], 1,
    )  # fmt: skip
    return mass * (np.cross(x, v) + spin).sum(0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("law", [ElasticLaw.NEO_HOOKEAN, ElasticLaw.FIXED_COROTATED])
def test_momentum_and_angular_momentum_are_conserved(engine, law):
    h = 0.04
    x, volume = fill_box((-0.1, -0.06, -0.05), (0.1, 0.06, 0.05), 0.02, jitter=0.5)
    v = np.cross([6.0, -9.0, 12.0], x) + 4.0 * x * [1, -1, 0.5] + [0.7, 0.2, -0.4]
    model = MpmModel(x, volume, h, Material(law), gravity_m_per_s2=NO_GRAVITY)
    made = run(model, {"young_pa": 2e4}, 4, 0.02, velocity=v, engine=engine)
    f, affine = made.internal[0].double().unflatten(-1, (2, 3, 3)).unbind(-3)
    assert (f[-1] - torch.eye(3)).abs().max() > 0.05  # it deformed
    states = [
        tuple(a[k].double().numpy() for a in (made.position[0], made.velocity[0], affine))
        for k in range(5)
    ]
    momentum = np.stack([s[1].sum(0) for s in states])
    spin = np.stack([angular_momentum(1.0, *s, h) for s in states])
    # float32 sums of 300 particles over some 80 substeps
    np.testing.assert_allclose(momentum, momentum[:1].repeat(5, 0), atol=2e-4 * np.abs(v).sum())
    size = np.linalg.norm(np.cross(x, v), axis=1).sum()
    np.testing.assert_allclose(spin, spin[:1].repeat(5, 0), atol=2e-4 * size)


def settlement(h):
    """Mean settlement of the top of a column under its own weight, over that of theory."""
    height, width = 0.48, 0.08
    young, nu, rho, g = 4e5, 0.3, 1000.0, 9.81
    modulus = young * (1 - nu) / ((1 + nu) * (1 - 2 * nu))
    walls = [w for w in box_walls((0, 0, 0), (width, width, 9), condition=Condition.SLIP)
             if w.name in ("wall -x", "wall +x", "wall -y", "wall +y")]  # fmt: skip
    ground = Collider.ground(0.0, condition=Condition.STICKY)
    x, volume = fill_box((0, 0, 0), (width, width, height), h / 2)
    model = MpmModel(x, volume, h, Material(ElasticLaw.NEO_HOOKEAN), (*walls, ground))
    # Released at rest it swings about its static shape; all its modes' periods divide the first.
    period = 4 * height / np.sqrt(modulus / rho)
    frames = 64
    made = run(model, {"young_pa": young, "poisson_ratio": nu}, frames, period / frames)
    z = made.position[0, :-1, :, 2].double().numpy().mean(0)
    top = x[:, 2] > height - 0.6 * h
    z0 = x[top, 2].mean()
    # Static: u(z) = -rho g (H z - z^2 / 2) / M
    want = rho * g * (height * z0 - z0**2 / 2) / modulus
    return (z0 - z[top].mean()) / want


def test_column_settles_as_theory_says_and_refinement_converges():
    coarse, fine = settlement(0.04), settlement(0.02)
    # The column stands on nodes, so the last half cell above the ground is too stiff or too soft:
    # an error of the order h / H. Strain is 0.4 %, so linear theory holds to that.
    assert fine == pytest.approx(1.0, abs=0.015)
    assert abs(fine - 1.0) < 0.5 * abs(coarse - 1.0)


def bar_frequency(h, young=1e5, rho=1000.0):
    """Longitudinal frequency of a free bar over sqrt(E / rho) / (2 L)."""
    length, width = 0.64, 0.08
    x, volume = fill_box((0, 0, 0), (length, width, width), h / 2)
    shape = np.cos(np.pi * x[:, 0] / length)
    v = np.zeros_like(x)
    v[:, 0] = 0.02 * shape
    model = MpmModel(x, volume, h, gravity_m_per_s2=NO_GRAVITY)
    want = np.sqrt(young / rho) / (2 * length)
    frames = 80
    made = run(
        model, {"young_pa": young, "poisson_ratio": 0.0}, frames, 1.25 / want / frames, velocity=v
    )
    u = ((made.position[0] - made.position[0, :1])[:, :, 0].double().numpy() * shape).sum(1)
    t = np.arange(frames + 1) / frames * 1.25 / want
    # u ~ sin(2 pi f t): its crossing after one half and one whole period
    cross = [
        t[k] - u[k] * (t[k + 1] - t[k]) / (u[k + 1] - u[k])
        for k in range(1, frames)
        if u[k] * u[k + 1] <= 0.0 and u[k] != 0.0
    ]
    return 1.0 / cross[1] / want


def test_bar_swings_at_its_natural_frequency_and_refinement_converges():
    coarse, fine = bar_frequency(0.08), bar_frequency(0.04)
    # A free surface reaches half a cell too far, so the bar is long by the order of h.
    assert fine == pytest.approx(1.0, abs=0.008)
    assert abs(fine - 1.0) < 0.5 * abs(coarse - 1.0)


def slope_of_pile(angle_rad):
    """Slope angle [rad] at which a pile that starts steeper comes to rest, between slip walls."""
    h, half, depth = 0.02, 0.25, 0.08
    steep = np.tan(np.radians(50.0))
    x, volume = fill_box(
        (-half, 0, 0), (half, depth, half * steep), h / 2, jitter=0.2,
        inside=lambda p: p[:, 2] < steep * (half - np.abs(p[:, 0])),
    )  # fmt: skip
    walls = [w for w in box_walls((0, 0, 0), (1, depth, 1), condition=Condition.SLIP)
             if w.name in ("wall -y", "wall +y")]  # fmt: skip
    model = MpmModel(
        x, volume, h, Material(ElasticLaw.HENCKY, ReturnMap.DRUCKER_PRAGER),
        (*walls, Collider.ground(condition=Condition.STICKY)),
    )  # fmt: skip
    values = {"young_pa": 3e5, "poisson_ratio": 0.2, "friction_angle_rad": angle_rad}
    made = run(model, values, 30, 1.2 / 30)
    speed = made.velocity[0, -1].norm(dim=-1).mean()
    assert speed < 0.03  # it came to rest
    end = made.position[0, -1].double().numpy()
    # The surface: the highest particle of each column; its slope where the pile is neither top
    # nor thin foot.
    edges = np.arange(0.0, 0.8, h)
    side = np.abs(end[:, 0])
    tops = []
    for edge in edges:
        column = end[(side >= edge) & (side < edge + h), 2]
        if len(column) > 8:
            tops.append((edge + 0.5 * h, column.max()))
    s, z = np.array(tops).T
    keep = (z > 0.25 * z.max()) & (z < 0.8 * z.max())
    return float(np.arctan(-np.polyfit(s[keep], z[keep], 1)[0]))


def test_sand_rests_near_its_friction_angle():
    found = {phi: slope_of_pile(np.radians(phi)) for phi in (20.0, 30.0)}
    for phi, slope in found.items():
        # The cone is fitted to triaxial compression; between parallel walls (plane strain, no
        # volume change) it stands sin(phi') = 2 sqrt(3) sin(phi) / (3 - sin(phi)). A pile that
        # slumps overshoots and ends flatter than that.
        sine = np.sin(np.radians(phi))
        plane = np.degrees(np.arcsin(2 * np.sqrt(3) * sine / (3 - sine)))
        assert 0.85 * phi < np.degrees(slope) < plane, (phi, np.degrees(slope), plane)
    assert found[30.0] > 1.5 * found[20.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_block_slides_down_a_slope_as_coulomb_says(engine):
    angle, frames, frame_s = np.radians(30.0), 10, 0.01
    x, volume = fill_box((-0.06, -0.06, 0.001), (0.06, 0.06, 0.081), 0.02)
    down = 9.81 * np.array([np.sin(angle), 0.0, -np.cos(angle)])
    model = MpmModel(
        x, volume, 0.04, Material(), (Collider(Plane()),), gravity_m_per_s2=tuple(down)
    )
    distance = []
    for friction in (0.0, 0.25, 0.9):
        made = run(model, {"young_pa": 3e5, "friction": friction}, frames, frame_s, engine=engine)
        distance.append(float(made.velocity[0, -1, :, 0].mean()))
    t = frames * frame_s
    free = 9.81 * np.sin(angle) * t
    slowed = 9.81 * (np.sin(angle) - 0.25 * np.cos(angle)) * t
    assert distance[0] == pytest.approx(free, rel=1e-3)
    # The block falls a millimetre first and bounces a little: contact is not steady.
    assert distance[1] == pytest.approx(slowed, rel=0.03)
    assert abs(distance[2]) < 0.05 * free  # 0.9 > tan(30 degrees): it sticks


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_held_at_its_top_hangs_still(engine):
    """Held particles stop the nodes around them; matter must not creep past them."""
    h = 0.02
    x, volume = fill_box((0, 0, 0), (0.06, 0.06, 0.12), h / 2)
    top = np.flatnonzero(x[:, 2] > 0.095).astype(np.int32)
    model = MpmModel(x, volume, h, driven_index=top)
    values = {"young_pa": 5e4, "poisson_ratio": 0.3, "density_kg_per_m3": 1000.0}
    solver = MpmSolver(model, parameters(values), device="cpu", engine=engine, substeps=16)
    frames, frame_s = 30, 0.02
    still = torch.tensor(x[top]).float().expand(1, frames + 1, -1, -1)
    with torch.no_grad():
        made = solver.rollout(solver.initial_state(), still, frame_s)
    centre = made.position[0, :, :, 2].mean(dim=1).double().numpy()
    # It swings (period 4 H sqrt(rho / E) = 0.07 s): means of the two halves, half a second apart.
    creep = (centre[16:].mean() - centre[1:16].mean()) / (15 * frame_s)
    # A substep of 1.25 ms would let it creep at up to 12 mm/s; the swing's mean is good to 0.5.
    assert abs(creep) < 0.5e-3
