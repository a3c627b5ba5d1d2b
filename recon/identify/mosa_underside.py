"""The side of a body that no camera sees, told by how the body lands.

Cameras that stand above a body show its underside late, while it deforms, or never: what the hull
leaves there is off by a twentieth of its size, and lifts or tips the body when it lands on it. How
it lands is seen. So the underside is moved, flat but tilted as it may be, together with the
parameters of the prior, until the simulated body lands as the tracks say.
Shapes: Q candidates, D coordinates, P points.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.files import write_atomically
from recon.identify.least_squares import refine
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_problem import PriorProblem, Window
from recon.identify.mosa_scene import Scene
from recon.identify.motion import Motion
from recon.identify.problem import Prior, cost
from recon.identify.progress import Progress
from recon.identify.search import search
from recon.identify.solid import Filling, Solid
from recon.identify.start_velocity import StartVelocity, noise_of
from recon.npz import number_array, read_npz

__all__ = ["RaisedSolid", "Underside", "find_underside", "with_underside"]

_ABOVE = 0.2  # mean sine of the cameras' elevations from which on they miss an underside
_NAMES = ("rise", "tilt_a", "tilt_b")
_SIGMA = 0.08  # of half the width: as much as the body may lie under the ground (splat_body)
_STEP = 5e-3
_MOST = 0.5  # of the height
_SPAN_PERCENT = (1.0, 99.0)  # of the body along the view: single points tell no height
_COARSE, _FINE = 500, 2000  # particles, at most
_SCAN, _POPULATION, _SPREAD = 9, 12, 0.4  # as the prior's own search
_GENERATIONS, _STEPS = 20, 6
_FEWEST_TOUCHED = 3
_GAIN = 0.2  # of the cost that another underside must take off, as adapter and field must


@dataclass(frozen=True, eq=False)
class Underside:
    """A displacement that is largest at the underside, and nothing at the top.

    Attributes:
        centre: of the body [m], shape (3,).
        axes: two across, and the one towards the cameras, rows of shape (3, 3).
        low_m: of the body along the last axis, from the centre [m].
        high_m: likewise.
        half_m: half of its width [m].
        rise: of the underside's middle, and its slopes along the first two axes: over half of the
            width, shape (3,).
    """

    centre: np.ndarray
    axes: np.ndarray
    low_m: float
    high_m: float
    half_m: float
    rise: np.ndarray

    @classmethod
    def of(cls, body: np.ndarray, way: np.ndarray) -> Underside:
        """The underside as it is.

        Args:
            body: points that fill it [m], shape (P, 3).
            way: from it to the cameras, shape (3,).

        Returns:
            The one that moves nothing.
        """
        up = way / np.linalg.norm(way)
        side = np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))])
        side /= np.linalg.norm(side)
        axes = np.stack([side, np.cross(up, side), up])
        centre = body.mean(axis=0)
        own = (body - centre) @ axes.T
        low, high = np.percentile(own[:, 2], _SPAN_PERCENT)
        half = 0.5 * float(np.ptp(own[:, :2], axis=0).max())
        return cls(centre, axes, float(low), float(high), half, np.zeros(3))

    def move(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points of the body with the underside where it is now.

        Args:
            points: [m], shape (P, 3).

        Returns:
            Moved points [m], shape (P, 3), and by what their volumes change, shape (P,).
        """
        own = (points - self.centre) @ self.axes.T
        height = self.high_m - self.low_m
        share = np.clip((self.high_m - own[:, 2]) / height, 0.0, 1.0)
        plane = self.half_m * self.rise[0] + own[:, :2] @ self.rise[1:]
        most = _MOST * height  # of what would be turned inside out beyond
        up = most * np.tanh(plane / most)
        return points + (share * up)[:, None] * self.axes[2], 1.0 - up / height

    def save(self, path: Path) -> None:
        """Write it, in one step, without pickles.

        Args:
            path: ends in ``.npz``.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Underside:
        """Read what `save` wrote.

        Args:
            path: the file.

        Returns:
            The same.

        Raises:
            DataError: if the file is damaged, or not one of these.
        """
        arrays = read_npz(path)
        shapes: dict[str, tuple[int, ...]] = {
            "centre": (3,), "axes": (3, 3), "low_m": (), "high_m": (), "half_m": (), "rise": (3,),
        }  # fmt: skip
        missing = sorted(set(shapes) - set(arrays))
        if missing:
            raise DataError(f"no array {missing[0]}", where=str(path), expected="a whole file")
        found = {
            name: number_array(arrays[name], np.float64, shape, f"{path}: {name}")
            for name, shape in shapes.items()
        }
        low, high, half = (float(found[name]) for name in ("low_m", "high_m", "half_m"))
        return cls(found["centre"], found["axes"], low, high, half, found["rise"])


@dataclass(frozen=True, eq=False)
class RaisedSolid:
    """A solid whose underside was moved.

    Attributes:
        solid: as it was found, in the frame in which the underside is.
        underside: of it.
    """

    solid: Solid
    underside: Underside

    @property
    def volume_m3(self) -> float:
        """Of the whole body [m^3]."""
        return float(self.fill(_FINE).volume_m3.sum())

    def fill(self, count: int) -> Filling:
        """See `Solid.fill`."""
        made = self.solid.fill(count)
        position, factor = self.underside.move(made.position)
        return Filling(position, made.volume_m3 * factor, made.spacing_m)


def find_underside(
    motion: Motion,
    start: StartVelocity,
    cameras: Sequence[PinholeCamera],
    config: MosaConfig,
    progress: Progress,
) -> Underside | None:
    """Fit the underside together with the prior to how the body lands.

    Args:
        motion: whose own frame is the world of frame 0 (`motion_from_splats`).
        start: its velocity in frame 0.
        cameras: that see it in frame 0.
        config: of the job; frames that it holds out are not looked at.
        progress: told about every generation and step.

    Returns:
        The underside, unmoved where no other lands clearly better; None where cameras see the body
        from below too, nothing is landed on, or no frame shows it.
    """
    window = Window.of(motion, start.contact_frame, config)
    if motion.ground is None or window.fit < start.contact_frame + _FEWEST_TOUCHED:
        return None
    body = motion.solid.fill(_FINE).position
    ways = np.stack([camera.position - body.mean(axis=0) for camera in cameras])
    way = (ways / np.linalg.norm(ways, axis=1, keepdims=True)).mean(axis=0)
    if float(way @ np.array(motion.ground.normal)) < _ABOVE:
        return None
    flat = Underside.of(body, way)
    count = min(config.particle_count, _FINE)
    coarse = _Problem(motion, start, flat, config, window, min(count, _COARSE))
    with progress.stage("the underside", _GENERATIONS + _STEPS) as tick:
        prior = coarse.prior
        found = search(
            coarse, np.diag(prior.sigma), [0], start=_scanned(coarse), generations=_GENERATIONS,
            population=_POPULATION, spread=_SPREAD, seed=config.seed + 2, on_generation=tick,
        )  # fmt: skip
        fine = _Problem(motion, start, flat, config, window, count)
        fit = refine(
            fine, found[0].theta, [0], max_steps=_STEPS, tolerance=2e-3,
            on_step=lambda step, value, _: tick(_GENERATIONS + step, value),
        )  # fmt: skip
        as_found = refine(
            fine.landing(flat.rise), found[0].theta[: -len(_NAMES)], [0], max_steps=_STEPS,
            tolerance=2e-3,
        )  # fmt: skip
    if fit.cost > (1.0 - _GAIN) * as_found.cost:
        progress.say(f"no other underside lands clearly better: {fit.cost:.4g}")
        return flat
    made = dataclasses.replace(flat, rise=fit.theta[-len(_NAMES) :])
    rise, a, b = 1e3 * made.half_m * made.rise
    progress.say(f"the underside lies {rise:.1f} mm higher, and {a:.1f} and {b:.1f} mm at its ends")
    return made


def with_underside(
    motion: Motion, start: StartVelocity, underside: Underside
) -> tuple[Motion, StartVelocity]:
    """The body with another underside, and the velocity of its centre.

    Args:
        motion: as given to `find_underside`.
        start: likewise.
        underside: found.

    Returns:
        Both; as given where it is unmoved.
    """
    if not underside.rise.any():
        return motion, start
    solid = RaisedSolid(motion.solid, underside)
    return dataclasses.replace(motion, solid=solid), _recentred(start, solid.fill(_FINE))


def _recentred(start: StartVelocity, filling: Filling) -> StartVelocity:
    """The same motion, told at the centre of mass, which gravity pulls."""
    centre = np.average(filling.position, axis=0, weights=filling.volume_m3)
    return dataclasses.replace(start, linear_m_per_s=start.at(centre), centre_m=centre)


def _scanned(problem: _Problem) -> np.ndarray:
    """The prior's mean with the best of some stiffnesses."""
    young = problem.coordinates.entries[0]
    start = np.tile(problem.prior.mean, (_SCAN, 1))
    for row, share in enumerate((np.arange(_SCAN) + 0.5) / _SCAN):
        start[row, 0] = young.inverse(young.low + share * (young.high - young.low))
    return np.asarray(start[int(np.argmin(cost(problem, start, [0])))])


