"""CMA-ES over a few global parameters: it finds the valley that a descent then goes down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cmaes import CMA

from recon.identify.problem import Problem, cost

__all__ = ["Candidate", "search"]


@dataclass(frozen=True)
class Candidate:
    """One point that the search tried.

    Attributes:
        theta: all coordinates, shape (P,).
        cost: negative log posterior.
    """

    theta: np.ndarray
    cost: float


def search(
    problem: Problem,
    directions: np.ndarray,
    recordings: list[int],
    *,
    start: np.ndarray,
    generations: int,
    population: int = 32,
    spread: float = 0.5,
    seed: int = 0,
    on_generation: Callable[[int, float], None] | None = None,
    on_best: Callable[[Candidate], None] | None = None,
) -> list[Candidate]:
    """Minimise the cost over a few directions through the start.

    Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; PhysTwin, section 3.3.

    Args:
        problem: the problem.
        directions: one standard deviation of the prior along each, shape (D, P).
        recordings: which recordings count.
        start: shape (P,).
        generations: how many.
        population: candidates a generation; a multiple of 16 fills the lanes.
        spread: first standard deviation, in units of the directions.
        seed: of the random numbers.
        on_generation: called with generation and best cost.
        on_best: called with every candidate that beats all before, ahead of ``on_generation``.

    Returns:
        The best candidate of every generation, best first.
    """
    optimizer = CMA(np.zeros(len(directions)), spread, population_size=population, seed=seed)
    found: list[Candidate] = []
    for generation in range(generations):
        asked = np.stack([optimizer.ask() for _ in range(population)])
        theta = start + asked @ directions
        values = cost(problem, theta, recordings)
        # Ranks decide, so a blown-up candidate only has to be worse than all others.
        optimizer.tell([(z, float(v)) for z, v in zip(asked, np.nan_to_num(values, nan=1e12))])
        winner = int(np.argmin(values))
        candidate = Candidate(theta[winner].copy(), float(values[winner]))
        if on_best is not None and all(candidate.cost < earlier.cost for earlier in found):
            on_best(candidate)
        found.append(candidate)
        if on_generation is not None:
            on_generation(generation + 1, min(c.cost for c in found))
        if optimizer.should_stop():
            break
    return sorted(found, key=lambda candidate: candidate.cost)
