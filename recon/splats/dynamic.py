"""Dynamic 3D Gaussian splatting: from a video and the cloud of its first frame to one that moves.

GIC's deformation by motion bases (`recon.splats.motion_bases`) on the rigid path of the whole body,
with free covariances as MoSA needs them. The static cloud stays the scaffold: Gaussians are neither
added nor recoloured.
Shapes: T frames, G Gaussians, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, matrix_from_quat
from recon.identify.torch_threads import one_torch_thread
from recon.splats.dynamic_cloud import DynamicCloud, drawn, quat_product
from recon.splats.frame_loss import FrameLoss
from recon.splats.motion_bases import MotionBases, MotionBasesConfig
from recon.splats.rigid_path import RigidPath, rigid_path
from recon.splats.video import PosedVideo

__all__ = ["DynamicConfig", "fit_dynamic"]

_NEIGHBOURS = 8
_PAIRED = 1000  # Gaussians whose neighbours a step looks at; enough for a mean
_NEWEST = 0.5  # of the steps go to the last frame of the window while it grows


@dataclass(frozen=True)
class DynamicConfig:
    """How a cloud is made to follow a video.

    Attributes:
        iterations: steps of Adam, one frame each.
        views_per_step: views of the frame that a step draws at most.
        rate: learning rate of the networks, falls by ten.
        dssim: weight of D-SSIM against L1.
        mask_weight: of the mean difference of alpha and mask.
        grow_share: of the steps in which the window of frames grows from the first to all.
        rigid_steps: of Adam for the rigid path of every frame; 0 for none.
        coherence: weight of ``|d_t - F d_0|^2 / |d_0|^2`` over neighbours, d being the offset to
            one: turns and stretches tell how neighbours move.
        rigidity: weight of ``(|d_t| / |d_0| - 1)^2``.
        bases: sizes of the networks.
        seed: of weights, frames and views.
    """

    iterations: int = 1000
    views_per_step: int = 2
    rate: float = 2e-3
    dssim: float = 0.2
    mask_weight: float = 1.0
    grow_share: float = 0.5
    rigid_steps: int = 20
    coherence: float = 10.0
    rigidity: float = 0.0
    bases: MotionBasesConfig = field(default_factory=MotionBasesConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            DataError: naming them.
        """
        counts = (self.iterations, self.views_per_step, self.rigid_steps + 1)
        weights = (self.mask_weight, self.coherence, self.rigidity)
        shares = (self.dssim, self.grow_share)
        if min(counts) < 1 or min(weights) < 0.0 or not self.rate > 0.0:
            raise DataError(
                f"counts {counts}, weights {weights}, rate {self.rate}",
                where="DynamicConfig",
                expected="at least one step and view, nothing below 0, a rate above 0",
            )
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise DataError(f"dssim, grow_share {shares}", where="DynamicConfig", expected="0 to 1")


