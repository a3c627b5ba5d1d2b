"""A continuum twin in motion: thrown, held, let go and pushed.

A grip drives the particles that its points reach when it takes hold; they are carried as the points
move (rigidly where the points do). A pusher is a moving box among the boundaries of the grid. When
what holds or pushes changes, a new rollout begins from the state of the one before.
Shapes: T frames, P particles, D held particles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import BlowUpError, DataError, TwinError
from physgym.frames import matrix_from_quat_wxyz
from physgym.grip import Grip, Pusher, phases
from physgym.sim.model import State
from physgym.sim.mpm.collider import Box, Collider, rest_poses
from physgym.sim.mpm.model import MpmModel
from physgym.sim.mpm.solver import MpmSolver
from physgym.sim.mpm.twins import MpmParts, mpm_of
from physgym.skinning import bind, skin
from physgym.twin import Twin

__all__ = ["MpmMotion", "centre_of_mass", "simulate_mpm", "start_of"]

# Boundaries act on grid nodes, and half of a box pushes to each side: particles leak through what
# is thinner than two cells (of 0.75 spacings half, a block on a rough table did; of 1.0 none).
_LEAST_HALF = 1.0
# Points of a hand lie on its skin, those of jaws between them: further away, nothing is held.
_FARTHEST = 4.0


@dataclass(frozen=True, eq=False)
class MpmMotion:
    """What a body did.

    Attributes:
        position: particles [m], shape (T, P, 3), float32; frame 0 is the start.
        deformation: elastic F, shape (T, P, 3, 3), float32.
        final: the state at the last frame, of one world.
    """

    position: np.ndarray
    deformation: np.ndarray
    final: State


@dataclass(frozen=True, eq=False)
class _Hold:
    """Particles that a grip took, and where they go from its first frame on."""

    particle: np.ndarray  # (D,)
    path: np.ndarray  # (frames that it acts in, D, 3)


def start_of(
    parts: MpmParts,
    *,
    velocity_m_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    spin_rad_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    device: str = "auto",
) -> State:
    """A body in its rest shape that moves rigidly.

    Args:
        parts: of the twin.
        velocity_m_per_s: of the centre of mass, shape (3,).
        spin_rad_per_s: angular velocity about it, shape (3,).
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        The state of one world.

    Raises:
        DataError: if a velocity is not three finite numbers, or a particle starts below the ground.
    """
    model = parts.model
    v, w = (np.asarray(a, np.float64) for a in (velocity_m_per_s, spin_rad_per_s))
    for name, value in (("velocity_m_per_s", v), ("spin_rad_per_s", w)):
        if value.shape != (3,) or not np.isfinite(value).all():
            raise DataError(
                f"{value.tolist()}", where=f"start_of: {name}", expected="three numbers"
            )
    _check_above_ground(model)
    speed = v + np.cross(w, model.rest_position - centre_of_mass(parts))
    state = MpmSolver(model, parts.parameters, device=device).initial_state(
        velocity=torch.as_tensor(speed, dtype=torch.float32)
    )
    # A turning body's velocity has this gradient: particles that did not carry it would lose spin.
    gradient = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    internal = state.internal.unflatten(1, (model.particle_count, -1))
    internal[..., 9:18] = torch.as_tensor(gradient.ravel()).to(internal)
    return State(state.position, state.velocity, internal.flatten(1))


def centre_of_mass(parts: MpmParts) -> np.ndarray:
    """Of a body in its rest shape.

    Args:
        parts: of the twin.

    Returns:
        [m], shape (3,).
    """
    density = parts.parameters.density_kg_per_m3.detach().cpu().numpy()[0]
    mass = density * parts.model.volume_m3
    return np.asarray(mass @ parts.model.rest_position / mass.sum())


def _check_above_ground(model: MpmModel) -> None:
    """Contact acts a cell deep; what starts deeper would be thrown out or stuck."""
    for plane in model.colliders:
        normal = matrix_from_quat_wxyz(plane.quat_wxyz)[:, 2]
        height = (model.rest_position - np.array(plane.position_m)) @ normal
        deepest = int(height.argmin())
        if height[deepest] < -model.spacing_m:
            raise DataError(
                f"particle {deepest} starts {-height[deepest]:.4g} m below the ground",
                where="initial pose",
                expected=f"no deeper than one grid spacing, {model.spacing_m:.4g} m",
                fix="raise the body (Twin.place, --initial-pose)",
            )


def simulate_mpm(
    twin: Twin,
    grips: Sequence[Grip],
    dt_s: float,
    *,
    frames: int,
    pushers: Sequence[Pusher] = (),
    velocity_m_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    spin_rad_per_s: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    start: State | None = None,
    adapted: bool = True,
    device: str = "auto",
    **options: Any,
) -> MpmMotion:
    """Simulate a continuum twin that grips hold and let go and pushers push.

    Args:
        twin: of dynamics ``mpm``, without driven particles of its own, placed where it starts.
        grips: whose motion is known in all frames.
        dt_s: time between frames [s].
        frames: T.
        pushers: likewise; a box thinner than two grid spacings is thickened to that, away from
            where the body is when the box becomes solid.
        velocity_m_per_s: of the centre of mass at the start, shape (3,).
        spin_rad_per_s: angular velocity about it at the start, shape (3,).
        start: state of one world to start from, in place of the rest shape in rigid motion.
        adapted: with the twin's stress adapter, where it has one.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        **options: of `MpmSolver`.

    Returns:
        The motion.

    Raises:
        TwinError: if the twin is no continuum, has driven particles, or a parameter is wrong.
        DataError: if a grip holds nothing or a start makes no sense.
        BlowUpError: if the simulation leaves the finite numbers or a particle its domain.
    """
    parts = _parts_of(twin, adapted)
    _check_times(grips, pushers, frames)
    if start is None:
        start = start_of(
            parts, velocity_m_per_s=velocity_m_per_s, spin_rad_per_s=spin_rad_per_s, device=device
        )
    now, count = start.clone(), parts.model.particle_count
    position = np.empty((frames, count, 3), np.float32)
    deformation = np.empty((frames, count, 3, 3), np.float32)
    position[0] = now.position[0].cpu().numpy()
    deformation[0] = now.internal[0].unflatten(0, (count, 18))[:, :9].cpu().reshape(-1, 3, 3)
    holds: dict[int, _Hold] = {}
    for first, last, acting in phases([*grips, *pushers], frames):
        held = [g for g in acting if g < len(grips)]
        boxes = [pushers[g - len(grips)] for g in acting if g >= len(grips)]
        for g in held:
            if g not in holds:
                others = [holds[h].particle for h in held if h in holds]
                holds[g] = _take_hold(twin, grips[g], g, position[first], others)
        span = slice(first, last + 1)
        phase = _phase(parts, [holds[g].particle for g in held], boxes, twin)
        paths = [holds[g].path[first - grips[g].start : last + 1 - grips[g].start] for g in held]
        driven = np.concatenate([np.zeros((last - first + 1, 0, 3), np.float32), *paths], axis=1)
        poses = _box_poses(phase.model, boxes, span, position[first]) if boxes else None
        rolled = _rollout(
            phase.solver(device=device, **options), now, driven, dt_s, poses, first_frame=first
        )
        position[span] = rolled.position[0].cpu().numpy()
        deformation[span] = rolled.deformation[0].cpu().numpy()
        now = rolled.final
    return MpmMotion(position, deformation, now)


def _parts_of(twin: Twin, adapted: bool) -> MpmParts:
    if twin.dynamics != "mpm" or len(twin.driven_index):
        raise TwinError(
            f"{twin.dynamics} dynamics with {len(twin.driven_index)} driven nodes",
            where=f"twin {twin.name}",
            expected="a body of particles (mpm) without driven ones: grips say what is driven",
        )
    parts = mpm_of(twin)
    return parts if adapted else dataclasses.replace(parts, adapter=None)


def _check_times(grips: Sequence[Grip], pushers: Sequence[Pusher], frames: int) -> None:
    if frames < 1:
        raise DataError(f"frames = {frames}", where="simulate_mpm", expected="1 or more")
    lengths = [len(g.position) for g in grips] + [len(p.pose) for p in pushers]
    for number, length in enumerate(lengths):
        if length < frames:
            raise DataError(
                f"the motion of grip or pusher {number} has {length} frames",
                where="simulate_mpm",
                expected=f"{frames} frames at least",
            )


def _take_hold(
    twin: Twin, grip: Grip, number: int, particles: np.ndarray, others: list[np.ndarray]
) -> _Hold:
    """The particles within reach of a grip's points, carried as the points move."""
    spacing_m = float(twin.parameters["spacing_m"])
    reach_m = float(twin.parameters.get("grip_radius_m", spacing_m))
    points = np.asarray(grip.position[grip.start : grip.stop], np.float64)
    distance, _ = cKDTree(points[0]).query(particles)
    nearest = float(distance.min())
    if nearest > max(reach_m, _FARTHEST * spacing_m):
        raise DataError(
            f"the points of grip {number} are {nearest:.4g} m or more from every particle when it "
            "closes",
            where=f"frame {grip.start}",
            expected=f"within {max(reach_m, _FARTHEST * spacing_m):.4g} m of the body",
            fix="place the body where the gripper finds it, or leave the grip out",
        )
    # As a grip on springs: where no point reaches a particle, all reach as far as the nearest asks.
    free = np.setdiff1d(np.arange(len(particles)), np.concatenate([np.zeros(0, int), *others]))
    index = free[distance[free] <= max(reach_m, 1.001 * nearest)]
    return _Hold(index, skin(bind(particles[index], points[0]), points))


