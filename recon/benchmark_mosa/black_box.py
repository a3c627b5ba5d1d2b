"""The black box of MoSA's App. A, learned from the same motion through the same simulator."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.errors import PhysGymError
from physgym.files import write_atomically
from physgym.sim.mpm.black_box import BlackBoxConfig, BlackBoxStress
from physgym.sim.mpm.material import ElasticLaw
from physgym.sim.mpm.twins import mpm_of
from physgym.twin import Twin
from recon.benchmark_mosa.hooked_scene import HookedScene
from recon.benchmark_mosa.settings import Settings
from recon.identify.mosa_joint import motion_terms
from recon.identify.mosa_problem import crossing_time
from recon.identify.motion import Motion
from recon.identify.motion_losses import LocalFrames, MotionWeights, weighted_sum
from recon.identify.progress import Progress
from recon.identify.start_velocity import StartVelocity
from recon.npz import read_npz

__all__ = ["BlackBoxFit", "fit_black_box"]

_RATE = 1e-3  # that of the adapter's networks
_KNEE = 5e-3  # of the body's size, as `identify_motion` has it for tracks without noise
_HELD_OUT_SHARE = 0.25  # of the frames
_LOOK = 5  # steps between two looks at held-out frames


@dataclass(frozen=True, eq=False)
class BlackBoxFit:
    """A network and what it cost.

    Attributes:
        network: the network, at its best held-out loss.
        held_out_loss: over that of the isotropic law that it began as.
        seconds: wall time [s].
    """

    network: BlackBoxStress
    held_out_loss: float
    seconds: float


def fit_black_box(
    motions: Sequence[Motion],
    isotropic: Twin,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> BlackBoxFit:
    """Start from the network that imitates the isotropic fit, descend on the motions.

    Args:
        motions: held bodies that start at rest, without a ground.
        isotropic: fitted on them.
        settings: sizes.
        folder: where the fit is kept; one that is there is read.
        progress: told about every step.

    Returns:
        The fit.
    """
    note = folder / "note.json"
    if note.is_file():
        network = BlackBoxStress.from_arrays(read_npz(folder / "weights.npz"))
        return BlackBoxFit(network, **json.loads(note.read_text()))
    start = time.perf_counter()
    job = _Job(motions, isotropic, settings)
    with progress.stage("black box", settings.black_box_steps) as tick:
        best = job.descend(settings.black_box_steps, tick)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", **job.network.to_arrays())  # type: ignore[arg-type]
    made = {"held_out_loss": best, "seconds": time.perf_counter() - start}
    write_atomically(note, json.dumps(made).encode())
    return BlackBoxFit(job.network, **made)


class _Job:
    """Adam on the network through the rollouts of all motions."""

    def __init__(self, motions: Sequence[Motion], isotropic: Twin, settings: Settings) -> None:
        parts = mpm_of(isotropic)
        law = parts.model.material.law
        self.parameters = parts.parameters
        young, nu = (
            float(getattr(self.parameters, k)[0, 0]) for k in ("young_pa", "poisson_ratio")
        )
        self.network = BlackBoxStress(BlackBoxConfig(), stress_scale_pa=young, seed=settings.seed)
        self.network.imitate(ElasticLaw(law), young_pa=young, poisson_ratio=nu, seed=settings.seed)
        first = motions[0]
        filling = first.solid.fill(settings.black_box_particles)
        rng = np.random.default_rng([settings.seed, 7])
        self.scenes, self.local = [], []
        for motion in motions:
            centre = motion.start_pose().apply(motion.rest.mean(axis=0))
            points = np.sort(rng.permutation(len(motion.rest))[: settings.points])
            still = StartVelocity(np.zeros(3), np.zeros(3), centre, 0)
            self.scenes.append(
                HookedScene(
                    motion, still, filling, first.start_pose(), points=points,
                    material=parts.model.material,
                )
            )  # fmt: skip
            self.local.append(LocalFrames.of(np.asarray(motion.rest)[points]))
        self.frames = first.frame_count
        self.fit = self.frames - max(2, round(_HELD_OUT_SHARE * self.frames))
        self.knee_m, self.crossing_s = _KNEE * first.size_m, crossing_time(first)
        with torch.no_grad():
            self.units = [self._terms(i, 0, self.fit) for i in range(len(self.scenes))]
            self.held = [self._terms(i, self.fit, self.frames) for i in range(len(self.scenes))]

    def descend(self, steps: int, tick: Any) -> float:
        """Keep the weights with the least held-out loss; returns it, 1 at the start."""
        optimiser = torch.optim.Adam(self.network.parameters(), lr=_RATE)
        best, kept = 1.0, _copy(self.network)
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            total = 0.0
            try:
                for i, unit in enumerate(self.units):  # one graph at a time: memory
                    loss = self._over(self._terms(i, 0, self.fit), unit) / len(self.scenes)
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
            except PhysGymError:  # nothing keeps such a network from blowing up
                self.network.load_state_dict(kept)
                continue
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimiser.step()
            if step % _LOOK == 0 or step == steps:
                loss_now = self._held_out()
                if loss_now < best:
                    best, kept = loss_now, _copy(self.network)
            tick(step, total)
        self.network.load_state_dict(kept)
        return best

    def _held_out(self) -> float:
        try:
            with torch.no_grad():
                values = [
                    float(self._over(self._terms(i, self.fit, self.frames), unit))
                    for i, unit in enumerate(self.held)
                ]
        except PhysGymError:
            return np.inf
        return float(np.mean(values))

    def _terms(self, at: int, begin: int, stop: int) -> dict[str, torch.Tensor]:
        scene = self.scenes[at]
        seen = scene.simulate(self.parameters, torch.zeros(1), stop, adapter=self.network)
        return motion_terms(scene, seen, begin, stop, self.knee_m, self.local[at], self.crossing_s)

    @staticmethod
    def _over(terms: dict[str, torch.Tensor], unit: dict[str, torch.Tensor]) -> torch.Tensor:
        weights, units = MotionWeights(), {k: float(v) for k, v in unit.items()}
        whole = sum(getattr(weights, name) for name in units)
        return weighted_sum(terms, units, weights) / whole


def _copy(network: BlackBoxStress) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
