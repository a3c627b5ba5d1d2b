"""The global parameters of the isotropic prior as a search problem: residuals of MPM rollouts.

Shapes: Q candidates, D coordinates, F residuals, T frames, N tracked points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import PhysGymError
from physgym.sim.mpm.model import MpmParameters
from physgym.sim.mpm.stability import step_limit
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_scene import Scene, Seen
from recon.identify.motion import Motion
from recon.identify.problem import Loss, Prior

__all__ = ["PriorProblem", "SearchCoordinates", "Window", "crossing_time"]

# Candidates of one call share their number of substeps, so they are sorted by what they need and go
# in groups of so many.
_TOGETHER = 4
# A moving elastic body says no more than so many points that move for themselves: the affine
# modes, and a few bending ones.
_INDEPENDENT_POINTS = 12
_CLOUD_POINTS = 120
_FEWEST_HELD_OUT = 2


class Window(NamedTuple):
    """Frames of a motion.

    Attributes:
        fit: frames before it are fitted.
        train: frames from ``fit`` up to here decide when to stop; what follows is future.
    """

    fit: int
    train: int

    @classmethod
    def of(cls, motion: Motion, contact_frame: int, config: MosaConfig) -> Window:
        """Where fitted, held-out and future frames part.

        Args:
            motion: of the body.
            contact_frame: first frame that is no free flight; those after it are parted.
            config: of the job; nothing is held out where nothing is learned besides the prior.

        Returns:
            The window.
        """
        recorded = motion.recorded_frames or motion.frame_count
        train = min(max(3, round(config.train_share * recorded)), motion.frame_count)
        if not config.learns_residual:
            return cls(train, train)
        touched = max(train - contact_frame, 0)
        return cls(train - max(_FEWEST_HELD_OUT, round(config.held_out_share * touched)), train)


class SearchCoordinates(Protocol):
    """What is searched, and what the solver makes of it."""

    @property
    def prior(self) -> Prior:
        """Of all coordinates."""
        ...

    def parameters(self, theta: torch.Tensor) -> tuple[MpmParameters, torch.Tensor]:
        """See `Coordinates.parameters`."""
        ...


class PriorProblem:
    """Rollouts under candidate parameters; see `recon.identify.problem.Problem`.

    Residuals are, in metres: differences of tracked points; their central differences in time times
    the time in which the body crosses its own size; from cloud points to the nearest simulated
    ones. What a rollout gets wrong in one contact it carries into the next, so the error of a good
    model grows with the time since the first contact; residuals are divided by that growth. Without
    it a body that bounces twice is fitted to how much energy the grid took, not to its stiffness.

    Args:
        scenes: of every motion.
        coordinates: what is searched.
        windows: of every motion.
        scale: typical error of a good model over the body's size.
        threads: of the native engine.

    Attributes:
        simulated: how many candidates stayed within the finite numbers so far.
        last_error: why the last one did not, or None.
    """

    def __init__(
        self,
        scenes: list[Scene],
        coordinates: SearchCoordinates,
        windows: list[Window],
        *,
        knee_m: float,
        scale: float = 8e-3,
        threads: int | None = None,
    ) -> None:
        self.scenes, self.coordinates, self.windows = scenes, coordinates, windows
        self.prior = coordinates.prior
        size = scenes[0].motion.size_m
        self.loss = Loss(scale_m=scale * size, knee_m=max(knee_m, 1e-2 * size))
        self._threads = threads
        self.simulated = 0
        self.last_error: PhysGymError | None = None

    def weights(self, recordings: list[int]) -> float:
        """Independent samples: a moment's motion is not independent of that before."""
        seconds = sum(
            (self.windows[r].fit - self.scenes[r].first) * self.scenes[r].motion.dt_s
            for r in recordings
        )
        # A drop is over in half a second; what it tells is told in its few contacts.
        return 3.0 * _INDEPENDENT_POINTS * max(self.loss.rate_hz * seconds, 1.0)

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `recon.identify.problem.Problem`."""
        with torch.no_grad():
            parameters, _ = self.coordinates.parameters(torch.as_tensor(theta))
            model = self.scenes[0].model()
            step = step_limit(model, parameters.coefficients(model)).world_dt_s
        order = np.argsort(-step.numpy(), kind="stable")
        for r in recordings:
            rows: dict[int, np.ndarray] = {}
            for at in range(0, len(order), _TOGETHER):
                self._group(theta, order[at : at + _TOGETHER], r, rows)
            seen = self._seen_flags(r)
            made = np.full((len(theta), len(seen)), np.nan)
            for q, row in rows.items():
                made[q] = row
            yield made, seen

    def _group(
        self, theta: np.ndarray, group: np.ndarray, recording: int, rows: dict[int, np.ndarray]
    ) -> None:
        """Simulate a group; one that leaves the finite numbers is halved until it stands alone."""
        parameters, gap = self.coordinates.parameters(torch.as_tensor(theta[group]))
        stop = self.windows[recording].fit
        try:
            with torch.no_grad():
                seen = self.scenes[recording].simulate(parameters, gap, stop, threads=self._threads)
        except PhysGymError as error:
            if len(group) == 1:
                self.last_error = error
                return
            half = len(group) // 2
            self._group(theta, group[:half], recording, rows)
            self._group(theta, group[half:], recording, rows)
            return
        self.simulated += len(group)
        for i, q in enumerate(group):
            rows[int(q)] = self._row(seen, i, recording)

    def _row(self, seen: Seen, world: int, recording: int) -> np.ndarray:
        scene, stop = self.scenes[recording], self.windows[recording].fit
        wanted = scene.motion.position[scene.first : stop, scene.points]
        growth = self._growth(scene, stop)
        tracks = seen.tracks[world].double().numpy() - wanted
        speed = 0.5 * (tracks[2:] - tracks[:-2]) * crossing_time(scene.motion) / scene.motion.dt_s
        parts = [
            (tracks / growth[:, None, None]).ravel(),
            (speed / growth[1:-1, None, None]).ravel(),
        ]
        for frame, cloud in enumerate(scene.motion.clouds[scene.first : stop]):
            few = cloud[:_CLOUD_POINTS]
            if len(few):
                surface = seen.surface[world, frame].double().numpy()
                _, near = cKDTree(surface).query(few)
                parts.append((surface[near] - few).ravel() / growth[frame])
        return np.nan_to_num(np.concatenate(parts))  # what was not seen does not count anyway

    def _seen_flags(self, recording: int) -> np.ndarray:
        scene, stop = self.scenes[recording], self.windows[recording].fit
        known = np.isfinite(scene.motion.position[scene.first : stop, scene.points])
        parts = [known.ravel(), (known[2:] & known[:-2]).ravel()]
        for cloud in scene.motion.clouds[scene.first : stop]:
            parts.append(np.ones(3 * min(len(cloud), _CLOUD_POINTS), bool))
        return np.concatenate(parts)

    @staticmethod
    def _growth(scene: Scene, stop: int) -> np.ndarray:
        """Expected error of a good model, relative to that in the first contact, per frame."""
        motion = scene.motion
        after = np.arange(scene.first, stop) - scene.start.contact_frame
        return np.asarray(1.0 + np.maximum(after, 0) * motion.dt_s / crossing_time(motion))


def crossing_time(motion: Motion) -> float:
    """Time in which the body crosses its own size [s], within reason: a contact takes about that.

    Args:
        motion: of the body.

    Returns:
        [s].
    """
    step = np.linalg.norm(np.diff(motion.position, axis=0), axis=-1) / motion.dt_s
    fastest = float(np.nanpercentile(step, 99)) if np.isfinite(step).any() else 0.0
    return float(np.clip(motion.size_m / max(fastest, 1e-6), 2.0 * motion.dt_s, 0.2))
