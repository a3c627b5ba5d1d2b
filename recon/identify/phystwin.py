"""PhysTwin's two stages on tracks: a global search without gradients, then a dense descent.

Jiang et al., "PhysTwin: Physics-Informed Reconstruction and Simulation of Deformable Objects from
Videos", section 3.3. Stage one is CMA-ES over what holds for the whole object; stage two refines
everything, every node's stiffness included. Ropes become discrete elastic rods instead of spring
networks, because that is what predicts real cables best (docs/benchmarks.md). Everything else
becomes a spring network (`recon.identify.network`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import numpy as np

from physgym import __version__
from physgym.errors import DataError
from physgym.run_folder import RunFolder
from physgym.twin import Twin
from recon.identify.kind import is_rope
from recon.identify.least_squares import Fit, refine
from recon.identify.network import identify_network
from recon.identify.progress import Progress
from recon.identify.rope import RopeProblem
from recon.identify.search import Candidate, search
from recon.identify.segments import cut_segments
from recon.identify.uncertainty import parameter_sigma
from recon.tracks import Tracks

__all__ = ["ROPE_SEGMENT_S", "PhysTwinConfig", "identify"]

Budget = Literal["quick", "full"]
# Longer than a cable remembers its start (about a second), short enough to stay out of chaos.
ROPE_SEGMENT_S = 1.25


@dataclass(frozen=True)
class PhysTwinConfig:
    """How long to search, and what is known beforehand.

    Attributes:
        budget: ``"quick"`` makes one search, ``"full"`` several from different seeds.
        seed: of the random numbers.
        segment_s: simulate pieces of this length [s], each from its own start; None is 1.25 s of a
            rope and 0.25 s of a network, whose longer motions are chaotic: what a parameter does to
            them drowns in what it does not.
        linear_density_kg_per_m: mass per length of a rope; weigh it if forces matter.
        search_s: the global search looks at so many seconds of the livelier segments.
        substeps_per_frame: override of the stability limit.
        kind: ``"rope"`` makes a rod, ``"network"`` springs between near points; ``"auto"`` looks
            at the recordings (`recon.identify.kind`).
        mass_kg: mass of a network without its driven points; 1 g a point when None.
        ground_height_m: height of a level ground that a network touches; no ground when None.
        chamfer: of a network, also compare every seen point with the nearest simulated one.
    """

    budget: Budget = "quick"
    seed: int = 0
    segment_s: float | None = None
    linear_density_kg_per_m: float = 0.02
    search_s: float = 40.0
    substeps_per_frame: int | None = None
    kind: Literal["auto", "rope", "network"] = "auto"
    mass_kg: float | None = None
    ground_height_m: float | None = None
    chamfer: bool = False

    def __post_init__(self) -> None:
        if not (self.linear_density_kg_per_m > 0 and np.isfinite(self.linear_density_kg_per_m)):
            raise DataError(
                f"{self.linear_density_kg_per_m} kg/m",
                where="linear_density_kg_per_m",
                expected="more than 0, such as 0.02 for a thin cable",
                fix="weigh the cable and divide by its length",
            )
        if self.segment_s is not None and not self.segment_s > 0:
            raise DataError(f"{self.segment_s} s", where="segment_s", expected="more than 0")
        if not self.search_s > 0:
            raise DataError(f"{self.search_s} s", where="search_s", expected="more than 0")
        if self.mass_kg is not None and not (self.mass_kg > 0 and np.isfinite(self.mass_kg)):
            raise DataError(f"{self.mass_kg} kg", where="mass_kg", expected="more than 0")
        if self.ground_height_m is not None and not np.isfinite(self.ground_height_m):
            raise DataError(f"{self.ground_height_m} m", where="ground_height_m", expected="metres")

    @property
    def starts(self) -> int:
        """Independent searches."""
        return 1 if self.budget == "quick" else 3

    @property
    def generations(self) -> int:
        """Generations of one search."""
        return 60


def identify(
    recordings: list[Tracks],
    config: PhysTwinConfig | None = None,
    *,
    name: str = "rope",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a twin from recordings of one object.

    Ctrl-C ends the search; the twin is then the best found so far and says so in its provenance.

    Args:
        recordings: tracks of one object; of a rope, nodes in order along it.
        config: how long to search.
        name: name of the twin.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, without metrics.

    Raises:
        DataError: if the recordings cannot be used.
    """
    config = config or PhysTwinConfig()
    progress = progress or Progress()
    if not recordings:
        raise DataError("no recordings", where="reconstruct", expected="at least one")
    if config.kind == "network" or (config.kind == "auto" and not is_rope(recordings)):
        return identify_network(recordings, config, name=name, progress=progress, run=run)
    segments = cut_segments(recordings, config.segment_s or ROPE_SEGMENT_S)
    problem = RopeProblem(
        recordings,
        segments,
        linear_density_kg_per_m=config.linear_density_kg_per_m,
        substeps_per_frame=config.substeps_per_frame,
        frame_stride=2 if len(recordings) < 8 else 3,
    )
    job = _Job(problem, config, progress, run)
    job.go()
    return _make_twin(job, recordings, name)


