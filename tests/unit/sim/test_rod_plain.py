"""The plain rod against the native one, and both against float64 forces from autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rod_cases import DT_S, case
from rod_reference import reference_rollout

from physgym.sim.rod import plain
from physgym.sim.rod.plain import plain_rollout
from physgym.sim.rod.solver import native_rollout

HELD = {
    "both ends clamped": (9, (0, 1, 7, 8)),
    "first end clamped": (13, (0, 1)),
    "last end clamped": (6, (4, 5)),
    "free": (8, ()),
    "one node held": (7, (3,)),
    "one clamp, one pin": (6, (0, 1, 5)),
    "no free edge": (3, (0, 1, 2)),
    "as short as it gets": (5, (0, 1, 3, 4)),
}
# Both bodies round the same formulas differently: 30 frames of up to 26 substeps, each with a
# relative rounding of 6e-8 on coordinates of about 1 m, gave 1e-6 m; ten times that is allowed.
FLOAT32_M = 1e-5


@pytest.mark.parametrize("name", HELD)
def test_native_and_plain_agree(name: str) -> None:
    solver, state, driven = case(*HELD[name], worlds=20, frames=30)  # 20: a group and a part of one
    substeps = solver.substeps(DT_S)
    parts = [solver._unpack(state) for _ in range(2)]
    frames = driven.shape[1] - 1
    fast, slow = (
        run(solver, part, driven.numpy(), frames, substeps, DT_S)
        for run, part in zip((native_rollout, plain_rollout), parts, strict=True)
    )
    assert np.abs(fast - slow).max() < FLOAT32_M
    assert np.abs(fast[:, -1] - state.position.numpy()).max() > 0.03  # something happened
    # Velocity is a displacement over a substep, the rest are directions and angles over an edge.
    room = [FLOAT32_M, FLOAT32_M * substeps / DT_S / 10, 1e-4, 1e-4, 1e-4]
    for one, other, most in zip(*parts, room, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < most


@pytest.mark.parametrize("name", HELD)
def test_native_agrees_with_autograd_forces(name: str) -> None:
    solver, state, driven = case(*HELD[name], frames=3)
    substeps = solver.substeps(DT_S)
    positions = solver.rollout(state, driven, DT_S).position
    given = {n: torch.tensor(np.array(v)) for n, v in solver.parameters.to_mapping().items()}
    parts = [torch.from_numpy(p).double() for p in solver._unpack(state)]
    exact = reference_rollout(solver.model, given, parts, driven.double(), substeps, DT_S)
    # Nothing but float32 rounding stands between them: measured 2e-7 m.
    assert (positions - exact).abs().max() < 2e-6


def test_worlds_as_the_fastest_axis_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory layout of CUDA, run on CPU."""
    solver, state, driven = case(7, (0, 1, 5, 6), worlds=5, threads=1)
    parts = [solver._unpack(state) for _ in range(2)]
    job = (driven.numpy(), driven.shape[1] - 1, solver.substeps(DT_S), DT_S)
    expected = plain_rollout(solver, parts[0], *job)
    monkeypatch.setattr(plain, "world_is_fastest", lambda device: True)
    assert np.array_equal(plain_rollout(solver, parts[1], *job), expected)
    assert all(np.array_equal(a, b) for a, b in zip(*parts, strict=True))


def test_no_frames_leaves_the_state() -> None:
    solver, state, driven = case(5, (0, 1), frames=1)
    parts = solver._unpack(state)
    out = plain_rollout(solver, parts, driven.numpy(), 0, 3, DT_S)
    assert out.shape == (3, 0, 5, 3)
    assert all(np.array_equal(a, b) for a, b in zip(parts, solver._unpack(state), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", HELD)
def test_cuda_agrees_with_cpu(name: str) -> None:
    results = []
    for device in ("cpu", "cuda"):
        solver, state, driven = case(*HELD[name], worlds=40, frames=30, device=device)
        results.append(solver.rollout(state, driven, DT_S))
    # The same formulas in float32, contracted and ordered differently.
    assert (results[0].position - results[1].position).abs().max() < FLOAT32_M
