"""Rope or network, sheet or volume."""

from pathlib import Path

import numpy as np
import pytest

from recon.identify.kind import is_rope, sheet_or_volume
from recon.importers import load_recordings
from recon.tracks import PhysGymWarning, Tracks

DATA = Path(__file__).resolve().parents[4] / "shared/data/deform_dlo"


def recording(position, name="clip"):
    position = np.asarray(position, np.float32)
    time = np.arange(len(position)) / 50.0
    visible = np.isfinite(position).all(-1)
    return Tracks(time, position, visible, np.array([0]), name)


def wavering_rope(nodes=12, frames=60):
    """Links of 3 cm whose directions swing; lengths never change."""
    t = np.arange(frames)[:, None] / 50.0
    angle = 0.8 * np.sin(3.0 * t + 0.7 * np.arange(nodes - 1))
    steps = 0.03 * np.stack([np.cos(angle), 0.0 * angle, np.sin(angle)], axis=-1)
    start = np.zeros((frames, 1, 3))
    return np.cumsum(np.concatenate([start, steps], axis=1), axis=1)


def wavering_sheet(side=6, frames=60):
    """A grid of 3 cm bent about one axis; lengths along both axes never change."""
    strip = wavering_rope(side, frames)
    across = np.arange(side)[:, None] * np.array([0.0, 0.03, 0.0])
    return (strip[:, None] + across[None, :, None]).reshape(frames, side * side, 3)


def test_chain_in_order_is_a_rope_and_a_sheet_is_not():
    assert is_rope([recording(wavering_rope())])
    assert not is_rope([recording(wavering_sheet())])


def test_one_unsteady_link_does_not_unmake_a_rope():
    position = wavering_rope()
    # The last node slides by 40 % of a link, eight times what a link may scatter.
    position[:, -1] += 0.012 * np.sin(np.arange(60))[:, None] * np.array([1.0, 0.0, 0.0])
    assert is_rope([recording(position)])


def test_shuffled_rope_is_a_network_and_a_warning_says_why():
    order = np.random.default_rng(1).permutation(12)
    with pytest.warns(PhysGymWarning, match="not in the order"):
        assert not is_rope([recording(wavering_rope()[:, order])])


def test_points_that_all_stretch_are_no_rope():
    t = 1.0 + 0.3 * np.sin(np.arange(60) / 5.0)[:, None, None]
    assert not is_rope([recording(wavering_rope() * t)])


def test_two_points_are_no_rope():
    assert not is_rope([recording(wavering_rope(2))])


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared/data/deform_dlo beside the repository")
@pytest.mark.filterwarnings("ignore::recon.tracks.PhysGymWarning")
@pytest.mark.parametrize("name", ["DLO1_eval", "DLO2_eval"])
def test_real_cables_are_ropes_alone_and_together(name):
    recordings = load_recordings(DATA / f"{name}.npz")
    assert is_rope(recordings)
    assert all(is_rope([one]) for one in recordings)


def test_bent_sheet_and_solid_block():
    assert sheet_or_volume(wavering_sheet()[20]) == "sheet"
    block = np.stack(np.meshgrid(*[np.arange(5) * 0.02] * 3, indexing="ij"), -1).reshape(-1, 3)
    noise = np.random.default_rng(0).normal(0.0, 1e-3, block.shape)
    assert sheet_or_volume(block + noise) == "volume"
