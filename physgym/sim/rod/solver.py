"""RodSolver: B worlds of one cable behind the Solver contract.

Shapes: B worlds, T frames, N nodes, K driven points.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import warp as wp

from physgym.errors import BlowUpError, DataError
from physgym.sim.device import resolve_device
from physgym.sim.model import State, Trajectory
from physgym.sim.rod import native
from physgym.sim.rod.directors import clamp_directors, initial_directors, transport, turning, unit
from physgym.sim.rod.model import RodModel, RodParameters, voronoi_length
from physgym.sim.rod.stability import rod_step_limit
from physgym.sim.timestep import substep_count

__all__ = ["RodSolver"]

# An edge this many times its rest length has not stretched, it has blown up.
_TORN = 10.0


class RodSolver:
    """Discrete elastic rod with bending, twist, natural curvature, internal friction and damping.

    Explicit in stretching and bending, quasi-static in twist (a cable's twist waves are far faster
    than anything a camera sees). Limitations: no contact, no self-collision, round cross-section.

    Args:
        model: the rod.
        parameters: its parameters, fields with or without a world axis.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        substeps_per_frame: override of the number that follows from the stability limit.
        substeps_at_most: cap on that number; worlds that would need more flail or blow up. For
            searches, where one absurdly stiff candidate must not slow down all others.
        safety: fraction of the stability limit that is used.
        threads: CPU threads; all cores by default. The result does not depend on it.
    """

    def __init__(
        self,
        model: RodModel,
        parameters: RodParameters,
        *,
        worlds: int = 1,
        device: str = "auto",
        substeps_per_frame: int | None = None,
        substeps_at_most: int | None = None,
        safety: float = 0.7,
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.worlds = worlds
        self.node_count = model.node_count
        self.device = resolve_device(device)
        self.driven_index = torch.tensor(model.driven_index, dtype=torch.long)
        self._substeps = substeps_per_frame
        self._substeps_at_most = substeps_at_most
        self._safety = safety
        self._threads = threads or os.cpu_count() or 1
        if self.device == "cpu":
            # Before threads launch: loading is not thread-safe.
            wp.load_module(native, device="cpu")
        self.set_parameters(parameters)

    def set_parameters(self, parameters: RodParameters) -> None:
        """Replace the parameters of all worlds.

        Args:
            parameters: fields with or without a world axis.

        Raises:
            DataError: on a wrong shape or range.
        """
        full = parameters.broadcast(self.worlds, self.node_count)
        self.parameters = full
        self.step_limit = rod_step_limit(self.model, full)
        spread = voronoi_length(full.rest_length_m)
        bend = np.zeros((self.worlds, self.node_count, 3))
        bend[:, 1:-1, 0] = full.bending_stiffness_nm2 / spread[:, 1:-1]
        bend[:, 1:-1, 1:] = full.natural_curvature_rad
        inv_mass = 1.0 / (full.linear_density_kg_per_m[:, None] * spread)
        inv_mass[:, list(self.model.driven_index)] = 0.0
        scalars = [getattr(full, name) for name in native.SCALARS[:-1]]
        scalars += [np.cos(full.end_roll_rad), np.sin(full.end_roll_rad)]
        self._constant = [
            _to_lanes(values)
            for values in (
                full.clamp_tangent,
                full.clamp_director,
                bend,
                full.rest_length_m,
                inv_mass,
                np.stack(scalars, -1),
            )
        ]

    def substeps(self, dt_s: float) -> int:
        """Number of substeps in a frame.

        Args:
            dt_s: length of the frame [s].

        Returns:
            The override, or what the stability limit asks for.
        """
        count = self._substeps or substep_count(dt_s, self.step_limit, safety=self._safety)
        return min(count, self._substeps_at_most or count)

    def initial_state(self, position: torch.Tensor, velocity: torch.Tensor | None = None) -> State:
        """A State from observed nodes; the twist is spread evenly, the friction is relaxed.

        Args:
            position: [m], shape (N, 3) or (B, N, 3).
            velocity: [m/s], the same shape; zero when absent.

        Returns:
            A State of B worlds.

        Raises:
            DataError: on a wrong shape, a number that is not finite or two nodes at one place.
        """
        x = self._nodes(position, "position")
        v = np.zeros_like(x) if velocity is None else self._nodes(velocity, "velocity")
        edges = np.diff(x, axis=1)
        if not (np.linalg.norm(edges, axis=-1) > 1e-6).all():
            raise DataError(
                "two neighbouring nodes of the rod are at one place",
                where="initial_state: position",
                expected="distinct neighbours",
                fix="check the tracks of this frame",
            )
        directors = self._end_directors(unit(edges))
        tangents, m1 = initial_directors(x, *directors)
        memory = np.zeros((self.worlds, self.node_count, native.MEMORY))
        memory[:, 1:-1, 0:2] = memory[:, 1:-1, 2:4] = turning(tangents, m1)
        internal = np.concatenate(
            [part.reshape(self.worlds, -1) for part in (m1, tangents, memory)], axis=1
        )
        return State(*(torch.from_numpy(a.astype(np.float32)) for a in (x, v, internal)))

    def _end_directors(self, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        first, last = clamp_directors(
            tangents,
            self.parameters.clamp_tangent,
            self.parameters.clamp_director,
            self.parameters.end_roll_rad,
        )
        holds_first, holds_last = self.model.clamped
        if holds_first or not holds_last:
            return first, last if holds_last else None
        # Held at the far end only: the first director follows from the last, without twist.
        flipped = np.flip(tangents, 1)
        carried = last
        for j in range(1, flipped.shape[1]):
            carried = unit(transport(carried, flipped[:, j - 1], flipped[:, j]))
        return carried, last

    def _nodes(self, values: torch.Tensor, name: str) -> np.ndarray:
        array = np.asarray(values, np.float64)
        if array.shape == (self.node_count, 3):
            array = np.broadcast_to(array, (self.worlds, self.node_count, 3))
        if array.shape != (self.worlds, self.node_count, 3) or not np.isfinite(array).all():
            raise DataError(
                f"{name} of shape {tuple(np.shape(values))}"
                + ("" if np.isfinite(array).all() else " with numbers that are not finite"),
                where=f"initial_state: {name}",
                expected=f"finite numbers of shape ({self.worlds}, {self.node_count}, 3)",
                fix="start from a frame in which every node was seen",
            )
        return array

    def step(self, state_in: State, state_out: State, driven: torch.Tensor, dt_s: float) -> None:
        """Advance one frame; see `physgym.sim.solver.Solver.step`.

        Args:
            state_in: the state at the start; left as it is.
            state_out: receives the state at the end.
            driven: where the driven points end [m], shape (B, K, 3).
            dt_s: length of the frame [s].
        """
        start = state_in.position[:, self.driven_index]
        path = torch.stack([start, torch.as_tensor(driven, dtype=torch.float32)], dim=1)
        final = self.rollout(state_in, path, dt_s).final
        state_out.position, state_out.velocity = final.position, final.velocity
        state_out.internal = final.internal

    def rollout(
        self, state: State, driven: torch.Tensor, dt_s: float, *, check: bool = True
    ) -> Trajectory:
        """Advance T - 1 frames; see `physgym.sim.solver.Solver.rollout`.

        Args:
            state: the state at frame 0.
            driven: driven points at every frame [m], shape (B, T, K, 3).
            dt_s: time between frames [s].
            check: raise on a blow-up; without it, worlds that blew up hold non-finite numbers.

        Returns:
            The positions at all T frames and the final state.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
            DataError: on a wrong shape.
        """
        path = np.asarray(driven, np.float32)
        frames = path.shape[1] - 1 if path.ndim == 4 else -1
        expected = (self.worlds, frames + 1, len(self.model.driven_index), 3)
        if path.shape != expected or frames < 0:
            raise DataError(
                f"driven points of shape {path.shape}",
                where="RodSolver.rollout: driven",
                expected=f"(B, T, K, 3) = ({expected[0]}, T, {expected[2]}, 3)",
                fix="give every driven point at every frame, frame 0 included",
            )
        substeps = self.substeps(dt_s)
        parts = self._unpack(state)
        run = native_rollout if self.device == "cpu" else _plain_rollout()
        out = run(self, parts, path, frames, substeps, dt_s)
        positions = np.concatenate([np.asarray(state.position, np.float32)[:, None], out], axis=1)
        final = self._pack(parts)
        if check:
            self._check(positions, final.velocity.numpy(), substeps)
        return Trajectory(torch.from_numpy(positions), final)

    def _unpack(self, state: State) -> list[np.ndarray]:
        edges, count = self.node_count - 1, self.worlds
        internal = np.asarray(state.internal, np.float32)
        m1, tangents, memory = np.split(internal, [3 * edges, 6 * edges], axis=1)
        return [
            np.asarray(state.position, np.float32).copy(),
            np.asarray(state.velocity, np.float32).copy(),
            m1.reshape(count, edges, 3),
            tangents.reshape(count, edges, 3),
            memory.reshape(count, self.node_count, native.MEMORY),
        ]

    def _pack(self, parts: list[np.ndarray]) -> State:
        internal = np.concatenate([p.reshape(self.worlds, -1) for p in parts[2:]], axis=1)
        return State(*(torch.from_numpy(a) for a in (parts[0], parts[1], internal)))

    def _check(self, positions: np.ndarray, velocity: np.ndarray, substeps: int) -> None:
        # Quadratic drag is implicit and bounds the speed of a rod that blew up: it ends torn apart,
        # but finite. Looking at the last frame is enough, and cheap.
        most = _TORN * self.parameters.rest_length_m[:, None]
        finite = np.isfinite(velocity).all() and np.isfinite(positions).all()
        if finite and not (_edge_lengths(positions[:, -1:]) > most).any():
            return
        bad = ~np.isfinite(positions).all(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            bad[:, 1:, 1:] |= _edge_lengths(positions[:, 1:]) > most
        first_frame = int(np.argmax(bad.any((0, 2)))) if bad.any() else 0
        world, node = (int(i) for i in np.argwhere(bad[:, first_frame])[0]) if bad.any() else (0, 0)
        raise BlowUpError(
            f"the rod left the finite numbers, or an edge grew {_TORN:g} times its length",
            world=world,
            node=node,
            substep=first_frame * substeps,
            fix=f"the stability limit is {self.step_limit.dt_s:.2e} s and node "
            f"{self.step_limit.node} sets it: raise substeps_per_frame (now {substeps}), lower "
            "stretch_stiffness_n or bending_stiffness_nm2, or look for jumps in the driven path",
        )


def _edge_lengths(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(positions, axis=-2), axis=-1)


def _plain_rollout():
    from physgym.sim.rod.plain import plain_rollout

    return plain_rollout


def _to_lanes(values: np.ndarray) -> np.ndarray:
    """(B, ...) to flat (groups, ..., 16); the last world fills the lanes that are left."""
    count = len(values)
    groups = -(-count // native.LANES)
    padded = values
    if groups * native.LANES != count:
        fill = np.repeat(values[-1:], groups * native.LANES - count, axis=0)
        padded = np.concatenate([values, fill])
    lanes = padded.reshape(groups, native.LANES, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(lanes, 1, -1), dtype=np.float32).reshape(-1)


def _from_lanes(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_to_lanes` for an array of shape (B, ...)."""
    groups = -(-shape[0] // native.LANES)
    lanes = np.moveaxis(flat.reshape(groups, *shape[1:], native.LANES), -1, 1)
    return np.ascontiguousarray(lanes.reshape(groups * native.LANES, *shape[1:])[: shape[0]])


def native_rollout(
    solver: RodSolver,
    parts: list[np.ndarray],
    driven: np.ndarray,
    frames: int,
    substeps: int,
    dt_s: float,
) -> np.ndarray:
    """Run the SIMD kernel over all worlds, groups of 16 shared out over the threads.

    Args:
        solver: whose model and constants are used.
        parts: position, velocity, directors, tangents, memory; replaced by the final ones.
        driven: [m], shape (B, T, K, 3).
        frames: T - 1.
        substeps: per frame.
        dt_s: time between frames [s].

    Returns:
        Positions of frames 1 to T-1 [m], shape (B, T-1, N, 3).
    """
    state = [wp.from_numpy(_to_lanes(p), dtype=float, device="cpu") for p in parts]
    constant = [wp.from_numpy(c, dtype=float, device="cpu") for c in solver._constant]
    groups = -(-solver.worlds // native.LANES)
    model = solver.model
    index = wp.array(np.array(model.driven_index, np.int32), dtype=int, device="cpu")
    path = wp.from_numpy(_to_lanes(driven), dtype=float, device="cpu")
    size = groups * frames * model.node_count * 3 * native.LANES
    out = wp.empty(size, dtype=float, device="cpu")
    first, last = (int(held) for held in model.clamped)

    def launch(bounds: tuple[int, int]) -> None:
        begin, end = bounds
        wp.launch(
            native.rod_rollout_kernel,
            dim=end - begin,
            inputs=[
                begin, model.node_count, first, last, *state, *constant, index,
                len(model.driven_index), path, frames, substeps, dt_s / substeps,
                *model.gravity_m_per_s2, out,
            ],
            device="cpu",
        )  # fmt: skip

    cuts = np.linspace(0, groups, min(solver._threads, groups) + 1).astype(int)
    shares = list(zip(cuts[:-1].tolist(), cuts[1:].tolist()))
    if len(shares) == 1:
        launch(shares[0])
    else:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(launch, shares))
    shapes = [p.shape for p in parts]
    parts[:] = [_from_lanes(s.numpy(), shape) for s, shape in zip(state, shapes)]
    return _from_lanes(out.numpy(), (solver.worlds, frames, model.node_count, 3))
