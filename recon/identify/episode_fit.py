"""PhysTwin on an episode: perception in, twin out, as one resumable job.

Stages: CMA-ES over the twelve parameters of the paper and two more (zero order), Gauss-Newton on
those that are no topology, Adam on every spring (first order). Only the first 7/10 of the frames
are learned from, as in the paper.
Shapes: P coordinates, G of them global, S springs, N nodes, M surface points.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import torch
from cmaes import CMA

from physgym import __version__
from physgym.errors import DataError
from physgym.run_folder import Checkpoint, RunFolder
from physgym.twin import Twin
from recon.identify.clip import Clip, above_ground, make_clip, thinned_nodes
from recon.identify.dense_stiffness import Descent
from recon.identify.episode_descent import descend_episode
from recon.identify.episode_problem import EpisodeProblem
from recon.identify.first_motion import find_first_motion, moving_clip
from recon.identify.least_squares import Fit, refine
from recon.identify.network_coordinates import MOST_DRAG_PER_S
from recon.identify.network_topology import Topology
from recon.identify.problem import cost, warn_unusual
from recon.identify.progress import Progress
from recon.perception.result import Perception

__all__ = ["EpisodeConfig", "identify_episode"]

_POPULATION = 24
_GENERATIONS = {"quick": 40, "full": 80}
_DESCENT_STEPS = {"quick": 60, "full": 200}
# Spread of the first generation in standard deviations of the prior, wide since topology and
# friction have several valleys.
_SPREAD = 0.8
_SURFACE_SPACING_M = 0.004
_MOST_SURFACE = 6000
# Stuffed toys, foam and cloth that people handle weigh about so much for their size; the motion
# tells only ratios to the mass.
_ASSUMED_KG = 0.1


@dataclass(frozen=True)
class EpisodeConfig:
    """How an episode is fitted.

    Attributes:
        budget: ``"quick"`` or ``"full"``: how long both stages search.
        seed: of the random numbers.
        train_share: share of the frames that is learned from; the rest is future.
        mass_kg: of the object; 0.1 kg when None, which scales all stiffness and no motion.
        self_collision: let the object touch itself; ``"auto"`` does so for sheets and ropes.
        most_nodes: nodes of the network at most. Time grows with it; the surface that is shown and
            scored follows the nodes and is as fine as the cameras saw it.
        substeps_per_frame: override of the stability limit.
    """

    budget: Literal["quick", "full"] = "quick"
    seed: int = 0
    train_share: float = 0.7
    mass_kg: float | None = None
    self_collision: Literal["auto", "on", "off"] = "auto"
    most_nodes: int = 700
    substeps_per_frame: int | None = None

    def __post_init__(self) -> None:
        if not 0.05 <= self.train_share <= 1.0:
            raise DataError(f"{self.train_share}", where="train_share", expected="0.05 to 1")
        if self.mass_kg is not None and not (np.isfinite(self.mass_kg) and self.mass_kg > 0):
            raise DataError(f"{self.mass_kg} kg", where="mass_kg", expected="more than 0")
        if self.most_nodes < 20:
            raise DataError(f"{self.most_nodes}", where="most_nodes", expected="20 or more")


def identify_episode(
    perception: Perception,
    config: EpisodeConfig | None = None,
    *,
    name: str = "",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a spring-network twin from what was perceived of one episode.

    Ctrl-C ends the search; the twin is then the best found so far and says so in its provenance.

    Args:
        perception: of the episode.
        config: how long to search, and what is known beforehand.
        name: of the twin; that of the episode when empty.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, without metrics.

    Raises:
        DataError: if there is too little to learn from.
    """
    config, progress = config or EpisodeConfig(), progress or Progress()
    frames = perception.tracks.frame_count
    stop = max(3, round(config.train_share * frames))
    clip, _, _ = make_clip(
        perception, most_nodes=config.most_nodes, stop_frame=stop, seed=config.seed
    )
    first_motion = find_first_motion(clip)
    if first_motion is not None:
        clip = moving_clip(clip)
        progress.say(f"the object moves in the first frame, {first_motion}")
    collide = config.self_collision == "on" or (
        config.self_collision == "auto" and perception.kind != "volume"
    )
    problem = EpisodeProblem(
        clip,
        mass_kg=config.mass_kg or _ASSUMED_KG,
        first_motion=first_motion,
        self_collision=collide,
        frame_stride=2,
        substeps_per_frame=config.substeps_per_frame,
    )
    progress.say(
        f"{len(clip.rest_position)} nodes, {len(clip.grips)} grips, {len(clip.pushers)} pushers, "
        f"ticks {clip.first} to {clip.stop}"
    )
    job = _Job(problem, config, progress, run)
    job.go()
    found = job.theta if job.dense is None else job.dense.theta
    most = {"log_drag": float(np.log(0.95 * MOST_DRAG_PER_S))}
    warn_unusual(problem.prior, found[: problem.global_count], perception.name, most)
    return _make_twin(job, perception, stop, name or perception.name)


