"""State and Control: what changes in a simulation, and what drives it.

What stays constant is the Model; each kind of physics has its own
(`physgym.sim.spring_mass.SpringMassModel`, `physgym.sim.rod.RodModel`).
Shapes: B worlds, T frames, N nodes, K driven points, M internal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from physgym.errors import DataError

__all__ = ["State", "Trajectory", "check_finite"]


@dataclass
class State:
    """All that changes: saving and restoring these three tensors restores the world exactly.

    Attributes:
        position: [m], shape (B, N, 3), float32.
        velocity: [m/s], shape (B, N, 3), float32.
        internal: what a solver carries besides (directors, friction memory), shape (B, M), float32;
            M is 0 where there is nothing to carry.
    """

    position: torch.Tensor
    velocity: torch.Tensor
    internal: torch.Tensor

    def clone(self) -> State:
        """A copy that shares no memory: this is how a world is forked."""
        return State(self.position.clone(), self.velocity.clone(), self.internal.clone())

    def select(self, worlds: torch.Tensor | list[int]) -> State:
        """A copy of some worlds, in the order given, repeats allowed.

        Args:
            worlds: indices into the batch, shape (B',).

        Returns:
            A State of B' worlds that shares no memory with this one.
        """
        index = torch.as_tensor(worlds, dtype=torch.long, device=self.position.device)
        return State(self.position[index], self.velocity[index], self.internal[index])


@dataclass
class Trajectory:
    """What a rollout gives back.

    Attributes:
        position: [m], shape (B, T, N, 3); frame 0 is the initial state.
        final: the state at the last frame, from which a rollout can go on exactly.
    """

    position: torch.Tensor
    final: State


def check_finite(value: torch.Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuse what a solver cannot step.

    Args:
        value: any tensor.
        shape: that it must have.
        name: of the tensor, for the message.

    Raises:
        DataError: if the shape differs, or a number is not finite: which one.
    """
    if tuple(value.shape) != shape:
        raise DataError(
            f"{name} has shape {tuple(value.shape)}",
            where=name,
            expected=f"{shape}",
            fix="batch axes come first: (B, N, 3) for states, (B, T, K, 3) for driven points",
        )
    finite = torch.isfinite(value.detach())
    if not bool(finite.all()):
        at = tuple(int(i) for i in (~finite).nonzero()[0])
        raise DataError(
            f"{name} has values that are not finite",
            where=f"{name}[{', '.join(map(str, at))}]",
            expected="finite numbers",
            fix="fill or mask missing samples before simulating",
        )
