"""The rod against closed forms: statics, small vibrations, buckling, hysteresis."""

from __future__ import annotations

import numpy as np
import pytest
from rod_lab import Lab, frequency, line, turning_angles, uniform
from scipy.optimize import brentq

GRAVITY = (0.0, 0.0, -9.81)


def test_free_fall() -> None:
    x = line(7)
    x[:, 1] = 0.05 * np.sin(2 * np.pi * x[:, 0])  # bent and stretched: it shakes as it falls
    v = np.tile([0.3, -0.2, 1.0], (7, 1))
    rod = Lab(x, (), uniform(7), gravity=GRAVITY, v=v)
    frames, dt_s = 50, 0.01
    path = rod.run(frames, dt_s)
    mass = np.array([0.5, 1, 1, 1, 1, 1, 0.5]) / 6
    centre = np.einsum("n,tnk->tk", mass, path)
    time = dt_s * np.arange(frames + 1)[:, None]
    # Symplectic Euler falls g t (t + h) / 2 after velocity first, h the substep.
    h = dt_s / rod.solver.substeps(dt_s)
    expected = centre[0] + v[0] * time + 0.5 * np.array(GRAVITY) * time * (time + h)
    # float32: 500 substeps round a velocity of 5 m/s by 2.4e-7 each, all one way, for 0.5 s.
    assert np.abs(centre - expected).max() < 1e-4
    assert np.abs(path[-1] - path[-1].mean(0) - (path[0] - path[0].mean(0))).max() > 1e-3  # alive


