"""Spring-Gaus's dynamics: gradients through the simulation, its steps, the scan of stiffness."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from spring_gaus_cases import TRAIN, VELOCITY, dynamics_of, true_values
from video_cases import DT_S, Drop, drop

from recon.identify.anchor_rollouts import AnchorRollouts
from recon.identify.spring_gaus_scan import start_values


@pytest.fixture(scope="module")
def fallen() -> Drop:
    return drop()


def test_gradients_of_the_loss_through_simulation_are_those_of_differences(fallen: Drop) -> None:
    dynamics, at = dynamics_of(fallen, 7), true_values(fallen)
    at["log_stiffness"] = at["log_stiffness"] + 0.4
    values = {k: torch.tensor(v, requires_grad=True) for k, v in at.items()}
    anchors = dynamics.anchors(values, 7)
    total = sum(dynamics.loss.frame(t, dynamics.means(anchors, t)) for t in range(1, 7)) / 6
    total.backward()
    # Differences of float32 images and of contact, which comes a substep earlier or later.
    for key, step, rel in (("log_stiffness", 0.02, 0.1), ("log_dashpot", 0.1, 0.2)):
        ends = [dynamics.loss_of({**at, key: at[key] + s}, range(1, 7)) for s in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(values[key].grad) == pytest.approx(slope, rel=rel), key
    kick = np.array([0.0, 0.0, 0.01])
    ends = [dynamics.loss_of({**at, "velocity": VELOCITY + s * kick}, range(1, 7)) for s in (1, -1)]
    assert float(values["velocity"].grad[2]) == pytest.approx((ends[0] - ends[1]) / 0.02, rel=0.1)


def test_truncated_gradients_end_with_their_frame(fallen: Drop) -> None:
    """Check 7 of the notes."""
    whole, cut = (dynamics_of(fallen, 6, truncate=t) for t in (False, True))
    found = []
    for dynamics in (whole, cut):
        values = {k: torch.tensor(v, requires_grad=True) for k, v in true_values(fallen).items()}
        anchors = dynamics.anchors(values, 6)
        anchors[5].square().sum().backward()
        found.append((anchors.detach(), values["velocity"].grad, values["log_stiffness"].grad))
    # The same motion; frames of their own cut time at the same substeps.
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    assert float(found[1][2].abs()) < float(found[0][2].abs())


def test_the_start_velocity_has_a_truncated_gradient_in_every_frame(fallen: Drop) -> None:
    dynamics = dynamics_of(fallen, 3, truncate=True)  # in flight
    for frame in (1, 2):
        values = {k: torch.tensor(v, requires_grad=True) for k, v in true_values(fallen).items()}
        anchors = dynamics.anchors(values, 3)
        (anchors[frame] * torch.tensor([1.0, 2.0, 3.0])).mean(dim=0).sum().backward()
        # A translation by dt dv of the whole body: dt times the slope by x (check 7 of the notes).
        expected = DT_S * np.array([1.0, 2.0, 3.0])
        np.testing.assert_allclose(values["velocity"].grad, expected, rtol=1e-4)


def test_a_cloud_in_flight_falls_as_the_integrator_sums_it(fallen: Drop) -> None:
    """Check 5 of the notes."""
    body = dataclasses.replace(fallen.rollouts.body, ground=None)
    with torch.no_grad():
        made = AnchorRollouts(body, [], [], DT_S, 9)(fallen.physics, torch.zeros(3), 9)[0].double()
    height = (made - made[0])[:, :, 2].mean(dim=1).numpy()
    time = DT_S * np.arange(9)
    # g h^2 n (n + 1) / 2 = (g t^2 + g t h) / 2: what is deeper than the parabola tells the substep.
    substep = (-2 * height[1:] / 9.81 - time[1:] ** 2) / time[1:]
    count = DT_S / substep
    np.testing.assert_allclose(count[3:], round(count[-1]), atol=0.1)  # float32 of 10 cm: 1e-8 m
    assert round(count[-1]) >= 2


def test_stiff_springs_take_more_substeps_rather_than_numbers_that_are_none(fallen: Drop) -> None:
    """Check 10 of the notes, whose authors add substeps after NaN; here the limit tells them."""
    dynamics, at = dynamics_of(fallen, 4), true_values(fallen)
    assert np.isfinite(dynamics.loss_of({**at, "log_stiffness": np.array(np.log(1e4))}, [1, 2, 3]))


def test_the_scan_finds_the_true_stiffness(fallen: Drop) -> None:
    dynamics = dynamics_of(fallen)
    start = start_values(dynamics.rollouts)
    start["velocity"] = VELOCITY
    losses = dynamics.scan(start, range(2, TRAIN))
    best = np.exp(start["log_stiffness"][np.argmin(losses)])
    true = float(fallen.physics.log_stiffness.mean().exp())
    assert abs(np.log(best / true)) < 0.5 * np.log(2.53) + 0.1  # the nearest of the scan's nine
    # And the true values are better than any of them.
    assert dynamics.loss_of(true_values(fallen), range(2, TRAIN)) < losses.min()


def test_a_standing_body_stays_as_it_stands(fallen: Drop) -> None:
    """Without natural lengths it would sink by what it has sunk already."""
    body = fallen.rollouts.body
    anchors = body.anchors - (0.0, 0.0, body.anchors[:, 2].min())
    low = anchors[:, 2] < 0.3 * body.spacing_m
    assert low.sum() > 10
    anchors[low, 2] = 0.0  # as the stage does it
    moved = []
    for carried in (low, np.zeros_like(low)):
        standing = dataclasses.replace(body, anchors=anchors, carried=carried)
        with torch.no_grad():
            made = AnchorRollouts(standing, [], [], DT_S, 30)(fallen.physics, torch.zeros(3), 30)
        moved.append(float((made[0] - made[0, :1]).abs().max()))
    # To first order: lengths change by 3 %, and feet slide by half a millimetre.
    assert moved[0] < 0.35 * moved[1]
    assert moved[1] > 1e-4
