"""Losses between simulated and seen motion: tracks, clouds, velocities, local frames.

MoSA compares images, Gaussian flow and the frames of Gaussians (Eqs. 11 to 16). With motion in
three dimensions tracks and clouds take the place of images, finite differences of tracks in time
that of flow, and the deformation of tracked neighbourhoods that of Gaussians' scales and rotations
(notes, G9 to G11). Every term is robust: real tracks have outliers.
Shapes: T frames, N points, M points of a cloud, S of a surface, k neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.sim.mpm.elastic_torch import polar_rotation

__all__ = [
    "LocalFrames",
    "MotionWeights",
    "chamfer_loss",
    "huber",
    "relative_scale_loss",
    "rotation_loss",
    "track_loss",
    "velocity_loss",
    "weighted_sum",
]

_NEIGHBOURS = 10
# Neighbours that lie nearly in a plane do not tell what happens across it: smallest over largest
# spread, squared, of a neighbourhood a quarter as thick as it is wide.
_FLAT = 0.0625


@dataclass(frozen=True)
class MotionWeights:
    """Weights of the terms; each term is first divided by its value at the isotropic backbone.

    The paper's are lost; these are the notes' (G11), but for the field's: with their 0.01 a field
    took part in explaining a homogeneous ball's fibres (docs/benchmarks.md).

    Attributes:
        chamfer: of clouds.
        tracks: of tracked points.
        velocity: of their temporal derivative.
        scale: of relative stretches (Eq. 13).
        rotation: of rotations (Eq. 14).
        image: of drawn images (Eq. 11), where there is a video.
        mask: of drawn silhouettes.
        flow: of drawn flow (Eq. 12).
        heterogeneity: of the field's mean and variance (Eq. 15).
    """

    chamfer: float = 1.0
    tracks: float = 1.0
    velocity: float = 1.0
    scale: float = 0.1
    rotation: float = 0.1
    image: float = 1.0
    mask: float = 1.0
    flow: float = 1.0
    heterogeneity: float = 0.1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (np.isfinite(value) and value >= 0.0):
                raise DataError(
                    f"{name} = {value}", where=f"MotionWeights.{name}", expected="0 or more"
                )

    def only(self, terms: Sequence[str]) -> MotionWeights:
        """The same with all other terms of what was seen switched off.

        Args:
            terms: names; the field's weight stays.

        Returns:
            The weights.

        Raises:
            DataError: if a name is unknown, or none is given.
        """
        names = [f.name for f in dataclasses.fields(self) if f.name != "heterogeneity"]
        unknown = sorted(set(terms) - set(names))
        if unknown or not terms:
            raise DataError(
                f"losses {', '.join(unknown) or 'none'}",
                where="--losses",
                expected=f"some of {','.join(names)}",
            )
        return dataclasses.replace(self, **{n: 0.0 for n in names if n not in terms})


def huber(distance: torch.Tensor, knee: float) -> torch.Tensor:
    """Huber's loss of distances: quadratic up to the knee, then linear (Huber 1964).

    Args:
        distance: 0 or more.
        knee: where it turns, in the same unit.

    Returns:
        ``d^2 / (2 knee)`` and then ``d - knee / 2``, in the unit of the distance.
    """
    return torch.where(distance < knee, 0.5 * distance**2 / knee, distance - 0.5 * knee)


def _norm(difference: torch.Tensor) -> torch.Tensor:
    """Length with a finite derivative at 0."""
    return (difference.square().sum(-1) + 1e-20).sqrt()


def track_loss(simulated: torch.Tensor, seen: torch.Tensor, knee_m: float) -> torch.Tensor:
    """Mean Huber distance of tracked points.

    Args:
        simulated: [m], shape (T, N, 3).
        seen: [m], shape (T, N, 3); NaN where not seen.
        knee_m: [m].

    Returns:
        [m]; 0 where nothing was seen.
    """
    good = torch.isfinite(seen).all(-1)
    if not bool(good.any()):
        return simulated.sum() * 0.0
    return huber(_norm(simulated[good] - seen[good].to(simulated)), knee_m).mean()


def velocity_loss(
    simulated: torch.Tensor, seen: torch.Tensor, dt_s: float, knee_m_per_s: float
) -> torch.Tensor:
    """Mean Huber difference of velocities, both as central differences over two frames.

    Args:
        simulated: positions [m], shape (T, N, 3).
        seen: positions [m], shape (T, N, 3); NaN where not seen.
        dt_s: time between frames [s].
        knee_m_per_s: [m/s].

    Returns:
        [m/s].
    """
    if len(seen) < 3:
        return simulated.sum() * 0.0
    speed = (simulated[2:] - simulated[:-2]) / (2.0 * dt_s)
    wanted = (seen[2:] - seen[:-2]) / (2.0 * dt_s)
    return track_loss(speed, wanted, knee_m_per_s)


def chamfer_loss(
    simulated: torch.Tensor,
    clouds: Sequence[np.ndarray],
    knee_m: float,
    *,
    both_ways: bool = False,
) -> torch.Tensor:
    """Mean Huber distance of every cloud point to the nearest simulated one, or both ways.

    Which point is nearest is found by a tree without a gradient; the distance has one.

    Args:
        simulated: surface [m], shape (T, S, 3).
        clouds: T clouds [m], each (M_t, 3).
        knee_m: [m].
        both_ways: also from simulated to seen points; only right where clouds show all sides.

    Returns:
        [m]; frames with an empty cloud do not count.
    """
    total, frames = simulated.sum() * 0.0, 0
    for frame, cloud in enumerate(clouds):
        if not len(cloud):
            continue
        now = simulated[frame]
        places = now.detach().cpu().double().numpy()
        target = torch.as_tensor(np.asarray(cloud)).to(now)
        _, near = cKDTree(places).query(cloud)
        total = total + huber(_norm(now[torch.as_tensor(near)] - target), knee_m).mean()
        if both_ways:
            _, near = cKDTree(cloud).query(places)
            total = total + huber(_norm(now - target[torch.as_tensor(near)]), knee_m).mean()
        frames += 1
    return total / max(frames, 1)


@dataclass(frozen=True, eq=False)
class LocalFrames:
    """Deformation gradients of tracked neighbourhoods by moving least squares.

    ``F = (sum_j w_j y_j Y_j^T) (sum_j w_j Y_j Y_j^T)^-1`` from offsets Y at rest and y now to the
    neighbours of a point (notes, G10). It observes rotation, which the scales of Gaussians do not,
    and it is applied alike to what was seen and to what is simulated, so that what is lost in the
    averaging is lost on both sides.

    Attributes:
        neighbour: shape (N, k), int64.
        slope: what an offset counts for in F [1/m], shape (N, k, 3), float64.
        good: points whose neighbours span all directions, shape (N,), bool.
    """

    neighbour: torch.Tensor
    slope: torch.Tensor
    good: torch.Tensor

    @staticmethod
    def of(rest: np.ndarray) -> LocalFrames:
        """Neighbourhoods of points at rest.

        Args:
            rest: [m], shape (N, 3).

        Returns:
            They.
        """
        count = min(_NEIGHBOURS, len(rest) - 1)
        distance, near = cKDTree(rest).query(rest, k=np.arange(2, count + 2))
        offset = rest[near] - rest[:, None]
        weight = np.exp(-((distance / distance.mean(axis=1, keepdims=True)) ** 2))
        moment = np.einsum("nk,nki,nkj->nij", weight, offset, offset)
        spread = np.linalg.eigvalsh(moment)
        good = spread[:, 0] > _FLAT * spread[:, 2]
        moment[~good] = np.eye(3)
        slope = np.einsum("nk,nkj,nji->nki", weight, offset, np.linalg.inv(moment))
        return LocalFrames(
            torch.as_tensor(near.astype(np.int64)), torch.as_tensor(slope), torch.as_tensor(good)
        )

    def __call__(self, position: torch.Tensor) -> torch.Tensor:
        """Deformation gradients at the points.

        Args:
            position: [m], shape (..., N, 3).

        Returns:
            Shape (..., N, 3, 3); NaN where a point or one of its neighbours is NaN, and where the
            neighbours lie in a plane.
        """
        offset = position[..., self.neighbour, :] - position[..., :, None, :]
        made = torch.einsum("...nki,nkj->...nij", offset, self.slope.to(position))
        return torch.where(self.good[:, None, None], made, torch.nan)


def relative_scale_loss(simulated: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of relative stretches, ``s / |s|`` of sorted singular values.

    MoSA, Eqs. 13 and 18. Singular values are differentiated, never singular vectors.

    Args:
        simulated: deformation gradients, shape (..., 3, 3).
        seen: the same shape; NaN where unknown.

    Returns:
        Without unit; 0 where nothing is known.
    """
    good = torch.isfinite(seen).all(-1).all(-1) & torch.isfinite(simulated.detach()).all(-1).all(-1)
    if not bool(good.any()):
        return torch.nan_to_num(simulated).sum() * 0.0
    own = torch.linalg.svdvals(simulated[good])
    wanted = torch.linalg.svdvals(seen[good].to(simulated))
    own, wanted = (s / s.norm(dim=-1, keepdim=True) for s in (own, wanted))
    return (own - wanted).square().sum(-1).mean()


