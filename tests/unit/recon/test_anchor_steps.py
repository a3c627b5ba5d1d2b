"""How long a substep of anchors may be: against dense eigenvalues, and as stability shows it."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from video_cases import DT_S, GROUND, HALF_M, MASS_KG

from physgym.errors import BlowUpError
from physgym.grip import Grip
from physgym.sim.timestep import largest_eigenvalue
from recon.identify import anchor_rollouts
from recon.identify.anchor_rollouts import AnchorBody, AnchorPhysics, AnchorRollouts
from recon.identify.anchor_steps import BodyModes
from recon.identify.anchors import anchor_springs, volume_sample

COUNT = 100


@cache
def body_of() -> AnchorBody:
    points = HALF_M * np.random.default_rng(0).uniform(-1.0, 1.0, (600, 3))
    at = np.add(volume_sample(points, COUNT), (0.0, 0.0, 0.05))
    springs, gravity = anchor_springs(at, neighbours=24, certain=8), np.array([0.0, 0.0, -9.81])
    return AnchorBody(at, springs, MASS_KG, 0.5, gravity, GROUND, np.zeros(len(at), bool))


def physics_of(stiffness_n: float = 1.0, dashpot_ns_per_m: float = 0.01) -> AnchorPhysics:
    return AnchorPhysics(
        torch.full((1, 1), float(np.log(stiffness_n))), torch.zeros(()),
        torch.tensor([dashpot_ns_per_m]), torch.tensor([0.4]), torch.tensor([0.02]),
    )  # fmt: skip


def dense_largest(
    at: np.ndarray, edges: np.ndarray, slope: np.ndarray, inv_mass: np.ndarray
) -> float:
    """Largest eigenvalue of M^-1 K, spring by spring, and numpy's."""
    stiff = np.zeros((3 * len(at), 3 * len(at)))
    for (i, j), k in zip(edges, slope):
        way = (at[j] - at[i]) / np.linalg.norm(at[j] - at[i])
        held = inv_mass[i] * inv_mass[j] == 0.0
        block = k * (np.eye(3) if held else np.outer(way, way))
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            stiff[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] += sign * block
    return float(np.linalg.eigvals(np.repeat(inv_mass, 3)[:, None] * stiff).real.max())


def test_the_largest_eigenvalue_is_that_of_the_dense_matrix() -> None:
    body = body_of()
    edges, length = body.springs.edges, body.springs.rest_length_m
    rng = np.random.default_rng(1)
    inv_mass = rng.uniform(1.0, 3.0, COUNT)
    inv_mass[:5] = 0.0  # driven
    slope = rng.uniform(0.5, 2.0, len(edges)) / length
    found = BodyModes(body.anchors, edges, inv_mass).largest(slope)
    # Power iteration comes from below, by less than the margin of 5 %.
    expected = dense_largest(body.anchors, edges, slope, inv_mass)
    assert expected <= found < 1.051 * expected
    # The bound of any shape is well above.
    assert found < 0.65 * largest_eigenvalue(edges, slope, inv_mass)


