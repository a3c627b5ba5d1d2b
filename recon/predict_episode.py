"""Prediction of an episode from its first frame and the recorded motion of grippers and hands.

Shapes: T frames, N nodes, M surface points, K driven points.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from physgym.frames import T_from_parts
from physgym.grip import Grip, Pusher, simulate_gripped
from physgym.sim.contact import GroundPlane
from physgym.sim.mpm.gripped import simulate_mpm
from physgym.skinning import bind, skin
from physgym.twin import Twin
from recon.identify.clip import above_ground, ground_of
from recon.identify.even_clock import EvenClock, even_clock
from recon.identify.handling import handling_of
from recon.identify.rope_nodes import rope_nodes
from recon.perception.result import Perception
from recon.predict_mpm import shown
from recon.start import Start

__all__ = ["Prediction", "predict_episode"]

_Acting = TypeVar("_Acting", Grip, Pusher)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a twin says about an episode.

    Attributes:
        points: the surface, then the nodes [m], shape (T, M + N, 3), float32.
        visible_surface: True for the points of the surface, shape (M + N,), bool.
        time_s: stamps of the episode [s], shape (T,).
        registered: False where the twin was made from this very episode and needed no placing.
    """

    points: np.ndarray
    visible_surface: np.ndarray
    time_s: np.ndarray
    registered: bool


def predict_episode(
    twin: Twin, perception: Perception, *, start: Start | None = None, adapted: bool = True
) -> Prediction:
    """Simulate an episode; nothing that later frames show of the object is looked at.

    Args:
        twin: made from this or another episode of the object.
        perception: of the episode; only `Perception.start_only` of it is used.
        start: pose and velocity where they are known; else the pose is that of the first frame, and
            the object is at rest, or in the recording that the twin was made from as fast as then.
        adapted: with the stress adapter of a continuum twin.

    Returns:
        The object in every frame.

    Raises:
        DataError: if the first frame shows no object, or the twin is of another one.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    first = perception.start_only()
    clock = even_clock(first.time_s)
    start = start or Start()
    same = twin.provenance.get("train", {}).get("source_sha256") == first.tracks.source_sha256
    nodes = np.asarray(twin.rest_position, np.float64)
    registered = start.T_world_object is None and not (same and first.tracks.source_sha256)
    if start.T_world_object is not None:
        twin = _on_table(twin, ground_of(first)).place(start.T_world_object)
        nodes = np.asarray(twin.rest_position, np.float64)
    elif registered:
        twin, nodes = _brought(twin, first)
    if registered or start.T_world_object is not None:  # not where its recording has it: at rest
        none, given = np.zeros(3), start.velocity_m_per_s
        start = dataclasses.replace(start, velocity_m_per_s=none if given is None else given)
    if twin.dynamics == "mpm":
        return _of_particles(twin, first, clock, start, registered, adapted)
    speed = start.of_nodes(twin, nodes)

    def simulate(grips: list[Grip], pushers: list[Pusher], tick: int) -> np.ndarray:
        """Nodes at a tick: where a gripper that closes then finds the object."""
        cut, boxes = _until(grips, tick), _until(pushers, tick)
        return simulate_gripped(
            twin, cut, clock.dt_s, frames=tick + 1, pushers=boxes, position=nodes, velocity=speed
        )[-1].astype(np.float64)

    moving = bool(np.any(speed))
    grips, pushers, _ = handling_of(first, clock, nodes, simulate=simulate, moving=moving)
    moved = simulate_gripped(
        twin,
        grips,
        clock.dt_s,
        frames=clock.ticks,
        pushers=pushers,
        position=nodes,
        velocity=speed,
    )
    moved = clock.at_stamps(moved)
    binding = bind(twin.parameters["surface_position_m"], twin.rest_position)
    surface = skin(binding, moved)
    points = np.concatenate([surface, moved.astype(np.float32)], axis=1)
    visible = np.arange(points.shape[1]) < surface.shape[1]
    return Prediction(points, visible, np.array(first.time_s), registered)


def _until(acting: list[_Acting], tick: int) -> list[_Acting]:
    return [dataclasses.replace(a, stop=min(a.stop, tick + 1)) for a in acting]


def _of_particles(
    twin: Twin,
    first: Perception,
    clock: EvenClock,
    start: Start,
    registered: bool,
    adapted: bool,
) -> Prediction:
    """The same of a continuum twin that has been placed."""
    velocity, spin = start.or_as_recorded(twin)
    motion_of = partial(
        simulate_mpm,
        twin,
        dt_s=clock.dt_s,
        velocity_m_per_s=velocity,
        spin_rad_per_s=spin,
        adapted=adapted,
    )

    def simulate(grips: list[Grip], pushers: list[Pusher], tick: int) -> np.ndarray:
        cut, boxes = _until(grips, tick), _until(pushers, tick)
        made = motion_of(grips=cut, frames=tick + 1, pushers=boxes)
        return made.position[-1].astype(np.float64)

    nodes = np.asarray(twin.rest_position, np.float64)
    moving = bool(np.any(velocity) or np.any(spin))
    grips, pushers, _ = handling_of(first, clock, nodes, simulate=simulate, moving=moving)
    motion = motion_of(grips=grips, frames=clock.ticks, pushers=pushers)
    points, visible = shown(twin, motion)
    at_stamps = clock.at_stamps(points).astype(np.float32)
    return Prediction(at_stamps, visible, np.array(first.time_s), registered)


def _on_table(twin: Twin, ground: GroundPlane | None) -> Twin:
    """The twin above the other recording's table, where both have one."""
    if ground is None or "ground_normal" not in twin.parameters:
        return twin
    there = {
        "ground_normal": np.array(ground.normal),
        "ground_offset_m": np.array(ground.offset_m),
    }
    return twin.replace(parameters={**twin.parameters, **there})


def _brought(twin: Twin, start: Perception) -> tuple[Twin, np.ndarray]:
    """The twin on the other recording's table, and its nodes in that recording's first frame."""
    ground = ground_of(start)
    twin = _on_table(twin, ground)
    if twin.provenance.get("nodes") == "truss":
        # The centre line of a rope is found anew; which end is which does not matter to an even
        # rope, and nothing tells.
        rest = np.asarray(start.tracks.rest_position, np.float64)[: start.surface_count]
        points = np.concatenate([rest, np.asarray(start.clouds[0], np.float64)])
        rope = rope_nodes(points, table=start.table, sections=twin.node_count // 4)
        if rope is not None:
            return twin, above_ground(rope.position, ground)
    if twin.dynamics == "mpm":
        twin = twin.place(twin.register(start.clouds[0]).T_world_object)
        if ground is not None:  # lifted as a whole: noise puts some of it under the table
            normal = np.array(ground.normal)
            depth = min(0.0, float((twin.rest_position @ normal).min()) - ground.offset_m)
            twin = twin.place(T_from_parts(np.eye(3), -depth * normal))
        return twin, np.asarray(twin.rest_position, np.float64)
    found = twin.register(start.clouds[0], ground=ground)
    return twin, above_ground(np.asarray(found.position, np.float64), ground)
