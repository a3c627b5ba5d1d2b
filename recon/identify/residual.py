"""Training of the learned residual: what the physics got wrong on the training recordings.

Shapes: R recordings, T frames, N nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from physgym.errors import DataError
from physgym.residual import ResidualNet, residual_features, tap_frames
from physgym.twin import Twin
from recon.identify.progress import Progress
from recon.predict import predict
from recon.tracks import Tracks

__all__ = ["ResidualConfig", "fit_residual", "train_members"]


@dataclass(frozen=True)
class ResidualConfig:
    """How the residual is trained.

    Attributes:
        members: networks that are averaged.
        epochs: rounds of 30 batches of 512 frames drawn at random.
        width: hidden units.
        learning_rate: at the top of the cosine schedule.
        weight_decay: of AdamW.
        seed: of the random numbers.
    """

    members: int = 3
    epochs: int = 40
    width: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 3e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("members", "epochs", "width"):
            if getattr(self, name) < 1:
                raise DataError(f"{getattr(self, name)}", where=name, expected="1 or more")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise DataError(f"{self.learning_rate}", where="learning_rate", expected="more than 0")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise DataError(f"{self.weight_decay}", where="weight_decay", expected="0 or more")


def fit_residual(
    twin: Twin,
    recordings: list[Tracks],
    config: ResidualConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Twin:
    """Learn a residual on top of a twin's physics.

    Gravity is the only direction that counts, so every batch is turned about it by random angles.

    Args:
        twin: a twin whose physics stays as it is.
        recordings: the recordings that it was made from. Those whose first two frames were seen
            whole are used, as far as they have the length and frame rate of the first such.
        config: how to train.
        progress: told about every epoch.

    Returns:
        The same twin with a residual.

    Raises:
        DataError: if no recording can be used, or one does not fit the twin.
        BlowUpError: if the physics leaves the finite numbers.
    """
    config = config or ResidualConfig()
    usable = _usable(recordings)
    physics = np.stack(predict(twin, usable, residual=False))[:, 1:]
    seen = np.stack([t.position for t in usable])[:, 1:]
    scale_m = _length_m(twin)
    free = np.setdiff1d(np.arange(twin.node_count), twin.driven_index)
    residual: dict[str, np.ndarray] = {
        "scale_m": np.array(scale_m),
        "members": np.array(config.members),
    }
    nets = train_members(
        torch.from_numpy(physics),
        torch.from_numpy(seen),
        torch.as_tensor(free),
        torch.as_tensor(np.array(twin.driven_index)),
        usable[0].dt_s,
        scale_m,
        config,
        progress or Progress(),
    )
    for k, net in enumerate(nets):
        for key, value in net.state_dict().items():
            residual[f"{k}/{key}"] = value.numpy()
    return twin.replace(residual=residual)


def _length_m(twin: Twin) -> float:
    """Length of a rope, diagonal of the box around anything else."""
    if twin.dynamics == "rod":
        return float(np.sum(twin.parameters["rest_length_m"]))
    return float(np.linalg.norm(np.ptp(twin.rest_position, axis=0)))


def _usable(recordings: list[Tracks]) -> list[Tracks]:
    """The recordings that a prediction can start from, of one length and frame rate."""
    started = [t for t in recordings if t.frame_count > 2 and t.visible[:2].all()]
    if not started:
        raise DataError(
            f"none of {len(recordings)} recordings shows every point in its first two frames",
            where="fit_residual",
            expected="at least one from whose start the object can be simulated",
            fix="cut the recordings so that they begin where every point was seen (Tracks.slice)",
        )
    first = started[0]
    return [
        t
        for t in started
        # Stamps are sums of floats: rates that differ by less than this are one.
        if t.frame_count == first.frame_count and abs(t.dt_s - first.dt_s) < 1e-6
    ]


def train_members(
    predicted: torch.Tensor,
    seen: torch.Tensor,
    free: torch.Tensor,
    driven: torch.Tensor,
    dt_s: float,
    scale_m: float,
    config: ResidualConfig,
    progress: Progress,
) -> list[ResidualNet]:
    """Train an ensemble that corrects predictions.

    Args:
        predicted: what is to be corrected [m], shape (R, T, N, 3).
        seen: the truth [m], NaN where not seen, shape (R, T, N, 3).
        free: free nodes.
        driven: driven nodes.
        dt_s: time between frames [s].
        scale_m: length of the object [m].
        config: how to train.
        progress: told about every epoch.

    Returns:
        The trained networks.
    """
    features = residual_features(predicted, driven, dt_s, scale_m)
    taps = tap_frames(predicted.shape[1], dt_s)
    target = (seen - predicted)[:, :, free] / scale_m
    known = torch.isfinite(target).all(-1, keepdim=True)
    target = torch.where(known, target, 0.0)
    clips, frames = torch.arange(len(predicted)), torch.arange(predicted.shape[1])
    samples = torch.cartesian_prod(clips, frames)

    def draw(batch: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        clip, frame = samples[batch].unbind(1)
        turn = _turns(len(batch), generator)
        x = features[clip[:, None], taps[frame]].unflatten(-1, (-1, 3))
        x = torch.einsum("bij,bftj->bfti", turn, x).flatten(1)
        return x, torch.einsum("bij,bnj->bni", turn, target[clip, frame]), known[clip, frame]

    nets = []
    for k in range(config.members):
        generator = torch.Generator().manual_seed(config.seed + k)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on undisturbed
            torch.manual_seed(config.seed + k)
            net = ResidualNet(features.shape[-1], len(free), config.width)
        with progress.stage(f"residual {k + 1}/{config.members}", config.epochs) as tick:
            _train(net, draw, len(samples), config, generator, lambda e, v: tick(e, v * scale_m))
        nets.append(net)
    return nets


def _train(
    net: ResidualNet,
    draw: Callable[..., tuple[torch.Tensor, ...]],
    sample_count: int,
    config: ResidualConfig,
    generator: torch.Generator,
    tick: Callable[[int, float], None],
) -> None:
    """AdamW on the mean absolute error, the learning rate down along a cosine."""
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    total = config.epochs * _BATCHES
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / 30) * 0.5 * (1 + math.cos(math.pi * i / total))
    )
    for epoch in range(config.epochs):
        loss_sum = 0.0
        order = torch.randperm(sample_count, generator=generator)[: _BATCHES * _BATCH]
        batches = order.chunk(_BATCHES)
        for batch in batches:
            x, y, mask = draw(batch, generator)
            loss = ((net(x) - y).abs() * mask).sum() / (3 * mask.sum()).clamp(min=1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach())
        tick(epoch + 1, loss_sum / len(batches))


# An epoch is a fixed amount of work: neighbouring frames are alike, so not every one is needed.
_BATCHES = 30
_BATCH = 512


def _turns(count: int, generator: torch.Generator) -> torch.Tensor:
    angle = torch.rand(count, generator=generator) * 2 * math.pi
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = torch.cos(angle)
    turn[:, 1, 0] = torch.sin(angle)
    turn[:, 0, 1] = -torch.sin(angle)
    turn[:, 2, 2] = 1.0
    return turn
