"""One recording as an MPM scene: particles where they start, ground and handling, and what is seen.

The ground pushes particles (`Condition.PENALTY`). The filled body is not quite the real one, so it
is lifted by a searched gap while it is simulated; what comes back has the gap taken out. The plane
lies on a layer of grid nodes, so that a twin moves alike wherever its ground is.
Shapes: B worlds, T frames, P particles, N tracked points, S surface points.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.grip import Grip, Pusher, phases
from physgym.sim.model import State
from physgym.sim.mpm.collider import Box, Collider, Condition, rest_poses
from physgym.sim.mpm.material import ElasticLaw, Material, ReturnMap
from physgym.sim.mpm.model import MpmModel, MpmParameters
from physgym.sim.mpm.ride import carry, mount
from physgym.sim.mpm.solver import MpmSolver
from physgym.skinning import bind, skin
from recon.identify.motion import Motion, Pose
from recon.identify.solid import Filling
from recon.identify.start_velocity import StartVelocity

__all__ = ["Scene", "Seen"]

_CLEAR_CELLS = 3.0  # from the ground: contact reaches a quarter of a cell, a gap at most half
_FAR_SIZES = 5.0  # of the body: where a particle has left the scene
_LEAST_HALF = 1.0  # of a pusher in cells: particles leak through thinner boxes (gripped.py)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a camera could see of a simulated body, and what it cannot, from a frame on.

    Attributes:
        tracks: tracked points [m], shape (B, T, N, 3).
        surface: [m], shape (B, T, S, 3); S = 0 where nothing is compared with clouds.
        frames: deformation gradients at the tracked points relative to the body's own frame,
            shape (B, T, N, 3, 3).
        particles: [m], shape (B, T, P, 3).
        deformation: F of the particles, the elastic one where they yield, shape (B, T, P, 3, 3).
    """

    tracks: torch.Tensor
    surface: torch.Tensor
    frames: torch.Tensor
    particles: torch.Tensor
    deformation: torch.Tensor


