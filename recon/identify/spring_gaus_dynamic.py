"""The dynamic stage of Spring-Gaus: springs, damping and ground from images through simulation.

Shapes: A anchors, G Gaussians, T frames of the video.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from physgym.errors import BlowUpError
from physgym.sim.contact import GroundLaw
from physgym.splats.skinning import Binding, inverse_distance
from recon.identify.anchor_rollouts import AnchorPhysics, AnchorRollouts
from recon.identify.anchors import tangential_factor
from recon.identify.video_loss import VideoLoss

__all__ = ["Descent", "DynamicState", "Dynamics"]

_RATES = {
    "log_stiffness": 0.05, "offset": 0.03, "kappa": 0.03, "log_dashpot": 0.05,
    "log_friction": 0.03, "logit_restitution": 0.05, "phi": 0.03, "velocity": 0.001,
    "log_grip": 0.05,
}  # fmt: skip
_GROW = 0.4  # share of the steps after which all frames are fitted
_LOOK = 5  # steps between two looks at the held-out frames
# Share of the steps, once all frames are fitted, in which held-out frames must tell of something
# better: a held toy is fitted best before the first step, a block of halves after half of them.
_PATIENCE = 0.25
_MOST_BLOW_UPS = 4
_SMOOTH = 0.2  # of the size: width of the Gaussian that evens the slopes of anchors out
_KEYS = tuple(_RATES)


@dataclass(eq=False)
class DynamicState:
    """Where the descent stands: all that a checkpoint keeps.

    Attributes:
        now: values by name.
        best: likewise, at the lowest held-out loss.
        best_loss: that loss.
        step: steps done.
        moments: first and second ones of Adam, by name.
        rate: factor on the learning rates.
        history: held-out loss by step.
    """

    now: dict[str, np.ndarray]
    best: dict[str, np.ndarray]
    best_loss: float = float("inf")
    step: int = 0
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    rate: float = 1.0
    history: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dynamics:
    """From values by name to Gaussians in every frame, and their loss.

    Attributes:
        rollouts: of the anchors.
        binding: of the Gaussians to them.
        loss: of the video.
        tick: of the frames of the video, shape (T,).
        truncate: gradients end with their frame.
    """

    rollouts: AnchorRollouts
    binding: Binding
    loss: VideoLoss
    tick: np.ndarray
    truncate: bool = False

    @property
    def idle(self) -> list[str]:
        """Names of the values that have no effect: nothing holds, or the ground has another law."""
        ground = self.rollouts.body.ground
        coulomb, factor = ["log_friction", "logit_restitution"], ["phi"]
        made = [] if self.rollouts.grips else ["log_grip"]
        if ground is None:
            return made + coulomb + factor
        return made + (factor if ground.law is GroundLaw.COULOMB else coulomb)

    def physics(self, values: dict[str, torch.Tensor]) -> AnchorPhysics:
        """Parameters of one world.

        Args:
            values: by name.

        Returns:
            The parameters.
        """
        return AnchorPhysics(
            log_stiffness=(values["log_stiffness"] + values["offset"])[None],
            kappa=values["kappa"],
            dashpot_ns_per_m=values["log_dashpot"].exp()[None],
            friction=values["log_friction"].exp()[None],
            restitution=torch.sigmoid(values["logit_restitution"])[None],
            grip_ratio=values["log_grip"].exp().reshape(-1),
            tangential_factor=tangential_factor(values["phi"])[None],
        )

    def anchors(self, values: dict[str, torch.Tensor], frames: int) -> torch.Tensor:
        """Anchors at the ticks of the first frames [m], shape (ticks, A, 3)."""
        ticks = int(self.tick[frames - 1]) + 1
        made: torch.Tensor = self.rollouts(
            self.physics(values), values["velocity"], ticks, truncate=self.truncate
        )[0]
        return made

    def means(self, anchors: torch.Tensor, t: int) -> torch.Tensor:
        """Gaussians of a frame [m], shape (G, 3)."""
        return inverse_distance(self.binding, anchors[int(self.tick[t])]).float()

    def loss_of(
        self, values: dict[str, np.ndarray], frames: Sequence[int], most: float = math.inf
    ) -> float:
        """Mean loss over frames.

        Args:
            values: by name.
            frames: that count.
            most: a loss above this need not be known: drawing ends when it is certain.

        Returns:
            The loss; infinite where the simulation blows up, or if it is above `most`.
        """
        given = {k: torch.as_tensor(v) for k, v in values.items()}
        parts: list[float] = []
        try:
            with torch.no_grad():
                anchors = self.anchors(given, max(frames) + 1)
                # What is wrong grows with time: from the last frame on it shows soonest.
                for t in reversed(frames):
                    mean = self.means(anchors, t)
                    if not bool(torch.isfinite(mean).all()):
                        return math.inf
                    parts.append(float(self.loss.frame(t, mean)))
                    if sum(parts) > most * len(frames):  # no part is below zero
                        return math.inf
        except BlowUpError:
            return math.inf
        return sum(reversed(parts)) / len(frames)

    def scan(
        self,
        start: dict[str, np.ndarray],
        frames: Sequence[int],
        most: float = math.inf,
        *,
        lowest_only: bool = False,
    ) -> np.ndarray:
        """Loss of each point of a scan.

        Each is simulated by itself: in lanes all would take as many substeps as the stiffest and
        most damped, which of a lifted toy takes 40 times as long as one in the middle.

        Args:
            start: values by name, with a first axis where they differ from point to point
                (`recon.identify.spring_gaus_scan`).
            frames: that count.
            most: losses above this need not be known.
            lowest_only: only the lowest loss need be known.

        Returns:
            Shape (scan,); infinite where the simulation blows up or the loss need not be known.
        """
        points = [self.at(start, i) for i in range(len(start["log_stiffness"]))]
        bound = most

        def loss(values: dict[str, np.ndarray]) -> float:
            nonlocal bound
            made = self.loss_of(values, frames, bound)
            if lowest_only:  # of two threads at once one may set it a little too high: no harm
                bound = min(bound, made)
            return made

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return np.array(list(pool.map(loss, points)))

    def at(self, start: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        """Values at one point of the scan."""
        scanned = ("log_stiffness", "log_dashpot", "log_friction", "log_grip")
        one = {k: np.array(start[k][index]) for k in scanned if start[k].ndim}
        offset = start["offset"] if start["offset"].ndim == 1 else start["offset"][index]
        return {**start, **one, "offset": np.array(offset)}


class Descent:
    """Adam along the adjoint of the simulation; the window of frames grows.

    Args:
        dynamics: what is fitted.
        state: where it starts; goes on from there.
        steps: in all.
        fit: frames that are fitted are those before this one.
        train: frames from `fit` to here are held out, and decide what is kept.
        evenness: weight of the mean squared difference of the log stiffness of joined anchors.
        fixed: names of values that stay.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        state: DynamicState,
        *,
        steps: int,
        fit: int,
        train: int,
        evenness: float = 0.0,
        fixed: Sequence[str] = (),
    ) -> None:
        self.dynamics, self.state, self.steps = dynamics, state, steps
        self.evenness = evenness
        self._even_out = _smoothing(dynamics.rollouts.body.anchors, dynamics.rollouts.body.size_m)
        self.fit, self.held_out = fit, list(range(fit, train))
        self.free = [k for k in _KEYS if k not in fixed]

    def run(self, first: int, on_step: Callable[[int, float], None]) -> None:
        """All steps that are left, or those until held-out frames tell of nothing better.

        Args:
            first: frames of the first window, those up to a little after contact.
            on_step: told the step and its loss.

        Raises:
            BlowUpError: if simulations keep blowing up.
        """
        state, blown = self.state, 0
        if state.step == 0:
            self._look()
        while state.step < self.steps and not self._is_stale():
            share = min(1.0, state.step / max(_GROW * self.steps, 1.0))
            window = max(2, round(first + share * (self.fit - first)))
            try:
                loss = self._step(min(window, self.fit))
            except BlowUpError:
                blown += 1
                if blown > _MOST_BLOW_UPS:
                    raise
                state.now = {k: v.copy() for k, v in state.best.items()}
                state.moments.clear()
                state.rate *= 0.5
                continue
            state.step += 1
            if state.step % _LOOK == 0 or state.step == self.steps:
                self._look()
            on_step(state.step, loss)

    def _look(self) -> None:
        """Keep the values if held-out frames say so."""
        loss = self.dynamics.loss_of(self.state.now, self.held_out)
        self.state.history[str(self.state.step)] = loss
        if loss < self.state.best_loss:
            self.state.best_loss = loss
            self.state.best = {k: v.copy() for k, v in self.state.now.items()}

    def _is_stale(self) -> bool:
        """Whether the last looks told of nothing better for long."""
        looks = {int(step): loss for step, loss in self.state.history.items()}
        best = min(looks, key=lambda step: looks[step])
        return max(looks) - max(best, _GROW * self.steps) >= _PATIENCE * self.steps

    def _step(self, window: int) -> float:
        values = {
            k: torch.tensor(v, requires_grad=k in self.free) for k, v in self.state.now.items()
        }
        anchors = self.dynamics.anchors(values, window)
        leaf = anchors.detach().requires_grad_()
        total, frames = 0.0, range(1, window)
        for t in frames:  # a frame's images are let go before the next: memory stays bounded
            part = self.dynamics.loss.frame(t, self.dynamics.means(leaf, t)) / len(frames)
            part.backward()
            total += float(part.detach())
        assert leaf.grad is not None
        ends, slopes = [anchors], [leaf.grad]
        if values["offset"].requires_grad:
            ends.append(self.evenness * self._unevenness(values["offset"]))
            slopes.append(torch.ones_like(ends[-1]))
        torch.autograd.backward(ends, slopes)
        offset = values["offset"].grad
        if offset is not None:
            # Adam makes steps of noise as long as those of what many anchors agree on.
            values["offset"].grad = self._even_out @ offset
        self._adam({k: values[k].grad for k in self.free})
        return total

    def _unevenness(self, offset: torch.Tensor) -> torch.Tensor:
        """Mean squared difference over springs: halves may differ, neighbours seldom do."""
        edges = torch.as_tensor(self.dynamics.rollouts.body.springs.edges, dtype=torch.long)
        return (offset[edges[:, 0]] - offset[edges[:, 1]]).square().mean()

    def _adam(self, slopes: dict[str, torch.Tensor | None]) -> None:
        state = self.state
        count = state.step + 1
        cosine = 0.55 + 0.45 * math.cos(math.pi * state.step / max(self.steps, 1))
        for key, slope in slopes.items():
            if slope is None or not bool(torch.isfinite(slope).all()):
                continue
            grad = slope.numpy()
            none = np.zeros_like(grad)
            first, second = state.moments.get(key, (none, none))
            first = 0.9 * first + 0.1 * grad
            second = 0.99 * second + 0.01 * grad**2
            state.moments[key] = (first, second)
            size = np.sqrt(second / (1.0 - 0.99**count)) + 1e-15
            change = _RATES[key] * state.rate * cosine * first / (1.0 - 0.9**count) / size
            state.now[key] = state.now[key] - change


def _smoothing(at: np.ndarray, size_m: float) -> torch.Tensor:
    """Weighted means over the anchors around each, shape (A, A)."""
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1) / (_SMOOTH * size_m)
    weight = np.exp(-0.5 * apart**2)
    return torch.as_tensor(weight / weight.sum(axis=1, keepdims=True))
