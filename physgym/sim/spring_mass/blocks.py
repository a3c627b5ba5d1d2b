"""How worlds are cut into blocks, one launch each: it changes the speed, never the bits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from physgym.sim.spring_mass.layout import LANES

__all__ = ["Block", "cut_blocks"]


@dataclass(frozen=True)
class Block:
    """Worlds that one launch runs.

    Attributes:
        start: first world.
        count: number of worlds.
        width: lanes; 1 means the layout for a single world.
    """

    start: int
    count: int
    width: int

    @property
    def lanes(self) -> int:
        """Floats in a vector of this block's kernels."""
        return LANES if self.width == 1 else self.width


def cut_blocks(worlds: int, threads: int) -> list[Block]:
    """Cut worlds into blocks: wide ones for many worlds, single ones for few.

    Args:
        worlds: B.
        threads: threads that share them.

    Returns:
        Blocks in the order of the worlds.
    """
    blocks: list[Block] = []
    bounds = np.linspace(0, worlds, min(worlds, threads) + 1).round().astype(int)
    for start, stop in pairwise(bounds):
        at = int(start)
        while at < stop:
            left = int(stop) - at
            width = 16 if left > 10 else 8 if left > 3 else 1
            count = min(left, width)
            blocks.append(Block(at, count, width))
            at += count
    return blocks