class _Job:
    """Both stages, resumable: what is best so far, and what is done.

    Attributes:
        theta: best coordinates of the search, shape (P,).
        dense: global coordinates and offsets of the descent, once it has begun.
        fit: of the last refinement.
        history: cost after each stage.
    """

    def __init__(
        self,
        problem: EpisodeProblem,
        config: EpisodeConfig,
        progress: Progress,
        run: RunFolder | None,
    ) -> None:
        self.problem, self.config, self.progress, self.run = problem, config, progress, run
        self.theta, self.cost = problem.prior.mean.copy(), np.inf
        self.done = self.steps_done = self.steps_saved = 0
        self.dense: Descent | None = None
        self.fit: Fit | None = None
        self.stopped = False
        self.history: dict[str, float] = {}
        checkpoint = run.latest_checkpoint() if run is not None else None
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def topology(self) -> Topology:
        """Springs of the best candidate."""
        return self.problem.topology_of(self.theta)

    def go(self) -> None:
        """All stages; Ctrl-C keeps the best so far."""
        try:
            if self.done < 1:
                self._search()
            if self.done < 2:
                self._refine()
            self._descend()
        except KeyboardInterrupt:
            self.stopped = True
            self.progress.say("stopped: keeping the best so far")

    def _search(self) -> None:
        config, prior = self.config, self.problem.prior
        optimizer = CMA(
            mean=np.zeros(len(prior.mean)),
            sigma=_SPREAD,
            population_size=_POPULATION,
            seed=config.seed,
        )
        generations = _GENERATIONS[config.budget]
        with self.progress.stage("search", generations) as tick:
            for generation in range(generations):
                asked = np.stack([optimizer.ask() for _ in range(_POPULATION)])
                if generation == 0:
                    asked[0] = 0.0  # the prior's own mean is often not far
                values = cost(self.problem, prior.mean + asked * prior.sigma, [0])
                optimizer.tell([(z, float(v)) for z, v in zip(asked, values)])
                winner = int(np.argmin(values))
                if values[winner] < self.cost:
                    self.theta = prior.mean + asked[winner] * prior.sigma
                    self.cost = float(values[winner])
                tick(generation + 1, self.cost)
                if optimizer.should_stop():
                    break
        self.history["search"] = self.cost
        self.done = 1
        self._save()

    def _refine(self) -> None:
        """The global coordinates by Gauss-Newton with the topology as found."""
        count = self.problem.global_count
        frozen = self.problem.frozen(self.topology)

        def keep(step: int, value: float, at: np.ndarray) -> None:
            tick(step, value)
            self.theta = np.concatenate([at, self.theta[count:]])

        with self.progress.stage("refine the global parameters", 12) as tick:
            self.fit = refine(frozen, self.theta[:count], [0], max_steps=12, on_step=keep)
        self.theta = np.concatenate([self.fit.theta, self.theta[count:]])
        self.history["refine"] = self.fit.cost
        self.done = 2
        self._save()

    def _descend(self) -> None:
        frozen = self.problem.frozen(self.topology)
        total = _DESCENT_STEPS[self.config.budget]
        if self.dense is None:
            offset = np.zeros(len(self.topology.edges))
            self.dense = Descent(self.theta[: self.problem.global_count], offset)
        with self.progress.stage("refine every spring", total) as tick:

            def keep(step: int, best: Descent) -> None:
                self.dense, self.steps_done = best, step
                if step - self.steps_saved >= 20:
                    self._save()
                tick(step, best.train_cost)

            self.dense = descend_episode(
                frozen,
                self.dense,
                iterations=total,
                first_iteration=self.steps_done,
                on_step=keep,
            )
        self.history["springs"] = self.dense.train_cost
        self._save()

    def _save(self) -> None:
        if self.run is None:
            return
        arrays = {"theta": self.theta}
        if self.dense is not None:
            arrays |= {"dense_theta": self.dense.theta, "dense_offset": self.dense.log_offset}
        meta = {"cost": float(self.cost), "done": self.done, "steps_done": self.steps_done}
        self.steps_saved = self.steps_done
        self.run.save_checkpoint(self.done + self.steps_done, arrays, meta)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.theta = checkpoint.arrays["theta"]
        self.cost = float(checkpoint.meta["cost"])
        self.done = int(checkpoint.meta["done"])
        self.steps_done = self.steps_saved = int(checkpoint.meta["steps_done"])
        if "dense_theta" in checkpoint.arrays:
            self.dense = Descent(
                checkpoint.arrays["dense_theta"], checkpoint.arrays["dense_offset"]
            )


