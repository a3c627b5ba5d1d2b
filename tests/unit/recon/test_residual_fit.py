"""Training of the residual: it learns what the physics misses, repeatably, from any recordings."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from rope_cases import cell_recording

from physgym.errors import DataError
from physgym.twin import Twin
from recon.identify.phystwin import PhysTwinConfig, identify
from recon.identify.progress import Progress
from recon.identify.residual import ResidualConfig, fit_residual, train_members
from recon.metrics import free_dist_mean
from recon.predict import predict
from recon.tracks import Tracks

TAUGHT = (1, 3, 4, 5)
SMALL = ResidualConfig(members=1, epochs=6, width=64)


@pytest.fixture(scope="module")
def spoiled() -> Twin:
    """A twin whose bending is four times too soft: a mistake that a residual can learn."""
    twin = identify([cell_recording(1)], PhysTwinConfig(seed=3), name="cell")
    bending = twin.parameters["bending_stiffness_nm2"]
    return twin.replace(
        parameters={**twin.parameters, "bending_stiffness_nm2": bending / 4}, uncertainty={}
    )


@pytest.fixture(scope="module")
def corrected(spoiled: Twin) -> Twin:
    return fit_residual(spoiled, [cell_recording(seed) for seed in TAUGHT], SMALL)


def error_m(twin: Twin, tracks: Tracks, **options) -> float:
    points = predict(twin, [tracks], **options)[0]
    return free_dist_mean(points, tracks.position, tracks.driven_index)


def test_training_lowers_the_error_it_trains_on_and_on_what_it_has_not_seen(spoiled, corrected):
    for seed, share in ((1, 0.5), (3, 0.5), (2, 0.85)):
        before, after = (error_m(twin, cell_recording(seed)) for twin in (spoiled, corrected))
        # Eight seconds teach little of all motions: measured two fifths of the error
        # on what was taught, seven tenths on a fifth recording.
        assert after < share * before, (seed, before, after)


def test_the_physics_is_left_as_it_is(spoiled, corrected):
    assert not spoiled.residual
    for name, value in spoiled.parameters.items():
        np.testing.assert_array_equal(corrected.parameters[name], value)
    tracks = cell_recording(2)
    np.testing.assert_array_equal(
        predict(corrected, [tracks], residual=False)[0], predict(spoiled, [tracks])[0]
    )


def test_given_frames_and_driven_points_stay_as_given(corrected):
    tracks = cell_recording(2)
    points = predict(corrected, [tracks])[0]
    np.testing.assert_array_equal(points[:2], tracks.position[:2])
    # The solver carries driven points through float32 lanes unchanged.
    np.testing.assert_allclose(points[:, tracks.driven_index], tracks.driven, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_the_callers_randomness_goes_on(spoiled):
    one_epoch = replace(SMALL, epochs=1)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    hashes = [
        fit_residual(spoiled, [cell_recording(1)], config).content_hash()
        for config in (one_epoch, one_epoch, replace(one_epoch, seed=1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_recordings_that_do_not_fit_in_are_left_out(spoiled):
    whole, other = cell_recording(1), cell_recording(3)
    one_epoch = replace(SMALL, epochs=1)
    position, visible = other.position.copy(), other.visible.copy()
    visible[0, 4], position[0, 4] = False, np.nan
    blind = replace(other, position=position, visible=visible, name="blind")
    short = other.slice(0, 80)
    alone = fit_residual(spoiled, [whole], one_epoch)
    mixed = fit_residual(spoiled, [blind, whole, short], one_epoch)
    assert mixed.content_hash() == alone.content_hash()
    with pytest.raises(DataError, match="first two frames"):
        fit_residual(spoiled, [blind], one_epoch)


def test_missing_samples_do_not_count():
    rng = np.random.default_rng(0)
    predicted = torch.from_numpy(rng.normal(size=(1, 60, 5, 3)).astype(np.float32)).cumsum(1) * 0.01
    seen = predicted + 0.02
    seen[:, 20:40, 1] = torch.nan  # for a while
    seen[:, :, 2] = torch.nan  # never
    (net,) = train_members(
        predicted, seen, torch.tensor([1, 2, 3]), torch.tensor([0, 4]), 0.01, 0.5,
        replace(SMALL, epochs=2), Progress(),
    )  # fmt: skip
    pulled = net.outlet.weight.detach().reshape(3, 3, -1).abs().amax(dim=(1, 2))
    # Weights that start at zero and get no gradient stay there exactly.
    assert pulled[1] == 0.0
    assert (pulled[[0, 2]] > 1e-3).all()
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_progress_is_told_of_every_member_and_epoch(spoiled):
    class Listening(Progress):
        def __init__(self):
            self.told = []

        def stage(self, name, total):
            return nullcontext(lambda step, value: self.told.append((name, step, total, value)))

    listening = Listening()
    config = replace(SMALL, members=2, epochs=2)
    fit_residual(spoiled, [cell_recording(1)], config, progress=listening)
    assert [row[:3] for row in listening.told] == [
        ("residual 1/2", 1, 2),
        ("residual 1/2", 2, 2),
        ("residual 2/2", 1, 2),
        ("residual 2/2", 2, 2),
    ]
    # Metres: the mean error of a coordinate of this twin lies between noise and the rope's length.
    assert all(1e-4 < value < 0.5 for *_, value in listening.told)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("members", 0),
        ("epochs", 0),
        ("width", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1.0),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(DataError) as caught:
        ResidualConfig(**{field: value})
    assert caught.value.where == field