def rotation_loss(simulated: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Mean squared Frobenius distance of polar rotations (MoSA, Eq. 14).

    Args:
        simulated: deformation gradients, shape (..., 3, 3).
        seen: the same shape; NaN where unknown.

    Returns:
        Without unit; 0 where nothing is known. Inverted gradients do not count: they have no
        rotation.
    """
    wanted, own = torch.nan_to_num(seen.detach()), torch.nan_to_num(simulated.detach())
    good = (torch.linalg.det(wanted) > 1e-3) & (torch.linalg.det(own) > 1e-3)
    if not bool(good.any()):
        return torch.nan_to_num(simulated).sum() * 0.0
    turn = polar_rotation(seen[good].to(simulated))
    return (polar_rotation(simulated[good]) - turn).square().sum((-2, -1)).mean()


def weighted_sum(
    terms: dict[str, torch.Tensor], units: dict[str, float], weights: MotionWeights
) -> torch.Tensor:
    """The total loss: each term over its value at the isotropic backbone, times its weight.

    Args:
        terms: by name of `MotionWeights`.
        units: values that count as 1, by name; a term without one is left out.
        weights: of the terms.

    Returns:
        Without unit.
    """
    made = [
        getattr(weights, name) * value / units[name]
        for name, value in terms.items()
        if name in units
    ]
    return torch.stack(made).sum()
