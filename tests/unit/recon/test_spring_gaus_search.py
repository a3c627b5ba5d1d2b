"""The search of Spring-Gaus tries fewer bodies than there are, and finds what all of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from video_cases import DT_S, Drop, drop

from physgym.grip import Grip
from physgym.splats.skinning import bind
from recon.identify.anchor_rollouts import AnchorRollouts
from recon.identify.spring_gaus_dynamic import Descent, Dynamics, DynamicState
from recon.identify.spring_gaus_scan import refined, start_values
from recon.identify.video_loss import LossWeights, VideoLoss

FRAMES = 11
STEPS = {"log_stiffness": 0.35, "log_dashpot": 0.6, "log_friction": 0.9, "log_grip": 1.2}


class Landscape:
    """Stands in for `Dynamics`: a loss of values, and how often it was asked for."""

    def __init__(self, loss: Callable[[dict[str, float]], float], idle: Sequence[str]) -> None:
        self.of, self.idle, self.asked = loss, list(idle), 0

    def scan(
        self,
        points: dict[str, np.ndarray],
        frames: Sequence[int],
        most: float = np.inf,
        *,
        lowest_only: bool = False,
    ) -> np.ndarray:
        count = len(points["log_stiffness"])
        self.asked += count
        values = {k: np.broadcast_to(points[k], count) for k in STEPS}
        made = [self.of({k: float(v[i]) for k, v in values.items()}) for i in range(count)]
        return np.where(np.array(made) <= most, made, np.inf)

    at = Dynamics.at


def at_zero() -> dict[str, np.ndarray]:
    return {**{k: np.zeros(()) for k in STEPS}, "offset": np.zeros(4)}


def all_tried(
    dynamics: Landscape, best: dict[str, np.ndarray], loss: float
) -> tuple[dict[str, np.ndarray], float]:
    """Every point of the pattern, one or two values at a time."""
    for part in (1.0, 0.4):
        tried = [s for s in product((-1, 0, 1), repeat=4) if 0 < np.count_nonzero(s) <= 2]
        points = {**best, "offset": np.zeros((len(tried), 4))}
        for i, (key, step) in enumerate(STEPS.items()):
            points[key] = best[key] + part * step * np.array(tried)[:, i]
        losses = dynamics.scan(points, [])
        if losses.min() < 0.99 * loss:
            best, loss = dynamics.at(points, int(losses.argmin())), float(losses.min())
    return best, loss


def valley(values: dict[str, float]) -> float:
    """Only stiffness times the grip's ratio shows, as of a body that is carried along."""
    hold = values["log_stiffness"] + values["log_grip"] - 0.7
    return 0.02 + 0.01 * hold**2 + 0.003 * (values["log_stiffness"] + 0.4) ** 2


def bowl(values: dict[str, float]) -> float:
    """Damping shows together with stiffness; friction a little."""
    k, d = values["log_stiffness"], values["log_dashpot"]
    return 0.01 + 0.02 * (k + 0.5 * d) ** 2 + 0.01 * (d - 0.5) ** 2 + 1e-3 * values["log_friction"]


def softer(values: dict[str, float]) -> float:
    """Friction shows in a body that is softer than where the search starts."""
    k, f = values["log_stiffness"], values["log_friction"]
    return 0.02 + 0.02 * (k + 0.5) ** 2 + (4e-3 * f if k < -0.2 else 0.0)


@pytest.mark.parametrize(("loss", "least"), [(valley, 0.6), (bowl, 0.8), (softer, 0.5)])
def test_what_shows_nothing_alone_is_not_tried_with_others(loss, least: float) -> None:
    few, many = (Landscape(loss, []) for _ in range(2))
    found = refined(few, at_zero(), loss(dict.fromkeys(STEPS, 0.0)), [])
    wanted = all_tried(many, at_zero(), loss(dict.fromkeys(STEPS, 0.0)))
    assert found[1] == pytest.approx(wanted[1], rel=0.01)  # the least that is a reason to move
    for key, step in STEPS.items():
        assert abs(found[0][key] - wanted[0][key]) <= 0.4 * step + 1e-9, key
    assert few.asked < least * many.asked


