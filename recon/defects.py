"""What goes wrong in point tracks, found from the motion alone: no camera, no topology given.

Three defects of motion capture and point tracking, each seen in real recordings:

- exchanged: two points carry each other's identity for a while, so links that never stretch do;
- spike: one point is elsewhere for up to three frames and comes back, while the others move on;
- lost frames: every point jumps ahead by several frames' worth of motion in one.

Thresholds are shares of the spacing of the points or multiples of a point's own noise, so they do
not depend on the unit of the object's size. Shapes: T frames, N points, M links, K driven points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["Links", "find_breaks", "find_links", "find_spikes", "find_stretched", "find_swaps"]

# Two points are linked when their distance scatters by less than this share of it (or of the
# spacing, where a link is short against it).
_LINK_SPREAD = 0.05
_STRETCH = 0.15  # a link longer than this share above its length is not believed
_SWAP_GAIN = 0.3  # exchanging must leave less than this share of the length error
_SPIKE_SPACING = 0.05  # a spike is at least this share of the spacing,
_SPIKE_SIGMA = 8.0  # this many times the point's own scatter,
_SPIKE_OTHERS = 5.0  # and this many times what the other points do in that frame
_SPIKE_FRAMES = 3
_BREAK_SPACING = 0.1
_BREAK_RATIO = 1.7  # one lost frame doubles a step; 1.7 leaves room for acceleration
_SIDE_RATIO = 1.3  # than the step before and the one after; what falls goes faster after it


@dataclass(frozen=True, eq=False)
class Links:
    """Pairs of neighbouring points whose distance hardly changes.

    Attributes:
        pair: node indices, shape (M, 2), int64.
        length_m: usual distance [m], shape (M,).
        spacing_m: usual distance from a point to its nearest [m].
    """

    pair: np.ndarray
    length_m: np.ndarray
    spacing_m: float


def find_links(position: np.ndarray, *, sample_count: int = 400, neighbours: int = 8) -> Links:
    """Which points hang together, from how their distances vary.

    Candidates are near neighbours; a pair is dropped when a third point is nearer to both (the
    relative neighbourhood graph), so a chain gives its edges and not its second neighbours.

    Args:
        position: [m], shape (T, N, 3), NaN where not seen; several clips may be strung together.
        sample_count: at most so many frames are looked at, evenly spread.
        neighbours: candidates per point.

    Returns:
        The links; none for an object that stretches everywhere.
    """
    frames, nodes = position.shape[:2]
    index = np.unique(np.linspace(0, frames - 1, sample_count).astype(np.int64))
    sample = np.asarray(position, dtype=np.float64)[index]
    none = np.zeros((0, 2), np.int64)
    seen = np.asarray(np.isfinite(sample).all(-1))
    if nodes < 2 or seen.sum(1).max() < 2:
        return Links(none, np.zeros(0), 0.0)
    pair = _candidates(sample, seen, min(neighbours, nodes - 1))
    distance = np.linalg.norm(sample[:, pair[:, 0]] - sample[:, pair[:, 1]], axis=-1)
    keep = np.isfinite(distance).sum(0) > 0
    pair, distance = pair[keep], distance[:, keep]
    length = np.nanmedian(distance, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(distance - length), axis=0)
    nearest = np.full(nodes, np.inf)
    np.minimum.at(nearest, pair[:, 0], length)
    np.minimum.at(nearest, pair[:, 1], length)
    spacing = float(np.median(nearest[np.isfinite(nearest)]))
    steady = spread < _LINK_SPREAD * np.maximum(length, spacing)
    keep = _relative_neighbours(pair, length) & steady
    return Links(pair[keep], length[keep], spacing)


def find_swaps(
    position: np.ndarray, links: Links, *, longest: int = 200
) -> list[tuple[int, int, np.ndarray]]:
    """Frames in which two points carry each other's identity.

    A frame is evidence when some link is stretched beyond belief and exchanging the two points
    brings the links of both back to their lengths. Identities only change where the line from one
    point to the other turns round within a frame, so the evidence decides for whole runs of frames
    between such turns, also where a bend hides it.

    Args:
        position: [m], shape (T, N, 3), NaN where not seen.
        links: from `find_links`.
        longest: give up when more links than this stretch: then the object is simply soft.

    Returns:
        For each pair (i, j) the frames, shape (T,), bool.
    """
    stretched = find_stretched(position, links)
    bad = np.flatnonzero(stretched.any(0))
    if len(bad) == 0 or len(bad) > longest:
        return []
    near = _neighbour_sets(links)
    pairs = set()
    for link in bad:
        for node in links.pair[link]:
            for other in near[int(node)] | {m for n in near[int(node)] for m in near[n]}:
                if other != node:
                    pairs.add((min(int(node), other), max(int(node), other)))
    if not pairs:
        return []
    gains = {pair: _swap_gain(position, links, *pair) for pair in sorted(pairs)}
    best = np.max(np.stack([gain for gain, _ in gains.values()]), axis=0)
    found = []
    for (i, j), (gain, against) in gains.items():
        evidence = (gain > 0) & (gain == best) & stretched.any(1)
        frames = _whole_runs(position[:, j] - position[:, i], evidence, against)
        if frames.any():
            found.append((i, j, frames))
    return found


def find_stretched(position: np.ndarray, links: Links) -> np.ndarray:
    """Which links are longer than they can be.

    A shorter one is no defect: a bent cable's chord is shorter than its arc.

    Args:
        position: [m], shape (T, N, 3), NaN where not seen.
        links: from `find_links`.

    Returns:
        Shape (T, M), bool.
    """
    length = np.linalg.norm(position[:, links.pair[:, 0]] - position[:, links.pair[:, 1]], axis=-1)
    limit = links.length_m + np.maximum(_STRETCH * links.length_m, _STRETCH * links.spacing_m)
    stretched: np.ndarray = length > limit
    return stretched


def find_spikes(position: np.ndarray, spacing_m: float) -> np.ndarray:
    """Samples in which one point is elsewhere for up to three frames and comes back.

    Each run of samples is compared with the cubic through the two samples before and the two after
    it. The first two and the last two frames have no such neighbours and are never flagged.

    Args:
        position: [m], shape (T, N, 3), NaN where not seen.
        spacing_m: usual distance between neighbouring points [m].

    Returns:
        Shape (T, N), bool.
    """
    track = np.array(position, dtype=np.float64)
    frames, nodes = track.shape[:2]
    spikes = np.zeros((frames, nodes), dtype=bool)
    for run in range(1, _SPIKE_FRAMES + 1):
        count = frames - run - 3
        if count < 1:
            break
        # Smallest deviation within the run: every sample of it must be off.
        off = np.full((count, nodes), np.inf)
        for inner in range(run):
            guess = _through_outer(track, run, inner, count)
            off = np.minimum(
                off, np.linalg.norm(track[2 + inner : 2 + inner + count] - guess, axis=-1)
            )
        known = np.isfinite(off)
        scatter = 1.4826 * _median(off, known, axis=0)
        others = _median(off, known, axis=1)[:, None]
        off = np.where(known, off, 0.0)
        limit = np.maximum(_SPIKE_SPACING * spacing_m, _SPIKE_SIGMA * scatter)
        hit = (off > limit) & (off > _SPIKE_OTHERS * others)
        hit &= _is_peak(off) & _moves_smoothly_around(track, run, count, 0.5 * off)
        for inner in range(run):
            spikes[2 + inner : 2 + inner + count] |= hit
        track[spikes] = np.nan
    return spikes


def find_breaks(position: np.ndarray, spacing_m: float) -> list[tuple[int, float]]:
    """Steps in which the whole object moves several frames' worth: frames were lost there.

    Args:
        position: [m], shape (T, N, 3), NaN where not seen.
        spacing_m: usual distance between neighbouring points [m].

    Returns:
        For each break the frame after it and about how many frames are missing.
    """
    step = np.diff(np.asarray(position, dtype=np.float64), axis=0)
    if len(step) < 3:
        return []
    usual = 0.5 * (step[:-2] + step[2:])
    middle = step[1:-1]
    both = np.asarray(np.isfinite(usual + middle).all(-1))
    jump = np.where(both, np.linalg.norm(middle - usual, axis=-1), 0.0)
    scatter = 1.4826 * _median(jump, both, axis=0)
    limit = np.maximum(_BREAK_SPACING * spacing_m, _SPIKE_SIGMA * scatter)
    many = (jump > limit).sum(1) * 3 >= np.maximum(both.sum(1), 1)
    usual, middle = np.where(both[..., None], usual, 0.0), np.where(both[..., None], middle, 0.0)
    along = (usual * middle).sum((1, 2))
    ratio = along / np.maximum((usual**2).sum((1, 2)), 1e-12)
    rest = ((middle - ratio[:, None, None] * usual) ** 2).sum((1, 2))
    same_way = rest < 0.5 * (middle**2).sum((1, 2))
    # Before and after a lost frame the object moves alike. Where it bounces or turns round it does
    # not, and their mean is next to nothing.
    sides = [np.where(both[..., None], side, 0.0) for side in (step[:-2], step[2:])]
    least = [(s * middle).sum((1, 2)) / np.maximum((s**2).sum((1, 2)), 1e-12) for s in sides]
    longer = np.minimum(*least) > _SIDE_RATIO
    hits = np.flatnonzero(many & same_way & longer & (ratio > _BREAK_RATIO))
    return [(int(hit) + 2, float(ratio[hit] - 1.0)) for hit in hits]


def _median(value: np.ndarray, known: np.ndarray, *, axis: int) -> np.ndarray:
    """Median of the known numbers along an axis, 0 where there are none."""
    masked = np.where(known, value, np.inf)
    ordered = np.sort(masked, axis=axis)
    middle = np.maximum(known.sum(axis) - 1, 0) // 2
    found = np.take_along_axis(ordered, np.expand_dims(middle, axis), axis).squeeze(axis)
    return np.asarray(np.where(np.isfinite(found), found, 0.0))


def _candidates(sample: np.ndarray, seen: np.ndarray, neighbours: int) -> np.ndarray:
    """Near pairs in a few frames of the sample, shape (M, 2), each once with i < j."""
    pairs = []
    fullest = np.argsort(-seen.sum(1), kind="stable")[: max(1, len(sample) // 8)]
    for frame in fullest[:: max(1, len(fullest) // 8)]:
        nodes = np.flatnonzero(seen[frame])
        if len(nodes) < 2:
            continue
        count = min(neighbours, len(nodes) - 1)
        _, near = cKDTree(sample[frame, nodes]).query(sample[frame, nodes], k=count + 1)
        first = np.repeat(nodes, count)
        pairs.append(np.stack([first, nodes[near[:, 1:].ravel()]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _relative_neighbours(pair: np.ndarray, length: np.ndarray) -> np.ndarray:
    distance: dict[int, dict[int, float]] = {}
    for (i, j), value in zip(pair.tolist(), length.tolist()):
        distance.setdefault(i, {})[j] = value
        distance.setdefault(j, {})[i] = value
    keep = np.ones(len(pair), dtype=bool)
    for row, ((i, j), value) in enumerate(zip(pair.tolist(), length.tolist())):
        common = distance[i].keys() & distance[j].keys()
        keep[row] = not any(max(distance[i][k], distance[j][k]) < value for k in common)
    return keep


def _neighbour_sets(links: Links) -> dict[int, set[int]]:
    near: dict[int, set[int]] = {}
    for i, j in links.pair.tolist():
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)
    return near


def _swap_gain(position: np.ndarray, links: Links, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Length error [m] that exchanging i and j removes, 0 where it does not explain it; (T,).

    And whether the frame speaks against it, because the exchange would be the one to explain.
    """
    rows = np.flatnonzero(((links.pair == i) | (links.pair == j)).any(1))
    pair, length = links.pair[rows], links.length_m[rows]
    exchanged = np.where(pair == i, j, np.where(pair == j, i, pair))

    def error(ends: np.ndarray) -> np.ndarray:
        off = np.linalg.norm(position[:, ends[:, 0]] - position[:, ends[:, 1]], axis=-1) - length
        total: np.ndarray = np.where(np.isfinite(off), np.abs(off), 0.0).sum(1)
        return total

    before, after = error(pair), error(exchanged)
    enough = np.abs(before - after) > _STRETCH * links.spacing_m
    explained = enough & (after < _SWAP_GAIN * before)
    return np.where(explained, before - after, 0.0), enough & (before < _SWAP_GAIN * after)


