"""The bodies of the benchmark and how they are let go.

Each is let fall once to learn from and four times to predict: higher, and three times turned
otherwise and from other heights, by angles that were fixed before any of these drops was looked at.
``block`` lands on a face, which hits all at once: such a drop measures the contact and not the
material (``docs/benchmarks.md``), so it is there to be named but not in the benchmark.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.spatial.transform import Rotation

from physgym.cell.fem_bodies import cylinder
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_scenes import BenchmarkObject, DropSetup, benchmark_objects

__all__ = ["object_named"]


def object_named(name: str) -> BenchmarkObject:
    """One of the objects of the benchmark.

    Args:
        name: ``ball``, ``cylinder``, ``ring``, ``block``, or ``plain``: an isotropic ball.

    Returns:
        It, with one training drop and four test drops.
    """
    if name == "cylinder":
        angle = math.radians(30.0)
        material = FemMaterial(
            7e4, 0.3, 500.0, fibre_modulus_pa=8e4,
            fibre_direction=(math.cos(angle), math.sin(angle), 0.0),
        )  # fmt: skip
        body = cylinder(0.08, 0.2, 0.025)
        return BenchmarkObject(name, body, material, DropSetup(0.2, _rolled(0.0)), _tests(0.35))
    item = next(o for o in benchmark_objects() if o.name == name)
    if name == "ring":
        train = DropSetup(0.15, _rolled(0.0))
        return dataclasses.replace(item, train=train, tests=_tests(0.25))
    higher = DropSetup(1.75 * item.train.height_m, item.train.quat_wxyz)
    turned = [
        DropSetup(height, tuple(np.roll(turn.as_quat(), 1).tolist()))
        for height, turn in zip(_HEIGHTS_M, Rotation.random(3, random_state=_SEED))
    ]
    return dataclasses.replace(item, tests=(higher, *turned))


_SEED = 11
_HEIGHTS_M = (0.15, 0.2, 0.3)
_ROLLS_DEG = (45.0, 105.0, 165.0)


def _tests(higher_m: float) -> tuple[DropSetup, ...]:
    """Drops of a body that lies on its side: higher, and rolled."""
    rolled = (DropSetup(h, _rolled(a)) for h, a in zip(_HEIGHTS_M, _ROLLS_DEG))
    return (DropSetup(higher_m, _rolled(0.0)), *rolled)


def _rolled(degrees: float) -> tuple[float, float, float, float]:
    """Turned by so much about the body's z axis, which is then laid down; ``quat_wxyz``."""
    half, down = 0.5 * math.radians(degrees), 0.25 * math.pi
    # Product of the rotation about x by 90 degrees and the one about z.
    c, s = math.cos(half), math.sin(half)
    return (math.cos(down) * c, math.sin(down) * c, -math.sin(down) * s, math.cos(down) * s)
