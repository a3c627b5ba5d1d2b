"""Who holds and who pushes an object in an episode, and when.

Shapes: T ticks, N nodes, K driven points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from physgym.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix
from physgym.grip import Grip, Pusher
from recon.identify.even_clock import EvenClock
from recon.perception.driven import GripperTrack, driven_from_gripper
from recon.perception.result import Perception

__all__ = ["Handling", "handling_of", "touches"]

# A pusher this near may touch before the next tick.
_NEAR_M = 0.02
# Grippers that close within this time of the first close on an object that is still at rest.
_STILL_S = 0.3


class Handling(NamedTuple):
    """What holds and what pushes an object.

    Attributes:
        grips: on the clock's ticks.
        pushers: likewise.
        until: tick up to which this is all; a grip that takes hold later, when the object has been
            moved, is left out unless a simulation says where the object is by then.
    """

    grips: list[Grip]
    pushers: list[Pusher]
    until: int


Simulate = Callable[[list[Grip], list[Pusher], int], np.ndarray]


def handling_of(
    perception: Perception,
    clock: EvenClock,
    nodes: np.ndarray,
    *,
    simulate: Simulate | None = None,
    moving: bool = False,
    count: int = 30,
) -> Handling:
    """What holds and what pushes the object, told from where it lies in the first frame.

    A gripper that closes on something holds it until it opens; one that closes on nothing, or never
    opens or closes, pushes with its fingers, and so does a plate.

    Args:
        perception: its grippers, plates and hands.
        clock: of the recording.
        nodes: the object in the first frame [m], shape (N, 3).
        simulate: from grips, pushers and a tick to the nodes at that tick (N, 3); None where nobody
            can say.
        moving: the object moves in the first frame: a gripper that closes later finds it elsewhere.
        count: most driven points of one grip.

    Returns:
        Grips and pushers.
    """
    grips = [Grip(clock.at_ticks(hand), 0, clock.ticks) for hand in perception.hands]
    pushers: list[Pusher] = []
    moved_from = 0 if grips else clock.ticks  # tick from which the object is elsewhere
    for gripper, (start, stop) in _closings(perception, clock):
        there = nodes
        elsewhere = moving or start > moved_from + round(_STILL_S / clock.dt_s)
        if start > 0 and elsewhere and gripper.jaws:
            if simulate is None:
                return Handling(grips, pushers, start)
            there = simulate(grips, pushers, start)
        held = _held_by(gripper, start, stop, there, count)
        if held is not None:
            grips.append(held)
            moved_from = min(moved_from, start)
        else:
            pushers.append(_pusher_of(gripper, start, stop))
            moved_from = min([moved_from, *touches(pushers[-1:], nodes)])
    return Handling(grips, pushers, clock.ticks)


def _closings(
    perception: Perception, clock: EvenClock
) -> list[tuple[GripperTrack, tuple[int, int]]]:
    """Every stretch in which a gripper is closed or a plate is there, in the order of time."""
    found = []
    for gripper in perception.grippers:
        on_ticks = _on_ticks(gripper, clock)
        closed = np.asarray(on_ticks.closed)
        closed = closed if closed.any() else np.ones(clock.ticks, bool)
        found += [(on_ticks, (a, b)) for a, b in _runs(closed) if b - a > 1]
    return sorted(found, key=lambda one: one[1])


def _held_by(
    gripper: GripperTrack, start: int, stop: int, nodes: np.ndarray, count: int
) -> Grip | None:
    """What jaws that close at a tick hold; None where nothing is in between."""
    if not gripper.jaws or not np.asarray(gripper.closed)[start]:
        return None
    alone = np.zeros(len(gripper.closed), bool)
    alone[start:stop] = True
    once = dataclasses.replace(gripper, closed=alone)
    found = driven_from_gripper(once, lambda _: nodes, count=count)
    if found is None or found.source != "jaws":
        return None
    return Grip(found.position, found.start, found.stop)


def _pusher_of(gripper: GripperTrack, start: int, stop: int) -> Pusher:
    half = gripper.tool_half_m or gripper.jaw_half_m
    turn = gripper.T_world_gripper[:, :3, :3]
    centre = gripper.T_world_gripper[:, :3, 3] + turn @ np.array(gripper.tool_centre_m)
    return Pusher(np.concatenate([centre, quat_wxyz_from_matrix(turn)], axis=1), half, start, stop)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Where flags hold, first and one past the last."""
    padded = np.concatenate([[False], np.asarray(flags, bool), [False]])
    edge = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in zip(edge[::2], edge[1::2])]


def _on_ticks(gripper: GripperTrack, clock: EvenClock) -> GripperTrack:
    if clock.ticks == len(clock.stamp_s):
        return gripper
    near = np.clip(np.searchsorted(clock.stamp_s, clock.tick_s), 0, len(clock.stamp_s) - 1)
    pose = clock.at_ticks(gripper.T_world_gripper)
    # Rotations between two frames on a straight line are a little short; make them whole again.
    u, _, vt = np.linalg.svd(pose[:, :3, :3])
    pose[:, :3, :3] = u @ vt
    return dataclasses.replace(
        gripper, T_world_gripper=pose, closed=np.asarray(gripper.closed)[near]
    )


def touches(pushers: list[Pusher], nodes: np.ndarray) -> list[int]:
    """The tick at which each pusher first comes near the nodes as they lie.

    Args:
        pushers: any number.
        nodes: [m], shape (N, 3).

    Returns:
        Ticks; none of a pusher that never does.
    """
    found = []
    for pusher in pushers:
        for tick in range(pusher.start, pusher.stop):
            local = (nodes - pusher.pose[tick, :3]) @ matrix_from_quat_wxyz(pusher.pose[tick, 3:])
            gap = np.linalg.norm(np.maximum(np.abs(local) - pusher.half_m, 0.0), axis=1)
            if gap.min() < _NEAR_M:
                found.append(tick)
                break
    return found
