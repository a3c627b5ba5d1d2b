"""Points that ride on particles: tracked points and surfaces of a body simulated by MPM.

With the deformation gradient F of the particles, a point at X lies where its neighbours p carry it
to first order, ``sum_p w_p (x_p + F_p (X - X_p))``. Where F is the elastic part only (a material
that yields, a fluid), positions alone tell: moving least squares of degree one (Levin, "The
approximation power of moving least-squares", Math. Comp. 67, 1998), ``sum_p phi_p x_p``. Both are
exact for affine motion.
Shapes: P particles, M points, k neighbours; ``...`` any leading axes (worlds, frames).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError

__all__ = ["Ride", "carry", "mount"]

# Beside the layer of a lattice under a point on its surface, these reach the one below: fewer may
# lie in a plane, which leaves open what happens across it.
_NEIGHBOURS = 16
# Smallest over largest spread of a neighbourhood, squared. A layer one hundredth as thick as it is
# wide has 1e-4 and would turn a particle's error of 0.1 mm into 10 mm.
_FLAT = 1e-4


@dataclass(frozen=True, eq=False)
class Ride:
    """Which particles carry which point.

    Attributes:
        particle: nearest first, shape (M, k), int64.
        weight: of their first-order guesses, shape (M, k), float64; rows sum to 1.
        offset: from each particle to the point at rest [m], shape (M, k, 3), float64.
        shape: weights phi of the positions alone, shape (M, k), float64; rows sum to 1.
        flat: whether a point's neighbours lie in a plane, which makes ``shape`` worthless, (M,).
    """

    particle: torch.Tensor
    weight: torch.Tensor
    offset: torch.Tensor
    shape: torch.Tensor
    flat: torch.Tensor


def mount(points: np.ndarray, particles: np.ndarray, *, neighbours: int = _NEIGHBOURS) -> Ride:
    """Bind points to particles at rest.

    Args:
        points: [m], shape (M, 3).
        particles: rest positions [m], shape (P, 3).
        neighbours: k.

    Returns:
        The binding.

    Raises:
        DataError: if there is no particle, or a point is not finite.
    """
    at, rest = (np.asarray(a, np.float64).reshape(-1, 3) for a in (points, particles))
    if len(rest) == 0 or not np.isfinite(at).all() or not np.isfinite(rest).all():
        raise DataError(
            f"{len(rest)} particles and {len(at)} points, or values that are not finite",
            where="mount: points, particles",
            expected="at least one particle, finite metres",
            fix="leave out points that were not seen",
        )
    count = min(neighbours, len(rest))
    distance, near = cKDTree(rest).query(at, k=np.arange(1, count + 1))
    # The soft core keeps a point that lies on a particle listening to the others.
    core = 0.1 * float(np.median(distance[:, -1])) if len(at) else 1.0
    weight = 1.0 / (distance + max(core, 1e-12)) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    offset = at[:, None] - rest[near]
    shape, flat = _least_squares(weight, offset)
    tensors = (torch.as_tensor(a) for a in (near.astype(np.int64), weight, offset, shape, flat))
    return Ride(*tensors)


def _least_squares(weight: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape functions of degree one at the points, and where neighbours lie in a plane."""
    mean = (weight[..., None] * offset).sum(axis=1, keepdims=True)
    # The best affine map at the point: the weighted mean, and from there along the gradient.
    around = mean - offset  # from the weighted mean to each particle
    moment = np.einsum("mk,mki,mkj->mij", weight, around, around)
    value, axes = np.linalg.eigh(moment)
    flat = value[:, 0] < _FLAT * np.maximum(value[:, -1], 1e-30)
    inverse = np.divide(1.0, value, out=np.zeros_like(value), where=value > 1e-30)
    inverse[flat] = 0.0
    lever = np.einsum("mij,mj,mlj,ml->mi", axes, inverse, axes, mean[:, 0])
    return weight * (1.0 + np.einsum("mki,mi->mk", around, lever)), flat


def carry(
    ride: Ride, position: torch.Tensor, deformation: torch.Tensor | None = None
) -> torch.Tensor:
    """Where the points are when the particles are here; differentiable in both.

    Args:
        ride: from `mount`.
        position: particles [m], shape (..., P, 3).
        deformation: total F of the particles, shape (..., P, 3, 3); None tells it from positions.

    Returns:
        [m], shape (..., M, 3).

    Raises:
        DataError: without a deformation, if a point's neighbours lie in a plane.
    """
    if deformation is None and bool(ride.flat.any()):
        point = int(ride.flat.nonzero()[0, 0])
        raise DataError(
            f"the particles around point {point} lie in a plane",
            where="carry: deformation",
            expected="particles in several layers, or their deformation gradients",
            fix="fill the body with particles half a grid spacing apart, or give the deformation",
        )
    weight = (ride.shape if deformation is None else ride.weight).to(position)
    offset, particle = ride.offset.to(position), ride.particle.to(position.device)
    made = position.new_zeros(*position.shape[:-2], len(particle), 3)
    for k in range(particle.shape[1]):
        guess = position[..., particle[:, k], :]
        if deformation is not None:
            turned = deformation[..., particle[:, k], :, :] @ offset[:, k, :, None]
            guess = guess + turned[..., 0]
        made = made + weight[:, k, None] * guess
    return made
