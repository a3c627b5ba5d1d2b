"""The Solver contract: every kind of physics steps B worlds at once behind these methods."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from physgym.sim.model import State, Trajectory

__all__ = ["Solver"]


@runtime_checkable
class Solver(Protocol):
    """Advances B worlds of one topology.

    Attributes:
        worlds: B.
        node_count: N.
        driven_index: nodes that are driven, shape (K,); their motion is given, never predicted.
        device: Warp and torch name of the device.
    """

    worlds: int
    node_count: int
    driven_index: torch.Tensor
    device: str

    def initial_state(self, position: torch.Tensor, velocity: torch.Tensor | None = None) -> State:
        """A State from observed nodes.

        Args:
            position: [m], shape (N, 3) or (B, N, 3).
            velocity: [m/s], the same shape; zero when absent.

        Returns:
            A State of B worlds.
        """
        ...

    def step(self, state_in: State, state_out: State, driven: torch.Tensor, dt_s: float) -> None:
        """Advance one frame; driven points move on a straight line to where they must end.

        Args:
            state_in: the state at the start; left as it is.
            state_out: receives the state at the end; may be the same object as ``state_in``.
            driven: [m], where the driven points end, shape (B, K, 3).
            dt_s: length of the frame [s]; substeps follow from the stability limit.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
        """
        ...

    def rollout(self, state: State, driven: torch.Tensor, dt_s: float) -> Trajectory:
        """Advance T - 1 frames.

        Args:
            state: the state at frame 0.
            driven: [m], driven points at every frame, shape (B, T, K, 3).
            dt_s: time between frames [s].

        Returns:
            The positions at all T frames and the final state.

        Raises:
            BlowUpError: if a world leaves the finite numbers.
        """
        ...
