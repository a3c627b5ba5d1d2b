"""The capture doctor: is a recording good enough to spend time on?

Looks at a sample of framesets and says, line by line, a number, its bar and what to do. It knows
nothing of files: whatever yields synchronised frames of calibrated cameras can be checked, a
running rig as well as an episode.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from recon.capture.checklist import CheckLine, graded
from recon.capture.surface_gap import surface_gap
from recon.capture.texture_shift import texture_shift

__all__ = ["CaptureBars", "FrameSetLike", "MaskSource", "PictureLike", "check_recording"]

_CHANGED_M = 0.02  # twice a D455's depth noise at 1 m
_CHANGED_GREY = 25
_DARK, _BRIGHT = 5, 250
_LEAK_M = 0.05  # an object's own surface bends away by less between its inside and its border
_GAP_SETS = 5  # sets in which cameras are compared: the table does not move


class PictureLike(Protocol):
    """One camera's picture: `recon.episode.Frame`, or a frame of a running rig."""

    @property
    def stamp_s(self) -> float:
        """Time [s]."""

    @property
    def rgb(self) -> np.ndarray:
        """Colour (H, W, 3) uint8."""

    @property
    def depth_m(self) -> np.ndarray | None:
        """Aligned depth (H, W) [m], 0 where there is none; None without a depth camera."""


class FrameSetLike(Protocol):
    """Pictures of one instant."""

    @property
    def stamp_s(self) -> float:
        """Mean time [s]."""

    @property
    def skew_s(self) -> float:
        """Latest minus earliest stamp [s]."""

    @property
    def frames(self) -> Mapping[str, PictureLike]:
        """Pictures by camera."""


MaskSource = Callable[[str, int], "np.ndarray | None"]
"""(camera, index in the sample) -> the object's mask (H, W) bool, or None."""


@dataclass(frozen=True)
class CaptureBars:
    """Where a recording becomes doubtful (warn) and useless (fail); each is (warn, fail).

    Attributes:
        skew_ms: 95th percentile of the spread of stamps in a set [ms]: at 0.5 m/s, 8 ms are 4 mm.
        unmatched_percent: frames that found no partner in other cameras [%].
        pause_periods: longest pause between sets, in periods of the recording.
        gap_mm: median gap between surfaces that two cameras see [mm]; fusing takes 10 mm.
        texture_mm: median shift of texture between two cameras [mm].
        holes_percent: pixels without depth, on the object where masks exist [%].
        leak_percent: mask pixels that lie on the background [%].
        view_percent: sets in which the object is in view of a camera at all [%].
        motion_percent: pixels that move, at the most moving instant of the best camera [%].
        clipped_percent: black or white pixels [%].
        pumping_percent: change of an image's mean brightness over the recording [%].
    """

    skew_ms: tuple[float, float] = (8.0, 17.0)
    unmatched_percent: tuple[float, float] = (2.0, 10.0)
    pause_periods: tuple[float, float] = (1.6, 6.0)
    gap_mm: tuple[float, float] = (5.0, 12.0)
    texture_mm: tuple[float, float] = (4.0, 10.0)
    holes_percent: tuple[float, float] = (20.0, 50.0)
    leak_percent: tuple[float, float] = (3.0, 10.0)
    view_percent: tuple[float, float] = (99.0, 80.0)
    motion_percent: tuple[float, float] = (0.5, 0.1)
    clipped_percent: tuple[float, float] = (10.0, 40.0)
    pumping_percent: tuple[float, float] = (8.0, 25.0)


def check_recording(
    sample: Iterable[FrameSetLike],
    cameras: Mapping[str, PinholeCamera],
    *,
    stamps_s: np.ndarray | None = None,
    skews_s: np.ndarray | None = None,
    unmatched: Mapping[str, tuple[int, int]] | None = None,
    masks: MaskSource | None = None,
    bars: CaptureBars | None = None,
) -> list[CheckLine]:
    """Check a recording.

    Args:
        sample: framesets spread over the recording, in order of time; 20 to 40 tell enough.
        cameras: calibrated cameras by name.
        stamps_s: stamps of all sets, (T,) [s]; those of the sample when None.
        skews_s: skews of all sets, (T,) [s]; those of the sample when None.
        unmatched: (frames in no set, all frames) by camera.
        masks: the object's masks, where there are any.
        bars: where PASS ends.

    Returns:
        One line per check; no sample at all is one FAIL.
    """
    bars = bars or CaptureBars()
    sets = list(sample)
    if not sets:
        text = "no instant shows all cameras: look at their stamps, and record again"
        return [CheckLine("framesets", "FAIL", 0.0, "", 1.0, "", text)]
    stamps_s = np.array([s.stamp_s for s in sets]) if stamps_s is None else stamps_s
    skews_s = np.array([s.skew_s for s in sets]) if skews_s is None else skews_s
    lines = _timing(stamps_s, skews_s, unmatched or {}, len(cameras), bars)
    lines += _agreement(sets, cameras, bars)
    for name in cameras:
        lines += _one_camera(name, sets, masks, bars)
    return [*lines, *_in_view(sets, cameras, masks, bars), _motion(sets, cameras, bars)]


