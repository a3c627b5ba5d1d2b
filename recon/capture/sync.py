"""Frames of several cameras (or streams) that belong to one instant, by nearest time stamp.

Free-running cameras never share a stamp. Frames are matched when their stamps lie within `slop_s`;
with a slop of at most half a frame period no frame has two equally good partners, so a match can
be given out at once, without waiting for a later frame that might fit better.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from physgym.errors import DataError

__all__ = ["Matched", "NearestStampSynchroniser", "StreamCounts"]

T = TypeVar("T")


@dataclass(frozen=True)
class StreamCounts:
    """What became of one stream's items.

    Attributes:
        received: items pushed.
        matched: items given out in a match.
        unmatched: items dropped because no partner lay within the slop.
        overflowed: items dropped because the queue was full while another stream was silent.
        out_of_order: items refused because their stamp was not later than the last one's.
        waiting: items still queued.
    """

    received: int = 0
    matched: int = 0
    unmatched: int = 0
    overflowed: int = 0
    out_of_order: int = 0
    waiting: int = 0

    @property
    def dropped(self) -> int:
        """Items that came and were in no match: every one of them is accounted for."""
        return self.unmatched + self.overflowed + self.out_of_order


@dataclass(frozen=True)
class Matched(Generic[T]):
    """Items of one instant.

    Attributes:
        stamp_s: mean of the stamps [s].
        skew_s: latest minus earliest stamp [s].
        stamps_s: stamp of each stream's item [s].
        frames: the items by stream.
    """

    stamp_s: float
    skew_s: float
    stamps_s: dict[str, float]
    frames: dict[str, T]


class _Queue(Generic[T]):
    def __init__(self) -> None:
        self.waiting: deque[tuple[float, T]] = deque()
        self.last_s = -math.inf
        self.ended = False
        self.received = self.matched = self.unmatched = 0
        self.overflowed = self.out_of_order = 0


class NearestStampSynchroniser(Generic[T]):
    """Match items of several streams by stamp, with bounded queues; nothing is lost uncounted.

    Args:
        streams: names, at least one.
        slop_s: two items belong together when their stamps differ by at most this [s]; half a
            frame period at most, or frames may pair with a neighbour.
        queue_length: items kept per stream while the others are silent.

    Raises:
        DataError: if a name is missing or doubled, or a bound is not positive.
    """

    def __init__(self, streams: Sequence[str], *, slop_s: float, queue_length: int = 30) -> None:
        if not streams or len(set(streams)) != len(streams):
            raise DataError(
                f"cannot synchronise the streams {list(streams)}",
                where="NearestStampSynchroniser",
                expected="at least one stream, each named once",
                fix="give every camera a name of its own",
            )
        if not slop_s > 0 or queue_length < 1:
            raise DataError(
                f"slop {slop_s} s and queue length {queue_length} synchronise nothing",
                where="NearestStampSynchroniser",
                expected="slop_s > 0 and queue_length >= 1",
                fix="take half a frame period as slop, a second of frames as queue",
            )
        self.slop_s, self.queue_length = slop_s, queue_length
        self._queues: dict[str, _Queue[T]] = {name: _Queue() for name in streams}

    def push(self, stream: str, stamp_s: float, item: T) -> list[Matched[T]]:
        """Take one item.

        Args:
            stream: one of the streams.
            stamp_s: its time [s], on the clock that all streams share.
            item: whatever belongs to it.

        Returns:
            The matches that this item completes, in order of time.

        Raises:
            DataError: if there is no such stream, or the stamp is not a finite number.
        """
        queue = self._queue(stream)
        if not math.isfinite(stamp_s):
            raise DataError(
                f"a frame carries the stamp {stamp_s}",
                where=f"stream {stream!r}",
                expected="a finite time in seconds",
                fix="look at the clock of this camera",
            )
        queue.received += 1
        if stamp_s <= queue.last_s:
            queue.out_of_order += 1
            return []
        queue.last_s = stamp_s
        queue.waiting.append((stamp_s, item))
        matches = self._match()
        if len(queue.waiting) > self.queue_length:
            queue.waiting.popleft()
            queue.overflowed += 1
        return matches

    def end(self, stream: str) -> list[Matched[T]]:
        """Say that a stream has ended: the others are then matched without it.

        What it still has queued is matched as far as partners come.

        Args:
            stream: one of the streams.

        Returns:
            The matches that waited for this stream.

        Raises:
            DataError: if there is no such stream.
        """
        self._queue(stream).ended = True
        return self._match()

    def counts(self) -> dict[str, StreamCounts]:
        """What became of every item so far.

        Returns:
            One record per stream; received = matched + dropped + waiting.
        """
        return {
            name: StreamCounts(
                received=queue.received,
                matched=queue.matched,
                unmatched=queue.unmatched,
                overflowed=queue.overflowed,
                out_of_order=queue.out_of_order,
                waiting=len(queue.waiting),
            )
            for name, queue in self._queues.items()
        }

    def _queue(self, stream: str) -> _Queue[T]:
        try:
            return self._queues[stream]
        except KeyError:
            raise DataError(
                f"there is no stream {stream!r}",
                where="NearestStampSynchroniser",
                expected=", ".join(self._queues),
                fix="name the streams when the synchroniser is made",
            ) from None

    def _match(self) -> list[Matched[T]]:
        matches: list[Matched[T]] = []
        while True:
            live = {n: q for n, q in self._queues.items() if q.waiting or not q.ended}
            if not live or any(not queue.waiting for queue in live.values()):
                return matches
            pivot_s = max(queue.waiting[0][0] for queue in live.values())
            for queue in live.values():
                while queue.waiting and queue.waiting[0][0] < pivot_s - self.slop_s:
                    queue.waiting.popleft()
                    queue.unmatched += 1
                # of two that fit, the nearer one
                while len(queue.waiting) > 1 and abs(queue.waiting[1][0] - pivot_s) < abs(
                    queue.waiting[0][0] - pivot_s
                ):
                    queue.waiting.popleft()
                    queue.unmatched += 1
            heads = [queue.waiting[0][0] for queue in live.values() if queue.waiting]
            if len(heads) == len(live) and max(heads) - min(heads) <= self.slop_s:
                matches.append(self._take(live))

    @staticmethod
    def _take(live: dict[str, _Queue[T]]) -> Matched[T]:
        stamps: dict[str, float] = {}
        items: dict[str, T] = {}
        for name, queue in live.items():
            stamps[name], items[name] = queue.waiting.popleft()
            queue.matched += 1
        values = list(stamps.values())
        # from the first one on: sums of wall-clock stamps would round to a microsecond
        mean_s = values[0] + sum(value - values[0] for value in values) / len(values)
        return Matched(mean_s, max(values) - min(values), stamps, items)
