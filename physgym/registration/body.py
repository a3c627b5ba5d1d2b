"""Nodes with springs that can be pulled: as rigid as possible around every node, at rest lengths.

The shape term is that of Sorkine and Alexa, "As-rigid-as-possible surface modeling" (SGP 2007), the
length term the projection of Bouaziz et al., "Projective dynamics" (ACM Trans. Graphics 33, 2014):
local steps in front of one linear solve. Shapes: N nodes, S springs, Q pulled points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, identity
from scipy.sparse.linalg import splu

if TYPE_CHECKING:
    from physgym.registration.pull import Pull, Stage
    from physgym.sim.contact import GroundPlane

__all__ = ["Body"]

_INERTIA = 1e-3  # a trace, which keeps parts that nothing pulls where they are
_CG_STEPS = 10
_SOLVES = 2  # local and global steps in one solve


class Body:
    """Nodes with springs that can be pulled."""

    def __init__(
        self,
        rest: np.ndarray,
        edges: np.ndarray,
        length: np.ndarray,
        ground: GroundPlane | None = None,
    ) -> None:
        count = len(edges)
        number = np.tile(np.arange(count), 2)
        node = edges.T.ravel()
        sign = np.repeat([1.0, -1.0], count)
        shape = (len(rest), count)
        self.incidence = csr_matrix((sign, (node, number)), shape=shape)  # differences: B^T x
        self.around = csr_matrix((np.ones(2 * count), (node, number)), shape=shape)
        self.degree = max(2.0 * count / len(rest), 1.0)
        self.laplacian = csc_matrix(self.incidence @ self.incidence.T)
        offset = rest[edges[:, 0]] - rest[edges[:, 1]]
        scale = length / np.maximum(np.linalg.norm(offset, axis=1), 1e-12)
        self.offset = offset * scale[:, None]
        self.rest, self.length, self.edges = rest, length, edges
        self.position, self.ground = rest.copy(), ground

    def rotations(self) -> np.ndarray:
        """Turn of every node's neighbourhood since rest, shape (N, 3, 3)."""
        now = self.incidence.T @ self.position
        each = (now[:, :, None] * self.offset[:, None, :]).reshape(-1, 9)
        u, _, vt = np.linalg.svd((self.around @ each).reshape(-1, 3, 3))
        u[:, :, 2] *= np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)[:, None]
        return np.asarray(u @ vt)

    def factorise(self, mix: csr_matrix, stage: Stage) -> Any:
        """What the conjugate gradients of `solve` are preconditioned with: alike along x, y, z."""
        each = (stage.shape + stage.stretch) / self.degree
        system = each * self.laplacian + 0.3 * mix.T @ mix + _INERTIA * identity(mix.shape[1])
        options = {"SymmetricMode": True}
        return splu(csc_matrix(system), permc_spec="MMD_AT_PLUS_A", options=options)

    def solve(self, mix: csr_matrix, pull: Pull, stage: Stage, near: Any) -> None:
        """Follow a pull on ``mix @ position`` as far as shape and springs let it."""
        each = (stage.shape + stage.stretch) / self.degree
        begin = self.position

        def system(move: np.ndarray) -> np.ndarray:
            pulled = np.einsum("qij,qj->qi", pull.stiffness, mix @ move)
            return np.asarray(each * (self.laplacian @ move) + mix.T @ pulled + _INERTIA * move)

        for _ in range(_SOLVES):
            turn = self.rotations()
            both = 0.5 * (turn[self.edges[:, 0]] + turn[self.edges[:, 1]])
            rigid = np.einsum("sij,sj->si", both, self.offset)
            now = self.incidence.T @ self.position
            now_length = np.maximum(np.linalg.norm(now, axis=1), 1e-9)
            spring = now * (self.length / now_length)[:, None]
            wanted = (stage.shape * rigid + stage.stretch * spring) / self.degree
            right = self.incidence @ wanted - each * (self.laplacian @ begin) + mix.T @ pull.force
            move = _conjugate_gradients(system, right, self.position - begin, near.solve)
            self.position = begin + move
            self._lift()

    def _lift(self) -> None:
        if self.ground is None:
            return
        normal = np.array(self.ground.normal)
        depth = self.ground.offset_m - self.position @ normal
        self.position = self.position + np.maximum(depth, 0.0)[:, None] * normal

    def strain_rms(self) -> float:
        """Root mean square of the springs' strain."""
        now = np.linalg.norm(self.incidence.T @ self.position, axis=1)
        return float(np.sqrt(np.mean((now / self.length - 1.0) ** 2))) if len(now) else 0.0


def _conjugate_gradients(
    system: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    start: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Preconditioned conjugate gradients (Hestenes and Stiefel 1952) from a good start."""
    x, residual = start, right - system(start)
    z = precondition(residual)
    direction, rate = z, float((residual * z).sum())
    first = rate
    for _ in range(_CG_STEPS):
        if rate <= 1e-6 * first or rate <= 0:
            break
        image = system(direction)
        step = rate / float((direction * image).sum())
        x, residual = x + step * direction, residual - step * image
        z = precondition(residual)
        rate, before = float((residual * z).sum()), rate
        direction = z + (rate / before) * direction
    return x