def _timing(
    stamps_s: np.ndarray,
    skews_s: np.ndarray,
    unmatched: Mapping[str, tuple[int, int]],
    cameras: int,
    bars: CaptureBars,
) -> list[CheckLine]:
    lines = []
    if cameras > 1:
        skew_ms = float(np.percentile(skews_s, 95)) * 1e3
        advice = "use hardware sync, or move slowly: what moves is smeared over this time"
        lines.append(_grade("sync skew (95 %)", skew_ms, "ms", bars.skew_ms, "", advice))
    shares = {name: 100.0 * lost / max(total, 1) for name, (lost, total) in unmatched.items()}
    if shares:
        worst = max(shares, key=lambda name: shares[name])
        advice = "a camera dropped frames: use USB 3 ports of their own, fewer fps, no filters"
        name = "frames without partner"
        lines.append(_grade(name, shares[worst], "%", bars.unmatched_percent, worst, advice))
    if len(stamps_s) > 2:
        steps_s = np.diff(stamps_s)
        longest = float(steps_s.max() / np.median(steps_s))
        where = f"at {stamps_s[int(steps_s.argmax())] - stamps_s[0]:.2f} s"
        advice = "frames are missing here: a fast motion in this pause cannot be tracked"
        name = "longest pause"
        lines.append(_grade(name, longest, "periods", bars.pause_periods, where, advice))
    return lines


def _agreement(
    sets: Sequence[FrameSetLike], cameras: Mapping[str, PinholeCamera], bars: CaptureBars
) -> list[CheckLine]:
    """Do the cameras see the same things at the same place?"""
    lines = []
    chosen = [sets[i] for i in np.unique(np.linspace(0, len(sets) - 1, _GAP_SETS).astype(int))]
    for a, b in itertools.combinations(cameras, 2):
        gaps, shifts = [], []
        for frameset in chosen:
            first, second = frameset.frames.get(a), frameset.frames.get(b)
            if first is None or second is None or first.depth_m is None or second.depth_m is None:
                continue
            gap = surface_gap(cameras[a], first.depth_m, cameras[b], second.depth_m)
            if gap.points:
                gaps.append(gap.median_mm)
            shift = texture_shift(
                cameras[a], first.rgb, first.depth_m, cameras[b], second.rgb, second.depth_m
            )
            if shift.pixels:
                shifts.append(shift.median_mm)
        where, wrong = f"{a} - {b}", "a camera was moved: run `physgym calibrate` again"
        if gaps:
            value = float(np.median(gaps))
            lines.append(_grade("calibration: surface gap", value, "mm", bars.gap_mm, where, wrong))
        else:
            text = "no surface in common: calibration errors would go unnoticed"
            lines.append(
                CheckLine(
                    "calibration: surface gap", "WARN", None, "mm", bars.gap_mm[0], where, text
                )
            )
        if shifts:
            value = float(np.median(shifts))
            name = "calibration: texture shift"
            lines.append(_grade(name, value, "mm", bars.texture_mm, where, wrong))
    return lines


