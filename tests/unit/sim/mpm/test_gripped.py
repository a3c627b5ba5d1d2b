"""A continuum twin thrown, held, let go and pushed."""

import numpy as np
import pytest
import torch
from mpm_twin_cases import H_M, VALUES, block_twin, learned_adapter, with_values

from physgym.errors import BlowUpError, DataError, TwinError
from physgym.grip import Grip, Pusher
from physgym.sim.mpm import MpmModel, MpmParameters, fill_box
from physgym.sim.mpm.gripped import centre_of_mass, simulate_mpm, start_of
from physgym.sim.mpm.twins import mpm_of, twin_of_mpm

DT_S = 1 / 30


@pytest.mark.parametrize("adapted", [False, True])
def test_a_thrown_body_flies_on_a_parabola(adapted):
    twin = block_twin(ground=False, adapter=learned_adapter() if adapted else None)
    v, w = np.array([0.4, -0.2, 1.0]), np.array([0.0, 6.0, 0.0])
    frames = 10
    moved = simulate_mpm(
        twin, [], DT_S, frames=frames, velocity_m_per_s=v, spin_rad_per_s=w, device="cpu"
    ).position.astype(float)
    time = DT_S * np.arange(frames)[:, None]
    gravity = np.array([0.0, 0.0, -9.81])
    centre = moved.mean(axis=1)
    exact = centre[0] + v * time + 0.5 * gravity * time**2
    # Symplectic Euler falls g t dt / 2 deeper, with at least 20 substeps in a frame.
    np.testing.assert_allclose(centre, exact, atol=9.81 * time[-1, 0] * DT_S / 20 / 2)
    arm = moved - centre[:, None]
    u, _, vt = np.linalg.svd(np.einsum("pi,pj->ij", arm[3], arm[0]))
    turned = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    angle = np.arctan2(turned[0, 2], turned[0, 0])
    # A soft body stretches as it spins and turns slower: by under two percent here.
    assert angle == pytest.approx(6.0 * time[3, 0], rel=0.02)


def test_the_start_moves_rigidly_about_the_centre_of_mass():
    x, _ = fill_box((0, 0, 0), (0.06, 0.04, 0.04), 0.01)
    density = torch.where(torch.as_tensor(x[:, 0]) > 0.03, 3000.0, 1000.0).float()[None]
    twin = twin_of_mpm(
        name="b", kind="volume", method="given", model=MpmModel(x, 1e-6, H_M),
        parameters=MpmParameters.of(VALUES).replace(density_kg_per_m3=density),
    )  # fmt: skip
    parts = mpm_of(twin)
    assert centre_of_mass(parts)[0] == pytest.approx(0.25 * 0.015 + 0.75 * 0.045)
    state = start_of(parts, velocity_m_per_s=(1, 0, 0), spin_rad_per_s=(0, 0, 2), device="cpu")
    mass = density[0].double() / density.double().sum()
    mean = (mass[:, None] * state.velocity[0].double()).sum(0)
    np.testing.assert_allclose(mean, (1, 0, 0), atol=1e-6)
    gradient = state.internal.unflatten(1, (len(x), 18))[0, :, 9:].unflatten(1, (3, 3))
    step = state.velocity[0, 1] - state.velocity[0, 0]
    arm = torch.as_tensor(x[1] - x[0]).float()
    torch.testing.assert_close(gradient[0] @ arm, step, rtol=0, atol=1e-6)


def path_of(points, frames, velocity=(0.0, 0.0, 0.0), until=None):
    time = np.minimum(np.arange(frames), frames if until is None else until) * DT_S
    return points[None] + time[:, None, None] * np.asarray(velocity)


HANDLE = np.array([[0.01, 0.03, 0.03], [0.01, 0.02, 0.03], [0.01, 0.04, 0.03]])


def test_a_grip_lifts_and_lets_go():
    twin = block_twin()
    frames = 26
    path = np.concatenate([path_of(HANDLE, 2), path_of(HANDLE, 24, (0.0, 0.0, 0.3), until=10)])
    moved = simulate_mpm(twin, [Grip(path, 2, 16)], DT_S, frames=frames, device="cpu").position
    reach = np.linalg.norm(twin.rest_position[:, None] - HANDLE, axis=-1).min(axis=1)
    held = reach < H_M - 1e-3
    assert 4 < held.sum() < 100
    lifted = path[2:16, :1] - path[2, :1]
    # Held particles follow exactly: what is left is float32.
    np.testing.assert_allclose(moved[2:16, held], moved[2, held] + lifted, rtol=0, atol=2e-7)
    assert moved[15, :, 2].min() > 0.03
    # From frame 15 on it falls: the free end is gone first, the whole within a few frames.
    drop = moved[15].mean(axis=0)[2] - moved[18].mean(axis=0)[2]
    assert drop == pytest.approx(0.5 * 9.81 * (3 * DT_S) ** 2, rel=0.1)
    assert moved[-1, :, 2].mean() < 0.06


