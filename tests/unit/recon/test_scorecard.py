"""What is held out, and what a twin's scores say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rope_cases import cell_recording

from physgym.errors import DataError
from physgym.twin import Twin
from recon.identify.phystwin import PhysTwinConfig, identify
from recon.metrics import free_dist_mean
from recon.predict import predict
from recon.scorecard import score, split
from recon.tracks import Tracks


def clips(count: int, frames: int = 40) -> list[Tracks]:
    position = np.zeros((frames, 3, 3), np.float32)
    position[..., 0] = np.arange(3)
    seen = np.ones((frames, 3), bool)
    return [
        Tracks(0.01 * np.arange(frames), position, seen, np.array([0]), name=f"clip-{i}")
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "train", "held_count"),
    [
        (10, "auto", 2), (5, "auto", 1), (3, "auto", 1), (10, "0.5", 5), (10, "all", 0),
        (10, "1.0", 0), (56, "auto", 11),
        (2, "auto", 1), (4, "0.95", 1),  # a share below one holds out at least one
        (5, "0.01", 4), (10, "0.1", 9), (2, "0.2", 1),  # and learns from at least one
    ],
)  # fmt: skip
def test_several_recordings_are_dealt_out(count, train, held_count):
    recordings = clips(count)
    kept, held = split(recordings, train)
    assert len(held) == held_count
    names = [t.name for t in recordings]
    assert sorted(t.name for t in kept + held) == sorted(names)
    assert [t.name for t in kept] == [n for n in names if n in {t.name for t in kept}]


def test_held_out_recordings_are_spread_evenly():
    _, held = split(clips(50), "auto")
    places = np.array([int(t.name[5:]) for t in held])
    gaps = np.diff([-1, *places, 50])
    assert gaps.max() - gaps.min() <= 1  # even but for rounding to whole recordings


def test_a_single_recording_is_cut_in_time():
    (whole,) = clips(1, frames=100)
    ((first,), (second,)) = split([whole], "auto")
    assert (first.frame_count, second.frame_count) == (70, 30)
    assert first.time_s[-1] < second.time_s[0]
    ((first,), (second,)) = split([whole], "0.4")
    assert (first.frame_count, second.frame_count) == (40, 60)


@pytest.mark.parametrize(("frames", "train"), [(20, "auto"), (100, "0.95"), (100, "0.05")])
def test_a_part_too_short_to_be_of_use_is_not_cut_off(frames, train):
    recordings = clips(1, frames=frames)
    assert split(recordings, train) == (recordings, [])


@pytest.mark.parametrize("train", ["0", "-0.5", "1.5", "nan", "inf", "most", ""])
def test_a_share_that_is_none_is_refused(train):
    with pytest.raises(DataError, match="share such as") as caught:
        split(clips(3), train)
    assert caught.value.where == "--train"


def test_no_recordings_are_refused():
    with pytest.raises(DataError, match="no recordings"):
        split([], "auto")


@pytest.fixture(scope="module")
def twin() -> Twin:
    return identify([cell_recording(1)], PhysTwinConfig(seed=3))


def test_scores_are_those_of_the_predictions_weighted_by_frames(twin):
    long, short = cell_recording(2), cell_recording(3).slice(0, 60)
    metrics = score(twin, [cell_recording(1)], [long, short])
    held = metrics["held_out"]
    assert held["recordings"] == 2
    assert held["seconds"] == pytest.approx(1.99 + 0.59)
    errors = [
        free_dist_mean(predict(twin, [t])[0], t.position, t.driven_index) for t in (long, short)
    ]
    expected = np.average(errors, weights=[198, 58])
    # World by world and together the rollout may differ in its last bits.
    assert held["free_dist_mean_m"] == pytest.approx(expected, rel=1e-3)
    assert set(held["baselines_free_dist_mean_m"]) == {
        "hold", "line", "rigid", "affine", "catenary", "knn",
    }  # fmt: skip
    assert held["free_dist_mean_m"] < min(held["baselines_free_dist_mean_m"].values())
    assert "physics_free_dist_mean_m" not in held
    assert "definition" in metrics
    assert twin.replace(metrics=metrics).metrics == metrics  # what a twin can store


def test_nothing_held_out_is_not_scored(twin):
    metrics = score(twin, [cell_recording(1)], [])
    assert set(metrics) == {"definition", "train"}


def test_a_recording_that_cannot_be_started_from_is_left_out(twin):
    whole = cell_recording(2)
    position, visible = whole.position.copy(), whole.visible.copy()
    position[1, 4], visible[1, 4] = np.nan, False
    blind = replace(whole, position=position, visible=visible)
    metrics = score(twin, [cell_recording(1)], [blind])
    assert "held_out" not in metrics
    metrics = score(twin, [cell_recording(1)], [blind, whole])
    assert metrics["held_out"]["recordings"] == 1
