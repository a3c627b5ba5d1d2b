"""Spring-mass objects against closed forms; every tolerance follows from the step or from
float32."""

import math

import numpy as np
import pytest
import torch
from spring_mass_scenes import cloud, run

from physgym.sim.contact import GroundPlane
from physgym.sim.spring_mass import (
    ForceLaw,
    SpringMassModel,
    SpringMassSolver,
    chain_springs,
)

G = 9.81
EPS = 2.0**-24  # rounding of float32
ENGINES = ["plain", "native"]
NO_SPRINGS = np.zeros((0, 2), dtype=np.int32)


def single_node(**kwargs):
    model = SpringMassModel(np.zeros((1, 3)), NO_SPRINGS, **kwargs)
    return model, model.default_parameters(stiffness=1.0, mass_kg=0.3)


@pytest.mark.parametrize("engine", ENGINES)
def test_free_fall(engine):
    model, parameters = single_node()
    frame_s, frames, substeps = 0.02, 20, 25
    x, v = run(
        model, parameters, [[0.0, 0.0, 2.0]], [[0.4, 0.0, 1.0]],
        frame_s=frame_s, frames=frames, substeps=substeps, engine=engine,
    )  # fmt: skip
    t = frame_s * np.arange(frames + 1)
    h = frame_s / substeps
    # Semi-implicit Euler is below the parabola by g h t / 2 exactly; the rest is rounding:
    # 500 additions to a number near 2.
    rounding = 500 * 2.0 * EPS
    parabola = 2.0 + t - 0.5 * G * t**2
    assert np.abs(x[:, 0, 2] - (parabola - 0.5 * G * h * t)).max() < rounding
    assert np.abs(x[:, 0, 0] - 0.4 * t).max() < rounding
    assert np.abs(v[:, 0, 2] - (1.0 - G * t)).max() < 500 * 3.0 * EPS


def oscillator(dashpot):
    """A mass of 0.2 kg on a spring of 80 N/m, the other end held: w = 20 rad/s."""
    model = SpringMassModel(
        np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]),
        np.array([[0, 1]]),
        driven_index=np.array([0]),
        law=ForceLaw.HOOKE,
        gravity_m_per_s2=(0.0, 0.0, 0.0),
    )
    return model, model.default_parameters(stiffness=80.0, mass_kg=0.4, dashpot_ns_per_m=dashpot)


@pytest.mark.parametrize("engine", ENGINES)
def test_oscillator_frequency(engine):
    model, parameters = oscillator(0.0)
    w, frame_s, substeps, frames = 20.0, 0.005, 5, 400
    x, _ = run(
        model, parameters, [[0.0, 0.0, 0.0], [0.55, 0.0, 0.0]], np.zeros((2, 3)),
        frame_s=frame_s, frames=frames, substeps=substeps, engine=engine,
    )  # fmt: skip
    u = x[:, 1, 0] - 0.5
    down = np.flatnonzero((u[:-1] > 0.0) & (u[1:] <= 0.0))
    crossing = (down + u[down] / (u[down] - u[down + 1])) * frame_s
    measured = 2.0 * math.pi * (len(crossing) - 1) / (crossing[-1] - crossing[0])
    # The step's own frequency is w (1 + (w h)^2 / 24): 1.7e-5 here. Linear interpolation of a
    # crossing errs by (w frame)^2 / 8 of a frame at each end of 6 periods: 3.3e-6 relative.
    h = frame_s / substeps
    assert abs(measured / (w * (1.0 + (w * h) ** 2 / 24.0)) - 1.0) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_oscillator_decay(engine):
    dashpot, mass = 0.4, 0.2
    model, parameters = oscillator(dashpot)
    rate = dashpot / (2.0 * mass)  # 1/s
    frame_s, substeps, frames = 0.002, 4, 1000
    h = frame_s / substeps
    x, v = run(
        model, parameters, [[0.0, 0.0, 0.0], [0.55, 0.0, 0.0]], np.zeros((2, 3)),
        frame_s=frame_s, frames=frames, substeps=substeps, engine=engine,
    )  # fmt: skip
    u, t = x[:, 1, 0] - 0.5, frame_s * np.arange(frames + 1)
    w = math.sqrt(400.0 - rate**2)
    # |u + i (v + rate u) / w| of the damped oscillation decays without ripple.
    envelope = np.hypot(u, (v[:, 1, 0] + rate * u) / w)
    fitted = -np.polyfit(t, np.log(envelope), 1)[0]
    # First order: the step's decay rate is rate (1 + rate h) to leading order, and the ripple of
    # relative size w h / 2 = 5e-3 averages out over 6 periods to below 1e-3.
    assert abs(fitted / rate - 1.0) < rate * h + 1e-3


