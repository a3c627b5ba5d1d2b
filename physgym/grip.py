"""Grips and pushers: what holds or pushes an object from when to when, and a network under them.

A twin made from video has no driven nodes of its own: any gripper may take it anywhere. A grip adds
driven points, and springs from each to the nodes around it (PhysTwin's controller springs) for as
long as it holds; their reach, number and stiffness are parameters of the twin. A pusher is a box
that the nodes cannot enter and that they rub against.
Shapes: T frames, N nodes, K driven points, S springs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError, TwinError
from physgym.sim.build import network_of
from physgym.sim.contact import BoxCollider
from physgym.sim.spring_mass import SpringMassSolver
from physgym.twin import Twin

__all__ = ["Grip", "GripSprings", "Pusher", "grip_springs", "phases", "simulate_gripped"]

_BULGE = 0.15


@dataclass(frozen=True, eq=False)
class Grip:
    """Driven points of one gripper, plate or hand.

    Attributes:
        position: [m], shape (T, K, 3), finite in all frames.
        start: first frame in which it holds.
        stop: one past the last.
    """

    position: np.ndarray
    start: int
    stop: int

    def __post_init__(self) -> None:
        shape = np.shape(self.position)
        good = len(shape) == 3 and shape[2] == 3 and np.isfinite(self.position).all()
        if not good or not 0 <= self.start < self.stop <= shape[0]:
            raise DataError(
                f"points of shape {shape}, frames {self.start} to {self.stop}",
                where="Grip",
                expected="(T, K, 3), finite, and 0 <= start < stop <= T",
            )


@dataclass(frozen=True, eq=False)
class Pusher:
    """A moving box: a plate, or closed fingers.

    Attributes:
        pose: of its centre: position [m] and quat_wxyz, shape (T, 7).
        half_m: half sizes along its axes [m].
        start: first frame in which it is solid.
        stop: one past the last.
    """

    pose: np.ndarray
    half_m: tuple[float, float, float]
    start: int
    stop: int

    def __post_init__(self) -> None:
        shape = np.shape(self.pose)
        good = len(shape) == 2 and shape[1] == 7 and np.isfinite(self.pose).all()
        if not good or min(self.half_m) <= 0 or not 0 <= self.start < self.stop <= shape[0]:
            raise DataError(
                f"poses of shape {shape}, half sizes {self.half_m}, frames {self.start} to "
                f"{self.stop}",
                where="Pusher",
                expected="(T, 7), finite, sizes above zero, and 0 <= start < stop <= T",
            )

    def collider(self, spacing_m: float) -> BoxCollider:
        """The box for a solver.

        Args:
            spacing_m: usual distance of nodes. The box grows by a part of it: between nodes on a
                convex surface lies a bulge that the box would touch first.

        Returns:
            It.
        """
        return BoxCollider(self.half_m, margin_m=_BULGE * spacing_m)


@dataclass(frozen=True, eq=False)
class GripSprings:
    """Springs from driven points to nodes.

    Attributes:
        node: shape (S,).
        point: shape (S,).
        rest_length_m: shape (S,).
    """

    node: np.ndarray
    point: np.ndarray
    rest_length_m: np.ndarray


def grip_springs(
    nodes: np.ndarray,
    points: np.ndarray,
    *,
    radius_m: float,
    neighbours: int,
    shortest_m: float,
) -> GripSprings:
    """What driven points take hold of.

    Args:
        nodes: [m], shape (N, 3).
        points: [m], shape (K, 3).
        radius_m: reach of a point [m]. Where no point reaches a node, all reach as far as the
            nearest asks for: a grip that holds nothing would move nothing.
        neighbours: most nodes of one point.
        shortest_m: shorter springs are left out [m]; their strain has no meaning.

    Returns:
        The springs.
    """
    count = min(max(neighbours, 1), len(nodes))
    distance, near = cKDTree(nodes).query(points, k=np.arange(1, count + 1))
    reach = np.where(distance >= shortest_m, distance, np.inf).min()
    radius_m = max(radius_m, 1.001 * float(reach)) if np.isfinite(reach) else radius_m
    keep = (distance <= radius_m) & (distance >= shortest_m)
    point = np.broadcast_to(np.arange(len(points))[:, None], near.shape)
    return GripSprings(near[keep], point[keep], distance[keep])


def phases(grips: Sequence[Grip | Pusher], frames: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Stretches of time in which the same grips hold and the same pushers are solid.

    Args:
        grips: any number, pushers among them.
        frames: T.

    Returns:
        First frame, last frame and which of them act; the last frame of one stretch is the first of
        the next.
    """
    cuts = {0, frames - 1}
    for grip in grips:
        cuts |= {min(grip.start, frames - 1), min(grip.stop - 1, frames - 1)}
    edges = sorted(cuts)
    made = []
    for first, last in itertools.pairwise(edges):
        held = tuple(g for g, grip in enumerate(grips) if grip.start <= first < grip.stop - 1)
        made.append((first, last, held))
    return made