def test_a_body_squeezed_or_drawn_out_stays_below_what_the_safety_leaves() -> None:
    body = body_of()
    edges = body.springs.edges
    inv_mass = np.full(COUNT, COUNT / MASS_KG)
    rest = BodyModes(body.anchors, edges, inv_mass)
    left = 1.0 / anchor_rollouts._SAFETY  # in damping, and its square in frequency squared
    for slope, most in ((np.ones(len(edges)), left), (1.0 / body.springs.rest_length_m, left**2)):
        for scale in ((1.0, 1.0, 0.5), (2.0, 0.7, 0.7)):
            bent = BodyModes(body.anchors * scale, edges, inv_mass)
            assert bent.largest(slope) < most * rest.largest(slope)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Substeps of every rollout from here on."""
    counts: list[int] = []
    plan = anchor_rollouts.SpringMassSolver.plan

    def noted(self, *given, **more):
        made = plan(self, *given, **more)
        if made.frames > 1:  # not a question for the solver's own number
            counts.append(made.substeps)
        return made

    monkeypatch.setattr(anchor_rollouts.SpringMassSolver, "plan", noted)
    return counts


def thrown(body: AnchorBody, physics: AnchorPhysics, ticks: int = 14) -> np.ndarray:
    """A block that hits the ground with 2 m/s, 5 cm below."""
    rollouts = AnchorRollouts(body, [], [], DT_S, ticks)
    with torch.no_grad():
        made = rollouts(physics, torch.tensor([0.3, 0.0, -2.0]), ticks)[0]
    return made.double().numpy()


@pytest.mark.parametrize(
    ("stiffness_n", "dashpot_ns_per_m"),
    [(100.0, 1e-2), (1.0, 1.0)],
    ids=["springs limit it", "dashpots limit it"],
)
def test_the_motion_is_that_of_many_more_substeps(
    stiffness_n: float, dashpot_ns_per_m: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(monkeypatch)
    body, physics = body_of(), physics_of(stiffness_n, dashpot_ns_per_m)
    made = thrown(body, physics)
    assert made[-1, :, 2].min() > 0.0  # it has landed; half a metre lower else
    monkeypatch.setattr(AnchorRollouts, "_substeps", lambda *given: None)
    thrown(body, physics)
    # Both are coarser than the solver's own by what directions and safety make of it.
    assert 1.7 < counts[1] / counts[0] < 4.0
    monkeypatch.setattr(AnchorRollouts, "_substeps", lambda *given: 8 * counts[0])
    fine = thrown(body, physics)
    # First order in the substep of up to 0.2 ms: what lands with 2 m/s lands up to 0.4 mm late.
    assert np.linalg.norm(made - fine, axis=-1).mean() < 4e-4


def test_substeps_are_short_enough_for_what_lands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft body's modes would be stable with substeps in which it falls through the ground."""
    counts, body = counted(monkeypatch), body_of()
    made = thrown(body, physics_of(0.3, 1e-3))
    monkeypatch.setattr(AnchorRollouts, "_substeps", lambda *given: None)
    own = thrown(body, physics_of(0.3, 1e-3))
    assert counts[0] == counts[1]
    np.testing.assert_array_equal(made, own)


def test_twice_the_limit_is_not_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody pays for substeps that a limit in name only asks for."""
    tries = counted(monkeypatch)
    body, physics = body_of(), physics_of(dashpot_ns_per_m=1.0)
    made = thrown(body, physics)
    assert len(tries) == 1
    monkeypatch.setattr(anchor_rollouts, "_COARSEST_S", 1.0)
    step_s = BodyModes.step_s
    monkeypatch.setattr(BodyModes, "step_s", lambda *given: 3.0 * step_s(*given))  # 2.1 limits
    again = thrown(body, physics)
    # It blew up, was done again with the solver's own number, and is right.
    assert tries[1] < tries[0] < tries[2]
    np.testing.assert_allclose(again, made, atol=5e-4)  # substeps of 0.04 and 0.12 ms


def test_what_no_number_of_substeps_helps_is_said() -> None:
    """A grip that jumps out of the world in a tick."""
    body = body_of()
    path = np.repeat(body.anchors[None, :3], 6, axis=0)
    path[3:] += 1e9
    rollouts = AnchorRollouts(body, [Grip(path, 0, 6)], [], DT_S, 6)
    with pytest.raises(BlowUpError):
        rollouts(physics_of(), torch.zeros(3), 6)


def test_springs_of_a_grip_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a hundred times as stiff asks for up to ten times the substeps."""
    counts, body = counted(monkeypatch), body_of()
    path = np.repeat(body.anchors[None, :8] + (0.0, 0.0, 0.01), 4, axis=0)
    for ratio in (1.0, 100.0):
        physics = physics_of(100.0, dashpot_ns_per_m=0.0)
        physics = dataclasses.replace(physics, grip_ratio=torch.full((1,), ratio))
        with torch.no_grad():
            made = AnchorRollouts(body, [Grip(path, 0, 4)], [], DT_S, 4)(physics, torch.zeros(3), 4)
        assert torch.isfinite(made).all()
    assert 3.0 * counts[0] < counts[1] < 10.0 * counts[0]
