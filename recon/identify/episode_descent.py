"""PhysTwin's second stage on one episode: every spring's stiffness, by Adam through windows.

PhysTwin rolls out from the first frame and cuts the gradient after every frame. Here too the whole
clip is rolled out with what has been found so far, but it is then cut into windows of a third of a
second that run side by side from where that rollout was: gradients see what a spring does over many
frames, and one evaluation fills the lanes. What is kept is judged open loop.
Shapes: G global coordinates, S springs, B windows, L ticks of a window, N nodes, M cloud points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import BlowUpError
from recon.identify.dense_stiffness import Descent, huber, offset_penalty
from recon.identify.episode_problem import INDEPENDENT_POINTS, EpisodeProblem
from recon.identify.episode_rollouts import Rolled, Windows
from recon.identify.problem import cost

__all__ = ["descend_episode"]

_WINDOW_S = 0.35
_LEARNING_RATE = 0.03
_BETAS = (0.9, 0.99)  # PhysTwin's
# Open-loop rollouts cost about as much as one step; every so many steps one decides what is kept.
_JUDGE_EVERY = 5
_PATIENCE = 6  # judgements without a gain until it ends


@dataclass(frozen=True, eq=False)
class _Seen:
    """What windows of one group are compared with, as tensors."""

    target: torch.Tensor  # (B, L, N, 3), 0 where not seen
    known: torch.Tensor  # (B, L, N, 1)
    cloud: torch.Tensor  # (B, L, M, 3), 0 where short
    full: torch.Tensor  # (B, L, M)


def descend_episode(
    problem: EpisodeProblem,
    start: Descent,
    *,
    iterations: int,
    first_iteration: int = 0,
    on_step: Callable[[int, Descent], None] | None = None,
) -> Descent:
    """Refine stiffness spring by spring, together with the global parameters.

    Args:
        problem: with its topology frozen.
        start: where to begin.
        iterations: at most so many Adam steps, ``first_iteration`` included.
        first_iteration: where an interrupted descent goes on.
        on_step: told the number of steps done and the best so far.

    Returns:
        The best open loop.
    """
    job = _Adam(problem, start)
    for iteration in range(first_iteration, iterations):
        if iteration % _JUDGE_EVERY == 0 and not job.judge(iteration):
            break
        if not job.step():
            break
        if on_step is not None:
            on_step(iteration + 1, job.best)
    job.judge(iterations)
    return job.best


class _Adam:
    """The loop's state: variables, optimiser, best so far."""

    def __init__(self, problem: EpisodeProblem, start: Descent) -> None:
        assert problem.topology is not None
        self.problem, self.topology = problem, problem.topology
        self.weight = problem.weights([0])
        self.theta = torch.tensor(start.theta, dtype=torch.float64, requires_grad=True)
        self.offset = torch.tensor(start.log_offset, dtype=torch.float64, requires_grad=True)
        own = problem.grip_of_spring(self.topology.edges) < 0
        if self.topology.strut is not None:
            own = own & ~self.topology.strut
        self.own = torch.as_tensor(own).double()
        self.optimiser = torch.optim.Adam(
            [self.theta, self.offset], lr=_LEARNING_RATE, betas=_BETAS
        )
        self.best, self.best_cost = start, np.inf
        self.waited = 0
        self.rolled: Rolled | None = None
        length = max(3, round(_WINDOW_S / problem.clip.dt_s))
        self.windows = problem.windows(length)
        self.seen = [_seen(problem, group) for group in self.windows]
        self.surface = torch.as_tensor(np.flatnonzero(problem.clip.surface))

    def judge(self, iteration: int) -> bool:
        """Roll out open loop, keep it if it is the best; False when nothing has helped for long."""
        theta, offset = self.theta.detach().numpy(), self._offset().detach().numpy()
        frozen = self.problem.frozen(self.topology, offset)
        value = float(cost(frozen, theta[None], [0])[0])
        value += float(self._penalty(prior=False).detach())
        if value < self.best_cost:
            self.best = Descent(theta.copy(), offset.copy(), value, float("nan"), iteration)
            self.best_cost, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited <= _PATIENCE

    def step(self) -> bool:
        """One Adam step; False where the rollout that windows start from blows up."""
        problem = self.problem
        frozen = problem.frozen(self.topology, self._offset().detach().numpy())
        rolled = frozen.roll(self.theta.detach().numpy()[None])
        if not np.isfinite(rolled.position).all():
            return False
        self.optimiser.zero_grad()
        try:
            value = self.weight * self._error(rolled) + self._penalty()
        except BlowUpError:
            return False
        if not bool(torch.isfinite(value.detach())):
            return False
        value.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_([self.theta, self.offset], 1e3)
        if not bool(torch.isfinite(norm)):  # a sheet that flaps may have no gradient to speak of
            return False
        self.optimiser.step()
        return True

    def _offset(self) -> torch.Tensor:
        """A grip's springs stay alike, so that another grip of the object is known.

        So do the struts of a sheet, or it would no longer be flat by itself.
        """
        return self.offset * self.own

    def _error(self, rolled: Rolled) -> torch.Tensor:
        """Mean loss of all windows in units of its scale."""
        problem = self.problem
        scalars = problem.scalars(self.theta[None], [self.topology])
        given = problem.parameters(scalars, self.topology, self._offset())
        given = problem.settled(given, self.topology)
        begin = problem.start_velocity(scalars)
        total, count = self.theta.new_zeros(()), 0
        for windows, seen in zip(self.windows, self.seen):
            moved = problem.roll_windows(self.topology, given, rolled, windows, begin)[:, 1:]
            off = torch.where(seen.known, moved - seen.target, 0.0)
            total = total + huber(off, problem.loss).sum(dtype=torch.float64)
            far = self._gaps(moved, seen)
            total = total + huber(far, problem.loss).sum(dtype=torch.float64)
            count += 3 * int(seen.known.sum()) + int(seen.full.sum())
        return total / max(count, 1)

    def _gaps(self, moved: torch.Tensor, seen: _Seen) -> torch.Tensor:
        """As `EpisodeProblem.compared`: beyond what lies between nodes; 0 where no point is."""
        surface = moved[:, :, self.surface]
        with torch.no_grad():
            near = torch.cdist(seen.cloud, surface).argmin(-1)
        nearest = torch.gather(surface, 2, near[..., None].expand(*near.shape, 3))
        # A distance of 0 has no direction; a micrometre under the root gives it gradient 0.
        distance = ((nearest - seen.cloud).square().sum(-1) + 1e-12).sqrt()
        gap = (distance - self.problem.between_m).clamp(min=0.0)
        return torch.where(seen.full, gap, 0.0)

    def _penalty(self, *, prior: bool = True) -> torch.Tensor:
        """Half squared distances from the priors."""
        nodes = len(self.problem.rest_position)
        found = offset_penalty(self._offset(), self.topology.edges, nodes)
        # Springs side by side are alike: they are no more than so many that differ by themselves,
        # as the samples that `weights` counts are.
        found = found * min(1.0, INDEPENDENT_POINTS / len(self.topology.edges))
        if prior:
            mean, sigma = self.problem.prior.mean, self.problem.prior.sigma
            scaled = (self.theta - torch.as_tensor(mean)) / torch.as_tensor(sigma)
            found = found + 0.5 * scaled.square().sum()
        return found


def _seen(problem: EpisodeProblem, windows: Windows) -> _Seen:
    clip = problem.clip
    ticks = windows.first[:, None] + 1 + np.arange(windows.length)
    target = torch.as_tensor(clip.position[ticks])
    known = torch.isfinite(target).all(-1, keepdim=True)
    most = max(1, max(len(clip.clouds[t]) for t in ticks.ravel()))
    cloud = np.zeros((*ticks.shape, most, 3), np.float32)
    full = np.zeros((*ticks.shape, most), bool)
    for place in np.ndindex(*ticks.shape):
        points = clip.clouds[ticks[place]]
        cloud[place][: len(points)], full[place][: len(points)] = points, True
    return _Seen(
        torch.where(known, target, 0.0), known, torch.as_tensor(cloud), torch.as_tensor(full)
    )