def _one_camera(
    name: str, sets: Sequence[FrameSetLike], masks: MaskSource | None, bars: CaptureBars
) -> list[CheckLine]:
    holes, leaks, clipped, means = [], [], [], []
    for i, frameset in enumerate(sets):
        picture = frameset.frames.get(name)
        if picture is None:
            continue
        grey = cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2GRAY)
        clipped.append(100.0 * float(np.mean((grey <= _DARK) | (grey >= _BRIGHT))))
        means.append(float(grey.mean()))
        mask = masks(name, i) if masks is not None else None
        mask = mask if mask is not None and mask.any() else None
        if picture.depth_m is None:
            holes.append(100.0)
            continue
        empty = ~(picture.depth_m > 0)
        holes.append(100.0 * float(empty[mask].mean() if mask is not None else empty.mean()))
        if mask is not None:
            leaks.append(_leak_percent(mask, picture.depth_m))
    if not means:
        text = "this camera is in no set: it stopped, or its clock is another"
        return [CheckLine("frames", "FAIL", 0.0, "", 1.0, name, text)]
    advice = "no depth: come nearer than 1.5 m, matt surfaces, emitter on, no sun"
    lines = [_grade("depth holes", float(np.median(holes)), "%", bars.holes_percent, name, advice)]
    if leaks:
        advice = "masks reach onto the background: shrink them, or segment again with a prompt"
        value = float(np.median(leaks))
        lines.append(_grade("mask leak", value, "%", bars.leak_percent, name, advice))
    advice = "set exposure so that neither black nor white areas remain on the object"
    value = float(np.median(clipped))
    lines.append(_grade("exposure: clipped", value, "%", bars.clipped_percent, name, advice))
    pumping = 100.0 * (max(means) - min(means)) / max(float(np.mean(means)), 1.0)
    advice = "lock exposure and white balance; colours are compared between frames"
    lines.append(_grade("exposure: pumping", pumping, "%", bars.pumping_percent, name, advice))
    return lines


def _leak_percent(mask: np.ndarray, depth_m: np.ndarray) -> float:
    """Share of the mask that lies clearly behind the object's inside next to it.

    Inside is what is at least half as far from the mask's border as its innermost pixel, so that a
    border of background as wide as a quarter of the object is still outside.
    """
    to_border = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    deepest = float(to_border.max())
    core = (to_border >= 0.5 * deepest) & (depth_m > 0)
    inside = np.where(core, depth_m, 0.0).astype(np.float32)
    side = 2 * int(np.ceil(deepest)) + 1
    farthest = cv2.dilate(inside, np.ones((side, side), np.uint8))  # of the inside near a pixel
    leaking = mask & ~core & (farthest > 0) & (depth_m > farthest + _LEAK_M)
    return 100.0 * float(leaking.sum()) / float(mask.sum())


def _in_view(
    sets: Sequence[FrameSetLike],
    cameras: Mapping[str, PinholeCamera],
    masks: MaskSource | None,
    bars: CaptureBars,
) -> list[CheckLine]:
    """With masks: does the object stay in sight, whole enough, of at least one camera?"""
    if masks is None:
        return []
    area = np.zeros((len(sets), len(cameras)))
    for i in range(len(sets)):
        for j, name in enumerate(cameras):
            mask = masks(name, i)
            area[i, j] = 0.0 if mask is None else float(mask.sum())
    seen = (area > 0.2 * np.median(area, axis=0, keepdims=True)) & (area > 0)
    percent = 100.0 * float(seen.any(axis=1).mean())
    gone = np.flatnonzero(~seen.any(axis=1))
    where = f"from {sets[int(gone[0])].stamp_s - sets[0].stamp_s:.2f} s" if len(gone) else ""
    advice = "the object leaves the view: keep it in the cameras' common field, cut the recording"
    return [_grade("object in view", percent, "%", bars.view_percent, where, advice)]


def _motion(
    sets: Sequence[FrameSetLike], cameras: Mapping[str, PinholeCamera], bars: CaptureBars
) -> CheckLine:
    best, where = 0.0, ""
    for name in cameras:
        pictures = [s.frames[name] for s in sets if name in s.frames]
        for picture in pictures[1:]:
            percent = _changed_percent(pictures[0], picture)
            if percent > best:
                best, where = percent, name
    advice = "nothing is deformed: a twin needs motion; lift, stretch or push the object further"
    return _grade("motion", best, "% of image", bars.motion_percent, where, advice)


def _changed_percent(first: PictureLike, other: PictureLike) -> float:
    if first.depth_m is not None and other.depth_m is not None:
        both = (first.depth_m > 0) & (other.depth_m > 0)
        changed = both & (np.abs(first.depth_m - other.depth_m) > _CHANGED_M)
    else:
        greys = [
            cv2.GaussianBlur(cv2.cvtColor(p.rgb, cv2.COLOR_RGB2GRAY), (0, 0), 2).astype(int)
            for p in (first, other)
        ]
        changed = np.abs(greys[0] - greys[1]) > _CHANGED_GREY
    # single pixels that flicker are noise: only areas count
    solid = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return 100.0 * float(solid.mean())


def _grade(
    name: str, value: float, unit: str, bar: tuple[float, float], where: str, advice: str
) -> CheckLine:
    return graded(name, value, unit, warn=bar[0], fail=bar[1], where=where, advice=advice)
