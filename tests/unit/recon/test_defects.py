"""Defects are found in motion alone, and sound motion is left alone."""

import numpy as np
import pytest

from recon import defects


def whirling_rope(frames: int = 300, nodes: int = 10) -> np.ndarray:
    """A planar arc that whirls about its chord at several metres per second, noise as of mocap."""
    angle = np.linspace(0.0, np.pi, nodes)
    arc = np.stack([-0.5 * np.cos(angle), np.zeros(nodes), 0.4 * np.sin(angle)], axis=-1)
    phase = 12.0 * 0.01 * np.arange(frames)[:, None]
    rope = np.empty((frames, nodes, 3))
    rope[..., 0] = arc[:, 0]
    rope[..., 1] = arc[:, 2] * np.sin(phase)
    rope[..., 2] = 1.0 + arc[:, 2] * np.cos(phase)
    rope[..., 0] += 0.1 * np.sin(2.0 * phase)
    return rope + np.random.default_rng(0).normal(scale=3e-4, size=rope.shape)


def test_links_of_a_chain_are_its_edges() -> None:
    links = defects.find_links(whirling_rope())
    assert links.pair.tolist() == [[k, k + 1] for k in range(9)]
    edges = np.linalg.norm(np.diff(whirling_rope(), axis=1), axis=-1)
    # Medians over different samples of the same noise, 0.3 mm: a tenth of a millimetre apart.
    assert np.allclose(links.length_m, np.median(edges, axis=0), atol=1e-4)


def test_links_of_a_sheet_follow_its_grid() -> None:
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(4), indexing="ij"), axis=-1)
    flat = np.concatenate([0.05 * grid.reshape(-1, 2), np.zeros((20, 1))], axis=1)
    frames = flat + np.linspace(0, 0.5, 50)[:, None, None]
    links = defects.find_links(frames)
    steps = np.abs(grid.reshape(-1, 2)[links.pair[:, 0]] - grid.reshape(-1, 2)[links.pair[:, 1]])
    assert len(links.pair) == 5 * 3 + 4 * 4
    assert (steps.sum(1) == 1).all()


def test_an_object_that_stretches_everywhere_has_no_links() -> None:
    scale = 1.0 + 0.5 * np.sin(np.linspace(0, 20, 200))
    cloud = np.random.default_rng(1).normal(size=(30, 3)) * scale[:, None, None]
    links = defects.find_links(cloud)
    assert len(links.pair) == 0
    assert defects.find_swaps(cloud, links) == []


def test_sound_fast_motion_has_no_defects() -> None:
    rope = whirling_rope()
    links = defects.find_links(rope)
    assert not defects.find_spikes(rope, links.spacing_m).any()
    assert defects.find_breaks(rope, links.spacing_m) == []
    assert not defects.find_stretched(rope, links).any()
    assert defects.find_swaps(rope, links) == []


def test_each_defect_is_found_alone_in_fast_motion() -> None:
    rope = whirling_rope()
    links = defects.find_links(rope)
    spiked = rope.copy()
    spiked[100:103, 5, 1] += 0.05
    found = defects.find_spikes(spiked, links.spacing_m)
    assert np.argwhere(found).tolist() == [[100, 5], [101, 5], [102, 5]]
    exchanged = rope.copy()
    exchanged[200:, [0, 1]] = exchanged[200:, [1, 0]]
    ((i, j, frames),) = defects.find_swaps(exchanged, links)
    assert (i, j) == (0, 1)
    assert np.array_equal(frames, np.arange(300) >= 200)
    lost = np.delete(rope, np.arange(150, 154), axis=0)
    ((frame, missing),) = defects.find_breaks(lost, links.spacing_m)
    assert frame == 150
    # On a circle at 0.12 rad a step the five lost steps' chord is 2 sin(0.3) long, and the mean of
    # the steps before and after, 0.72 rad apart, 0.12 cos(0.36): a ratio of 5.26. The sway along
    # the chord and the noise add a few per cent.
    assert missing == pytest.approx(2 * np.sin(0.3) / (0.12 * np.cos(0.36)) - 1.0, abs=0.2)


def test_unseen_samples_are_no_defects() -> None:
    rope = whirling_rope()
    rope[50:60, 4] = np.nan
    rope[::7, 2] = np.nan
    links = defects.find_links(rope)
    assert not defects.find_spikes(rope, links.spacing_m).any()
    assert defects.find_swaps(rope, links) == []
    assert defects.find_breaks(rope, links.spacing_m) == []


def test_a_noisy_sheet_with_many_holes_is_left_alone() -> None:
    """Camera tracks: a tenth of the spacing as noise, a fifth of the samples unseen."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(10), indexing="ij"), -1).reshape(-1, 2)
    time = np.arange(150)[:, None] / 30.0
    sheet = np.zeros((150, 120, 3))
    sheet[..., :2] = 0.01 * grid
    sheet[..., 2] = 0.05 * np.sin(10.0 * sheet[..., 0] + 2.0 * time)
    sheet += rng.normal(scale=1e-3, size=sheet.shape)
    sheet[rng.random((150, 120)) < 0.2] = np.nan
    links = defects.find_links(sheet)
    # The noise has no tails: 8 robust sigmas of 18 000 samples are never reached by it.
    assert not defects.find_spikes(sheet, links.spacing_m).any()
    assert defects.find_breaks(sheet, links.spacing_m) == []
    assert defects.find_swaps(sheet, links) == []


@pytest.mark.parametrize("phase_s", [0.0, 0.003, 0.006, 0.009, 0.012, 0.015])
def test_bounces_are_no_lost_frames(phase_s: float) -> None:
    """The mean of the steps before and after a turn is next to nothing."""
    time_s = phase_s + np.arange(90) / 60.0
    height, speed, began = np.zeros(90), 0.0, 0.0
    top = 0.25
    while began < time_s[-1] and top > 1e-4:
        down = (speed + np.sqrt(speed**2 + 2 * 9.81 * (top if speed == 0.0 else 0.0))) / 9.81
        now = (time_s >= began) & (time_s < began + down)
        since = time_s[now] - began
        height[now] = (top if speed == 0.0 else 0.0) + speed * since - 0.5 * 9.81 * since**2
        landing = 9.81 * down - speed
        began, speed, top = began + down, 0.6 * landing, (0.6 * landing) ** 2 / (2 * 9.81)
    body = np.random.default_rng(3).uniform(-0.05, 0.05, (60, 3))
    points = body + height[:, None, None] * [0, 0, 1] + 0.2 * time_s[:, None, None] * [1, 0, 0]
    assert defects.find_breaks(points, 0.02) == []
    lost = np.delete(points, [8, 9], axis=0)  # in free fall
    assert [frame for frame, _ in defects.find_breaks(lost, 0.02)] == [8]
