"""PhysTwin's second stage: every spring's stiffness and the global parameters, by Adam.

Gradients come through `physgym.sim.rollout`. PhysTwin cuts them after every frame of one long
rollout; here the recording is cut into windows that start where the object was seen, run side by
side, and grow from a few frames to half a second: through a whole recording of something as soft as
a cloth the gradient is chaotic and leads nowhere (`recon.identify.windows`). What windows cannot
tell, a prior does: a spring is about as stiff as all others, and more so as its neighbours.
Shapes: G global coordinates, S springs, B windows, T frames, N nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import BlowUpError, DataError
from physgym.sim.spring_mass import SpringMassSolver
from recon.identify.problem import Loss
from recon.identify.segments import Segment
from recon.identify.spring_network import SpringNetworkProblem
from recon.identify.windows import alike, cut_windows, stacked

__all__ = ["VALIDATION_SHARE", "Descent", "descend", "huber", "offset_penalty"]

# Standard deviations of log stiffness: of a spring from the object, and from its neighbourhood.
_SIGMA_GLOBAL = 0.7
_SIGMA_LOCAL = 0.3
_LEARNING_RATE = 0.03
_BETAS = (0.9, 0.99)  # PhysTwin's
# Share of the horizon and share of the iterations at which it ends.
# Length of a window [s], and the share of the iterations at which it ends.
_WINDOWS = ((0.1, 0.25), (0.25, 0.6), (0.5, 1.0))
_FEWEST_FRAMES = 4
VALIDATION_SHARE = 0.2
"""Last frames of every recording from which the descent learns nothing."""
_MOST_WINDOWS = 64
# Loss on the windows held back must improve within so many iterations.
_PATIENCE = 15
_HALVINGS = 6


@dataclass(frozen=True)
class Descent:
    """Where the descent stands; it can go on from here.

    Attributes:
        theta: global coordinates, shape (G,).
        log_offset: stiffness of each spring over the global one, shape (S,).
        train_cost: negative log posterior on the windows learned from.
        validation_m: typical error on the windows held back [m]; NaN where there are none.
        iteration: at which this was found.
    """

    theta: np.ndarray
    log_offset: np.ndarray
    train_cost: float = float("inf")
    validation_m: float = float("nan")
    iteration: int = 0


def descend(
    problem: SpringNetworkProblem,
    start: Descent,
    *,
    iterations: int,
    validation_share: float = VALIDATION_SHARE,
    first_iteration: int = 0,
    on_step: Callable[[int, Descent], None] | None = None,
) -> Descent:
    """Refine stiffness spring by spring.

    Args:
        problem: with its topology frozen.
        start: where to begin.
        iterations: at most so many Adam steps, ``first_iteration`` included.
        validation_share: last frames of every recording that nothing is learned from; they say when
            to stop. 0 learns from all and never stops early.
        first_iteration: where an interrupted descent goes on.
        on_step: told the number of steps done and the best so far.

    Returns:
        The best on the windows learned from, no later than the best on those held back.
    """
    job = _Adam(problem, start)
    begin = 0.0
    for window_s, until in _WINDOWS:
        first, last = round(begin * iterations), round(until * iterations)
        begin = until
        if last <= first_iteration:
            continue
        if not job.set_window(window_s, validation_share):
            break
        for iteration in range(max(first, first_iteration), last):
            alive = job.step(iteration)
            if on_step is not None:
                on_step(iteration + 1, job.best)
            if not alive:
                break
    return job.best


class _Adam:
    """The loop's state: variables, optimiser, best so far."""

    def __init__(self, problem: SpringNetworkProblem, start: Descent) -> None:
        if problem.topology is None:
            raise DataError(
                "the topology is still searched for",
                where="descend",
                expected="SpringNetworkProblem.frozen(...)",
            )
        self.problem, self.topology = problem, problem.topology
        self.loss = problem.loss
        self.weight = problem.weights(list(range(len(problem.segments))))
        self.theta = torch.tensor(start.theta, dtype=torch.float64, requires_grad=True)
        self.offset = torch.tensor(start.log_offset, dtype=torch.float64, requires_grad=True)
        self.mean = torch.as_tensor(problem.prior.mean)
        self.sigma = torch.as_tensor(problem.prior.sigma)
        self.free = torch.as_tensor(problem.free_index)
        self.rate, self.halvings = _LEARNING_RATE, 0
        self.best = start
        self.learned: list[list[Segment]] = []
        self.held: list[list[Segment]] = []

    def set_window(self, window_s: float, validation_share: float) -> bool:
        """Cut windows anew and go on from the best; False where there are none so long."""
        learned: list[Segment] = []
        held: list[Segment] = []
        for tracks in self.problem.recordings:
            length = max(_FEWEST_FRAMES, round(window_s / tracks.dt_s))
            border = round((1.0 - validation_share) * tracks.frame_count)
            learned += cut_windows(tracks, 0, border, length)
            held += cut_windows(tracks, border, tracks.frame_count, length)
        if not learned:
            return False
        self.learned, self.held = alike(_thinned(learned)), alike(_thinned(held))
        self._take(self.best)
        # Costs of windows of different lengths do not compare.
        self.waited, self.found, self.best_validation = 0, False, np.inf
        return True

    def step(self, iteration: int) -> bool:
        """One evaluation and one Adam step; False when these windows are done."""
        self.optimiser.zero_grad()
        try:
            train = self.weight * self._error(self.learned) + self._penalty()
            with torch.no_grad():
                validation = float(self._error(self.held)) if self.held else float("nan")
        except BlowUpError:
            return self._retreat()
        if not np.isfinite(float(train.detach())):
            return self._retreat()
        self._note(iteration, float(train.detach()), validation)
        if self.waited > _PATIENCE:
            return False
        train.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return True

    def _note(self, iteration: int, train: float, validation: float) -> None:
        self.waited += 1
        improves = not np.isfinite(validation) or validation < self.best_validation
        if improves:
            self.waited, self.best_validation = 0, validation
        if not self.found or (improves and train < self.best.train_cost):
            self.found = True
            self.best = Descent(
                self.theta.detach().numpy().copy(),
                self.offset.detach().numpy().copy(),
                train,
                validation * self.loss.scale_m,
                iteration,
            )

    def _retreat(self) -> bool:
        """Back to the best with half the step; windows that still blow up are given up."""
        self.halvings += 1
        self.rate *= 0.5
        self._take(self.best)
        return self.halvings <= _HALVINGS

    def _take(self, point: Descent) -> None:
        with torch.no_grad():
            self.theta.copy_(torch.as_tensor(point.theta))
            self.offset.copy_(torch.as_tensor(point.log_offset))
        self.optimiser = torch.optim.Adam([self.theta, self.offset], lr=self.rate, betas=_BETAS)

    def _error(self, groups: list[list[Segment]]) -> torch.Tensor:
        """Mean loss of windows in units of its scale."""
        scalars = self.problem.scalars(self.theta[None], [self.topology])
        parameters = self.problem.parameters(scalars, self.topology, self.offset)
        total, count = self.theta.new_zeros(()), 0
        for group in groups:
            model = self.problem.model(self.topology.edges)
            solver = SpringMassSolver(model, parameters, worlds=len(group), device="cpu")
            state = solver.initial_state(stacked(group, "position"), stacked(group, "velocity"))
            rolled = solver.rollout(state, stacked(group, "driven"), group[0].dt_s)
            off, known = _compared(
                rolled.position[:, 1:, self.free],
                stacked(group, "target")[:, :, self.free],
                chamfer=self.problem.chamfer,
            )
            value = torch.where(known, huber(off, self.loss), torch.zeros_like(off))
            total = total + value.sum(dtype=torch.float64)
            count += int(known.sum())
        return total / max(count, 1)

    def _penalty(self) -> torch.Tensor:
        """Half squared distances from the priors."""
        prior = ((self.theta - self.mean) / self.sigma).square().sum()
        nodes = len(self.problem.rest_position)
        return 0.5 * prior + offset_penalty(self.offset, self.topology.edges, nodes)


