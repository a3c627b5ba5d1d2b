"""What the rod must keep: momentum, energy, indifference to the frame, the order of its steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rod_lab import Array, Lab, line, turning_angles, uniform
from scipy.spatial.transform import Rotation

GRAVITY = (0.0, 0.0, -9.81)
MASS = 0.05


def _lumped(nodes: int) -> Array:
    mass = np.full(nodes, MASS / (nodes - 1))
    mass[[0, -1]] *= 0.5
    return mass


LOSSES = {
    "elastic": {},
    "bending damped": {"bending_damping_s": 0.02},
    "stretching damped": {"stretch_damping_s": 1e-3},
    "friction": {"friction_ratio": 1.0, "friction_yield_rad": 0.05},
    "curved by nature": {"natural_curvature_rad": 0.3, "stretch_damping_s": 1e-3},
}


@pytest.mark.parametrize("name", LOSSES)
def test_free_rod_keeps_its_momentum(name: str) -> None:
    """Elasticity, damping, friction and natural curvature are internal forces."""
    nodes = 9
    u = np.linspace(0.0, 1.0, nodes)
    x = line(nodes)
    x[:, 1], x[:, 2] = 0.05 * np.sin(2 * np.pi * u), 0.05 * np.cos(3 * np.pi * u)
    v = np.stack([0.0 * u, np.cos(2 * np.pi * u) + u, np.sin(3 * np.pi * u)], -1)
    mass = _lumped(nodes)[:, None]
    lost = []
    for finer in (1, 4):
        held = uniform(nodes, **LOSSES[name])
        coarse = Lab(x, (), held).solver.substeps(0.01)
        rod = Lab(x, (), held, v=v, substeps=finer * coarse)
        momenta = []
        for frames in (0, 100):
            path = rod.run(frames, 0.01)
            at, speed = (t[0].double().numpy() for t in (rod.state.position, rod.state.velocity))
            about = at - (mass * at).sum(0) / MASS
            momenta.append(((mass * speed).sum(0), (mass * np.cross(about, speed)).sum(0)))
        assert np.ptp(turning_angles(path), axis=0).min() > 0.1  # it bent a lot on the way
        linear, angular = (np.abs(b - a).max() for a, b in zip(*momenta, strict=True))
        # float32: about a thousand substeps round velocities of 1 m/s by 6e-8 each.
        assert linear < 5e-5 * MASS
        lost.append(angular)
    # Centre-line forces turn nothing; what is out of balance is the roll, one Newton step behind,
    # of first order in the substep. The scale: 50 g, 1 m/s, 0.3 m (the radius of gyration).
    scale = MASS * 1.0 * 0.3
    assert lost[0] < 0.03 * scale
    assert lost[1] < 0.6 * lost[0]


def _energy(rod: Lab, gravity: bool) -> float:
    """Kinetic, weight, stretch, bend and twist [J] of a uniform rod without natural curvature."""
    given = rod.solver.parameters
    x, v = (t[0].double().numpy() for t in (rod.state.position, rod.state.velocity))
    mass, rest = _lumped(len(x)), given.rest_length_m[0]
    strain = np.linalg.norm(np.diff(x, axis=0), axis=1) / rest - 1.0
    kappa = 2.0 * np.tan(0.5 * turning_angles(x))
    t, m1 = rod.directors()
    before, after = t[:-1], t[1:]
    chi = 1.0 + np.sum(before * after, -1, keepdims=True)
    moved = m1[:-1] - np.sum(m1[:-1] * after, -1, keepdims=True) / chi * (before + after)
    sine = np.sum(np.cross(moved, m1[1:]) * after, -1)
    psi = np.arctan2(sine, np.sum(moved * m1[1:], -1))
    total = 0.5 * np.sum(mass[:, None] * v**2)
    total += 0.5 * given.stretch_stiffness_n[0] * np.sum(rest * strain**2)
    total += 0.5 * np.sum(given.bending_stiffness_nm2[0] * kappa**2) / rest[0]
    total += 0.5 * given.twist_stiffness_nm2[0] * np.sum((2.0 * np.tan(psi / 2)) ** 2) / rest[0]
    return float(total + (9.81 * np.sum(mass * x[:, 2]) if gravity else 0.0))


def _swing(substeps_factor: int = 1, **changes: float) -> tuple[Array, float]:
    """Energies over 3 s of a twisted rod between two clamps, bent and pushed; and their scale."""
    nodes = 9
    x = line(nodes)
    x[:, 1] = 0.02 * np.sin(np.pi * x[:, 0]) ** 2
    x[[1, -2], 1] = 0.0
    v = np.zeros_like(x)
    v[2:-2, 2], v[2:-2, 1] = 0.5, -0.3
    held = uniform(
        nodes, end_roll_rad=0.8, bending_stiffness_nm2=5e-3, twist_stiffness_nm2=5e-3, **changes
    )
    rod = Lab(x, (0, 1, nodes - 2, nodes - 1), held, gravity=GRAVITY, v=v)
    substeps = rod.solver.substeps(0.01) * substeps_factor
    rod = Lab(x, rod.held, held, gravity=GRAVITY, v=v, substeps=substeps)
    energies = [_energy(rod, True)]
    for _ in range(300):
        rod.run(1, 0.01)
        energies.append(_energy(rod, True))
    return np.array(energies), 0.5 * float(np.sum(_lumped(nodes)[:, None] * v**2))


def test_energy_stays_without_losses() -> None:
    energies, scale = _swing()
    # Symplectic Euler's energy swings by the order of h omega about the true one, but must not
    # drift; the roll follows one Newton step behind. Means over half a second are compared.
    drift = abs(energies[-50:].mean() - energies[:50].mean())
    swing = np.ptp(energies)
    fine, _ = _swing(4)
    assert drift < 0.02 * scale
    assert np.ptp(fine) < 0.4 * swing  # of first order in h, so about a quarter


@pytest.mark.parametrize(
    "losses",
    [
        {"bending_damping_s": 0.01},
        {"stretch_damping_s": 1e-3},
        {"friction_ratio": 1.0, "friction_yield_rad": 0.002},
        {"drag_per_s": 1.0},
        {"drag_quadratic_per_m": 2.0},
    ],
    ids=lambda losses: next(iter(losses)),
)
def test_every_loss_takes_energy(losses: dict[str, float]) -> None:
    free, scale = _swing()
    lossy, _ = _swing(**losses)
    # Half of the push is far above the drift that the test above allows.
    assert lossy[-50:].mean() < free[-50:].mean() - 0.5 * scale
    # Never back up by more than the discrete swing seen there.
    assert np.diff(lossy).max() < 0.15 * scale


def test_turned_world_gives_the_turned_motion() -> None:
    nodes = 8
    rng = np.random.default_rng(5)
    x = line(nodes)
    x[:, 1] = 0.05 * np.sin(2 * np.pi * x[:, 0])
    v = 0.1 * rng.normal(size=(nodes, 3))
    clamp = np.array([[1.0, 0, 0], [0.8, 0.6, 0]]), np.array([[0, 0, 1.0], [0, 0, 1.0]])
    held = uniform(
        nodes,
        natural_curvature_rad=0.2 * rng.normal(size=(nodes - 2, 2)),
        bending_damping_s=0.01,
        friction_ratio=0.5,
        friction_yield_rad=0.02,
        drag_per_s=0.2,
        drag_quadratic_per_m=0.3,
        end_roll_rad=0.7,
        clamp_tangent=clamp[0],
        clamp_director=clamp[1],
    )
    turn, shift = Rotation.from_rotvec([0.4, -1.1, 0.7]), np.array([0.3, -0.5, 0.2])
    turned = replace(held, clamp_tangent=turn.apply(clamp[0]), clamp_director=turn.apply(clamp[1]))
    driven = (0, 1, nodes - 2, nodes - 1)
    path = np.repeat(x[None, list(driven)], 31, axis=0)
    path[:, 2:, 0] -= 0.1 * np.linspace(0, 1, 31)[:, None] ** 2
    one = Lab(x, driven, held, gravity=GRAVITY, v=v).run(30, 0.01, path)
    gravity = tuple(turn.apply(GRAVITY))
    other = Lab(turn.apply(x) + shift, driven, turned, gravity=gravity, v=turn.apply(v)).run(
        30, 0.01, turn.apply(path.reshape(-1, 3)).reshape(path.shape) + shift
    )
    back = turn.inv().apply(other.reshape(-1, 3) - shift).reshape(other.shape)
    # float32 coordinates of 1 m, other digits in another frame, 30 frames.
    assert np.abs(one - back).max() < 2e-5
    assert np.abs(one - one[0]).max() > 0.05


def test_error_falls_with_the_first_order_of_the_substep() -> None:
    nodes = 7
    x = line(nodes)
    x[:, 2] = 0.05 * np.sin(np.pi * x[:, 0])
    x[1, 2] = 0.0
    held = uniform(
        nodes, bending_damping_s=0.005, drag_per_s=0.5, natural_curvature_rad=0.1,
        stretch_stiffness_n=5.0,
    )  # fmt: skip

    def last(substeps: int) -> Array:
        return Lab(x, (0, 1), held, gravity=GRAVITY, substeps=substeps).run(20, 0.02)[-1]

    coarse = Lab(x, (0, 1), held, gravity=GRAVITY).solver.substeps(0.02)
    exact = 2.0 * last(32 * coarse) - last(16 * coarse)  # Richardson
    errors = [np.abs(last(k * coarse) - exact).max() for k in (1, 2, 4)]
    # First order halves the error; the second order's share is the first error's relative size.
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.15)
