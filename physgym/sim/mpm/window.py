"""The part of the grid that the plain engine keeps: a box of nodes around all particles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp

from physgym.sim.mpm.model import MpmModel
from physgym.sim.mpm.stability import raise_spread

__all__ = ["MAX_GRID_NODES", "Window", "place_window"]

MAX_GRID_NODES = 64_000_000  # of all worlds together: 1.8 GB of masses, momenta and velocities


class Window(NamedTuple):
    """Where the grid is.

    Attributes:
        origin: first node of every world, Warp array (B,) of vec3i.
        shape: nodes along the axes, the same for all worlds.
    """

    origin: Any
    shape: tuple[int, int, int]


def place_window(model: MpmModel, position: torch.Tensor, margin: int, frame: int) -> Window:
    """A box of nodes around all particles of each world, of one size for all worlds.

    Args:
        model: spacing.
        position: of all particles [m], shape (B, P, 3).
        margin: cells that particles may move before they leave it.
        frame: named in the error.

    Returns:
        The window.

    Raises:
        DataError: if it would hold more than `MAX_GRID_NODES`.
    """
    cells = position / model.spacing_m
    low = torch.floor(cells.amin(dim=1) - 0.5).to(torch.int32) - margin
    high = torch.floor(cells.amax(dim=1) - 0.5).to(torch.int32) + margin + 2
    size = (high - low).amax(dim=0) + 1
    nodes = float(size.double().prod()) * len(position)
    if not 0.0 < nodes <= MAX_GRID_NODES:
        world = int((high - low).double().prod(dim=1).argmax())
        raise_spread(model, position[world], world, frame)
    origin = wp.from_torch(low.contiguous(), dtype=wp.vec3i)
    return Window(origin, (int(size[0]), int(size[1]), int(size[2])))
