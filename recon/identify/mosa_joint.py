"""The last stage of MoSA: adapter and field by descent through the simulator.

Shapes: T frames, N tracked points, P particles, D coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from physgym.errors import PhysGymError
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_coordinates import Coordinates
from recon.identify.mosa_found import JointState
from recon.identify.mosa_networks import Learned, networks
from recon.identify.mosa_problem import Window
from recon.identify.mosa_scene import Scene, Seen
from recon.identify.motion_losses import (
    LocalFrames,
    chamfer_loss,
    relative_scale_loss,
    rotation_loss,
    track_loss,
    velocity_loss,
    weighted_sum,
)

if TYPE_CHECKING:
    from recon.identify.mosa_images import ImageTerms

__all__ = ["Joint", "motion_terms"]

_RATE = (
    3e-4  # of the networks, which begin where small strains are right; the notes have 1e-3 (G11)
)
_THETA_SHARE = 0.1  # of that rate, for the global parameters
_CLIP = 1.0  # largest norm of a step's gradient: long contacts amplify what they carry back
_LOOK = 5  # steps between two looks at the held-out frames
_PATIENCE = 3  # looks without a gain, once the window is whole
_GROW_SHARE = 0.3  # of the steps, until the window of frames is whole
# What a part must take off the held-out loss of the isotropic fit to be kept. Those frames are of
# the same motion, so a part that mends what the simulator gets wrong in it gains there too: on an
# isotropic ball of finite elements adapter and field gained 0.15 and predicted other drops worse.
_GAIN = 0.2


def motion_terms(
    scene: Scene,
    seen: Seen,
    begin: int,
    stop: int,
    knee_m: float,
    local: LocalFrames,
    crossing_s: float,
) -> dict[str, torch.Tensor]:
    """Terms of the loss over a range of frames; those without data are left out.

    Args:
        scene: of the motion.
        seen: simulated, one world.
        begin: first frame that counts.
        stop: one past the last.
        knee_m: of Huber's loss [m].
        local: neighbourhoods of the scene's points.
        crossing_s: turns the knee into one of velocities.

    Returns:
        By name of `MotionWeights`.
    """
    motion = scene.motion
    begin = max(begin, scene.first)
    now = slice(begin - scene.first, stop - scene.first)
    wanted = torch.as_tensor(motion.position[begin:stop, scene.points], dtype=torch.float32)
    tracks = seen.tracks[0, now]
    made = {
        "tracks": track_loss(tracks, wanted, knee_m),
        "velocity": velocity_loss(tracks, wanted, motion.dt_s, knee_m / crossing_s),
    }
    if motion.clouds and any(len(c) for c in motion.clouds[begin:stop]):
        made["chamfer"] = chamfer_loss(
            seen.surface[0, now], motion.clouds[begin:stop], knee_m, both_ways=motion.all_around
        )
    if motion.frames is not None:
        own = seen.frames[0, now]
        frames = torch.as_tensor(motion.frames[begin:stop, scene.points], dtype=torch.float32)
    else:
        own, frames = local(tracks), local(wanted)
    if bool(torch.isfinite(frames).all(-1).all(-1).any()):
        made["scale"] = relative_scale_loss(own, frames)
        made["rotation"] = rotation_loss(own, frames)
    return made


class Joint:
    """Adam on networks, field and, ten times slower, the global parameters.

    The window of frames that count grows from the first contact to all that are fitted. Every few
    steps the held-out frames decide whether what was learned is kept; the isotropic backbone is the
    first candidate, so the result is never worse than it on them. At the end each part is taken out
    in turn, and stays out where that costs nothing.

    Args:
        scenes: of every motion.
        windows: of every motion.
        coordinates: of the global parameters.
        theta: the isotropic backbone, shape (D,).
        config: of the job.
        knee_m: of Huber's loss [m].
        crossing_s: time in which the body crosses its own size [s].
        begin: what the descent begins with, of `networks`; the backbone with untrained networks
            where none is given.
        state: to go on from.
        images: terms of the images of every motion; none where nothing is given.
    """

    def __init__(
        self,
        scenes: list[Scene],
        windows: list[Window],
        coordinates: Coordinates,
        theta: np.ndarray,
        config: MosaConfig,
        *,
        knee_m: float,
        crossing_s: float,
        begin: Learned | None = None,
        state: JointState | None = None,
        images: Sequence[ImageTerms | None] = (),
    ) -> None:
        self.images = images
        self.scenes, self.windows, self.coordinates = scenes, windows, coordinates
        self.config, self.knee_m, self.crossing_s = config, knee_m, crossing_s
        self._start = torch.as_tensor(theta, dtype=torch.float64)
        if begin is None:
            begin = Learned(self._start, *networks(scenes[0], coordinates, theta, config))
        self.theta = begin.theta.clone().double().requires_grad_()
        self.adapter, self.field = begin.adapter, begin.field
        self._begin = self._flat()
        self._rest = torch.as_tensor(scenes[0].rest, dtype=torch.float32)
        self._local = [LocalFrames.of(np.asarray(s.motion.rest)[s.points]) for s in scenes]
        self.state = state or JointState()
        isotropic = Learned(self._start, None, None)
        whole = [(w.fit, w.train) for w in windows]
        with torch.no_grad():
            seen = self._simulated(isotropic, [w.train for w in windows])
            self._units = self._values(seen, [(0, w.fit) for w in windows])
            self._held_units = self._values(seen, whole)
        if self.state.now is not None:
            self._put(self.state.now)

    def run(self, on_step: Callable[[int, float], None]) -> None:
        """Descend, and stop early.

        Args:
            on_step: told the steps done and the loss, 1 at the isotropic backbone.
        """
        state, total = self.state, self.config.joint_steps
        if state.step == 0:
            self._look()
        while state.step < total:
            loss = self._step()
            state.step += 1
            if state.step % _LOOK == 0 or state.step == total:
                self._look()
            on_step(state.step, loss)
            if state.since >= _PATIENCE and self._grown(state.step):
                break

    def _grown(self, step: int) -> bool:
        return step >= _GROW_SHARE * self.config.joint_steps

    def _window(self, at: int) -> int:
        """One past the last frame that counts at this step."""
        scene, window = self.scenes[at], self.windows[at]
        first = max(scene.start.contact_frame, scene.first) + 4
        share = min(1.0, (self.state.step + 1) / max(_GROW_SHARE * self.config.joint_steps, 1.0))
        return min(window.fit, max(first, math.ceil(first + share * (window.fit - first))))

    def _step(self) -> float:
        """One step of Adam (Kingma and Ba 2015); returns the loss."""
        groups = self._tensors()
        for tensor in groups:
            tensor.grad = None
        stops = [self._window(i) for i in range(len(self.scenes))]
        try:
            seen = self._simulated(Learned(self.theta, self.adapter, self.field), stops)
        except PhysGymError:  # a step too far: back to the best, more slowly
            self._retreat()
            return math.inf
        loss = self._total(self._terms(seen, [(0, s) for s in stops]), self._units)
        if self.field is not None:
            penalty = self.field.regulariser(self._rest)
            # Its value at the backbone is zero; it is in units of the largest variance there is.
            largest = self.field.config.bound**2
            loss = loss + self.config.weights.heterogeneity * sum(penalty) / largest
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [np.nan_to_num(_flat(t.grad, t), posinf=0.0, neginf=0.0) for t in groups]
        gradient = np.concatenate(grads)
        gradient *= min(1.0, _CLIP / max(float(np.linalg.norm(gradient)), 1e-12))
        self._put(self._adam(gradient))
        return float(loss.detach())

    def _adam(self, gradient: np.ndarray) -> np.ndarray:
        state = self.state
        before = self._flat() if state.now is None else state.now
        one = np.zeros_like(gradient) if state.first is None else state.first
        two = np.zeros_like(gradient) if state.second is None else state.second
        state.first = 0.9 * one + 0.1 * gradient
        state.second = 0.99 * two + 0.01 * gradient**2
        step = state.step + 1
        mean, square = state.first / (1.0 - 0.9**step), state.second / (1.0 - 0.99**step)
        rate = np.full_like(gradient, _RATE)
        rate[: self.theta.numel()] *= _THETA_SHARE
        state.now = before - rate * mean / (np.sqrt(square) + 1e-8)
        return state.now

    def _retreat(self) -> None:
        state = self.state
        state.now = self._begin.copy() if state.best is None else state.best.copy()
        state.first = state.second = None
        self._put(state.now)

    def _look(self) -> None:
        """Compare with the best on held-out frames."""
        try:
            loss = self._held_out(Learned(self.theta, self.adapter, self.field))
        except PhysGymError:
            loss = math.inf
        if loss < self.state.best_loss:
            self.state.best, self.state.best_loss, self.state.since = self._flat(), loss, 0
        else:
            self.state.since += 1

    def best(self) -> Learned:
        """What was learned, without the parts that do not help on held-out frames.

        Returns:
            The backbone alone where nothing helped.
        """
        state = self.state
        backbone = Learned(self._start, None, None)
        state.report = {"isotropic": 1.0}
        if state.best is None:
            return backbone
        self._put(state.best)
        theta = self.theta.detach().clone()
        choices = {"global parameters": Learned(theta, None, None)}
        if self.adapter is not None:
            choices["adapter"] = Learned(theta, self.adapter, None)
        if self.field is not None:
            choices["field"] = Learned(theta, None, self.field)
        if self.adapter is not None and self.field is not None:
            choices["adapter and field"] = Learned(theta, self.adapter, self.field)
        chosen, best = backbone, 1.0
        for name, choice in choices.items():  # simple ones first: a part must earn its place
            loss = self._held_out(choice)
            state.report[name] = loss
            if loss < best - _GAIN:
                chosen, best = choice, loss
        return chosen

    def _held_out(self, learned: Learned) -> float:
        with torch.no_grad():
            seen = self._simulated(learned, [w.train for w in self.windows])
            terms = self._terms(seen, [(w.fit, w.train) for w in self.windows])
            return float(self._total(terms, self._held_units))

    def _simulated(self, learned: Learned, stops: list[int]) -> list[Seen]:
        parameters, gap = self.coordinates.parameters(learned.theta[None])
        if learned.field is not None:
            parameters = parameters.replace(heterogeneity=learned.field.factors(self._rest))
        return [
            scene.simulate(parameters, gap, stop, adapter=learned.adapter)
            for scene, stop in zip(self.scenes, stops, strict=True)
        ]

    def _terms(
        self, seen: list[Seen], spans: list[tuple[int, int]]
    ) -> list[dict[str, torch.Tensor]]:
        made = []
        for k, (scene, one, span) in enumerate(zip(self.scenes, seen, spans, strict=True)):
            terms = motion_terms(scene, one, *span, self.knee_m, self._local[k], self.crossing_s)
            images = self.images[k] if self.images else None
            if images is not None:
                terms |= images(one, *span)
            made.append({n: v for n, v in terms.items() if getattr(self.config.weights, n) > 0.0})
        return made

    def _values(self, seen: list[Seen], spans: list[tuple[int, int]]) -> list[dict[str, float]]:
        """Value of every term at the backbone; a term that is nothing there stays out."""
        return [
            {name: float(value) for name, value in terms.items() if float(value) > 1e-12}
            for terms in self._terms(seen, spans)
        ]

    def _total(
        self, terms: list[dict[str, torch.Tensor]], units: list[dict[str, float]]
    ) -> torch.Tensor:
        """Mean over motions, 1 at the backbone."""
        weights, made = self.config.weights, []
        for own, unit in zip(terms, units, strict=True):
            whole = sum(getattr(weights, name) for name in unit)
            made.append(weighted_sum(own, unit, weights) / max(whole, 1e-12))
        return torch.stack(made).mean()

    def _tensors(self) -> list[torch.Tensor]:
        modules = [m for m in (self.adapter, self.field) if m is not None]
        return [self.theta, *(p for m in modules for p in m.parameters())]

    def _flat(self) -> np.ndarray:
        return np.concatenate([_flat(t.detach(), t) for t in self._tensors()])

    def _put(self, flat: np.ndarray) -> None:
        at = 0
        with torch.no_grad():
            for tensor in self._tensors():
                values = torch.as_tensor(flat[at : at + tensor.numel()])
                tensor.copy_(values.reshape(tensor.shape).to(tensor.dtype))
                at += tensor.numel()


def _flat(value: torch.Tensor | None, like: torch.Tensor) -> np.ndarray:
    made = torch.zeros_like(like) if value is None else value
    return np.asarray(made.detach().double().reshape(-1).numpy())
