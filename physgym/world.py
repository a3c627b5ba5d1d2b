"""World: a twin in grippers, batched; what environments, planners and viewers all step.

Shapes: B worlds, T commands, N nodes, K driven points, G grippers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load_tensors
from safetensors.torch import save as _save_tensors

from physgym.errors import DataError
from physgym.sim.build import build_solver
from physgym.sim.model import State
from physgym.twin import Twin
from physgym.validity import Validity, ValidityWarning

__all__ = ["World"]


class World:
    """B copies of one twin whose driven points are held by G grippers.

    A gripper is a group of driven points that moves as one rigid body; by default every run of
    neighbouring driven nodes is one. Its reference point is the node nearest to an end of the
    object, which is where a cell reports its gripper.

    Args:
        twin: the twin, or its folder.
        worlds: B.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        grippers: nodes of each gripper; together they are the twin's driven nodes.

    Attributes:
        twin: the twin.
        worlds: B.
        node_count: N.
        gripper_nodes: nodes of each gripper, G arrays.
        validity: what the twin's data covered.
        solver: what advances the state.
    """

    def __init__(
        self,
        twin: Twin | str | Path,
        *,
        worlds: int = 1,
        device: str = "auto",
        grippers: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.twin = twin if isinstance(twin, Twin) else Twin.load(twin)
        self.worlds = worlds
        self.solver = build_solver(self.twin, worlds=worlds, device=device)
        self.node_count = self.solver.node_count
        self.validity = Validity.of(self.twin)
        driven = np.asarray(self.solver.driven_index.cpu(), dtype=np.int64)
        self.gripper_nodes = _groups(driven, grippers)
        self._warned: set[str] = set()
        # For each driven point, which gripper moves it; and for each gripper, its reference.
        owner = {node: g for g, nodes in enumerate(self.gripper_nodes) for node in nodes}
        self._owner = torch.tensor([owner[int(node)] for node in driven], dtype=torch.long)
        self._driven = torch.as_tensor(driven)
        self._reference = torch.tensor(
            [
                nodes[-1] if nodes[-1] == self.node_count - 1 else nodes[0]
                for nodes in self.gripper_nodes
            ],
            dtype=torch.long,
        )
        self._state = self.solver.initial_state(torch.tensor(self.twin.rest_position))

    @property
    def gripper_count(self) -> int:
        """G."""
        return len(self.gripper_nodes)

    @property
    def length_m(self) -> float:
        """Length of the object at rest along its nodes [m]."""
        edges = np.diff(self.twin.rest_position.astype(np.float64), axis=0)
        return float(np.linalg.norm(edges, axis=1).sum())

    @property
    def state(self) -> State:
        """A copy of everything that changes; set it to restore the worlds exactly."""
        return self._state.clone()

    @state.setter
    def state(self, state: State) -> None:
        expected = (self.worlds, self.node_count, 3)
        if tuple(state.position.shape) != expected:
            raise DataError(
                f"a state of shape {tuple(state.position.shape)}",
                where="World.state",
                expected=f"{expected}",
                fix="use State.select to repeat or pick worlds",
            )
        self._state = state.clone()

    @property
    def position(self) -> torch.Tensor:
        """Where all nodes are [m], shape (B, N, 3); a copy."""
        return self._state.position.clone()

    @property
    def gripper_position(self) -> torch.Tensor:
        """Reference point of each gripper [m], shape (B, G, 3); a copy."""
        return self.reference_of(self._state)

    @property
    def reference_nodes(self) -> list[int]:
        """The node that is each gripper's reference point, G numbers."""
        return [int(node) for node in self._reference]

    def reference_of(self, state: State) -> torch.Tensor:
        """Reference point of each gripper in some state.

        Args:
            state: of any number of worlds.

        Returns:
            Positions [m], shape (B, G, 3); a copy.
        """
        return state.position[:, self._reference.to(state.position.device)]

    def set_points(
        self,
        points: torch.Tensor | np.ndarray,
        *,
        velocity: torch.Tensor | np.ndarray | None = None,
    ) -> None:
        """Start from observed nodes.

        Args:
            points: [m], shape (N, 3) for all worlds alike or (B, N, 3).
            velocity: [m/s], the same shape; at rest when absent.

        Raises:
            DataError: if shape or numbers are wrong; the state stays as it was.
        """
        self._state = self.state_from(points, velocity=velocity)

    def state_from(
        self,
        points: torch.Tensor | np.ndarray,
        *,
        velocity: torch.Tensor | np.ndarray | None = None,
    ) -> State:
        """The state of B worlds that stand at observed nodes; this World stays as it is.

        Args:
            points: [m], shape (N, 3) for all worlds alike or (B, N, 3).
            velocity: [m/s], the same shape; at rest when absent.

        Returns:
            The state.

        Raises:
            DataError: if shape or numbers are wrong.
        """
        position = self._checked_points("points", points)
        speed = None if velocity is None else self._checked_points("velocity", velocity)
        return self.solver.initial_state(position, speed)

    def save(self) -> bytes:
        """The state of all worlds as bytes.

        Returns:
            Safetensors data, which `restore` takes back bit for bit.
        """
        tensors = {
            "position": self._state.position,
            "velocity": self._state.velocity,
            "internal": self._state.internal,
        }
        return _save_tensors(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
            metadata={"twin": self.twin.content_hash()},
        )

    def restore(self, data: bytes) -> None:
        """Take back what `save` gave.

        Args:
            data: bytes of `save`, from a World of the same twin and number of worlds.

        Raises:
            DataError: if the data is damaged or of another World; the state stays as it was.
        """
        try:
            tensors = _load_tensors(data)
            device = self._state.position.device
            parts = [tensors[key].to(device) for key in ("position", "velocity", "internal")]
        except (SafetensorError, KeyError) as error:
            raise DataError(
                f"not a saved world: {error}",
                where="World.restore",
                expected="bytes of World.save",
            ) from error
        if parts[2].shape != self._state.internal.shape:
            raise DataError(
                f"internal state of shape {tuple(parts[2].shape)}",
                where="World.restore",
                expected=f"{tuple(self._state.internal.shape)}, the same twin and solver",
            )
        self.state = State(*parts)

    def step(
        self,
        gripper_velocity: torch.Tensor | np.ndarray,
        *,
        dt_s: float,
        gripper_spin: torch.Tensor | np.ndarray | None = None,
    ) -> None:
        """Move the grippers for ``dt_s`` and let the object follow.

        Args:
            gripper_velocity: [m/s], shape (B, G, 3).
            dt_s: length of the step.
            gripper_spin: angular velocity about each gripper's reference point [rad/s],
                shape (B, G, 3).

        Raises:
            BlowUpError: if a world leaves the finite numbers.
            DataError: if shape or numbers are wrong.
        """
        velocity = self._checked_command(gripper_velocity, (self.worlds, self.gripper_count, 3))
        before = self._state.position
        driven = before[:, self._driven] + dt_s * velocity[:, self._owner]
        if gripper_spin is not None:
            spin = self._checked_command(gripper_spin, (self.worlds, self.gripper_count, 3))
            driven = self._spun(before, driven, dt_s * spin)
        after = self._state.clone()
        self.solver.step(self._state, after, driven, dt_s)
        self._state = after
        self._warn_outside(torch.stack([before, after.position], dim=1), dt_s)

    def rollout(
        self, state: State, gripper_velocity: torch.Tensor | np.ndarray, *, dt_s: float
    ) -> torch.Tensor:
        """What would happen; this World's own state stays as it is.

        Args:
            state: where to start, of B worlds, or of one world that all start from.
            gripper_velocity: [m/s], shape (B, T, G, 3).
            dt_s: how long each command is held.

        Returns:
            Nodes after each command [m], shape (B, T, N, 3).

        Raises:
            BlowUpError: if a world leaves the finite numbers.
            DataError: if shape or numbers are wrong.
        """
        commands = np.shape(gripper_velocity)[1] if np.ndim(gripper_velocity) == 4 else 0
        velocity = self._checked_command(
            gripper_velocity, (self.worlds, commands, self.gripper_count, 3)
        )
        if len(state.position) == 1 and self.worlds > 1:
            state = state.select([0] * self.worlds)
        start = state.position[:, None, self._driven]
        moved = dt_s * torch.cumsum(velocity, dim=1)[:, :, self._owner]
        driven = torch.cat([start, start + moved], dim=1).contiguous()
        with torch.no_grad():
            return self.solver.rollout(state, driven, dt_s).position[:, 1:]

    def _spun(self, before: torch.Tensor, driven: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """Turn driven points about their reference (Rodrigues' formula)."""
        arm = before[:, self._driven] - before[:, self._reference][:, self._owner]
        vector = turn[:, self._owner]
        angle = vector.norm(dim=-1, keepdim=True)
        axis = vector / angle.clamp_min(1e-12)
        turned = (
            arm * angle.cos()
            + torch.linalg.cross(axis, arm) * angle.sin()
            + axis * (axis * arm).sum(-1, keepdim=True) * (1 - angle.cos())
        )
        return driven + turned - arm

    def _checked_points(self, what: str, points: torch.Tensor | np.ndarray) -> torch.Tensor:
        value = torch.as_tensor(points, dtype=torch.float32, device=self._state.position.device)
        allowed = [(self.node_count, 3), (self.worlds, self.node_count, 3)]
        if tuple(value.shape) not in allowed:
            raise DataError(
                f"{what} of shape {tuple(value.shape)}",
                where="World.set_points",
                expected=f"{allowed[0]} or {allowed[1]}: the twin's nodes in their order",
            )
        finite = torch.isfinite(value).all(dim=-1)
        if not finite.all():
            node = int(torch.nonzero(~finite)[0, -1])
            raise DataError(
                f"{what} not finite",
                where=f"World.set_points, node {node}",
                expected="metres",
                fix="fill in unseen nodes before setting the world",
            )
        return value

    def _checked_command(
        self, command: torch.Tensor | np.ndarray, shape: tuple[int, ...]
    ) -> torch.Tensor:
        value = torch.as_tensor(command, dtype=torch.float32, device=self._state.position.device)
        if tuple(value.shape) != shape or not torch.isfinite(value).all():
            raise DataError(
                f"gripper velocity of shape {tuple(value.shape)}, "
                f"{'finite' if torch.isfinite(value).all() else 'not finite'}",
                where="World",
                expected=f"finite, shape {shape}: worlds, (commands,) grippers, xyz",
            )
        return value

    def _warn_outside(self, positions: torch.Tensor, dt_s: float) -> None:
        outside = self.validity.excess(np.asarray(positions.cpu()), dt_s=dt_s)
        for name, excess in outside.items():
            if name not in self._warned and (excess > 0).any():
                self._warned.add(name)
                warnings.warn(
                    f"{name} left what the twin's data covered "
                    f"({self.validity.describe(name)}) in world {int(np.argmax(excess))}: "
                    "do not trust the prediction there",
                    ValidityWarning,
                    stacklevel=3,
                )


def _groups(driven: np.ndarray, grippers: Sequence[Sequence[int]] | None) -> list[np.ndarray]:
    if grippers is None:
        ordered = np.sort(driven)
        return np.split(ordered, np.nonzero(np.diff(ordered) > 1)[0] + 1) if len(driven) else []
    groups = [np.sort(np.asarray(nodes, dtype=np.int64)) for nodes in grippers]
    together = np.sort(np.concatenate(groups)) if groups else np.empty(0, dtype=np.int64)
    if not np.array_equal(together, np.sort(driven)):
        raise DataError(
            f"grippers hold nodes {together.tolist()}",
            where="World.grippers",
            expected=f"each driven node of the twin once: {np.sort(driven).tolist()}",
        )
    return groups
