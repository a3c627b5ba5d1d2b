"""Recordings cut into clips that a simulation can start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from physgym.errors import DataError
from recon.identify.segments import cut_segments
from recon.tracks import PhysGymWarning, Tracks

FRAMES, NODES, DT_S = 40, 5, 0.01


def walk(name: str = "walk", *, hidden: slice | None = None, rate: float = 1.0) -> Tracks:
    """Five points, each frame recognisable: x is the frame, y the node."""
    position = np.zeros((FRAMES, NODES, 3), np.float32)
    position[..., 0] = 0.01 * np.arange(FRAMES)[:, None]
    position[..., 1] = 0.1 * np.arange(NODES)
    visible = np.ones((FRAMES, NODES), bool)
    if hidden is not None:
        visible[hidden, 2] = False
    return Tracks(DT_S * rate * np.arange(FRAMES), position, visible, np.array([0, 4]), name=name)


def test_a_whole_recording_is_one_segment_from_its_second_frame():
    (segment,) = cut_segments([walk()])
    assert segment.name == "walk@0"
    np.testing.assert_allclose(segment.position[:, 0], 0.01)
    # 1 cm a frame at 100 Hz; the data is float32, whose rounding of 0.01 over dt is 1e-7.
    np.testing.assert_allclose(segment.velocity, [[1.0, 0.0, 0.0]] * NODES, atol=1e-6)
    assert segment.driven.shape == (FRAMES - 1, 2, 3)
    assert segment.target.shape == (FRAMES - 2, NODES, 3)
    # Driven points run along with the start, targets begin one frame after it.
    np.testing.assert_allclose(segment.driven[0], segment.position[[0, 4]])
    np.testing.assert_allclose(segment.target[0, :, 0], 0.02)
    np.testing.assert_allclose(segment.target[:, [0, 4]], segment.driven[1:])


def test_points_missing_at_the_start_move_the_start():
    (segment,) = cut_segments([walk(hidden=slice(0, 3))])
    assert segment.name == "walk@3"
    assert np.isfinite(segment.position).all()
    assert np.isfinite(segment.velocity).all()


def test_points_missing_later_stay_in_the_target():
    (segment,) = cut_segments([walk(hidden=slice(10, 12))])
    missing = np.isnan(segment.target).all(axis=-1)
    # Frame 10 is target 8: two frames went into the start.
    assert sorted(map(tuple, np.argwhere(missing).tolist())) == [(8, 2), (9, 2)]


def test_a_length_cuts_a_recording_into_pieces_that_share_the_frame_between():
    pieces = cut_segments([walk()], 0.1)
    assert [piece.name for piece in pieces] == ["walk@0", "walk@9", "walk@18", "walk@27"]
    assert {len(piece.driven) for piece in pieces} == {9}


def test_a_piece_does_not_start_where_a_point_is_missing():
    pieces = cut_segments([walk(hidden=slice(8, 11))], 0.1)
    assert [piece.name for piece in pieces] == ["walk@0", "walk@11", "walk@20", "walk@29"]
    assert all(np.isfinite(piece.position).all() for piece in pieces)


def test_a_length_beyond_the_recording_keeps_it_whole():
    (segment,) = cut_segments([walk()], 100.0)
    assert len(segment.driven) == FRAMES - 1


def test_recordings_that_cannot_be_used_are_left_out_until_none_is_left():
    blind = walk("blind", hidden=slice(0, FRAMES, 2))
    (segment,) = cut_segments([blind, walk()])
    assert segment.name == "walk@0"
    with pytest.raises(DataError, match="two neighbouring frames") as caught:
        cut_segments([blind])
    assert "blind" in caught.value.where


@pytest.mark.parametrize("length_s", [0.0, -1.0, float("nan")])
def test_a_length_that_is_none_is_refused(length_s):
    with pytest.raises(DataError, match="more than 0"):
        cut_segments([walk()], length_s)


def test_no_recordings_are_refused():
    with pytest.raises(DataError, match="no recordings"):
        cut_segments([])


def test_a_recording_in_which_every_point_is_driven_is_refused():
    with pytest.raises(DataError, match="every point is driven"):
        cut_segments([replace(walk(), driven_index=np.arange(NODES))])


def test_recordings_of_different_objects_are_refused():
    first = walk()
    others = {
        "fewer": replace(
            first, position=first.position[:, :4], visible=first.visible[:, :4],
            driven_index=np.array([0, 3]), name="fewer",
        ),
        "held elsewhere": replace(first, driven_index=np.array([0, 3]), name="held elsewhere"),
        "on the moon": replace(first, gravity=np.array([0, 0, -1.62]), name="on the moon"),
    }  # fmt: skip
    for name, other in others.items():
        with pytest.raises(DataError, match="one object") as caught:
            cut_segments([first, other])
        assert name in caught.value.what


def test_another_frame_rate_is_allowed_and_said():
    with pytest.warns(PhysGymWarning, match=r"50\.0 Hz"):
        segments = cut_segments([walk(), walk("slow", rate=2.0)])
    # Stamps are sums of floats.
    assert [segment.dt_s for segment in segments] == pytest.approx([0.01, 0.02], rel=1e-9)
