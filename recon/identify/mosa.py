"""MoSA on motion: a continuum twin with an isotropic prior, a stress adapter and a factor field.

"MoSA: Motion-constrained Stress Adaptation for Mitigating Real-to-Sim Gap", 2026. Stages: start
velocity from the frames before contact; global parameters of the prior (scan, CMA-ES, then
Gauss-Newton); adapter and field by descent through the simulator with the prior held loosely. What
the paper leaves open is decided in ``docs/methods/mosa.md``.
Shapes: D coordinates, P particles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from physgym.errors import DataError
from physgym.run_folder import RunFolder
from physgym.twin import Twin
from recon.identify.least_squares import Fit, refine
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_found import Found
from recon.identify.mosa_images import IMAGE_TERMS, Film, ImageTerms
from recon.identify.mosa_joint import Joint
from recon.identify.mosa_linear import LINEAR_STEPS, LinearStage
from recon.identify.mosa_networks import Learned
from recon.identify.mosa_problem import PriorProblem, Window, crossing_time
from recon.identify.mosa_scene import Scene
from recon.identify.mosa_twin import TwinParts, make_twin
from recon.identify.motion import Motion
from recon.identify.problem import cost
from recon.identify.progress import Progress
from recon.identify.search import Candidate, search
from recon.identify.start_velocity import StartVelocity, fit_start_velocity, noise_of
from recon.identify.torch_threads import one_torch_thread
from recon.tracks import PhysGymWarning

__all__ = ["identify_motion"]

_COARSE_SHARE = 1.0 / 3.0  # of the particles in the search: six times faster
_LEAST_COARSE = 300
_POPULATION = 12
_SPREAD = 0.4  # of the prior's width: the scan has been to the valley before
_SCAN = 9
# Damping ratios of the two searches. In a coarse body one that is damped often looks best and is
# not; who is better is decided with all particles.
_UNDAMPED, _DAMPED = 1e-3, 0.2
_REFINE_STEPS = 8
_DENSITY = 1000.0  # kg/m^3, as PAC-NeRF and all after it assume
_FEWEST_TOUCHED = 3  # frames after the first contact that a fit must see
_SAVE_STEPS = 5


def identify_motion(
    motion: Motion | list[Motion],
    config: MosaConfig | None = None,
    *,
    films: Sequence[Film | None] = (),
    starts: Sequence[StartVelocity] = (),
    name: str = "",
    progress: Progress | None = None,
    run: RunFolder | None = None,
) -> Twin:
    """Make a continuum twin from the motion of one body.

    Ctrl-C ends the search; the twin is then the best found so far and says so in its provenance.

    Args:
        motion: of one body; of several recordings each with the same own frame and solid.
        config: what is identified.
        films: what cameras saw of each motion, for the image terms of the last stage.
        starts: velocity in frame 0 of each motion where it is known; fitted where none are given.
        name: of the twin; that of the first motion when empty.
        progress: told about every step.
        run: where checkpoints go; a run that has some is gone on with.

    Returns:
        The twin, without metrics.

    Raises:
        DataError: if the motion is too short for a stage that is asked for, or cannot be used.
        BlowUpError: if not even the isotropic prior can be simulated.
    """
    motions = [motion] if isinstance(motion, Motion) else list(motion)
    if not motions:
        raise DataError("no motion", where="identify_motion", expected="at least one")
    if {len(films), len(starts)} - {0, len(motions)}:
        raise DataError(
            f"{len(films)} films and {len(starts)} starts of {len(motions)} motions",
            where="identify_motion",
            expected="one of each motion, or none",
        )
    config, progress = config or MosaConfig(), progress or Progress()
    with one_torch_thread():
        job = _Job(motions, config, progress, run, films=films, starts=starts)
        job.go()
        return make_twin(job.parts(), name or motions[0].name)


class _Job:
    """All stages, resumable."""

    def __init__(
        self,
        motions: list[Motion],
        config: MosaConfig,
        progress: Progress,
        run: RunFolder | None,
        *,
        films: Sequence[Film | None],
        starts: Sequence[StartVelocity],
    ) -> None:
        self.motions, self.config, self.progress, self.run = motions, config, progress, run
        self.films, self.stopped = films, False
        self.starts = list(starts) or [self._start_of(m) for m in motions]
        self.windows = [self._window(m, s) for m, s in zip(motions, self.starts)]
        self.knee_m = max(3.0 * max(noise_of(m) for m in motions), 5e-3 * motions[0].size_m)
        self.reference = motions[0].start_pose()
        self.density = self._density()
        rng = np.random.default_rng([config.seed, 7])
        self.points = [_few_points(m, config.points, rng) for m in motions]
        self.scenes = self._scenes(config.particle_count)
        first = motions[0]
        self.coordinates = Coordinates.of(
            config,
            density_kg_per_m3=self.density,
            size_m=first.size_m,
            spacing_m=self.scenes[0].spacing_m,
            gravity=float(np.linalg.norm(first.gravity)),
            ground=any(m.ground is not None for m in motions),
        )
        self.found = Found(theta=self.coordinates.prior.mean.copy())
        self.learned = self._backbone()
        checkpoint = run.latest_checkpoint() if run is not None else None
        if checkpoint is not None:
            self.found = Found.of(checkpoint)
            if len(self.found.theta) == len(self.coordinates.entries) - 1:
                self.coordinates = self.coordinates.undamped()  # begun before there was damping
            self.learned = self._backbone()
        progress.say(
            f"{len(self.scenes[0].rest)} particles {500 * self.scenes[0].spacing_m:.1f} mm apart, "
            f"first contact in frame {self.starts[0].contact_frame}, fitted up to frame "
            f"{self.windows[0].fit} of {first.frame_count}"
        )

    def go(self) -> None:
        """All stages that are asked for; Ctrl-C keeps the best so far."""
        try:
            if "prior" in self.config.stages and self.found.done < 1:
                self._search()
            if "prior" in self.config.stages and self.found.done < 2:
                self._refine()
            self.learned = self._backbone()
            if self.config.learns_residual and "linear" in self.config.stages:
                self._search_linear()
            if self.config.learns_residual:
                self._descend()
        except KeyboardInterrupt:
            self._stop()
            self.learned = self._backbone()
        self._warn_of_bounds()

    def parts(self) -> TwinParts:
        """What the twin is made of."""
        return TwinParts(
            config=self.config,
            scenes=self.scenes,
            windows=self.windows,
            starts=self.starts,
            reference=self.reference,
            coordinates=self.coordinates,
            learned=self.learned,
            covariance=self.found.covariance if len(self.found.covariance) else None,
            history=self.found.history,
            report=self.found.joint.report,
            stopped=self.stopped,
        )

    def _start_of(self, motion: Motion) -> StartVelocity:
        config = self.config
        if config.start_velocity_m_per_s is None and "velocity" in config.stages:
            return fit_start_velocity(motion)
        given = np.array(config.start_velocity_m_per_s or (0.0, 0.0, 0.0), np.float64)
        centre = motion.start_pose().apply(motion.rest.mean(axis=0))
        return StartVelocity(given, np.zeros(3), centre, 0)

    def _window(self, motion: Motion, start: StartVelocity) -> Window:
        """Where fitted, held-out and future frames part, or why the recording is too short."""
        config = self.config
        window = Window.of(motion, start.contact_frame, config)
        fit, held = window.fit, window.train - window.fit
        wants = {"prior", "joint"} & set(config.stages)
        if wants and fit < start.contact_frame + _FEWEST_TOUCHED:
            stage = "prior" if "prior" in wants else "joint"
            raise DataError(
                f"the tracks are too short for the stage {stage}: the first contact is in frame "
                f"{start.contact_frame} and fitting ends with frame {fit - 1}",
                where=f"{motion.name}: stage {stage}, frame {start.contact_frame}",
                expected=f"at least {_FEWEST_TOUCHED} frames after the first contact"
                + (f" besides {held} that are held out" if held else ""),
                fix="raise --train, record longer, or leave out the adapter and the field",
            )
        return window

    def _density(self) -> float:
        config, first = self.config, self.motions[0]
        if config.mass_kg is not None:
            return config.mass_kg / first.solid.volume_m3
        return config.density_kg_per_m3 or first.density_kg_per_m3 or _DENSITY

    def _scenes(self, particles: int) -> list[Scene]:
        filling = self.motions[0].solid.fill(particles)
        return [
            Scene(m, s, filling, self.reference, points=points, material=self.config.material)
            for m, s, points in zip(self.motions, self.starts, self.points)
        ]

    def _problem(self, scenes: list[Scene]) -> PriorProblem:
        return PriorProblem(scenes, self.coordinates, self.windows, knee_m=self.knee_m)

    @property
    def _all(self) -> list[int]:
        return list(range(len(self.motions)))

    def _search(self) -> None:
        """A scan of the stiffness, then CMA-ES over everything, with few particles."""
        count = max(_LEAST_COARSE, round(_COARSE_SHARE * self.config.particle_count))
        problem, generations = self._problem(self._scenes(count)), self.config.generations
        begins = self._begins(problem.prior.mean, np.diag(problem.prior.sigma))
        ends: list[Candidate] = []

        def keep(candidate: Candidate) -> None:  # for who interrupts it
            if candidate.cost < self.found.cost:
                self.found.theta, self.found.cost = candidate.theta.copy(), candidate.cost

        for name, scan, directions in begins:
            with self.progress.stage(name, generations) as tick:
                found = search(
                    problem,
                    directions,
                    self._all,
                    start=scan[int(np.argmin(cost(problem, scan, self._all)))],
                    generations=generations,
                    population=_POPULATION,
                    spread=_SPREAD,
                    seed=self.config.seed + 1,
                    on_generation=tick,
                    on_best=keep,
                )
            ends.append(found[0])
        if not problem.simulated and problem.last_error is not None:
            raise problem.last_error  # names the particle and the setting
        theta = np.stack([end.theta for end in ends])
        costs = cost(self._problem(self.scenes), theta, self._all) if len(ends) > 1 else np.zeros(1)
        best = ends[int(np.argmin(np.nan_to_num(costs, nan=np.inf)))]
        self.found.theta, self.found.cost = best.theta, best.cost
        self.found.done, self.found.history["search"] = 1, self.found.cost
        self._save()

    def _begins(
        self, mean: np.ndarray, every: np.ndarray
    ) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Names of the searches, where they may start, (Q, D), and their directions, (K, D)."""
        scan, young = mean[None].copy(), self.coordinates.entries[0]
        if self.config.young_pa is None:
            scan = np.tile(mean, (_SCAN, 1))
            share = (np.arange(_SCAN) + 0.5) / _SCAN
            scan[:, 0] = [young.inverse(v) for v in young.low + share * (young.high - young.low)]
        if self.coordinates.damping is None:
            return [("search the prior", scan, every)]
        free, damped = (self.coordinates.with_damping(scan, r) for r in (_UNDAMPED, _DAMPED))
        rest = self.coordinates.but_damping(every)
        return [("search the prior", free, rest), ("search the prior, damped", damped, every)]

    def _refine(self) -> None:
        """Gauss-Newton with all particles; its curvature gives the error bars."""
        problem = self._problem(self.scenes)

        def keep(step: int, value: float, at: np.ndarray) -> None:
            tick(step, value)
            self.found.theta = at.copy()

        with self.progress.stage("refine the prior", _REFINE_STEPS) as tick:
            fit: Fit = refine(
                problem,
                self.found.theta,
                self._all,
                max_steps=_REFINE_STEPS,
                tolerance=2e-3,
                on_step=keep,
            )
        self.found.theta, self.found.covariance = fit.theta, fit.covariance
        self.found.done, self.found.history["refine"] = 2, fit.cost
        self._save()

    def _linear(self) -> LinearStage:
        return LinearStage(
            self.scenes, self.windows, self.coordinates, self.config, knee_m=self.knee_m
        )

    def _search_linear(self) -> None:
        """What of adapter and field small strains see, before there is any network."""
        if self.found.done >= 3:
            return
        with self.progress.stage("constant anisotropy and slope", LINEAR_STEPS) as tick:

            def keep(step: int, value: float, at: np.ndarray) -> None:
                tick(step, value)
                self.found.linear, self.found.history["linear"] = at.copy(), value

            self.found.linear = self._linear().search(self.found.theta, keep)
        self.found.done = 3
        self._save()

    def _descend(self) -> None:
        begin = None
        if len(self.found.linear):
            start = self._linear().start(self.found.theta, self.found.linear)
            begin = start.learned
            self.found.history |= start.report
        joint = Joint(
            self.scenes,
            self.windows,
            self.coordinates,
            self.found.theta,
            self.config,
            knee_m=self.knee_m,
            crossing_s=crossing_time(self.motions[0]),
            begin=begin,
            state=self.found.joint,
            images=self._image_terms(),
        )
        with self.progress.stage("adapter and field", self.config.joint_steps) as tick:

            def on_step(step: int, loss: float) -> None:
                tick(step, loss)
                if step % _SAVE_STEPS == 0:
                    self._save()

            try:
                joint.run(on_step)
            except KeyboardInterrupt:
                self._stop()
        self.learned = joint.best()
        report = self.found.joint.report
        told = ", ".join(f"{part} {value:.3f}" for part, value in report.items())
        self.progress.say(f"held-out loss: {told}")
        for part, kept in (("adapter", self.learned.adapter), ("field", self.learned.field)):
            asked = self.config.adapter if part == "adapter" else self.config.heterogeneity
            if asked and kept is None:
                self.progress.say(f"the {part} does not help on held-out frames and is left out")

    def _image_terms(self) -> list[ImageTerms | None]:
        wanted = [n for n in IMAGE_TERMS if getattr(self.config.weights, n) > 0.0]
        return [
            None if film is None or not wanted else ImageTerms(film, s, self.reference, wanted)
            for film, s in zip(self.films, self.scenes)
        ]

    def _stop(self) -> None:
        self.stopped = True
        self.progress.say("stopped: keeping the best so far")

    def _backbone(self) -> Learned:
        return Learned(torch.as_tensor(self.found.theta.copy()), None, None)

    def _warn_of_bounds(self) -> None:
        most = 10.0 ** self.coordinates.entries[0].high
        said = {
            "log10_young_pa": "Young's modulus met a bound of its search; the upper one, "
            f"{most:.3g} Pa, is what {self.config.substeps_per_s:.0f} substeps a second can follow",
            "poisson_ratio": "Poisson's ratio met a bound of its search: the body hardly changes "
            "its volume, or it explains what is not in the model, and Young's modulus is far off",
        }
        for name in self.coordinates.near_bound(np.asarray(self.learned.theta)):
            if name in said:
                warnings.warn(said[name], PhysGymWarning, stacklevel=3)

    def _save(self) -> None:
        if self.run is not None:
            self.found.save(self.run)


def _few_points(motion: Motion, most: int, rng: np.random.Generator) -> np.ndarray:
    """Tracked points that are compared: those seen most often, evenly over the body."""
    seen = np.isfinite(motion.position).all(axis=-1).mean(axis=0)
    good = np.flatnonzero(seen > 0.0)
    if len(good) <= most:
        return good
    order: Any = rng.permutation(good)
    return np.sort(order[:most])
