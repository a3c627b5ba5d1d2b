"""PhysTwin's two stages as one resumable job on a spring network, and the twin that it makes.

Shapes: P coordinates, G of them global, S springs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cmaes import CMA

from physgym import __version__
from physgym.run_folder import Checkpoint, RunFolder
from physgym.twin import Twin
from recon.identify.dense_stiffness import VALIDATION_SHARE, Descent, descend
from recon.identify.kind import sheet_or_volume
from recon.identify.least_squares import Fit, refine
from recon.identify.network_coordinates import GLOBALS
from recon.identify.network_topology import Topology, level_ground
from recon.identify.problem import cost
from recon.identify.progress import Progress
from recon.identify.segments import Segment, cut_segments
from recon.identify.spring_network import SpringNetworkProblem
from recon.identify.windows import cut_windows, window_covariance
from recon.tracks import Tracks

if TYPE_CHECKING:
    from recon.identify.phystwin import PhysTwinConfig

__all__ = ["identify_network"]

_POPULATION = 32
# First standard deviation of the search in those of the prior: topology has several valleys.
_SPREAD = 1.0
_GENERATIONS = {"quick": 60, "full": 80}
_DESCENT_STEPS = {"quick": 80, "full": 300}
_SEGMENT_S = 0.25
_SEARCH_SEGMENTS = 16  # the global search looks at so many of the livelier segments
_CHECKPOINT_STEPS = 20
_ASSUMED_NODE_KG = 1e-3


def identify_network(
    recordings: list[Tracks],
    config: PhysTwinConfig,
    *,
    name: str,
    progress: Progress,
    run: RunFolder | None = None,
) -> Twin:
    """Make a spring-mass twin from recordings of one object.

    Args:
        recordings: tracks of one object.
        config: how long to search, and what is known beforehand.
        name: name of the twin.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, without metrics.

    Raises:
        DataError: if the recordings cannot be used.
    """
    segments = _segments(recordings, config.segment_s or _SEGMENT_S)
    mass_kg = config.mass_kg
    if mass_kg is None:
        mass_kg = _ASSUMED_NODE_KG * len(recordings[0].free_index)
    problem = SpringNetworkProblem(
        recordings,
        segments,
        mass_kg=mass_kg,
        ground=level_ground(np.asarray(recordings[0].gravity), config.ground_height_m),
        frame_stride=2,
        substeps_per_frame=config.substeps_per_frame,
        chamfer=config.chamfer,
    )
    progress.say(f"{len(problem.rest_position)} points taken for a spring network")
    job = _Job(problem, config, progress, run)
    job.go()
    return _make_twin(job, name)


class _Job:
    """Both stages, resumable: what is best so far, and what is done.

    Attributes:
        theta: best coordinates of the search, shape (P,).
        dense: best of the descent, once it has begun.
        covariance: of the global coordinates in the end, shape (G, G).
    """

    def __init__(
        self,
        problem: SpringNetworkProblem,
        config: PhysTwinConfig,
        progress: Progress,
        run: RunFolder | None,
    ) -> None:
        self.problem, self.config, self.progress, self.run = problem, config, progress, run
        self.everything = list(range(len(problem.segments)))
        self.lively = _liveliest(problem, _SEARCH_SEGMENTS)
        self.theta, self.cost = problem.prior.mean.copy(), np.inf
        self.starts_done, self.steps_done, self.steps_saved = 0, 0, 0
        self.dense: Descent | None = None
        self.covariance: np.ndarray | None = None
        self.stopped = False
        checkpoint = run.latest_checkpoint() if run is not None else None
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def topology(self) -> Topology:
        """Springs of the best candidate."""
        return self.problem.topology_of(self.theta)

    def go(self) -> None:
        """Both stages; Ctrl-C keeps the best so far."""
        try:
            for start in range(self.starts_done, self.config.starts):
                self._search(start)
            self._descend()
            self._finish()
        except KeyboardInterrupt:
            self.stopped = True
            self.progress.say("stopped: keeping the best so far")

    def _search(self, start: int) -> None:
        """CMA-ES as in `recon.identify.search`, keeping the best of every generation at once."""
        config, prior = self.config, self.problem.prior
        label = f"search start {start + 1}/{config.starts}"
        optimizer = CMA(
            mean=np.zeros(len(prior.mean)),
            sigma=_SPREAD,
            population_size=_POPULATION,
            seed=config.seed + start,
        )
        generations = _GENERATIONS[config.budget]
        with self.progress.stage(label, generations) as tick:
            for generation in range(generations):
                asked = np.stack([optimizer.ask() for _ in range(_POPULATION)])
                theta = prior.mean + asked * prior.sigma
                values = cost(self.problem, theta, self.lively)
                optimizer.tell([(z, float(v)) for z, v in zip(asked, values)])
                winner = int(np.argmin(values))
                if values[winner] < self.cost:
                    self.theta, self.cost = theta[winner].copy(), float(values[winner])
                tick(generation + 1, self.cost)
                if optimizer.should_stop():
                    break
        self.starts_done = start + 1
        self._save()

    def _descend(self) -> None:
        """Global coordinates by least squares, then every spring by Adam."""
        frozen = self.problem.frozen(self.topology)
        if self.dense is None:
            with self.progress.stage("refine the global parameters", 30) as tick:
                fit = self._refine(frozen, self.theta[: self.problem.global_count], tick)
            self._take_globals(fit)
            self.dense = Descent(fit.theta, np.zeros(len(self.topology.edges)))
        total = _DESCENT_STEPS[self.config.budget]
        start = self.dense
        with self.progress.stage("refine every spring", total) as tick:

            def keep(step: int, best: Descent) -> None:
                self.dense, self.steps_done = best, step
                if step - self.steps_saved >= _CHECKPOINT_STEPS:
                    self._save()
                tick(step, best.train_cost)

            self.dense = _levelled(
                descend(
                    frozen, start, iterations=total, first_iteration=self.steps_done, on_step=keep
                )
            )
        self._save()

    def _finish(self) -> None:
        """Keep the dense stiffness where it predicts better what it did not learn from."""
        assert self.dense is not None
        count = self.problem.global_count
        even = self.problem.frozen(self.topology)
        dense = self.problem.frozen(self.topology, self.dense.log_offset)
        held = _held_back(self.problem)
        at = [(even, self.theta[:count]), (dense, self.dense.theta)]
        costs = [float(cost(problem, theta[None], held)[0]) for problem, theta in at]
        better = int(costs[1] < costs[0])
        if not better:
            self.progress.say("every spring for itself predicts no better: all stay alike")
            self.dense = Descent(self.theta[:count], np.zeros(len(self.topology.edges)))
        with self.progress.stage(f"refine on {len(self.everything)} segments", 30) as tick:
            fit = self._refine(*at[better], tick)
        self.dense = Descent(fit.theta, self.dense.log_offset)
        self.covariance = window_covariance(at[better][0], fit, self.everything)

    def _refine(
        self, problem: SpringNetworkProblem, theta: np.ndarray, tick: Callable[[int, float], None]
    ) -> Fit:
        return refine(
            problem, theta, self.everything, on_step=lambda step, value, _: tick(step, value)
        )

    def _take_globals(self, fit: Fit) -> None:
        self.theta = np.concatenate([fit.theta, self.theta[self.problem.global_count :]])

    def _save(self) -> None:
        if self.run is None:
            return
        arrays = {"theta": self.theta}
        if self.dense is not None:
            arrays |= {"dense_theta": self.dense.theta, "dense_offset": self.dense.log_offset}
        meta = {
            "cost": float(self.cost),
            "starts_done": self.starts_done,
            "steps_done": self.steps_done,
        }
        self.steps_saved = self.steps_done
        self.run.save_checkpoint(self.starts_done + self.steps_done, arrays, meta)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.theta = checkpoint.arrays["theta"]
        self.cost = float(checkpoint.meta["cost"])
        self.starts_done = int(checkpoint.meta["starts_done"])
        self.steps_done = self.steps_saved = int(checkpoint.meta["steps_done"])
        if "dense_theta" in checkpoint.arrays:
            self.dense = Descent(
                checkpoint.arrays["dense_theta"], checkpoint.arrays["dense_offset"]
            )


def _segments(recordings: list[Tracks], segment_s: float) -> list[Segment]:
    """Windows with central differences for their start's velocity, where there are any.

    From two frames alone a start is half a frame late, which parameters would make up for.
    """
    whole = cut_segments(recordings, segment_s)  # checks that they fit together
    windows = [
        window
        for t in recordings
        for window in cut_windows(t, 0, t.frame_count, max(3, round(segment_s / t.dt_s)))
    ]
    return windows or whole


def _levelled(point: Descent) -> Descent:
    """The same stiffness with a mean offset of zero, so that the global one means something."""
    mean = float(point.log_offset.mean())
    theta = point.theta.copy()
    theta[list(GLOBALS).index("log_stiffness")] += mean
    # Damping ratios are relative to the stiffness: the dashpots stay as they are.
    theta[list(GLOBALS).index("log_damping_ratio")] -= 0.5 * mean
    return replace(point, theta=theta, log_offset=point.log_offset - mean)


def _held_back(problem: SpringNetworkProblem) -> list[int]:
    """Segments of which the descent saw nothing or little: the last fifth of every recording.

    All segments where none begins so late.
    """
    late = []
    for tracks in problem.recordings:
        border = round((1.0 - VALIDATION_SHARE) * tracks.frame_count)
        for r, segment in enumerate(problem.segments):
            name, _, frame = segment.name.rpartition("@")
            if name == tracks.name and int(frame) + len(segment.target) // 2 >= border:
                late.append(r)
    return sorted(set(late)) or list(range(len(problem.segments)))


def _liveliest(problem: SpringNetworkProblem, count: int) -> list[int]:
    """Segments to search on: evenly from the livelier half."""
    travel = [
        float(np.nansum(np.abs(np.diff(s.target, axis=0))) / len(s.target))
        for s in problem.segments
    ]
    order = np.argsort(travel)[::-1]
    pool = order[: max(count, len(order) // 2)]
    return sorted(int(i) for i in pool[:: max(1, len(pool) // count)][:count])


def _make_twin(job: _Job, name: str) -> Twin:
    problem, topology = job.problem, job.topology
    count = problem.global_count
    theta, offset = job.theta[:count], np.zeros(len(topology.edges))
    if job.dense is not None:
        theta, offset = job.dense.theta, job.dense.log_offset
    values = _scalars(problem, topology, theta[None])
    shape = float(values.pop("length_exponent")[0])
    parameters: dict[str, Any] = {key: np.array(value[0]) for key, value in values.items()}
    parameters |= {
        "springs": topology.edges.astype(np.int32),
        "spring_rest_length_m": topology.rest_length_m,
        "log_stiffness_ratio": shape * np.log(topology.rest_length_m / problem.spacing_m) + offset,
        "mass_kg": np.array(problem.mass_kg),
        "gravity_m_per_s2": problem.gravity,
    }
    if problem.ground is None:
        del parameters["restitution"], parameters["friction"]
    else:
        parameters["ground_normal"] = np.array(problem.ground.normal)
        parameters["ground_offset_m"] = np.array(problem.ground.offset_m)
    assumed: dict[str, Any] = {}
    if job.config.mass_kg is None:
        assumed["mass_kg"] = problem.mass_kg
    return Twin(
        name=name,
        kind=sheet_or_volume(problem.rest_position),
        dynamics="spring_mass",
        method="phystwin",
        rest_position=problem.rest_position.astype(np.float32),
        driven_index=problem.driven_index,
        parameters=parameters,
        uncertainty=_uncertainty(job, topology, parameters),
        provenance={
            "physgym": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "recordings": [
                {"name": t.name, "source_sha256": t.source_sha256} for t in problem.recordings
            ],
            "budget": job.config.budget,
            "seed": job.config.seed,
            "stopped_early": job.stopped,
            "assumed": assumed,
            "uncertainty_holds": "topology and the springs' stiffness ratios as found",
        },
        validity=_validity(problem, topology),
    )


def _scalars(
    problem: SpringNetworkProblem, topology: Topology, theta: np.ndarray
) -> dict[str, np.ndarray]:
    found = problem.scalars(torch.as_tensor(theta), [topology] * len(theta))
    return {key: value.numpy() for key, value in found.items()}


def _uncertainty(
    job: _Job, topology: Topology, parameters: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One standard deviation of the scalars, linear in the coordinates over that much."""
    if job.covariance is None or job.dense is None:
        return {}
    step = job.problem.prior.step[: job.problem.global_count]
    base, covariance = job.dense.theta, job.covariance
    moved = _scalars(job.problem, topology, np.concatenate([base[None], base + np.diag(step)]))
    sigma = {}
    for name, value in moved.items():
        slope = (value[1:] - value[0]) / step
        if name in parameters and np.any(slope):
            sigma[name] = np.array(np.sqrt(max(0.0, slope @ covariance @ slope)))
    return sigma


def _validity(problem: SpringNetworkProblem, topology: Topology) -> dict[str, list[float]]:
    """Ranges of strain and speed seen, without one sample in a thousand at each end."""
    strains, speeds = [], []
    first, second = topology.edges.T
    for tracks in problem.recordings:
        x = tracks.position.astype(np.float64)
        length = np.linalg.norm(x[:, first] - x[:, second], axis=-1)
        strains.append((length / topology.rest_length_m - 1.0).ravel())
        speeds.append((np.linalg.norm(np.diff(x, axis=0), axis=-1) / tracks.dt_s).ravel())

    def span(values: list[np.ndarray]) -> list[float]:
        low, high = np.nanpercentile(np.concatenate(values), [0.1, 99.9])
        return [float(low), float(high)]

    return {"strain": span(strains), "speed_m_s": span(speeds)}