def _whole_runs(line: np.ndarray, evidence: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Runs between turns of the line (T, 3) in which evidence outweighs what is against; (T,)."""
    turns = np.flatnonzero((line[1:] * line[:-1]).sum(-1) < 0) + 1
    frames = np.zeros(len(line), dtype=bool)
    for run in np.split(np.arange(len(line)), turns):
        frames[run] = evidence[run].sum() > against[run].sum()
    return frames


def _through_outer(track: np.ndarray, run: int, inner: int, count: int) -> np.ndarray:
    """Cubic through the samples at -2, -1, run, run + 1, read at ``inner``; (count, N, 3)."""
    outer = np.array([-2.0, -1.0, run, run + 1.0])
    guess = np.zeros((count, *track.shape[1:]))
    for k, at in enumerate(outer):
        others = np.delete(outer, k)
        weight = float(np.prod((inner - others) / (at - others)))
        start = int(at) + 2
        guess += weight * track[start : start + count]
    return guess


def _is_peak(off: np.ndarray) -> np.ndarray:
    """Whether a deviation is the largest of its point within two frames either way."""
    padded = np.pad(off, ((2, 2), (0, 0)))
    around = np.max([padded[k : k + len(off)] for k in range(5)], axis=0)
    peak: np.ndarray = off >= around
    return peak


def _moves_smoothly_around(
    track: np.ndarray, run: int, count: int, limit: np.ndarray
) -> np.ndarray:
    """Whether the point after the run is where the motion before it leads to."""
    before, after = track[1 : 1 + count], track[2 + run : 2 + run + count]
    speed = 0.5 * (before - track[:count] + track[3 + run : 3 + run + count] - after)
    miss = np.linalg.norm(after - before - (run + 1) * speed, axis=-1)
    smooth: np.ndarray = miss < limit
    return smooth
