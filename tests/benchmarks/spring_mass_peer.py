"""Peer for the spring-mass benchmark: one thread per spring, atomics, one launch per stage.

Written by us from PhysTwin's published algorithm (paper, section 4 and appendix; the order of
stages and the constants as in `docs`), not their code: forces are added to nodes with atomics, a
substep is four launches, every substep keeps its own state, gradients come from Warp's tape. It
exists to be timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

__all__ = ["Peer"]


@wp.kernel
def _clear(force: wp.array(dtype=wp.vec3)):
    force[wp.tid()] = wp.vec3(0.0, 0.0, 0.0)


@wp.kernel
def _springs(
    x: wp.array(dtype=wp.vec3),
    v: wp.array(dtype=wp.vec3),
    edges: wp.array2d(dtype=int),
    rest: wp.array(dtype=float),
    log_stiffness: wp.array(dtype=float),
    dashpot: float,
    force: wp.array(dtype=wp.vec3),
):
    s = wp.tid()
    i = edges[s, 0]
    j = edges[s, 1]
    gap = x[j] - x[i]
    length = wp.length(gap)
    along = gap / wp.max(length, 1.0e-6)
    elastic = wp.exp(log_stiffness[s]) * (length / rest[s] - 1.0)
    f = (elastic + dashpot * wp.dot(v[j] - v[i], along)) * along
    wp.atomic_add(force, i, f)
    wp.atomic_sub(force, j, f)


@wp.kernel
def _velocity(
    v: wp.array(dtype=wp.vec3),
    force: wp.array(dtype=wp.vec3),
    inv_mass: float,
    gravity: wp.vec3,
    drag: float,
    h: float,
    v_out: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    v_out[i] = (v[i] + h * (force[i] * inv_mass + gravity)) * wp.exp(-h * drag)


@wp.kernel
def _ground(
    x: wp.array(dtype=wp.vec3),
    v: wp.array(dtype=wp.vec3),
    e: float,
    mu: float,
    h: float,
    x_out: wp.array(dtype=wp.vec3),
    v_out: wp.array(dtype=wp.vec3),
):
    i = wp.tid()
    x0 = x[i]
    v0 = v[i]
    v1 = v0
    toi = h - h  # a variable, which Warp tells from a constant
    if x0[2] + v0[2] * h < 0.0 and v0[2] < -1.0e-4:
        normal = wp.vec3(0.0, 0.0, 1.0)
        vn = wp.dot(v0, normal) * normal
        vt = v0 - vn
        keep = wp.max(0.0, 1.0 - mu * (1.0 + e) * wp.length(vn) / wp.max(wp.length(vt), 1.0e-6))
        v1 = keep * vt - e * vn
        toi = -x0[2] / v0[2]
    x_out[i] = x0 + v0 * toi + v1 * (h - toi)
    v_out[i] = v1


class Peer:
    """One world, one frame, all states kept.

    Args:
        position: [m], shape (N, 3).
        edges: springs, shape (S, 2).
        rest: rest lengths [m], shape (S,).
        log_stiffness: natural logarithm of Y [N], shape (S,).
        substeps: substeps in a frame.
        h: length of a substep [s].
        dashpot: [N s/m].
        drag: [1/s].
    """

    def __init__(
        self, position: np.ndarray, edges: np.ndarray, rest: np.ndarray, log_stiffness: np.ndarray,
        *, substeps: int, h: float, dashpot: float, drag: float, gradients: bool,
    ) -> None:  # fmt: skip
        count = len(position)

        def vectors() -> Any:
            return wp.zeros(count, dtype=wp.vec3, device="cpu", requires_grad=gradients)

        kept = substeps if gradients else 1
        self.x = [vectors() for _ in range(kept + 1)]
        self.v = [vectors() for _ in range(kept + 1)]
        self.force = [vectors() for _ in range(kept)]
        self.v_free = [vectors() for _ in range(kept)]
        self.x[0].assign(position.astype(np.float32))
        self.start = wp.clone(self.x[0])
        self.edges = wp.array(edges, dtype=int, device="cpu")
        self.rest = wp.array(rest, dtype=float, device="cpu")
        self.log_stiffness = wp.array(
            log_stiffness, dtype=float, device="cpu", requires_grad=gradients
        )
        self.substeps, self.h, self.dashpot, self.drag = substeps, h, dashpot, drag
        self.gradients = gradients
        self._graph: Any = None

    def _forward(self) -> None:
        count, springs = len(self.x[0]), len(self.rest)
        for s in range(self.substeps):
            a, b, k = (s, s + 1, s) if self.gradients else (s % 2, (s + 1) % 2, 0)
            wp.launch(_clear, count, [self.force[k]], device="cpu")
            wp.launch(
                _springs, springs,
                [self.x[a], self.v[a], self.edges, self.rest, self.log_stiffness, self.dashpot],
                [self.force[k]], device="cpu",
            )  # fmt: skip
            wp.launch(
                _velocity, count,
                [self.v[a], self.force[k], 1.0, wp.vec3(0.0, 0.0, -9.8), self.drag, self.h],
                [self.v_free[k]], device="cpu",
            )  # fmt: skip
            wp.launch(
                _ground, count, [self.x[a], self.v_free[k], 0.5, 0.3, self.h],
                [self.x[b], self.v[b]], device="cpu",
            )  # fmt: skip

    def _all(self) -> None:
        if not self.gradients:
            self._forward()
            return
        tape = wp.Tape()
        with tape:
            self._forward()
        seed = self.x[-1].grad
        seed.fill_(wp.vec3(1.0, 1.0, 1.0))
        tape.backward()

    def capture(self) -> None:
        """Compile, then record the frame as a CPU graph, as PhysTwin records its CUDA graph."""
        self._all()
        with wp.ScopedCapture(device="cpu") as capture:
            self._all()
        self._graph = capture.graph

    def run(self) -> np.ndarray:
        """Replay the frame from the start; gives the final positions [m], shape (N, 3)."""
        for array in (*self.x, *self.v, *self.force, *self.v_free, self.log_stiffness):
            if array.grad is not None:
                array.grad.zero_()
        self.x[0].assign(self.start)
        self.v[0].zero_()
        wp.capture_launch(self._graph)
        return self.x[-1 if self.gradients else self.substeps % 2].numpy()
