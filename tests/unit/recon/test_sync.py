"""The synchroniser matches by nearest stamp and accounts for every item."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import DataError
from recon.capture.sync import Matched, NearestStampSynchroniser

PERIOD_S = 1 / 30


def _play(
    streams: dict[str, list[float]], *, slop_s: float = PERIOD_S / 2, queue_length: int = 30
) -> tuple[NearestStampSynchroniser[int], list[Matched[int]]]:
    """Push every stream's frame numbers in the order in which they would arrive."""
    sync = NearestStampSynchroniser[int](list(streams), slop_s=slop_s, queue_length=queue_length)
    arrivals = sorted((t, name, i) for name, ts in streams.items() for i, t in enumerate(ts))
    return sync, [match for t, name, i in arrivals for match in sync.push(name, t, i)]


def test_offset_and_jitter_pair_the_right_frames() -> None:
    """Three free-running cameras, offsets within the slop and 1 ms of jitter: frame i with i."""
    rng = np.random.default_rng(0)
    streams = {
        name: [100.0 + i * PERIOD_S + offset + rng.uniform(0, 1e-3) for i in range(60)]
        for name, offset in (("a", 0.0), ("b", 0.004), ("c", 0.009))
    }

    sync, matches = _play(streams)
    assert [set(match.frames.values()) for match in matches] == [{i} for i in range(60)]
    assert all(0.008 <= match.skew_s <= 0.011 for match in matches)  # the offsets put in
    assert all(counts.dropped == 0 for counts in sync.counts().values())


def test_stamps_of_a_wall_clock_keep_their_microseconds() -> None:
    """A float64 of 1.7e9 s resolves 0.24 us; the mean must not be coarser than 1 us."""
    _, matches = _play({"a": [1.7e9], "b": [1.7e9 + 0.002]})
    assert matches[0].stamp_s - 1.7e9 == pytest.approx(0.001, abs=1e-6)


def test_lost_frames_are_counted_and_shift_nothing() -> None:
    """Where b lost frames, a's are unmatched; all later ones still pair with their own number."""
    times = [i * PERIOD_S for i in range(40)]
    kept = [i for i in range(40) if i not in (7, 8, 20)]
    sync, matches = _play({"a": times, "b": [times[i] + 0.003 for i in kept]})

    assert [match.frames["a"] for match in matches] == kept
    assert [kept[match.frames["b"]] for match in matches] == kept
    counts = sync.counts()
    assert (counts["a"].unmatched, counts["a"].matched, counts["b"].dropped) == (3, 37, 0)


def test_silent_camera_overflows_bounded_queues() -> None:
    """Nothing is matched, nothing piles up, and every loss is said."""
    sync, matches = _play({"a": [i * PERIOD_S for i in range(50)], "b": []}, queue_length=10)

    assert matches == []
    counts = sync.counts()["a"]
    assert (counts.overflowed, counts.waiting, counts.received) == (40, 10, 50)


def test_ended_camera_lets_the_others_go_on() -> None:
    """After an unplugging the two cameras left are matched with each other."""
    sync = NearestStampSynchroniser[int](["a", "b", "c"], slop_s=0.01)
    for i in range(3):
        sync.push("a", i * PERIOD_S, i)
        sync.push("b", i * PERIOD_S, i)

    matches = sync.end("c")
    assert [match.frames for match in matches] == [{"a": i, "b": i} for i in range(3)]
    sync.push("a", 1.0, 3)
    assert [set(m.frames) for m in sync.push("b", 1.001, 3)] == [{"a", "b"}]


def test_stamps_that_run_backwards_are_refused_and_counted() -> None:
    """A doubled or late frame must not enter a match twice."""
    sync = NearestStampSynchroniser[int](["a"], slop_s=0.01)

    assert len(sync.push("a", 1.0, 0)) == 1
    assert sync.push("a", 1.0, 1) == sync.push("a", 0.5, 2) == []
    assert sync.counts()["a"].out_of_order == 2


def test_every_item_is_accounted_for() -> None:
    """received = matched + dropped + waiting, with random losses, jitter and a small queue."""
    rng = np.random.default_rng(1)
    streams = {
        name: [i * PERIOD_S + rng.normal(0, 0.01) for i in range(200) if rng.random() < 0.7]
        for name in ("a", "b", "c")
    }

    sync, matches = _play(streams, queue_length=4)
    assert matches
    for name, counts in sync.counts().items():
        assert counts.received == len(streams[name])
        assert counts.received == counts.matched + counts.dropped + counts.waiting
        assert counts.matched == len(matches)


@pytest.mark.parametrize(
    ("streams", "slop_s", "queue"), [([], 0.01, 3), (["a", "a"], 0.01, 3), (["a"], 0.0, 3)]
)
def test_wrong_use_is_refused(streams: list[str], slop_s: float, queue: int) -> None:
    """No streams, a doubled name, no slop."""
    with pytest.raises(DataError):
        NearestStampSynchroniser[int](streams, slop_s=slop_s, queue_length=queue)


def test_unknown_stream_and_bad_stamp_are_refused() -> None:
    """The error names the stream."""
    sync = NearestStampSynchroniser[int](["a"], slop_s=0.01)
    with pytest.raises(DataError, match="'b'"):
        sync.push("b", 0.0, 0)
    with pytest.raises(DataError, match="nan"):
        sync.push("a", float("nan"), 0)