class Scene:
    """A motion with its body filled, ready to be simulated under candidate parameters.

    Args:
        motion: of the body.
        start: its velocity in frame 0.
        filling: particles in the body's own frame.
        reference: from the body's own frame to that of the particles at rest; material axes and
            twins live there.
        points: which tracked points are simulated, shape (N,); None takes all.
        material: of the body.
        whole: begin with frame 0 even where the body is in free flight for long.

    Attributes:
        first: frame that simulation begins with; before it the body flies rigidly.
        rest: particles at rest [m], shape (P, 3).
        spacing_m: of the grid.
        keeps_total_deformation: F of the particles is all of their deformation, as long as they do
            not yield or flow.
    """

    def __init__(
        self,
        motion: Motion,
        start: StartVelocity,
        filling: Filling,
        reference: Pose,
        *,
        points: np.ndarray | None = None,
        material: Material,
        whole: bool = False,
    ) -> None:
        self.motion, self.material, self.start = motion, material, start
        self.points = np.arange(motion.position.shape[1]) if points is None else points
        self.spacing_m = 2.0 * filling.spacing_m
        self.rest = reference.apply(filling.position)
        self._volume = filling.volume_m3
        self._normal, offset = np.zeros(3), 0.0
        if motion.ground is not None:
            self._normal, offset = np.array(motion.ground.normal), motion.ground.offset_m
        self._lift0 = -offset * self._normal
        pose = motion.start_pose()
        placed = pose.apply(filling.position)
        self.first = 0 if whole else self._clear_until(placed)
        time = self.first * motion.dt_s
        centre = start.centre_m
        spin = Rotation.from_rotvec(start.angular_rad_per_s * time).as_matrix()
        moved = centre + start.linear_m_per_s * time + 0.5 * time**2 * np.array(motion.gravity)
        velocity = start.at(placed) - start.linear_m_per_s
        self._start = (placed - centre) @ spin.T + moved
        self._speed = velocity @ spin.T + start.linear_m_per_s + time * np.array(motion.gravity)
        self._turn = spin @ pose.turn @ reference.turn.T
        own = np.asarray(motion.rest)[self.points]
        self._ride = mount(reference.apply(own), self.rest)
        surface = (
            np.zeros((0, 3)) if motion.surface is None or not motion.clouds else motion.surface
        )
        self._surface = mount(reference.apply(surface), self.rest)
        self._own_turn = torch.as_tensor(reference.turn)
        # Only then F tells where points between particles are.
        self.keeps_total_deformation = (
            material.return_map is ReturnMap.NONE and material.law is not ElasticLaw.FLUID
        )
        self._holds = self._taken(placed)

    def _clear_until(self, placed: np.ndarray) -> int:
        """Last frame of free flight in which no particle is near the ground; 0 where none is."""
        motion, start = self.motion, self.start
        if motion.ground is None or motion.grips or motion.pushers or start.contact_frame < 2:
            return 0
        low = float(((placed - start.centre_m) @ self._normal).min())
        for frame in range(start.contact_frame - 1, 0, -1):
            time = frame * motion.dt_s
            centre = start.centre_m + start.linear_m_per_s * time
            centre = centre + 0.5 * time**2 * np.array(motion.gravity)
            # A body that turns reaches down by its longest radius, not by its lowest point.
            reach = low
            if np.linalg.norm(start.angular_rad_per_s) * time > 0.1:
                reach = -float(np.linalg.norm(placed - start.centre_m, axis=1).max())
            height = float(centre @ self._normal) + reach - motion.ground.offset_m
            if height > _CLEAR_CELLS * self.spacing_m:
                return frame
        return 0

    def _taken(self, placed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Particles that each grip holds, and their paths from its first frame on."""
        made, free = [], np.ones(len(placed), bool)
        for number, grip in enumerate(self.motion.grips):
            points = np.asarray(grip.position[grip.start : grip.stop], np.float64)
            distance = np.linalg.norm(placed[:, None] - points[0][None], axis=-1).min(axis=1)
            reach = max(self.spacing_m, 1.001 * float(distance[free].min()))
            if reach > 4.0 * self.spacing_m:
                raise DataError(
                    f"grip {number} is {reach:.3g} m from every particle in frame {grip.start}",
                    where=f"{self.motion.name}: grips",
                    expected=f"within {4.0 * self.spacing_m:.3g} m",
                    fix="leave the grip out, or correct the gripper's pose",
                )
            index = np.flatnonzero(free & (distance <= reach))
            free[index] = False
            made.append((index, skin(bind(placed[index], points[0]), points)))
        return made

    def model(self, held: list[int] | None = None, boxes: list[Pusher] | None = None) -> MpmModel:
        """Particles and boundaries, in coordinates in which the ground goes through the origin.

        Args:
            held: grips that hold.
            boxes: pushers that are solid.

        Returns:
            The model.
        """
        colliders: list[Collider] = []
        if self.motion.ground is not None:
            x, y, z = self.motion.ground.normal
            colliders.append(Collider.ground(normal=(x, y, z), condition=Condition.PENALTY))
        for number, box in enumerate(boxes or ()):
            half = tuple(max(float(h), _LEAST_HALF * self.spacing_m) for h in box.half_m)
            colliders.append(Collider(Box((half[0], half[1], half[2])), name=f"pusher {number}"))
        driven = [self._holds[g][0] for g in held or ()]
        return MpmModel(
            self.rest,
            self._volume,
            self.spacing_m,
            self.material,
            tuple(colliders),
            driven_index=np.concatenate([np.zeros(0, np.int32), *driven]).astype(np.int32),
            gravity_m_per_s2=self.motion.gravity,
            domain_m=self._domain(),
        )

    def _domain(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """All that was seen and a few body lengths around it: beyond, a candidate is no use."""
        seen = self.motion.position.reshape(-1, 3)
        seen = seen[np.isfinite(seen).all(axis=1)] + self._lift0
        every = np.concatenate([seen, self.rest, self._start + self._lift0])
        reach = _FAR_SIZES * self.motion.size_m + 2.0 * self.spacing_m
        low, high = every.min(axis=0) - reach, every.max(axis=0) + reach
        a, b = ((float(c[0]), float(c[1]), float(c[2])) for c in (low, high))
        return a, b

    def simulate(
        self,
        parameters: MpmParameters,
        gap_cells: torch.Tensor,
        stop: int,
        *,
        adapter: Any = None,
        threads: int | None = None,
    ) -> Seen:
        """Roll out the frames from ``first`` up to, not including, ``stop``.

        Args:
            parameters: of B worlds; friction of shape (B or 1, 1).
            gap_cells: how far the body is lifted, in cells, shape (B,); differentiable.
            stop: one past the last frame.
            adapter: correction of the stress, or None.
            threads: of the native engine.

        Returns:
            What is seen in these frames, without the gap.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
        """
        worlds = len(gap_cells)
        normal = torch.as_tensor(self._normal, dtype=torch.float32)
        lift = gap_cells.float()[:, None] * self.spacing_m * normal
        lift = lift + torch.as_tensor(self._lift0, dtype=torch.float32)  # (B, 3)
        state: State | None = None
        made: list[tuple[torch.Tensor, torch.Tensor]] = []
        acts: list[Grip | Pusher] = [*self.motion.grips, *self.motion.pushers]
        for begin, end, acting in phases(acts, self.motion.frame_count):
            begin, end = max(begin, self.first), min(end, stop - 1)
            if begin >= end:
                continue
            held = [g for g in acting if g < len(self.motion.grips)]
            boxes = [
                self.motion.pushers[g - len(self.motion.grips)]
                for g in acting
                if g >= len(self.motion.grips)
            ]
            solver = self._solver(parameters, held, boxes, worlds, adapter, threads)
            state = self._initial(solver, lift) if state is None else state
            rolled = solver.rollout(
                state,
                self._paths(held, begin, end, lift),
                self.motion.dt_s,
                collider_poses=self._poses(solver.model, boxes, begin, end, lift),
            )
            keep = slice(0 if not made else 1, None)
            made.append((rolled.position[:, keep], rolled.deformation[:, keep]))
            state = rolled.final
        position = torch.cat([m[0] for m in made], dim=1) - lift[:, None, None]
        return self._seen(position, torch.cat([m[1] for m in made], dim=1))

    def _seen(self, position: torch.Tensor, f: torch.Tensor) -> Seen:
        whole = f if self.keeps_total_deformation else None
        tracks = carry(self._ride, position, whole)
        surface = carry(self._surface, position, whole)
        weight, near = self._ride.weight.to(f), self._ride.particle
        mixed = (weight[..., None, None] * f[..., near, :, :]).sum(dim=-3)
        return Seen(tracks, surface, mixed @ self._own_turn.to(f), position, f)

    def _solver(
        self,
        parameters: MpmParameters,
        held: list[int],
        boxes: list[Pusher],
        worlds: int,
        adapter: Any,
        threads: int | None,
    ) -> Any:
        solver = MpmSolver(
            self.model(held, boxes), parameters, worlds=worlds, device="cpu", threads=threads
        )
        if adapter is None:
            return solver
        from physgym.sim.mpm.adapted_solver import AdaptedMpmSolver

        return AdaptedMpmSolver(solver, adapter)

    def _initial(self, solver: Any, lift: torch.Tensor) -> State:
        start = torch.as_tensor(self._start, dtype=torch.float32)[None] + lift[:, None]
        speed = torch.as_tensor(self._speed, dtype=torch.float32).expand_as(start)
        f = torch.as_tensor(self._turn, dtype=torch.float32).expand(len(self.rest), 3, 3)
        state: State = solver.initial_state(start, speed, f)
        x, y, z = self.start.angular_rad_per_s
        # Particles that did not carry the gradient of a spin would lose it to the grid.
        gradient = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float32)
        internal = state.internal.unflatten(1, (len(self.rest), 18)).clone()
        internal[..., 9:] = gradient.reshape(9)
        return dataclasses.replace(state, internal=internal.flatten(1))

    def _paths(self, held: list[int], begin: int, end: int, lift: torch.Tensor) -> torch.Tensor:
        count = end - begin + 1
        paths = [np.zeros((count, 0, 3))]
        for g in held:
            first = begin - self.motion.grips[g].start
            paths.append(self._holds[g][1][first : first + count])
        path = torch.as_tensor(np.concatenate(paths, axis=1), dtype=torch.float32)
        return path[None] + lift.detach()[:, None, None]

    def _poses(
        self, model: MpmModel, boxes: list[Pusher], begin: int, end: int, lift: torch.Tensor
    ) -> np.ndarray | None:
        if not boxes:
            return None
        theirs = np.stack([b.pose[begin : end + 1] for b in boxes], axis=1).astype(np.float64)
        rest = rest_poses(model.colliders)[: len(model.colliders) - len(boxes)]
        still = np.broadcast_to(rest, (len(theirs), *rest.shape))
        moving = np.repeat(theirs[None], len(lift), axis=0)
        moving[..., :3] += lift.detach().numpy()[:, None, None]
        every = np.broadcast_to(still, (len(lift), *still.shape))
        return np.concatenate([every, moving], axis=2)

    def flight(self, stop: int) -> np.ndarray:
        """Tracked points before ``first``, in rigid free flight [m], shape (first, N, 3)."""
        start, motion = self.start, self.motion
        placed = motion.start_pose().apply(np.asarray(motion.rest)[self.points])
        time = motion.dt_s * np.arange(min(self.first, stop))[:, None, None]
        spin = Rotation.from_rotvec(time[:, 0] * start.angular_rad_per_s).as_matrix()
        turned = np.einsum("tij,nj->tni", spin, placed - start.centre_m)
        path = start.centre_m + start.linear_m_per_s * time
        return np.asarray(turned + path + 0.5 * time**2 * np.array(motion.gravity))