def fit_dynamic(
    video: PosedVideo,
    cloud: GaussianCloud,
    config: DynamicConfig | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> DynamicCloud:
    """Fit the motion of a cloud to a video.

    Args:
        video: at least two frames.
        cloud: of its first frame, from `recon.splats.static.fit_static`.
        config: how.
        on_step: called with the step and its loss.

    Returns:
        The cloud over all frames; frame 0 is the cloud as given.

    Raises:
        DataError: if there are fewer than two frames or four Gaussians.
    """
    config = config or DynamicConfig()
    if len(video) < 2 or len(cloud) < 4:
        raise DataError(
            f"{len(video)} frames and {len(cloud)} Gaussians",
            where=f"{video.name}: fit_dynamic",
            expected="at least two frames and four Gaussians",
        )
    with one_torch_thread():
        fit = _Fit(video, cloud.detach(), config)
        fit.run(on_step or (lambda step, value: None))
        return fit.result()


class _State(NamedTuple):
    """Gaussians in one frame."""

    mean: torch.Tensor
    quat_wxyz: torch.Tensor
    log_stretch: torch.Tensor


class _Fit:
    """Networks and their optimiser."""

    def __init__(self, video: PosedVideo, cloud: GaussianCloud, config: DynamicConfig) -> None:
        self.video, self.cloud, self.config = video, cloud, config
        self.loss = FrameLoss(video, dssim=config.dssim, mask=config.mask_weight)
        self.path: RigidPath = rigid_path(video, cloud, self.loss, steps=config.rigid_steps)
        self.bases = MotionBases(config.bases, seed=config.seed)
        away = cloud.mean - self.path.centre
        self.extent_m = float(away.abs().max().clamp(min=1e-6))
        self.place = away / self.extent_m
        stamp = torch.from_numpy(np.asarray(video.time_s, np.float64))
        self.time = ((stamp - stamp[0]) / (stamp[-1] - stamp[0])).float()
        self.pairs = _Pairs(cloud.mean)
        self.rng = np.random.default_rng([config.seed, 5])

    def run(self, on_step: Callable[[int, float], None]) -> None:
        """All steps."""
        config = self.config
        adam = torch.optim.Adam(self.bases.parameters(), lr=config.rate, eps=1e-12, fused=True)
        fall = torch.optim.lr_scheduler.ExponentialLR(adam, 0.1 ** (1.0 / config.iterations))
        for step in range(config.iterations):
            frame = self._frame(step / config.iterations)
            loss = self._step_loss(frame)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            fall.step()
            on_step(step + 1, float(loss.detach()))

    def state(self, frame: int) -> _State:
        """Gaussians in a frame."""
        offset = self.bases(self.place, self.time[frame : frame + 1])
        mean = self.path.place(frame, self.cloud.mean + self.extent_m * offset.shift[0])
        turn = quat_product(self.path.quat_wxyz[frame], offset.quat_wxyz[0])
        return _State(mean, turn, offset.log_stretch[0])

    def result(self) -> DynamicCloud:
        """The cloud over all frames."""
        with torch.no_grad():
            states = [self.state(t) for t in range(len(self.video))]
        mean, quat, stretch = (torch.stack(part) for part in zip(*states))
        video = self.video
        quat = torch.nn.functional.normalize(quat, dim=-1)
        return DynamicCloud(self.cloud, mean, quat, stretch, video.time_s, video.index, video.name)

    def _frame(self, done: float) -> int:
        """Which frame a step looks at: never the first, whose offsets are zero."""
        last = len(self.video) - 1
        grow = self.config.grow_share
        if done >= grow:
            return int(self.rng.integers(1, last + 1))
        newest = 1 + int(done / grow * last)
        if self.rng.random() < _NEWEST:
            return newest
        return int(self.rng.integers(1, newest + 1))

    def _step_loss(self, frame: int) -> torch.Tensor:
        config, count = self.config, len(self.video.frames[frame])
        views = sorted(self.rng.permutation(count)[: config.views_per_step].tolist())
        state = self.state(frame)
        turn, stretch = matrix_from_quat(state.quat_wxyz), state.log_stretch.exp()
        loss = self.loss(frame, drawn(self.cloud, state.mean, turn, stretch), views)
        if config.coherence > 0.0 or config.rigidity > 0.0:
            some = torch.from_numpy(self.rng.permutation(len(self.cloud))[:_PAIRED])
            F = turn[some] * stretch[some, None, :]
            coherence, rigidity = self.pairs(state.mean, F, some)
            loss = loss + config.coherence * coherence + config.rigidity * rigidity
        return loss


class _Pairs:
    """Offsets between neighbours at rest."""

    def __init__(self, rest: torch.Tensor) -> None:
        at = rest.double().numpy()
        count = min(_NEIGHBOURS, len(at) - 1)
        _, near = cKDTree(at).query(at, k=np.arange(2, count + 2))
        self._near = torch.from_numpy(near)
        self._offset = rest[self._near] - rest[:, None]
        self._square = self._offset.square().sum(dim=-1).clamp(min=1e-12)

    def __call__(
        self, mean: torch.Tensor, F: torch.Tensor, some: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How far neighbours are from where F takes them, and how far their distances changed."""
        square = self._square[some]
        now = mean[self._near[some]] - mean[some][:, None]
        miss = now - self._offset[some] @ F.transpose(1, 2)
        coherence = (miss.square().sum(dim=-1) / square).mean()
        ratio = ((now.square().sum(dim=-1) + 1e-16) / square).sqrt()
        return coherence, (ratio - 1.0).square().mean()