class _Job:
    """The search as a resumable job: best so far, and which starts are done."""

    def __init__(
        self,
        problem: RopeProblem,
        config: PhysTwinConfig,
        progress: Progress,
        run: RunFolder | None,
    ) -> None:
        self.problem, self.config, self.progress, self.run = problem, config, progress, run
        self.lively = _liveliest(problem, config.search_s)
        self.theta = problem.prior.mean.copy()
        self.cost = np.inf  # of theta, on the recordings of the search
        self.done = 0
        self.fit: Fit | None = None
        self.stopped = False
        checkpoint = run.latest_checkpoint() if run is not None else None
        if checkpoint is not None:
            self.theta = checkpoint.arrays["theta"]
            self.cost, self.done = checkpoint.meta["cost"], checkpoint.step

    def go(self) -> None:
        """Search, refine, and refine on everything; Ctrl-C skips to the end with the best."""
        try:
            for start in range(self.done, self.config.starts):
                self._start(start)
            self._finish()
        except KeyboardInterrupt:
            self.stopped = True
            self.progress.say("stopped: keeping the best so far")

    def _start(self, start: int) -> None:
        config, problem = self.config, self.problem
        label = f"start {start + 1}/{config.starts}"

        def keep(candidate: Candidate) -> None:
            if candidate.cost < self.cost:
                self.cost, self.theta = candidate.cost, candidate.theta.copy()

        with self.progress.stage(f"search {label}", config.generations) as tick:
            found = search(
                problem,
                problem.search_directions(),
                self.lively,
                start=problem.prior.mean,
                generations=config.generations,
                seed=1000 * config.seed + start,
                on_generation=tick,
                on_best=keep,
            )
        with self.progress.stage(f"refine {label}", 30) as tick:
            self._refine(found[0].theta, self.lively, tick)
        self.done = start + 1
        self._save()

    def _refine(
        self, theta: np.ndarray, recordings: list[int], tick: Callable[[int, float], None]
    ) -> Fit:
        def keep(step: int, value: float, at: np.ndarray) -> None:
            tick(step, value)
            if value < self.cost:
                self.cost, self.theta = value, at.copy()

        fit = refine(self.problem, theta, recordings, on_step=keep)
        if fit.cost < self.cost:
            self.cost, self.theta = fit.cost, fit.theta
        return fit

    def _finish(self) -> None:
        everything = list(range(len(self.problem.segments)))
        self.cost = np.inf  # another set of recordings, another scale
        with self.progress.stage(f"refine on {len(everything)} segments", 30) as tick:
            self.fit = self._refine(self.theta, everything, tick)

    def _save(self) -> None:
        if self.run is not None:
            self.run.save_checkpoint(self.done, {"theta": self.theta}, {"cost": float(self.cost)})


def _liveliest(problem: RopeProblem, seconds: float) -> list[int]:
    """From the livelier half of the segments, evenly: the wildest alone teach whirling only."""
    travel = [
        float(np.abs(np.diff(s.driven, axis=0)).sum() / len(s.driven)) for s in problem.segments
    ]
    lengths = [len(s.target) * s.dt_s for s in problem.segments]
    count = max(1, round(seconds / float(np.mean(lengths))))
    order = np.argsort(travel)[::-1]
    pool = order[: max(count, len(order) // 2)]
    chosen = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
    return sorted(int(i) for i in pool[np.unique(chosen)])


def _make_twin(job: _Job, recordings: list[Tracks], name: str) -> Twin:
    problem = job.problem
    parameters = problem.parameters(job.theta).to_mapping()
    parameters["gravity_m_per_s2"] = np.asarray(problem.model.gravity_m_per_s2)
    uncertainty = {}
    if job.fit is not None and np.array_equal(job.fit.theta, job.theta):
        uncertainty = parameter_sigma(problem, job.fit)
    return Twin(
        name=name,
        kind="rope",
        dynamics="rod",
        method="phystwin",
        rest_position=problem.segments[0].position.astype(np.float32),
        driven_index=np.array(problem.model.driven_index),
        parameters=parameters,
        uncertainty=uncertainty,
        provenance={
            "physgym": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "recordings": [{"name": t.name, "source_sha256": t.source_sha256} for t in recordings],
            "budget": job.config.budget,
            "seed": job.config.seed,
            "stopped_early": job.stopped,
            "assumed": {
                "linear_density_kg_per_m": problem.density,
                "stretch_stiffness_n": float(parameters["stretch_stiffness_n"]),
            },
        },
        validity=_validity(problem, recordings),
    )


def _validity(problem: RopeProblem, recordings: list[Tracks]) -> dict[str, list[float]]:
    strains, speeds, turns = [], [], []
    for tracks in recordings:
        x = tracks.position.astype(np.float64)
        edges = np.diff(x, axis=1)
        length = np.linalg.norm(edges, axis=-1)
        strains.append(length / problem.rest_length_m - 1.0)
        speeds.append(np.linalg.norm(np.diff(x, axis=0), axis=-1) / tracks.dt_s)
        cosine = np.sum(edges[:, 1:] * edges[:, :-1], -1) / (length[:, 1:] * length[:, :-1])
        turns.append(np.arccos(np.clip(cosine, -1.0, 1.0)))

    def span(values: list[np.ndarray]) -> list[float]:
        # Single samples are noise: the range leaves out one in a thousand at each end.
        flat = np.concatenate([v.ravel() for v in values])
        low, high = np.nanpercentile(flat, [0.1, 99.9])
        return [float(low), float(high)]

    return {"strain": span(strains), "speed_m_s": span(speeds), "turning_rad": span(turns)}
