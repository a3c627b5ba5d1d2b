"""Motion bases: no offset before training and in frame 0, one formula, and true gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from physgym.errors import DataError
from recon.splats.motion_bases import MotionBases, MotionBasesConfig

SMALL = MotionBasesConfig(bases=3, place_octaves=1, time_octaves=1, time_code=3, width=7, layers=3)
GENERATOR = torch.Generator().manual_seed(2)
PLACE = 2.0 * torch.rand(6, 3, generator=GENERATOR, dtype=torch.float64) - 1.0
TIME = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


def trained(*, free: bool = True) -> MotionBases:
    """Some weights, as after training."""
    bases = MotionBases(MotionBasesConfig(**{**vars(SMALL), "free": free})).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in bases.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return bases


@pytest.mark.parametrize(("free", "count"), [(True, 10), (False, 4)])
def test_nothing_moves_before_training_nor_ever_in_the_first_frame(free: bool, count: int) -> None:
    fresh = MotionBases(MotionBasesConfig(free=free))
    made = fresh.attributes(PLACE.float(), TIME.float())
    assert made.shape == (3, 6, count)
    assert not made.any()
    offset = fresh(PLACE.float(), TIME.float())
    assert torch.equal(offset.gradient(), torch.eye(3).expand(3, 6, 3, 3))
    later = trained(free=free).attributes(PLACE, TIME)
    assert not later[0].any()
    assert later[1:].abs().min() > 1e-6


def test_offsets_are_coefficients_times_bases() -> None:
    """The sum over bases is contracted into the head; here it is written out."""
    bases, config = trained(), SMALL
    waves = torch.stack([TIME, (torch.pi * TIME).sin(), (torch.pi * TIME).cos()], dim=1)
    axes = [PLACE, (torch.pi * PLACE).sin(), (torch.pi * PLACE).cos()]
    motion = bases._motions(waves)
    for t in range(len(TIME)):
        hidden = bases.from_place(torch.cat(axes, dim=1)) + bases.from_time(bases.code(waves[t]))
        hidden = torch.relu(bases.hidden(torch.relu(hidden)))
        coefficient = bases.coefficient_head(hidden).reshape(6, config.bases, 10)
        wanted = (coefficient * (motion[t] - motion[0])).sum(dim=1) / config.bases
        # float64, sums in another order
        torch.testing.assert_close(bases.attributes(PLACE, TIME)[t], wanted, atol=1e-12, rtol=1e-10)


def test_gradients_are_those_of_differences() -> None:
    bases = trained()
    weight = torch.rand(3, 6, 3, 3, generator=torch.Generator().manual_seed(1)).double()

    def loss() -> torch.Tensor:
        offset = bases(PLACE, TIME)
        return (weight * offset.gradient()).sum() + offset.shift.square().sum()

    loss().backward()
    rng = np.random.default_rng(0)
    for name, value in bases.named_parameters():
        flat, slope = value.data.view(-1), value.grad.view(-1)
        for k in rng.permutation(len(flat))[:4].tolist():
            kept, step = float(flat[k]), 1e-6
            ends = []
            for sign in (1.0, -1.0):
                flat[k] = kept + sign * step
                ends.append(float(loss().detach()))
            flat[k] = kept
            found = (ends[0] - ends[1]) / (2 * step)
            # Central differences of 1e-6 in float64: 1e-10 of rounding, ReLUs are rarely crossed.
            assert float(slope[k]) == pytest.approx(found, rel=1e-5, abs=1e-7), name


def test_zero_heads_learn() -> None:
    """Of the product of coefficients and bases one factor is not zero, so a step does something."""
    bases = MotionBases(SMALL)
    bases(PLACE.float(), TIME.float()).shift[1:].sum().backward()
    assert bases.motion_head.weight.grad.abs().max() > 0.0


def test_gradient_is_turn_times_stretch() -> None:
    bases = trained()
    offset = bases(PLACE, TIME)
    F = offset.gradient()
    square = F.transpose(-1, -2) @ F
    torch.testing.assert_close(square, torch.diag_embed((2 * offset.log_stretch).exp()))
    assert (torch.linalg.det(F) > 0).all()
    round_ones = trained(free=False)(PLACE, TIME)
    assert round_ones.log_stretch.shape == (3, 6, 1)
    turn = round_ones.gradient() / round_ones.log_stretch.exp()[..., None]
    torch.testing.assert_close(turn, torch.eye(3).double().expand(3, 6, 3, 3))


def test_the_same_seed_gives_the_same_weights_and_touches_no_other_random_numbers() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    one, other, third = MotionBases(SMALL, seed=1), MotionBases(SMALL, seed=1), MotionBases(SMALL)
    assert torch.equal(torch.rand(2), wanted)
    assert torch.equal(one.hidden.weight, other.hidden.weight)
    assert not torch.equal(one.hidden.weight, third.hidden.weight)


@pytest.mark.parametrize("wrong", [{"bases": 0}, {"layers": 1}, {"time_octaves": -1}])
def test_impossible_sizes_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match="MotionBasesConfig"):
        MotionBasesConfig(**wrong)
