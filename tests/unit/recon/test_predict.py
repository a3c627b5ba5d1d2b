"""Open-loop prediction: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rope_cases import DRIVEN, DT_S, NODES, REST_M, own_recording, true_parameters

from physgym.errors import BlowUpError, DataError
from physgym.twin import Twin
from recon.metrics import free_dist_mean
from recon.predict import predict
from recon.tracks import Tracks


@pytest.fixture(scope="module")
def twin() -> Twin:
    """The rope that `own_recording` was made with, without any fit."""
    parameters = {**true_parameters().to_mapping(), "gravity_m_per_s2": np.array([0.0, 0.0, -9.81])}
    return Twin(
        name="truth", kind="rope", dynamics="rod", method="given",
        rest_position=own_recording().position[0], driven_index=DRIVEN, parameters=parameters,
    )  # fmt: skip


def shaken(changes: dict[tuple[int, int], float] | None = None, **fields) -> Tracks:
    tracks = own_recording()
    position, visible = tracks.position.copy(), tracks.visible.copy()
    for (frame, node), shift in (changes or {}).items():
        position[frame, node] += shift
        visible[frame, node] = np.isfinite(shift)
    return replace(tracks, position=position, visible=visible, **fields)


def test_the_true_twin_predicts_its_own_recording(twin):
    tracks = own_recording()
    (points,) = predict(twin, [tracks])
    assert points.shape == tracks.position.shape
    assert points.dtype == np.float32
    # Twist and friction memory at the start are guessed; they fade while the rope hangs still.
    assert free_dist_mean(points, tracks.position, DRIVEN) < 1e-3


def test_the_first_two_frames_are_given_and_driven_points_follow(twin):
    tracks = own_recording()
    (points,) = predict(twin, [tracks])
    np.testing.assert_array_equal(points[:2], tracks.position[:2])
    np.testing.assert_allclose(points[:, DRIVEN], tracks.driven, atol=1e-6)  # float32 at 1 m


def test_nothing_but_the_start_and_the_driven_points_is_looked_at(twin):
    free = {(f, n): 0.1 for f in range(2, 150) for n in range(2, NODES - 2)}
    np.testing.assert_array_equal(
        predict(twin, [shaken(free)])[0], predict(twin, [own_recording()])[0]
    )
    gaps = {(f, n): np.nan for f in range(2, 150) for n in range(2, NODES - 2)}
    np.testing.assert_array_equal(
        predict(twin, [shaken(gaps)])[0], predict(twin, [own_recording()])[0]
    )


def test_the_velocity_at_the_start_counts(twin):
    kicked = predict(twin, [shaken({(0, 4): 0.01})])[0]
    # A centimetre in a frame is a metre a second on one node.
    assert np.abs(kicked[5] - predict(twin, [own_recording()])[0][5]).max() > 3e-3


def test_recordings_of_any_length_come_back_in_order(twin):
    recordings = [
        own_recording(1).slice(0, 60), own_recording(2), own_recording(3).slice(0, 60),
        own_recording(1),
    ]  # fmt: skip
    results = predict(twin, recordings)
    assert [len(points) for points in results] == [60, 150, 60, 150]
    for tracks, points in zip(recordings, results):
        np.testing.assert_array_equal(points[:2], tracks.position[:2])
        # In one batch or alone: the same world, bit for bit.
        np.testing.assert_array_equal(points, predict(twin, [tracks])[0])
    np.testing.assert_array_equal(results[0], results[3][:60])
    assert predict(twin, []) == []


def test_substeps_can_be_overridden_and_change_little(twin):
    (usual,), (fine,) = (
        predict(twin, [own_recording()], substeps_per_frame=count) for count in (None, 80)
    )
    assert not np.array_equal(usual, fine)
    # An eighth of the step: what differs is the truncation error of the usual one.
    assert np.abs(usual - fine).max() < 5e-3


def test_too_few_substeps_blow_up_and_say_so(twin):
    with pytest.raises(BlowUpError, match="substeps_per_frame"):
        predict(twin, [own_recording()], substeps_per_frame=1)


def foreign() -> dict[str, tuple[Tracks, str]]:
    tracks = own_recording()
    fewer = Tracks(
        tracks.time_s, tracks.position[:, 1:], tracks.visible[:, 1:], DRIVEN[1:] - 1, name="fewer"
    )
    return {
        "fewer nodes": (fewer, "8 points"),
        "held elsewhere": (replace(tracks, driven_index=np.array([0, 1])), r"driven \[.*0"),
        "another gravity": (replace(tracks, gravity=np.array([0, -9.81, 0])), "gravity"),
        "another length": (replace(tracks, position=2 * tracks.position), "1.3.. m long"),
        "a point missing": (shaken({(1, 4): np.nan}), "first two frames"),
        "two frames": (tracks.slice(0, 2), "no more than two"),
    }


@pytest.mark.parametrize("case", list(foreign()))
def test_a_recording_that_does_not_fit_is_refused(twin, case):
    tracks, message = foreign()[case]
    with pytest.raises(DataError, match=message) as caught:
        predict(twin, [own_recording(), tracks])
    assert tracks.name in caught.value.where
    assert caught.value.fix
    assert tracks.dt_s == pytest.approx(DT_S)
    assert REST_M.shape == (NODES - 1,)