def test_string_swings_at_its_frequency() -> None:
    nodes, stretch = 13, 1.05
    tension = 100.0 * (stretch - 1.0)
    x = line(nodes, stretch)
    shape = np.sin(np.pi * np.linspace(0.0, 1.0, nodes))
    x[:, 2] = 1e-3 * shape
    rod = Lab(x, (0, nodes - 1), uniform(nodes, bending_stiffness_nm2=1e-9))
    path = rod.run(400, 2e-3)
    # Equal masses m on a string with spacing a: omega = 2 sqrt(T/(m a)) sin(pi / 2n), exact.
    spacing, mass = stretch / (nodes - 1), 0.05 / (nodes - 1)
    exact = 2.0 * np.sqrt(tension / (mass * spacing)) * np.sin(np.pi / (2 * (nodes - 1)))
    # The amplitude lengthens the string by 2.5e-6 of 0.05: the step and the crossings' fit remain.
    assert frequency(path[:, nodes // 2, 2], 2e-3) == pytest.approx(exact, rel=1e-3)


def test_heavy_chain_hangs_in_a_catenary() -> None:
    nodes, span = 41, 0.7
    # Start as an arc of a circle: length 1 over the span, sin(q) / q = span for half its angle q.
    q = brentq(lambda q: np.sin(q) / q - span, 0.1, 3.0)
    angle = np.linspace(-q, q, nodes)
    x = np.stack([(np.sin(angle) + np.sin(q)), 0.0 * angle, np.cos(q) - np.cos(angle)], -1) / (
        2 * q
    )
    soft = uniform(nodes, bending_stiffness_nm2=1e-6, stretch_stiffness_n=500.0, drag_per_s=6.0)
    hung = Lab(x, (0, nodes - 1), soft, gravity=GRAVITY).run(300, 0.02)[-1]
    # y = a cosh(u/a) of arc length 1 over the span: 2 a sinh(span / 2a) = 1.
    a = brentq(lambda a: 2.0 * a * np.sinh(span / (2.0 * a)) - 1.0, 0.05, 5.0)
    u = hung[:, 0] - span / 2
    exact = a * np.cosh(u / a) - a * np.cosh(span / (2 * a))
    # 40 links inscribed in the curve differ from it by the order of 1/40^2 of the sag (0.3 m),
    # stretching by weight / EA adds 5e-4 of it, bending sqrt(EI/T) = 2 mm at the ends.
    assert np.abs(hung[:, 2] - exact).max() < 1e-3


def _cantilever(nodes: int, damping_s: float, drag_per_s: float, stiffness: float) -> Lab:
    return Lab(
        line(nodes),
        (0, 1),
        uniform(
            nodes,
            bending_stiffness_nm2=stiffness,
            bending_damping_s=damping_s,
            drag_per_s=drag_per_s,
            stretch_stiffness_n=50.0,
        ),
        gravity=GRAVITY,
    )


@pytest.mark.parametrize("nodes", [6, 13])
def test_cantilever_sags_by_w_l4_over_8_ei(nodes: int) -> None:
    free_edges = nodes - 2
    length = free_edges / (nodes - 1)  # from the last clamped node
    weight, stiffness = 0.05 * 9.81, 2.0
    rod = _cantilever(nodes, 0.0, 25.0, stiffness)
    sag = -rod.run(200, 0.01)[-1, -1, 2]
    # Turning angles M_i l / EI at the nodes, summed: w L^4 / (8 EI) (1 + 1/n)^2 for n free edges.
    # The clamped edge is rigid up to its node, where a whole Voronoi length bends: hence 1/n.
    continuum = weight * length**4 / (8.0 * stiffness)
    # Left over: large rotations (sag/L = 3 %, squared 1e-3) and float32 angles.
    assert sag == pytest.approx(continuum * (1.0 + 1.0 / free_edges) ** 2, rel=2e-3)


def test_cantilever_swings_and_fades_as_beam_theory_says() -> None:
    nodes, damping_s = 17, 2e-3
    stiffness, density = 1.0, 0.05
    spacing = 1.0 / (nodes - 1)
    # The clamp acts half a Voronoi length before its second node (the mean of the two ends of the
    # length that bends there), which is what the static sag above shows to second order.
    length = 1.0 - spacing + 0.5 * spacing
    omega = 1.8751**2 * np.sqrt(stiffness / (density * length**4))
    x = line(nodes)
    s = np.maximum(x[:, 0] - 0.5 * spacing, 0.0) / length
    x[1:, 2] = 2e-3 * (s**4 - 4 * s**3 + 6 * s**2)[1:] / 3.0  # sag under weight: 99 % first mode
    x[1, 2] = 0.0
    # Kelvin-Voigt: mode amplitude fades as exp(-tau omega^2 t / 2).
    rate = 0.5 * damping_s * omega**2
    for damped in (0.0, damping_s):
        held = uniform(nodes, bending_stiffness_nm2=stiffness, bending_damping_s=damped)
        path = Lab(x, (0, 1), held).run(600, 2e-3)
        tip = path[:, -1, 2]
        start = 150 if damped else 0  # higher modes have faded by then
        # Discretisation is of order (l/L)^2 = 0.4 %, and its constant near one.
        assert frequency(tip[start:], 2e-3) == pytest.approx(omega, rel=1e-2)
        if damped:
            peaks = _peaks(np.abs(tip))
            peaks = peaks[peaks[:, 0] > start]
            slope = np.polyfit(peaks[:, 0] * 2e-3, np.log(peaks[:, 1]), 1)[0]
            # twice the error of the frequency, and peaks read off at 2 ms.
            assert -slope == pytest.approx(rate, rel=3e-2)
        else:
            assert np.abs(tip[-100:]).max() == pytest.approx(np.abs(tip[:100]).max(), rel=2e-2)


def _peaks(signal: np.ndarray) -> np.ndarray:
    inner = (signal[1:-1] > signal[:-2]) & (signal[1:-1] >= signal[2:])
    at = np.flatnonzero(inner) + 1
    return np.stack([at, signal[at]], -1)


@pytest.mark.parametrize(("load", "grows"), [(0.9, False), (1.1, True)])
def test_euler_buckling(load: float, grows: bool) -> None:
    nodes, stiffness, axial = 13, 2e-3, 2.0
    n = nodes - 1
    # Discrete elastica with hinged ends: P = 4 EI / l^2 sin^2(pi / 2n), the limit pi^2 EI / L^2.
    spacing = 1.0 / n
    critical = 4.0 * stiffness / spacing**2 * np.sin(np.pi / (2 * n)) ** 2
    x = line(nodes, 1.0 - load * critical / axial)
    x[:, 2] = 1e-3 * np.sin(np.pi * np.arange(nodes) / n)
    held = uniform(
        nodes, bending_stiffness_nm2=stiffness, stretch_stiffness_n=axial, drag_per_s=1.0
    )
    bow = np.abs(Lab(x, (0, n), held).run(300, 0.05)[-1, :, 2]).max()
    # 15 s at a rate of about +-0.3 / s; growth ends at 2 / pi sqrt(excess strain 1e-3) = 2 cm.
    assert (bow > 1e-2) if grows else (bow < 1e-4)


@pytest.mark.parametrize(("load", "grows"), [(0.85, False), (1.15, True)])
def test_greenhill_buckling_by_twist(load: float, grows: bool) -> None:
    """A straight rod between two clamps coils at the torque M = 8.987 EI / L (Greenhill)."""
    nodes, bending, twisting = 21, 1e-3, 5e-3
    spacing = 1.0 / (nodes - 1)
    length = 1.0 - spacing  # between the middles of the clamped edges
    angle = load * 8.9868 * bending / twisting  # the torque is GJ angle / length
    x = line(nodes)
    u = np.clip((x[:, 0] - 0.5 * spacing) / length, 0.0, 1.0)
    bump = 1e-3 * np.sin(np.pi * u) ** 2
    bump[[1, -2]] = 0.0
    x[:, 1], x[:, 2] = bump * np.cos(2 * np.pi * u), bump * np.sin(2 * np.pi * u)
    held = uniform(
        nodes,
        bending_stiffness_nm2=bending,
        twist_stiffness_nm2=twisting,
        end_roll_rad=angle,
        drag_per_s=2.0,
        stretch_stiffness_n=10.0,
    )
    path = Lab(x, (0, 1, nodes - 2, nodes - 1), held).run(300, 0.05)
    size = np.linalg.norm(path[:, :, 1:], axis=-1).max(1)
    assert (size[-1] > 1e-2) if grows else (size[-1] < 2e-4)


def test_twist_spreads_evenly() -> None:
    nodes, roll = 9, 1.2
    held = (0, 1, nodes - 2, nodes - 1)
    rod = Lab(line(nodes), held, uniform(nodes))
    rod.solver.set_parameters(uniform(nodes, end_roll_rad=roll))  # all of it at the last edge
    rod.run(10, 0.01)
    t, m1 = rod.directors()
    sine = np.sum(np.cross(m1[:-1], m1[1:]) * t[1:], -1)
    psi = np.arctan2(sine, np.sum(m1[:-1] * m1[1:], -1))
    # The energy (2 tan psi/2)^2 has its minimum there exactly; float32 directors remain.
    assert psi == pytest.approx(roll / (nodes - 2), abs=1e-5)


@pytest.mark.parametrize("angle", [0.2, -0.5])
def test_free_rod_curls_into_its_natural_arc(angle: float) -> None:
    nodes = 11
    curved = np.tile([2.0 * np.tan(angle / 2), 0.0], (nodes - 2, 1))
    held = uniform(nodes, natural_curvature_rad=curved, bending_damping_s=0.05, drag_per_s=2.0)
    made = Lab(line(nodes), (), held).run(2000, 0.01)[-1]
    # At rest nothing pulls: every turning angle and every length is the natural one.
    assert turning_angles(made) == pytest.approx(abs(angle), abs=1e-4)
    chord = np.linalg.norm(made[-1] - made[0])
    edges = nodes - 1
    exact = abs(np.sin(edges * angle / 2) / np.sin(angle / 2)) / edges  # chord of a polygon's arc
    assert chord == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_friction_turns_a_cycle_into_heat_at_any_speed(seconds: float) -> None:
    """A spring r EI behind a slider of yield s loses 4 r s (A - s) in a cycle of amplitude A."""
    ratio, slip, amplitude, spacing = 0.7, 0.03, 0.25, 0.5
    rod = Lab(line(3), (0, 1, 2), uniform(3, friction_ratio=ratio, friction_yield_rad=slip))
    cycles, frames = 3, 600
    phase = np.linspace(0.0, 2 * np.pi * cycles, frames + 1)
    turn = 2.0 * np.arctan(0.5 * amplitude * np.sin(phase))  # the solver's measure is 2 tan(phi/2)
    path = np.repeat(line(3)[None], frames + 1, axis=0)
    path[:, 2, 0] = spacing * (1.0 + np.cos(turn))
    path[:, 2, 2] = spacing * np.sin(turn)
    kappa, friction, along = [], [], 0
    for frame in range(frames):
        rod.run(1, seconds / frames, path[frame : frame + 2])
        memory = rod.memory()[1]
        if frame == 0:
            along = int(np.argmax(np.abs(memory[:2])))  # the director that the bend is along
        kappa.append(memory[along])
        friction.append(ratio * (memory[along] - memory[2 + along]))
    last = slice(frames // cycles, None)  # whole cycles after the first
    k, f = np.array(kappa[last]), np.array(friction[last])
    area = abs(np.sum(0.5 * (f[1:] + f[:-1]) * np.diff(k))) / (cycles - 1)
    # 200 samples a cycle cut the corners of the loop: of order (pi / 200)^2 of the area at each.
    assert area == pytest.approx(4.0 * ratio * slip * (amplitude - slip), rel=1e-2)
