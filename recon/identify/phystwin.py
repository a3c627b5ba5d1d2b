"""PhysTwin's two stages on tracks: a global search without gradients, then a dense descent.

Jiang et al., "PhysTwin: Physics-Informed Reconstruction and Simulation of Deformable Objects from
Videos", section 3.3. Stage one is CMA-ES over what holds for the whole object; stage two refines
everything, every node's stiffness included. Ropes become discrete elastic rods instead of spring
networks, because that is what predicts real cables best (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import numpy as np

from physgym import __version__
from physgym.errors import DataError
from physgym.run_folder import RunFolder
from physgym.twin import Twin
from recon.identify.least_squares import Fit, refine
from recon.identify.progress import Progress
from recon.identify.rope import RopeProblem
from recon.identify.search import search
from recon.identify.segments import cut_segments
from recon.identify.uncertainty import parameter_sigma
from recon.tracks import Tracks

__all__ = ["PhysTwinConfig", "identify"]

Budget = Literal["quick", "full"]


@dataclass(frozen=True)
class PhysTwinConfig:
    """How long to search, and what is known beforehand.

    Attributes:
        budget: ``"quick"`` makes one search, ``"full"`` several from different seeds.
        seed: of the random numbers.
        segment_s: simulate pieces of this length [s]; whole recordings when None.
        linear_density_kg_per_m: mass per length of a rope; weigh it if forces matter.
        search_recordings: the global search looks at so many of the liveliest recordings.
        substeps_per_frame: override of the stability limit.
    """

    budget: Budget = "quick"
    seed: int = 0
    segment_s: float | None = None
    linear_density_kg_per_m: float = 0.02
    search_recordings: int = 8
    substeps_per_frame: int | None = None

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
        if self.search_recordings < 1:
            raise DataError(f"{self.search_recordings}", where="search_recordings", expected="1 up")

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
        recordings: tracks of one rope, nodes in order along it.
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
    segments = cut_segments(recordings, config.segment_s)
    problem = RopeProblem(
        recordings,
        segments,
        linear_density_kg_per_m=config.linear_density_kg_per_m,
        substeps_per_frame=config.substeps_per_frame,
        frame_stride=2 if len(segments) < 8 else 3,
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
        self.lively = _liveliest(problem, config.search_recordings)
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
        with self.progress.stage(f"search {label}", config.generations) as tick:
            found = search(
                problem,
                problem.search_directions(),
                self.lively,
                start=problem.prior.mean,
                generations=config.generations,
                seed=config.seed + start,
                on_generation=tick,
            )
        with self.progress.stage(f"refine {label}", 30) as tick:
            self._refine(found[0].theta, self.lively, tick)
        self.done = start + 1
        self._save()

    def _refine(self, theta: np.ndarray, recordings: list[int], tick) -> Fit:
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
        with self.progress.stage(f"refine on {len(everything)} recordings", 30) as tick:
            self.fit = self._refine(self.theta, everything, tick)

    def _save(self) -> None:
        if self.run is not None:
            self.run.save_checkpoint(self.done, {"theta": self.theta}, {"cost": float(self.cost)})


def _liveliest(problem: RopeProblem, count: int) -> list[int]:
    travel = [
        float(np.abs(np.diff(s.driven, axis=0)).sum() / len(s.driven)) for s in problem.segments
    ]
    order = np.argsort(travel)[::-1]
    # From the livelier half, evenly: the wildest alone would teach whirling and nothing else.
    pool = order[: max(count, len(order) // 2)]
    return sorted(int(i) for i in pool[:: max(1, len(pool) // count)][:count])


def _make_twin(job: _Job, recordings: list[Tracks], name: str) -> Twin:
    problem = job.problem
    parameters = problem.parameters(job.theta).to_mapping()
    parameters["gravity_mps2"] = np.asarray(problem.model.gravity_mps2)
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