def test_values_that_blow_up_are_no_reason_to_stop() -> None:
    def cliff(values: dict[str, float]) -> float:
        return float("inf") if values["log_stiffness"] > 0.1 else bowl(values)

    best, loss = refined(Landscape(cliff, ["log_grip"]), at_zero(), 0.0125, [])
    assert np.isfinite(loss)
    assert loss < 0.0125
    assert best["log_stiffness"] <= 0.1


@pytest.fixture(scope="module")
def fallen() -> Drop:
    return drop(anchors=80, frames=FRAMES, width=64)


def dynamics_of(fallen: Drop, *, held: bool) -> Dynamics:
    video, body = fallen.video(FRAMES), fallen.rollouts.body
    at = fallen.cloud.mean.double()
    path = at[:4].numpy() + 0.003 * np.arange(FRAMES)[:, None, None] * (1.0, 0.0, 0.0)
    grips = [Grip(path, 0, FRAMES)] if held else []
    return Dynamics(
        AnchorRollouts(body, grips, [], DT_S, FRAMES),
        bind(at, torch.as_tensor(body.anchors), neighbours=16, power=0.5),
        VideoLoss(video, fallen.cloud, LossWeights()),
        fallen.scene(video).tick,
    )


def started(dynamics: Dynamics) -> dict[str, np.ndarray]:
    return {**start_values(dynamics.rollouts), "velocity": np.array([0.15, 0.0, -0.8])}


def test_losses_that_need_not_be_known_change_no_choice(fallen: Drop) -> None:
    dynamics, frames = dynamics_of(fallen, held=False), range(2, FRAMES)
    start = {k: v[::2] if v.shape == (27,) else v for k, v in started(dynamics).items()}
    whole = dynamics.scan(start, frames)
    most = float(np.median(whole))
    known = dynamics.scan(start, frames, most)
    np.testing.assert_array_equal(known, np.where(whole <= most, whole, np.inf))
    lowest = dynamics.scan(start, frames, lowest_only=True)
    assert lowest.argmin() == whole.argmin()
    assert lowest.min() == whole.min()
    # And that is fewer images than all.
    drawn: list[int] = []
    frame = VideoLoss.frame

    def noted(self, t, mean):
        drawn.append(t)
        return frame(self, t, mean)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoLoss, "frame", noted)
        dynamics.scan(start, frames, float(whole.min()))
    assert len(drawn) < 0.7 * len(whole) * len(frames)


@pytest.mark.parametrize("held", [False, True])
def test_a_filmed_block_is_refined_as_by_all_points(fallen: Drop, held: bool) -> None:
    dynamics = dynamics_of(fallen, held=held)
    start = started(dynamics)
    begun = dynamics.at(start, 4)
    frames = range(2, FRAMES)
    loss = dynamics.loss_of(begun, frames)
    found, less = refined(dynamics, begun, loss, frames)
    assert less < 0.99 * loss
    asked: list[float] = []
    for key, step in STEPS.items():
        if key not in dynamics.idle:
            near = [{**found, key: found[key] + s * 0.4 * step} for s in (-1, 1)]
            asked += [dynamics.loss_of(one, frames) for one in near]
    # A descent of two rounds need not end in a minimum, but not far above one.
    assert min(asked) > 0.8 * less


@pytest.mark.parametrize(
    ("held_out", "steps"),
    [
        ([1.0] + 12 * [2.0], 40),  # all frames are fitted from step 24 on, and 15 more are waited
        ([5.0, 4.0, 3.0, 3.0, 3.0, 3.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0], 45),
        (list(np.linspace(2.0, 1.0, 13)), 60),
    ],
)
def test_descent_ends_when_held_out_frames_tell_of_nothing_better(
    fallen: Drop, held_out: list[float], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamics = dynamics_of(fallen, held=False)
    start = dynamics.at(started(dynamics), 4)
    given = iter(held_out)
    monkeypatch.setattr(Dynamics, "loss_of", lambda *args: next(given))
    monkeypatch.setattr(Descent, "_step", lambda *args: 0.0)
    state = DynamicState(start, start)
    seen: list[int] = []
    descent = Descent(dynamics, state, steps=60, fit=9, train=FRAMES)
    descent.run(3, lambda step, loss: seen.append(step))
    assert state.step == seen[-1] == steps
    assert state.best_loss == min(held_out)
    descent.run(3, lambda step, loss: seen.append(step))  # gone on with, it has ended
    assert state.step == steps