def offset_penalty(offset: torch.Tensor, edges: np.ndarray, nodes: int) -> torch.Tensor:
    """Half squared distances of stiffness from the object's and from the neighbourhood's.

    Args:
        offset: log stiffness of each spring over the global one, shape (S,).
        edges: the springs, shape (S, 2).
        nodes: N.

    Returns:
        A scalar.
    """
    first, second = torch.as_tensor(edges.astype(np.int64)).unbind(1)
    both, twice = torch.cat([first, second]), torch.cat([offset, offset])
    degree = torch.bincount(both, minlength=nodes).clamp(min=1)
    mean = torch.zeros(nodes, dtype=torch.float64).index_add(0, both, twice) / degree
    local = offset - 0.5 * (mean[first] + mean[second])
    return 0.5 * ((offset / _SIGMA_GLOBAL).square().sum() + (local / _SIGMA_LOCAL).square().sum())


def _thinned(windows: list[Segment]) -> list[Segment]:
    """At most so many as fill the lanes a few times, evenly over the recordings."""
    if len(windows) <= _MOST_WINDOWS:
        return windows
    return [windows[int(i)] for i in np.linspace(0, len(windows) - 1, _MOST_WINDOWS)]


def _compared(
    simulated: torch.Tensor, seen: torch.Tensor, *, chamfer: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences [m] by frame and which were seen, each (B, T, F); both (B, T, N, 3)."""
    known = torch.isfinite(seen)
    target = torch.where(known, seen, torch.zeros_like(seen))
    off, mask = (simulated - target).flatten(2), known.flatten(2)
    if not chamfer:
        return off, mask
    with torch.no_grad():
        near = torch.cdist(target, simulated).argmin(-1)
    nearest = torch.gather(simulated, 2, near[..., None].expand(*near.shape, 3))
    # A distance of 0 has no direction; a micrometre under the root gives it gradient 0.
    distance = ((nearest - target).square().sum(-1) + 1e-12).sqrt()
    return torch.cat([off, distance], -1), torch.cat([mask, known.all(-1)], -1)


def huber(off: torch.Tensor, loss: Loss) -> torch.Tensor:
    """As `Loss.value`.

    Args:
        off: residuals [m].
        loss: scale and knee.

    Returns:
        The same shape.
    """
    size = off.abs()
    knee = loss.knee_m
    return torch.where(size < knee, 0.5 * size.square() / knee, size - 0.5 * knee) / loss.scale_m