def simulate_gripped(
    twin: Twin,
    grips: Sequence[Grip],
    dt_s: float,
    *,
    frames: int,
    pushers: Sequence[Pusher] = (),
    position: np.ndarray | None = None,
    velocity: np.ndarray | None = None,
) -> np.ndarray:
    """Simulate a spring network that grips hold and let go.

    Args:
        twin: of dynamics ``spring_mass``, without driven nodes.
        grips: whose motion is known in all frames.
        dt_s: time between frames [s].
        frames: T.
        pushers: likewise.
        position: the start [m], shape (N, 3); the rest shape when None.
        velocity: at the start [m/s], shape (N, 3); none when None.

    Returns:
        [m], shape (T, N, 3), float32; the first frame as given.

    Raises:
        TwinError: if the twin cannot be gripped.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    if twin.dynamics != "spring_mass" or len(twin.driven_index):
        raise TwinError(
            f"{twin.dynamics} dynamics with {len(twin.driven_index)} driven nodes",
            where=f"twin {twin.name}",
            expected="a spring network without driven nodes, as made from an episode",
        )
    now = np.asarray(twin.rest_position if position is None else position, np.float32)
    speed = np.zeros_like(now) if velocity is None else np.asarray(velocity, np.float32)
    made = np.empty((frames, *now.shape), np.float32)
    made[0] = now
    springs: dict[int, GripSprings] = {}
    for first, last, acting in phases([*grips, *pushers], frames):
        held = [g for g in acting if g < len(grips)]
        boxes = [pushers[g - len(grips)] for g in acting if g >= len(grips)]
        for g in held:
            if g not in springs:
                springs[g] = _springs_of(twin, now, grips[g].position[first])
        solver = _solver(
            twin, now, [grips[g].position[first] for g in held], [springs[g] for g in held], boxes
        )
        span = slice(first, last + 1)
        path = [grips[g].position[span] for g in held]
        driven = np.concatenate([np.zeros((last - first + 1, 0, 3)), *path], axis=1)
        start = np.concatenate([now, driven[0].astype(np.float32)])
        state = solver.initial_state(
            torch.as_tensor(start),
            torch.as_tensor(np.concatenate([speed, np.zeros_like(driven[0], np.float32)])),
        )
        pose = np.stack([b.pose[span] for b in boxes], axis=1) if boxes else None
        with torch.no_grad():
            rolled = solver.rollout(
                state,
                torch.as_tensor(driven)[None],
                dt_s,
                collider_pose=None if pose is None else torch.as_tensor(pose)[None],
            )
        made[span] = rolled.position[0, :, : len(now)].numpy()
        now, speed = made[last], rolled.final.velocity[0, : len(now)].numpy()
    return made


def _springs_of(twin: Twin, nodes: np.ndarray, points: np.ndarray) -> GripSprings:
    try:
        return grip_springs(
            nodes,
            points,
            radius_m=float(twin.parameters["grip_radius_m"]),
            neighbours=int(twin.parameters["grip_neighbours"]),
            shortest_m=0.1 * float(twin.parameters["spacing_m"]),
        )
    except KeyError as error:
        raise TwinError(
            f"the parameter {error} is missing",
            where=f"twin {twin.name}",
            expected="a twin made from an episode, which says how it is gripped",
        ) from error


def _solver(
    twin: Twin,
    now: np.ndarray,
    points: list[np.ndarray],
    springs: list[GripSprings],
    boxes: list[Pusher],
) -> SpringMassSolver:
    """The twin with driven points appended and boxes about it."""
    model, parameters = network_of(twin)
    spacing_m = float(twin.parameters["spacing_m"])
    nodes = len(twin.rest_position)
    edges, lengths, base = [model.edges], [parameters.rest_length_m[0]], nodes
    for one, held in zip(points, springs):
        edges.append(np.stack([held.node, held.point + base], axis=1))
        lengths.append(torch.as_tensor(held.rest_length_m))
        base += len(one)
    values = twin.parameters
    grip_length = torch.cat([torch.zeros(0), *lengths[1:]]).double()
    stiffness = np.log(float(values["stiffness_n"]) * float(values["grip_stiffness_ratio"]))
    stiffness = (
        stiffness
        + float(values["length_exponent"]) * (grip_length / float(values["spacing_m"])).log()
    )
    whole = np.concatenate([np.asarray(model.rest_position), *points])
    model = dataclasses.replace(
        model,
        rest_position=whole,
        edges=np.concatenate(edges),
        driven_index=np.arange(nodes, base),
        colliders=tuple(box.collider(spacing_m) for box in boxes),
    )
    if "pusher_friction" in values:
        friction = torch.tensor([float(values["pusher_friction"])])
        parameters = parameters.replace(collider_friction=friction)
    if model.directed:
        even = parameters.asymmetry.new_zeros(1, len(grip_length))
        asymmetry = parameters.asymmetry.expand(1, len(parameters.rest_length_m[0]))
        parameters = parameters.replace(asymmetry=torch.cat([asymmetry, even], dim=1))
    parameters = parameters.replace(
        log_stiffness=torch.cat([parameters.log_stiffness[0].double(), stiffness])[None],
        rest_length_m=torch.cat([p.double() for p in lengths])[None],
        mass_kg=torch.cat([parameters.mass_kg[0], parameters.mass_kg[0, :1].expand(base - nodes)])[
            None
        ],
    )
    return SpringMassSolver(model, parameters, device="cpu")
