"""What a cloud pulls on while an object is bent onto it: its outside as discs, or a rope's tube.

Shapes: N nodes, P outer nodes, Q discs, M cloud points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from physgym.registration.body import Body
from physgym.registration.surface import Cloud, Surface, beyond

__all__ = ["Match", "Pull", "Skin", "Stage", "Target", "match_of", "pull_of"]


class Stage(NamedTuple):
    """Weights against one for the pull of the cloud on a disc.

    Attributes:
        shape: of being as rigid as possible.
        stretch: of the springs' rest lengths.
        slide: how much of a pull along the surface counts.
        gather: of the pull on discs with no cloud near them.
    """

    shape: float
    stretch: float
    slide: float
    gather: float


class Skin:
    """The outside as discs at outer nodes and halfway between neighbours among them.

    Attributes:
        mix: from nodes to disc centres, shape (Q, N).
        radius_m: of a disc, or half the length of a piece of rope.
        is_line: whether the nodes are a rope's.
        tube_m: radius of the rope.
    """

    def __init__(self, surface: Surface, body: Body, fractions: int, tube_m: float) -> None:
        count = len(body.position)
        outside = np.zeros(count, dtype=bool)
        outside[surface.index] = True
        self.rest_normals = np.zeros((count, 3))
        self.rest_normals[surface.index] = surface.normals
        pair = body.edges[outside[body.edges].all(axis=1)]
        alike = (self.rest_normals[pair[:, 0]] * self.rest_normals[pair[:, 1]]).sum(axis=1)
        flat = (np.abs(alike) > 0.5) | (self.rest_normals[pair[:, 0]] == 0).all(axis=1)
        short = np.linalg.norm(body.rest[pair[:, 0]] - body.rest[pair[:, 1]], axis=1)
        pair = pair[flat & (short < 1.5 * surface.spacing_m)]
        parts = np.arange(1, fractions) / fractions
        one = np.repeat(pair[:, 0], len(parts))
        two = np.repeat(pair[:, 1], len(parts))
        share = np.tile(parts, len(pair))
        rows = len(surface.index) + np.arange(len(one))
        self.mix = csr_matrix(
            (
                np.concatenate([np.ones(len(surface.index)), 1.0 - share, share]),
                (
                    np.concatenate([np.arange(len(surface.index)), rows, rows]),
                    np.concatenate([surface.index, one, two]),
                ),
            ),
            shape=(len(surface.index) + len(one), count),
        )
        self.is_line = bool((surface.normals == 0).all())
        self.tube_m = tube_m
        self.radius_m = 0.75 * surface.spacing_m / fractions
        # Neighbours of a sheet may have normals of opposite sign: nodes give them one by one.
        self.owner = np.concatenate([surface.index, one])

    def axes(self, body: Body) -> np.ndarray:
        """Normals of discs, or tangents of a rope.

        Args:
            body: where the nodes are.

        Returns:
            Unit vectors, shape (Q, 3).
        """
        if not self.is_line:
            turned = np.einsum("nij,nj->ni", body.rotations(), self.rest_normals)
            return np.asarray(turned[self.owner])
        tangent = np.gradient(body.position, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
        return np.asarray(tangent[self.owner])


@dataclass(frozen=True, eq=False)
class Match:
    """Every cloud point and its nearest disc.

    Attributes:
        nearest: which disc, shape (M,).
        direction: in which the distance to the disc's plane (a rope's tube) is, shape (M, 3).
        along: that distance, signed [m], shape (M,).
        beyond: what lies beyond the rim [m], shape (M, 3).
        flat: what lies along the surface, the part beyond the rim included [m], shape (M, 3).
    """

    nearest: np.ndarray
    direction: np.ndarray
    along: np.ndarray
    beyond: np.ndarray
    flat: np.ndarray

    @property
    def miss_m(self) -> np.ndarray:
        """Distances to the discs, shape (M,)."""
        return np.asarray(np.hypot(self.along, np.linalg.norm(self.beyond, axis=1)))


def match_of(skin: Skin, body: Body, cloud: Cloud) -> Match:
    """Match a cloud to the nearest discs.

    Args:
        skin: the discs.
        body: where the nodes are.
        cloud: the cloud.

    Returns:
        Distances of every cloud point, by parts.
    """
    centres = skin.mix @ body.position
    axes = skin.axes(body)
    _, nearest = cKDTree(centres).query(cloud.points)
    offset, axis = cloud.points - centres[nearest], axes[nearest]
    part = (offset * axis).sum(axis=1)
    if not skin.is_line:  # a disc: its axis is its normal
        flat = offset - part[:, None] * axis
        return Match(nearest, axis, part, beyond(flat, skin.radius_m), flat)
    # A piece of a tube: its axis is its tangent.
    flat = part[:, None] * axis
    outward = offset - flat
    length = np.linalg.norm(outward, axis=1)
    direction = outward / np.maximum(length, 1e-12)[:, None]
    return Match(nearest, direction, length - skin.tube_m, beyond(flat, skin.radius_m), flat)


@dataclass(frozen=True, eq=False)
class Pull:
    """What the cloud wants of the discs: the move d that minimises d.stiffness.d / 2 - d.force.

    Attributes:
        stiffness: strong along normals, weak along the surface, shape (Q, 3, 3).
        force: shape (Q, 3).
    """

    stiffness: np.ndarray
    force: np.ndarray


def pull_of(skin: Skin, body: Body, target: Target, stage: Stage, gate: float) -> Pull:
    """Of every disc, the mean over its cloud points; then of discs with no cloud near them.

    Args:
        skin: the discs.
        body: where the nodes are.
        target: the cloud.
        stage: the weights.
        gate: what is this far off weighs a quarter (Geman and McClure's weight) [m].

    Returns:
        The pull on every disc.
    """
    cloud = target.cloud
    match = match_of(skin, body, cloud)
    weight = 1.0 / (1.0 + (match.miss_m / gate) ** 2) ** 2
    if not skin.is_line:
        facing = np.abs((match.direction * cloud.normals).sum(axis=1))
        weight *= np.maximum(facing, 0.05)
    count = skin.mix.shape[0]
    total = np.bincount(match.nearest, weight, count)
    # A disc with as many points as usual, or more, weighs one, whatever the density.
    usual = max(float(np.median(total[total > 0])), 1e-9)
    weight = weight / np.maximum(total, usual)[match.nearest]

    def gathered(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(values), -1).T
        sums = [np.bincount(match.nearest, weight * column, count) for column in flat]
        return np.stack(sums, axis=1).reshape(count, *values.shape[1:])

    across = match.direction[:, :, None] * match.direction[:, None, :]
    stiffness = gathered(across + stage.slide * (np.eye(3) - across))
    force = gathered(match.along[:, None] * match.direction + stage.slide * match.flat)
    share = np.bincount(match.nearest, weight, count)
    outside = gathered(match.beyond) / np.maximum(share, 1e-9)[:, None]
    for excess, strength in (
        (outside, share),
        target.lonely(skin.mix @ body.position, skin.radius_m + skin.tube_m, gate, stage.gather),
    ):
        toward = excess / np.maximum(np.linalg.norm(excess, axis=1, keepdims=True), 1e-12)
        stiffness += strength[:, None, None] * toward[:, :, None] * toward[:, None, :]
        force += strength[:, None] * excess
    return Pull(stiffness, force)


@dataclass(frozen=True, eq=False)
class Target:
    """The cloud and its tree."""

    cloud: Cloud
    tree: cKDTree

    def lonely(
        self, centres: np.ndarray, radius: float, gate: float, gather: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of discs with no cloud near them to the nearest of it, and weights.

        Args:
            centres: of the discs [m], shape (Q, 3).
            radius: how near is near [m].
            gate: as for `pull_of` [m].
            gather: the largest weight.

        Returns:
            Shapes (Q, 3) and (Q,).
        """
        if gather == 0:
            return np.zeros_like(centres), np.zeros(len(centres))
        reach = radius + self.cloud.cell_m
        distance, nearest = self.tree.query(centres)
        share = gather * (distance > reach) / (1.0 + (distance / gate) ** 2) ** 2
        return beyond(self.cloud.points[nearest] - centres, reach), share