def _phase(parts: MpmParts, held: list[np.ndarray], boxes: list[Pusher], twin: Twin) -> MpmParts:
    """The parts of a stretch of time in which the same particles are held."""
    model, parameters = parts.model, parts.parameters
    added = [
        Collider(Box(_thickened(b, model.spacing_m)), name=f"pusher {number}")
        for number, b in enumerate(boxes)
    ]
    if added:
        ground = parameters.friction.expand(1, max(1, len(model.colliders)))
        rubbed = twin.parameters.get("pusher_friction")
        theirs = ground[:, :1] if rubbed is None else torch.full((1, 1), float(rubbed))
        friction = [ground[:, : len(model.colliders)], theirs.expand(1, len(added))]
        parameters = parameters.replace(friction=torch.cat(friction, dim=1))
    model = dataclasses.replace(
        model,
        driven_index=np.concatenate([np.zeros(0, np.int32), *held]),
        colliders=(*model.colliders, *added),
    )
    return dataclasses.replace(parts, model=model, parameters=parameters)


def _thickened(box: Pusher, spacing_m: float) -> tuple[float, float, float]:
    x, y, z = (max(float(half), _LEAST_HALF * spacing_m) for half in box.half_m)
    return x, y, z


def _box_poses(
    model: MpmModel, boxes: list[Pusher], span: slice, particles: np.ndarray
) -> np.ndarray:
    """Poses of all boundaries, (1, T, K, 7): what is at rest, then the boxes."""
    theirs = np.stack([b.pose[span] for b in boxes], axis=1).astype(np.float64)
    for k, box in enumerate(boxes):
        turn = matrix_from_quat_wxyz(theirs[:, k, 3:])
        side = np.sign((particles.mean(axis=0) - theirs[0, k, :3]) @ turn[0])
        grown = np.array(_thickened(box, model.spacing_m)) - box.half_m
        theirs[:, k, :3] -= turn @ (side * grown)  # the face towards the body stays where it is
    rest = rest_poses(model.colliders)[: len(model.colliders) - len(boxes)]
    still = np.broadcast_to(rest, (len(theirs), *rest.shape))
    return np.concatenate([still, theirs], axis=1)[None]


def _rollout(
    solver: Any,
    state: State,
    driven: np.ndarray,
    dt_s: float,
    poses: np.ndarray | None,
    *,
    first_frame: int,
) -> Any:
    try:
        with torch.no_grad():
            return solver.rollout(state, torch.as_tensor(driven)[None], dt_s, collider_poses=poses)
    except BlowUpError as error:
        if first_frame == 0:
            raise
        what = f"{error.what} after frame {first_frame} of the motion"
        raise BlowUpError(
            what, world=error.world, node=error.node, substep=error.substep, fix=error.fix
        ) from error
