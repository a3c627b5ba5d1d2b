"""Prediction of an episode from its first frame and the recorded motion of grippers and hands.

Shapes: T frames, N nodes, M surface points, K driven points.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from physgym.grip import Grip, Pusher, simulate_gripped
from physgym.skinning import bind, skin
from physgym.twin import Twin
from recon.identify.clip import above_ground, ground_of
from recon.identify.even_clock import even_clock
from recon.identify.handling import handling_of
from recon.identify.rope_nodes import rope_nodes
from recon.perception.result import Perception

__all__ = ["Prediction", "predict_episode"]


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


def predict_episode(twin: Twin, perception: Perception) -> Prediction:
    """Simulate an episode; nothing that later frames show of the object is looked at.

    Args:
        twin: made from this or another episode of the object.
        perception: of the episode; only `Perception.start_only` of it is used.

    Returns:
        The object in every frame.

    Raises:
        DataError: if the first frame shows no object, or the twin is of another one.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    start = perception.start_only()
    clock = even_clock(start.time_s)
    same = twin.provenance.get("train", {}).get("source_sha256") == start.tracks.source_sha256
    nodes = np.asarray(twin.rest_position, np.float64)
    registered = not (same and start.tracks.source_sha256)
    if registered:
        twin, nodes = _brought(twin, start)

    def simulate(grips: list[Grip], pushers: list[Pusher], tick: int) -> np.ndarray:
        """Nodes at a tick: where a gripper that closes then finds the object."""
        cut = [dataclasses.replace(g, stop=min(g.stop, tick + 1)) for g in grips]
        boxes = [dataclasses.replace(p, stop=min(p.stop, tick + 1)) for p in pushers]
        return simulate_gripped(
            twin, cut, clock.dt_s, frames=tick + 1, pushers=boxes, position=nodes
        )[-1].astype(np.float64)

    grips, pushers, _ = handling_of(start, clock, nodes, simulate=simulate)
    moved = simulate_gripped(
        twin, grips, clock.dt_s, frames=clock.ticks, pushers=pushers, position=nodes
    )
    moved = clock.at_stamps(moved)
    binding = bind(twin.parameters["surface_position_m"], twin.rest_position)
    surface = skin(binding, moved)
    points = np.concatenate([surface, moved.astype(np.float32)], axis=1)
    visible = np.arange(points.shape[1]) < surface.shape[1]
    return Prediction(points, visible, np.array(start.time_s), registered)


def _brought(twin: Twin, start: Perception) -> tuple[Twin, np.ndarray]:
    """The twin on the other recording's table, and its nodes in that recording's first frame."""
    ground = ground_of(start)
    if ground is not None and "ground_normal" in twin.parameters:
        there = {
            "ground_normal": np.array(ground.normal),
            "ground_offset_m": np.array(ground.offset_m),
        }
        twin = twin.replace(parameters={**twin.parameters, **there})
    if twin.provenance.get("nodes") == "truss":
        # The centre line of a rope is found anew; which end is which does not matter to an even
        # rope, and nothing tells.
        rest = np.asarray(start.tracks.rest_position, np.float64)[: start.surface_count]
        points = np.concatenate([rest, np.asarray(start.clouds[0], np.float64)])
        rope = rope_nodes(points, table=start.table, sections=twin.node_count // 4)
        if rope is not None:
            return twin, above_ground(rope.position, ground)
    found = twin.register(start.clouds[0], ground=ground)
    return twin, above_ground(np.asarray(found.position, np.float64), ground)