def _make_twin(job: _Job, perception: Perception, stop: int, name: str) -> Twin:
    problem, topology, clip = job.problem, job.topology, job.problem.clip
    count = problem.global_count
    dense = job.dense or Descent(job.theta[:count], np.zeros(len(topology.edges)))
    own = problem.grip_of_spring(topology.edges) < 0
    edges, length = topology.edges[own], topology.rest_length_m[own]
    values = {k: np.array(v[0]) for k, v in _scalars(problem, topology, dense.theta).items()}
    given = problem.parameters(
        {k: torch.as_tensor(v)[None] for k, v in values.items()},
        topology,
        torch.as_tensor(dense.log_offset),
    )
    natural = problem.settled(given, topology).rest_length_m[0].numpy()[own]
    log_stiffness = given.log_stiffness[0].numpy()[own]
    values.pop("straightness", None)
    key = problem.topology_key(job.theta)
    parameters: dict[str, Any] = values | {
        "springs": edges.astype(np.int32),
        "spring_rest_length_m": natural,
        "log_stiffness_ratio": log_stiffness - np.log(values["stiffness_n"]),
        "mass_kg": np.array(problem.mass_kg),
        "gravity_m_per_s2": problem.gravity,
        "spacing_m": np.array(problem.spacing_m),
        "grip_radius_m": np.array(problem.spacing_m * np.exp(problem.LOG_STEP * key[2])),
        "grip_neighbours": np.array(key[3], np.int32),
        "surface_position_m": _surface(perception, clip),
    }
    if topology.strut is not None:
        parameters |= {"spring_rest_length_m": length, "spring_preload": natural / length - 1.0}
    if problem.ground is None:
        del parameters["restitution"], parameters["friction"]
    else:
        parameters["ground_normal"] = np.array(problem.ground.normal)
        parameters["ground_offset_m"] = np.array(problem.ground.offset_m)
    return Twin(
        name=name,
        kind=perception.kind,
        dynamics="spring_mass",
        method="phystwin",
        rest_position=clip.rest_position.astype(np.float32),
        driven_index=np.zeros(0, np.int64),
        parameters=parameters,
        uncertainty=_uncertainty(job, topology, parameters),
        provenance=_provenance(job, perception, stop),
        validity=_validity(problem, edges, length),
    )


def _scalars(problem: EpisodeProblem, topology: Topology, theta: np.ndarray) -> dict[str, Any]:
    found = problem.scalars(torch.as_tensor(theta[None]), [topology])
    return {key: value.numpy() for key, value in found.items()}


def _surface(perception: Perception, clip: Clip) -> np.ndarray:
    """What can be seen of the object in frame 0, finer than the nodes [m], shape (M, 3)."""
    rest = np.asarray(perception.tracks.rest_position, np.float64)[: perception.surface_count]
    seen = perception.clouds[0] if perception.clouds else np.zeros((0, 3))
    both = above_ground(np.concatenate([rest, seen]), clip.ground)
    keep, _ = thinned_nodes(both, _SURFACE_SPACING_M, _MOST_SURFACE)
    return np.asarray(both[keep], np.float32)


def _uncertainty(
    job: _Job, topology: Topology, parameters: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One standard deviation of the scalars (Laplace), linear in the coordinates."""
    if job.fit is None:
        return {}
    problem, base = job.problem, job.fit.theta
    step = problem.prior.step[: problem.global_count]
    at = _scalars(problem, topology, base)
    moved = [_scalars(problem, topology, base + row) for row in np.diag(step)]
    sigma = {}
    for name, value in at.items():
        if name not in parameters:
            continue
        change = np.array([m[name][0] - value[0] for m in moved]).reshape(len(step), -1)
        slopes = (change / step[:, None]).T.copy()
        if np.any(slopes):
            variance = np.array([slope @ job.fit.covariance @ slope for slope in slopes])
            sigma[name] = np.sqrt(variance.clip(0.0)).reshape(value.shape[1:])
    return sigma


def _provenance(job: _Job, perception: Perception, stop: int) -> dict[str, Any]:
    tracks = perception.tracks
    assumed = {} if job.config.mass_kg is not None else {"mass_kg": job.problem.mass_kg}
    return {
        "physgym": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "train": {
            "episode": tracks.name,
            "source_sha256": tracks.source_sha256,
            "train_stop_frame": stop,
            "frames": tracks.frame_count,
        },
        "nodes": "seen" if job.problem.clip.straight_position is None else "truss",
        "budget": job.config.budget,
        "seed": job.config.seed,
        "stopped_early": job.stopped,
        "assumed": assumed,
        "cost": job.history,
        "uncertainty_holds": "topology and the springs' stiffness ratios as found",
    }


def _validity(
    problem: EpisodeProblem, edges: np.ndarray, length: np.ndarray
) -> dict[str, list[float]]:
    """Ranges of strain and speed seen, without one sample in a thousand at each end."""
    seen = problem.clip.position[problem.clip.first : problem.stop].astype(np.float64)
    strain = np.linalg.norm(seen[:, edges[:, 0]] - seen[:, edges[:, 1]], axis=-1) / length - 1.0
    speed = np.linalg.norm(np.diff(seen, axis=0), axis=-1) / problem.clip.dt_s
    spans = {}
    for name, value in (("strain", strain), ("speed_m_s", speed)):
        if np.isfinite(value).any():
            spans[name] = [float(v) for v in np.nanpercentile(value, [0.1, 99.9])]
    return spans