class _Problem:
    """Coordinates of the prior and of the underside; see `recon.identify.problem.Problem`."""

    def __init__(
        self,
        motion: Motion,
        start: StartVelocity,
        flat: Underside,
        config: MosaConfig,
        window: Window,
        count: int,
    ) -> None:
        self.motion, self.start, self.flat = motion, start, flat
        self.config, self.window = config, window
        self.filling = motion.solid.fill(count)
        rng = np.random.default_rng([config.seed, 7])
        tracked = motion.position.shape[1]
        self.points = np.sort(rng.permutation(tracked)[: config.points])
        given = config.density_kg_per_m3 or motion.density_kg_per_m3 or 1000.0
        mass_kg, volume_m3 = config.mass_kg, motion.solid.volume_m3
        self.coordinates = Coordinates.of(
            config,
            density_kg_per_m3=given if mass_kg is None else mass_kg / volume_m3,
            size_m=motion.size_m,
            spacing_m=2.0 * self.filling.spacing_m,
            gravity=float(np.linalg.norm(motion.gravity)),
            ground=True,
        ).undamped()  # a body that is damped would explain how a wrong one lands
        same = self.landing(np.zeros(len(_NAMES)))
        self.loss, self.weights = same.loss, same.weights
        prior, none = self.coordinates.prior, np.zeros(len(_NAMES))
        self.prior = Prior(
            (*prior.names, *_NAMES),
            np.concatenate([prior.mean, none]),
            np.concatenate([prior.sigma, none + _SIGMA]),
            np.concatenate([prior.step, none + _STEP]),
        )

    def residuals(
        self, theta: np.ndarray, recordings: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `recon.identify.problem.Problem`; every candidate is a body of its own."""
        rows, split = [], len(_NAMES)
        for row in theta:
            problem = self.landing(row[-split:])
            ((residual, seen),) = problem.residuals(row[None, :-split], recordings)
            rows.append(residual[0])
        yield np.stack(rows), seen

    def landing(self, rise: np.ndarray) -> PriorProblem:
        """The prior's problem of one underside."""
        raised = dataclasses.replace(self.flat, rise=rise)
        position, factor = raised.move(self.filling.position)
        filling = self.filling._replace(
            position=position, volume_m3=self.filling.volume_m3 * factor
        )
        # Whole: when a body comes near the ground would depend on its underside, and with it which
        # frames have residuals.
        scene = Scene(
            self.motion, _recentred(self.start, filling), filling, self.motion.start_pose(),
            points=self.points, material=self.config.material, whole=True,
        )  # fmt: skip
        knee_m = max(3.0 * noise_of(self.motion), 5e-3 * self.motion.size_m)
        return PriorProblem([scene], self.coordinates, [self.window], knee_m=knee_m)
