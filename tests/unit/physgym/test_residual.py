"""The learned residual as a twin carries it: causal, zero at the start, whole on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from physgym.errors import TwinError
from physgym.residual import (
    TAPS_S,
    ResidualNet,
    apply_residual,
    residual_features,
    tap_frames,
)
from physgym.twin import Twin

NODES, FRAMES, DT_S = 5, 150, 0.01
DRIVEN = np.array([0, 4])
FREE = [1, 2, 3]


def weights(members: int = 2, *, zero: bool = False, nodes: int = NODES) -> dict[str, np.ndarray]:
    residual = {"scale_m": np.array(0.8), "members": np.array(members)}
    for k in range(members):
        torch.manual_seed(k)
        net = ResidualNet(6 * nodes, nodes - 2, width=16)
        if not zero:
            torch.nn.init.normal_(net.outlet.weight, std=0.05)
        residual.update({f"{k}/{key}": value.numpy() for key, value in net.state_dict().items()})
    return residual


def twin_with(residual: dict[str, np.ndarray]) -> Twin:
    rest = np.zeros((NODES, 3))
    rest[:, 0] = 0.2 * np.arange(NODES)
    return Twin(
        name="rope", kind="rope", dynamics="rod", method="phystwin", rest_position=rest,
        driven_index=DRIVEN, parameters={}, residual=residual,
    )  # fmt: skip


def motion(worlds: int = 2, frames: int = FRAMES) -> np.ndarray:
    rng = np.random.default_rng(0)
    steps = 0.01 * rng.normal(size=(worlds, frames, NODES, 3)).cumsum(axis=1)
    return (steps + twin_with({}).rest_position).astype(np.float32)


def test_an_untrained_network_changes_nothing():
    x = motion()
    np.testing.assert_array_equal(apply_residual(twin_with(weights(zero=True)), x, DT_S), x)


def test_only_free_nodes_after_the_first_frame_are_corrected():
    x = motion()
    changed = apply_residual(twin_with(weights()), x, DT_S) - x
    np.testing.assert_array_equal(changed[:, 0], 0.0)
    np.testing.assert_array_equal(changed[:, :, DRIVEN], 0.0)
    assert (np.abs(changed[:, 1:, FREE]).max(axis=(0, 1)) > 1e-4).all()


def test_the_correction_grows_from_an_observed_start_and_not_from_a_guessed_one():
    x = motion()
    grown = apply_residual(twin_with(weights()), x, DT_S)
    whole = apply_residual(twin_with(weights()), x, DT_S, start_observed=False)
    assert np.abs(whole[:, 0, FREE] - x[:, 0, FREE]).max() > 1e-3
    # One frame after the start little of it shows, exp(-0.2) of the first is still taken away.
    expected = whole - x - np.exp(-0.2) * (whole - x)[:, :1]
    # Positions of about 1 m in float32.
    np.testing.assert_allclose((grown - x)[:, 1], expected[:, 1], atol=1e-6)
    # After a second the start is forgotten: exp(-20).
    np.testing.assert_allclose(grown[:, 100:], whole[:, 100:], atol=1e-6)


def test_it_is_causal():
    x, twin = motion(), twin_with(weights())
    later = x.copy()
    later[:, 90:] += 0.05 * np.random.default_rng(1).normal(size=later[:, 90:].shape)
    before, after = (apply_residual(twin, values, DT_S) for values in (x, later))
    np.testing.assert_array_equal(after[:, :90], before[:, :90])
    assert not np.array_equal(after[:, 90:] - later[:, 90:], before[:, 90:] - x[:, 90:])


def test_it_looks_back_a_second_and_no_further():
    x, twin = motion(), twin_with(weights())
    early = x.copy()
    early[:, 3:10] += 0.05
    before, after = (apply_residual(twin, values, DT_S) for values in (x, early))
    # Frame 9 is seen a second later, as is the velocity into frame 10; frame 111 sees neither.
    assert not np.array_equal(after[:, 109], before[:, 109])
    np.testing.assert_array_equal(after[:, 111:], before[:, 111:])


def test_worlds_do_not_touch_each_other():
    x, twin = motion(worlds=3), twin_with(weights())
    together = apply_residual(twin, x, DT_S)
    for b in range(3):
        np.testing.assert_array_equal(apply_residual(twin, x[b : b + 1], DT_S)[0], together[b])


def test_where_the_object_is_does_not_matter():
    x, twin = motion(), twin_with(weights())
    shift = np.array([3.0, -2.0, 1.0], np.float32)
    moved = apply_residual(twin, x + shift, DT_S) - shift
    # float32 at 3 m: 2e-7 of position becomes 1e-5 of velocity, times slopes of about one.
    np.testing.assert_allclose(moved, apply_residual(twin, x, DT_S), atol=2e-5)


def test_members_are_averaged():
    both = weights(2)
    alone = []
    for k in range(2):
        one = {key.replace(f"{k}/", "0/"): v for key, v in both.items() if key.startswith(f"{k}/")}
        one |= {"scale_m": both["scale_m"], "members": np.array(1)}
        alone.append(apply_residual(twin_with(one), motion(), DT_S))
    together = apply_residual(twin_with(both), motion(), DT_S)
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, atol=1e-6)  # float32 sums


def test_the_input_is_left_alone():
    x = motion()
    kept = x.copy()
    apply_residual(twin_with(weights()), x, DT_S)
    np.testing.assert_array_equal(x, kept)


def test_a_twin_keeps_its_residual_bit_for_bit(tmp_path):
    twin = twin_with(weights())
    twin.save(tmp_path / "twin")
    loaded = Twin.load(tmp_path / "twin")
    assert set(loaded.residual) == set(twin.residual)
    for key, value in twin.residual.items():
        assert loaded.residual[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded.residual[key], value)
    x = motion()
    np.testing.assert_array_equal(apply_residual(loaded, x, DT_S), apply_residual(twin, x, DT_S))
    assert loaded.content_hash() == twin.content_hash() != twin_with({}).content_hash()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda residual: residual.clear(),
        lambda residual: residual.pop("members"),
        lambda residual: residual.pop("scale_m"),
        lambda residual: residual.pop("1/core.bias"),
        lambda residual: residual.update(members=np.array(0)),
        lambda residual: residual.update(members=np.array(3)),
        lambda residual: residual.update(weights(nodes=NODES + 1)),
    ],
    ids=["none", "members", "scale", "a weight", "no member", "one too many", "other nodes"],
)
def test_a_residual_that_does_not_fit_is_refused(spoil):
    residual = weights()
    spoil(residual)
    with pytest.raises(TwinError, match="residual") as caught:
        apply_residual(twin_with(residual), motion(), DT_S)
    assert "rope" in caught.value.where


def test_taps_look_back_in_seconds_whatever_the_rate():
    for dt_s in (0.01, 1 / 30):
        taps = tap_frames(200, dt_s)
        assert taps.shape == (200, len(TAPS_S))
        assert taps[0].tolist() == [0] * len(TAPS_S)  # before the start there is the start
        back_s = (150 - taps[150]) * dt_s
        # To the nearest frame.
        np.testing.assert_allclose(back_s, TAPS_S, atol=0.5 * dt_s + 1e-6)


def test_features_are_the_shape_about_the_driven_points_and_the_velocity():
    x = torch.from_numpy(motion(worlds=1, frames=4))
    features = residual_features(x, torch.from_numpy(DRIVEN), DT_S, 0.8)
    assert features.shape == (1, 4, 6 * NODES)
    shape, velocity = features[0].split(3 * NODES, dim=-1)
    centre = x[0, 2, DRIVEN].mean(0)
    expected = 3.0 * (x[0, 2] - centre).flatten() / 0.8
    torch.testing.assert_close(shape[2], expected)
    torch.testing.assert_close(velocity[0], torch.zeros(3 * NODES))
    expected = 0.5 * (x[0, 2] - x[0, 1]).flatten() / DT_S / 0.8
    torch.testing.assert_close(velocity[2], expected)