def test_what_a_turning_grip_holds_turns():
    twin = block_twin(ground=False)
    frames = 10
    angle = 0.1 * np.arange(frames)
    arm = HANDLE - HANDLE.mean(axis=0)
    arm[0, 0] += 0.01  # three points that are not in a line
    turn = np.zeros((frames, 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = np.sin(angle), -np.sin(angle), 1.0
    path = HANDLE.mean(axis=0) + np.einsum("tij,kj->tki", turn, arm)
    moved = simulate_mpm(twin, [Grip(path, 0, frames)], DT_S, frames=frames).position
    near = np.linalg.norm(twin.rest_position - path[0, 0], axis=1).argmin()
    rest = twin.rest_position[near] - HANDLE.mean(axis=0)
    np.testing.assert_allclose(moved[:, near], HANDLE.mean(axis=0) + turn @ rest, rtol=0, atol=1e-6)


def test_two_grips_share_nothing_and_pull_apart():
    twin = block_twin(ground=False, values={"young_pa": 2e4})
    frames = 9
    right = HANDLE + np.array([0.05, 0.0, 0.0])
    grips = [
        Grip(path_of(HANDLE, frames), 0, frames),
        Grip(path_of(right, frames, (0.06, 0.0, 0.0)), 0, frames),
    ]
    moved = simulate_mpm(twin, grips, DT_S, frames=frames, device="cpu").position
    moved_m = 0.06 * DT_S * (frames - 1)
    stretch = np.ptp(moved[-1, :, 0]) - np.ptp(moved[0, :, 0])
    assert stretch == pytest.approx(moved_m, rel=0.02)
    overlapping = [grips[0], Grip(path_of(HANDLE, frames, (0.01, 0, 0)), 3, frames)]
    first = simulate_mpm(twin, overlapping[:1], DT_S, frames=frames, device="cpu").position
    both = simulate_mpm(twin, overlapping, DT_S, frames=frames, device="cpu").position
    held = np.linalg.norm(twin.rest_position[:, None] - HANDLE, axis=-1).min(axis=1) < 0.01
    np.testing.assert_array_equal(both[:, held], first[:, held])


@pytest.mark.parametrize("half_m", [0.003, 0.03])
def test_a_pusher_moves_a_body_and_nothing_goes_through(half_m):
    twin = block_twin(values={"friction": 0.5})
    frames = 40
    pose = np.tile([0.0, 0.03, 0.03, 1, 0, 0, 0], (frames, 1)).astype(float)
    pose[:, 0] = -0.02 - half_m + 0.003 * np.arange(frames)
    pusher = Pusher(pose, (half_m, 0.06, 0.04), 0, frames)
    moved = simulate_mpm(twin, [], DT_S, frames=frames, pushers=[pusher], device="cpu").position
    front = pose[:, 0] + half_m
    # Contact acts on nodes of the grid, so a face is blurred by half a cell.
    assert (moved[:, :, 0].min(axis=1) > front - 0.5 * H_M).all()
    assert moved[-1, :, 0].mean() - moved[0, :, 0].mean() > front[-1] - 0.03
    away = Pusher(pose, (half_m, 0.06, 0.04), 0, 2)
    still = simulate_mpm(twin, [], DT_S, frames=frames, pushers=[away], device="cpu").position
    assert np.abs(still[-1, :, 0].mean() - still[0, :, 0].mean()) < 1e-3


def test_handling_that_makes_no_sense_is_refused():
    twin = block_twin()
    far = Grip(path_of(HANDLE + 0.5, 5), 1, 5)
    with pytest.raises(DataError, match=r"grip 0 are 0\.8"):
        simulate_mpm(twin, [far], DT_S, frames=5)
    with pytest.raises(DataError, match="5 frames"):
        simulate_mpm(twin, [Grip(path_of(HANDLE, 5), 0, 5)], DT_S, frames=9)
    with pytest.raises(TwinError, match="1 driven"):
        simulate_mpm(twin.replace(driven_index=np.array([0])), [], DT_S, frames=5)
    with pytest.raises(DataError, match="velocity_m_per_s"):
        simulate_mpm(twin, [], DT_S, frames=5, velocity_m_per_s=(0, 0, np.nan))
    sunk = np.eye(4)
    sunk[2, 3] = -0.05
    with pytest.raises(DataError, match=r"particle \d+ starts 0.045 m below the ground"):
        simulate_mpm(twin.place(sunk), [], DT_S, frames=5)


def test_who_leaves_the_domain_is_named_with_the_frame():
    twin = with_values(
        block_twin(ground=False), domain_m=np.array([[-1.0, -1.0, -0.3], [1.0, 1.0, 1.0]])
    )
    grip = Grip(path_of(HANDLE, 40), 0, 5)
    with pytest.raises(BlowUpError, match=r"particle \d+ left the domain.*\n*.*after frame 4"):
        simulate_mpm(twin, [grip], DT_S, frames=40, device="cpu")