@pytest.mark.parametrize("law", list(ForceLaw))
@pytest.mark.parametrize("engine", ENGINES)
def test_momentum_is_kept(engine, law):
    model, points, velocity = cloud(law=law, gravity_m_per_s2=(0.0, 0.0, 0.0))
    parameters = model.default_parameters(stiffness=5.0, mass_kg=0.6, dashpot_ns_per_m=0.01)
    mass, steps = 0.01, 400
    x, v = run(
        model, parameters, points, velocity, frame_s=0.02, frames=4, substeps=100, engine=engine
    )
    linear = mass * v.sum(axis=1)
    angular = mass * np.cross(x, v).sum(axis=1)
    # Each step rounds 60 velocities of about 1 m/s; errors add like a random walk, taken as 10
    # sigma.
    tolerance = 10.0 * mass * EPS * np.abs(v).max() * math.sqrt(60 * steps)
    assert np.abs(linear - linear[0]).max() < tolerance
    # Arms are at most 0.2 m, but positions round too, and each rounding acts with the full
    # velocity.
    assert np.abs(angular - angular[0]).max() < tolerance


def energy(model, stiffness, mass, x, v):
    i, j = model.edges[:, 0], model.edges[:, 1]
    rest = np.linalg.norm(model.rest_position[j] - model.rest_position[i], axis=1)
    length = np.linalg.norm(x[:, j] - x[:, i], axis=2)
    return 0.5 * mass * (v**2).sum(axis=(1, 2)) + 0.5 * stiffness * ((length - rest) ** 2).sum(
        axis=1
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_energy_is_kept_without_damping(engine):
    model, points, velocity = cloud(law=ForceLaw.HOOKE, gravity_m_per_s2=(0.0, 0.0, 0.0))
    parameters = model.default_parameters(stiffness=50.0, mass_kg=0.6)
    worst = []
    for substeps in (20, 40):
        x, v = run(
            model,
            parameters,
            points,
            velocity,
            frame_s=0.01,
            frames=100,
            substeps=substeps,
            engine=engine,
        )
        total = energy(model, 50.0, 0.01, x, v)
        # A symplectic step keeps an energy that differs from this one by O(h): it swings, and does
        # not drift. Half the swing is a generous bound on a drift between two halves of the run.
        drift = abs(total[50:].mean() - total[1:50].mean()) / total[0]
        worst.append(np.abs(total / total[0] - 1.0).max())
        assert drift < 0.5 * worst[-1]
    # Swing is first order in h: half the step, half the swing, with room for chance.
    assert worst[1] < 0.65 * worst[0]
    # w h of the stiffest mode is 2 * 0.5 / (limit in units of h), here 0.12: swing below half of
    # it.
    assert worst[0] < 0.06


def test_hanging_chain_is_a_catenary():
    count, span, length = 41, 0.6, 1.0
    # Catenary z = a cosh(x / a): the length between +-span/2 is 2 a sinh(span / (2 a)).
    low, high = 0.05, 2.0
    for _ in range(80):
        a = 0.5 * (low + high)
        low, high = (a, high) if 2.0 * a * math.sinh(span / (2.0 * a)) > length else (low, a)
    arc = np.linspace(-0.5 * length, 0.5 * length, count)
    exact = np.stack(
        [a * np.arcsinh(arc / a), np.zeros(count), a * np.sqrt(1.0 + (arc / a) ** 2)], axis=1
    )
    exact[:, 2] -= exact[0, 2]
    straight = np.stack([arc, np.zeros(count), np.zeros(count)], axis=1)
    model = SpringMassModel(
        straight, chain_springs(count, reach=1), driven_index=np.array([0, count - 1])
    )
    parameters = model.default_parameters(
        stiffness=2000.0, mass_kg=0.1, dashpot_ns_per_m=0.2, drag_per_s=6.0
    )
    v_shape = straight.copy()
    v_shape[:, 0] *= span / length
    v_shape[:, 2] = -0.4 * (1.0 - np.abs(arc) / (0.5 * length))
    solver = SpringMassSolver(model, parameters)
    state = solver.initial_state(torch.as_tensor(v_shape))
    driven = state.position[:, None, [0, count - 1]].repeat(1, 101, 1, 1)
    end = solver.rollout(state, driven, 0.05).position[0, -1].double().numpy()
    # The nodes are a polygon: its sag differs from the curve's by (length / count)^2 * curvature /
    # 8, 3e-4 m at the bottom where the curvature is 1/a = 5/m. Tension is below 0.7 N, so the
    # stretch is 3.5e-4 of 1 m, which lowers the bottom by less than 1e-3 m in a loop this deep.
    assert np.abs(end - exact).max() < 1.5e-3
    # Without the chain's weight this would be V-shaped: 3 cm away.
    assert np.abs(v_shape - exact).max() > 0.02


@pytest.mark.parametrize("engine", ENGINES)
def test_sliding_node_stops_by_coulomb(engine):
    model, parameters = single_node(ground=GroundPlane())
    mu, v0, frame_s, substeps = 0.4, 1.5, 0.02, 20
    parameters = parameters.replace(friction=torch.tensor([mu]))
    x, v = run(
        model, parameters, [[0.0, 0.0, 0.0]], [[0.6 * v0, 0.8 * v0, 0.0]],
        frame_s=frame_s, frames=30, substeps=substeps, engine=engine,
    )  # fmt: skip
    distance = np.linalg.norm(x[-1, 0, :2])
    # Each substep takes mu g h of speed; a step early or late moves the stop by v0 h.
    assert abs(distance - v0**2 / (2.0 * mu * G)) < 1.1 * v0 * frame_s / substeps
    assert np.abs(v[-1, 0]).max() < 1e-5  # the smallest speed that friction knows is 1e-6 m/s
    assert np.abs(x[:, 0, 2]).max() < 1e-6  # stays on the plane


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("e", [0.0, 0.5, 0.9])
def test_bounce_height_is_e_squared(engine, e):
    model, parameters = single_node(ground=GroundPlane())
    parameters = parameters.replace(restitution=torch.tensor([e]))
    drop, frame_s, substeps = 0.5, 0.005, 20
    x, _ = run(
        model, parameters, [[0.0, 0.0, drop]], [[0.0, 0.0, 0.0]],
        frame_s=frame_s, frames=160, substeps=substeps, engine=engine,
    )  # fmt: skip
    z = x[:, 0, 2]
    impact = int(math.sqrt(2.0 * drop / G) / frame_s) + 2
    # The speed at impact is off by up to g h, the height by v g h / g = v h, before and after;
    # sampling once a frame misses the top by g frame^2 / 8.
    v_impact, h = math.sqrt(2.0 * G * drop), frame_s / substeps
    tolerance = 2.0 * v_impact * h + G * frame_s**2 / 8.0
    assert abs(z[impact:].max() - e**2 * drop) < tolerance
    assert z.min() >= -1e-7


@pytest.mark.parametrize("engine", ENGINES)
def test_ground_neither_throws_nor_swallows(engine):
    model, parameters = single_node(ground=GroundPlane(), gravity_m_per_s2=(0.0, 0.0, 0.0))
    parameters = parameters.replace(friction=torch.tensor([0.5]), restitution=torch.tensor([0.5]))
    common = {"frame_s": 0.001, "frames": 1, "substeps": 10, "engine": engine}
    # Grazing with a speed into the plane of 1e-9 m/s must not jump along it: it moves v t at most.
    x, _ = run(model, parameters, [[0.0, 0.0, 1e-13]], [[2.0, 0.0, -1e-9]], **common)
    assert abs(x[-1, 0, 0] - 0.002) < 1e-6
    # Under the plane and at rest, or on the way out: put on the plane, given no speed.
    for vz in (0.0, 0.1):
        x, v = run(model, parameters, [[0.0, 0.0, -0.01]], [[0.0, 0.0, vz]], **common)
        assert 0.0 <= x[-1, 0, 2] <= vz * 0.001 + 1e-7
        assert v[-1, 0, 2] == pytest.approx(vz)


@pytest.mark.parametrize("engine", ENGINES)
def test_tilted_ground(engine):
    tilt = math.radians(30.0)
    normal = (math.sin(tilt), 0.0, math.cos(tilt))
    model, parameters = single_node(ground=GroundPlane(normal, 0.2))
    parameters = parameters.replace(friction=torch.tensor([0.3]))
    start = 0.2 * np.array(normal)
    x, _ = run(
        model,
        parameters,
        [start],
        np.zeros((1, 3)),
        frame_s=0.02,
        frames=10,
        substeps=20,
        engine=engine,
    )
    # Slides with g (sin - mu cos); semi-implicit Euler reaches h t / 2 of it too far.
    a, t, h = G * (math.sin(tilt) - 0.3 * math.cos(tilt)), 0.2, 0.001
    assert abs(np.linalg.norm(x[-1, 0] - start) - 0.5 * a * t**2) < a * h * t
    assert abs(x[-1, 0] @ normal - 0.2) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("true_velocity", [True, False])
def test_dashpot_on_a_driven_point(engine, true_velocity):
    model = SpringMassModel(
        np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]]),
        np.array([[0, 1]]),
        driven_index=np.array([0]),
        gravity_m_per_s2=(0.0, 0.0, 0.0),
        driven_dashpot=true_velocity,
    )
    parameters = model.default_parameters(stiffness=1e-6, mass_kg=0.2, dashpot_ns_per_m=0.5)
    frame_s, speed = 0.01, 0.3
    driven = torch.zeros(1, 11, 1, 3)
    driven[0, :, 0, 0] = speed * frame_s * torch.arange(11)
    _, v = run(
        model, parameters, model.rest_position, [[speed, 0.0, 0.0]] * 2,
        frame_s=frame_s, frames=10, substeps=50, engine=engine, driven=driven,
    )  # fmt: skip
    # Both move alike: no damping. PhysTwin's dashpot sees the point at rest: v decays with c/m =
    # 5/s, to first order in h with an error of (c/m)^2 h t / 2 = 2.5e-4 relative.
    want = speed if true_velocity else speed * math.exp(-5.0 * 0.1)
    assert v[-1, 1, 0] == pytest.approx(want, rel=1e-6 if true_velocity else 5e-4)
