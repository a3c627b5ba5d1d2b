"""A static scan brought to where a video has the object: scale, rotation, translation.

Real captures have Gaussians from a separate scan, in units of their own (Spring-Gaus, section 5;
notes, section 12). The authors start from a pose that a person gives; here a start is found from
masks, and several rotations are tried.
Shapes: G Gaussians, C cameras, M tries.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.ply import load_ply
from physgym.splats.rasterize import rasterize
from physgym.splats.skinning import moved
from recon.identify.video_loss import mask_centres
from recon.identify.video_scene import hull_of
from recon.splats.image_loss import SeenImages
from recon.splats.perceptual import LPIPS_VARIABLE, load_lpips
from recon.splats.posed_images import PosedImages
from recon.splats.video import smaller

__all__ = [
    "RegisterConfig",
    "ScanPose",
    "load_scan",
    "perceptual_loss",
    "register_scan",
    "rotation_of_six",
]

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_RATES = {"six": 0.02, "log_scale": 0.01, "shift": 0.01}  # shift: in sizes of the object
_BAD_IOU = 0.5
_FASTER = 3.0  # of the steps of a try, which may have to turn by half the gap between two
_FINAL = 4
_FEWEST = 20  # Gaussians of a scan
_FAINTEST = 1.0 / 255.0  # what is fainter is never drawn


@dataclass(frozen=True)
class RegisterConfig:
    """How a scan is registered.

    Attributes:
        steps: of Adam on the best start.
        try_steps: of Adam on each rotation that is tried; the best few take more.
        tries: rotations that are tried, evenly over all of them.
        pixels: of a view, at most.
        mask_weight: of the mean difference of alpha and mask.
        centre_weight: of the distance of the centres of alpha and mask, in widths of a view.
        perceptual_weight: of a perceptual loss, where one is given.
        seed: of the rotations.
    """

    steps: int = 200
    try_steps: int = 15
    tries: int = 48
    pixels: int = 96 * 72
    mask_weight: float = 0.5
    centre_weight: float = 0.5
    perceptual_weight: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ScanPose:
    """From a scan to the world: ``s R (x - middle) + t``.

    Attributes:
        scale: s.
        rotation: R, shape (3, 3).
        shift_m: t [m], shape (3,).
        middle: mean of the scan's Gaussians, shape (3,).
        loss: at the end.
        iou: of the drawn silhouettes and the masks, mean over views.
    """

    scale: float
    rotation: np.ndarray
    shift_m: np.ndarray
    middle: np.ndarray
    loss: float
    iou: float

    def apply(self, cloud: GaussianCloud) -> GaussianCloud:
        """The scan in the world.

        Args:
            cloud: the scan.

        Returns:
            Gaussians with their radii scaled and their axes and harmonics turned.
        """
        turn = torch.as_tensor(self.rotation, dtype=torch.float32)
        middle = torch.as_tensor(self.middle, dtype=torch.float32)
        shift = torch.as_tensor(self.shift_m, dtype=torch.float32)
        mean = self.scale * (cloud.mean - middle) @ turn.T + shift
        turned = moved(cloud, mean, turn.expand(len(cloud), 3, 3))
        return turned.replace(log_scale=cloud.log_scale + float(np.log(self.scale)))


def load_scan(path: str | Path) -> GaussianCloud:
    """Read a scan.

    Args:
        path: a 3DGS PLY.

    Returns:
        The cloud.

    Raises:
        DataError: if there is no such file, it is no 3DGS PLY, holds numbers that are not finite,
            Gaussians all in one place, or too few that can be seen.
    """
    where = f"scan {path}"
    cloud = load_ply(path)
    extent = (cloud.mean.amax(dim=0) - cloud.mean.amin(dim=0)).max() if len(cloud) else 0.0
    if len(cloud) < _FEWEST or float(extent) <= 0.0:
        raise DataError(
            f"{len(cloud)} Gaussians over {float(extent):.3g} units",
            where=where,
            expected=f"{_FEWEST} Gaussians or more of an object that has a size",
            fix="export the object, cut free of what is around it",
        )
    drawn = torch.isfinite(cloud.covariance()).all(dim=2).all(dim=1)
    seen = int((drawn & (cloud.opacity >= _FAINTEST)).sum())
    if seen < _FEWEST or not drawn.all():
        raise DataError(
            f"{seen} of {len(cloud)} Gaussians can be seen; {int((~drawn).sum())} are larger than "
            "float32 holds",
            where=where,
            expected=f"{_FEWEST} that can be seen; opacity as a logit, scale_* as logarithms",
            fix="export it as an uncompressed 3DGS PLY, such as from SuperSplat",
        )
    return cloud


def perceptual_loss() -> Perceptual | None:
    """LPIPS as a loss of two batches of images, from the file that ``PHYSGYM_LPIPS`` names.

    Returns:
        The loss; None where no file is named.

    Raises:
        DataError: if the file is missing or holds no such module.
    """
    if load_lpips() is None:  # which also refuses what is no such file
        return None
    module = torch.jit.load(os.environ[LPIPS_VARIABLE], map_location="cpu").eval()

    def near(drawn: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        first, second = (2.0 * images.permute(0, 3, 1, 2) - 1.0 for images in (drawn, seen))
        made: torch.Tensor = module(first, second).mean()
        return made

    return near


def rotation_of_six(six: torch.Tensor) -> torch.Tensor:
    """Rotation from its first two rows, made orthonormal (Zhou et al. 2019).

    Args:
        six: shape (..., 6).

    Returns:
        Shape (..., 3, 3).
    """
    first = torch.nn.functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:]
    second = second - (first * second).sum(dim=-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def register_scan(
    scan: GaussianCloud,
    views: PosedImages,
    config: RegisterConfig | None = None,
    *,
    rotation: np.ndarray | None = None,
    perceptual: Perceptual | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> ScanPose:
    """Find a scan in the first frame of a video.

    Args:
        scan: in units and axes of its own.
        views: of the first frame, from at least two sides.
        config: how.
        rotation: a start, shape (3, 3); where it is given no other is tried.
        perceptual: a loss of two images of shape (C, H, W, 3), where weights for one exist.
        on_step: told the step and the loss of the last descent.

    Returns:
        The pose; its ``iou`` tells how good it is.

    Raises:
        DataError: if one view alone shows the object, or no start comes to overlap the masks.
    """
    config = config or RegisterConfig()
    if len(views) < 2:
        raise DataError(
            f"{len(views)} view of the object",
            where="register_scan",
            expected="two or more: one view tells nothing of scale",
            fix="register with more cameras, or make the cloud from this recording",
        )
    problem = _Problem(scan, smaller(views, config.pixels), config, perceptual)
    if rotation is None:
        starts = problem.descended(_even_rotations(config.tries, config.seed))
    else:
        starts = [problem.start(np.asarray(rotation, np.float64))]
    best, loss = problem.descend(starts[0], config.steps, on_step or (lambda step, value: None))
    pose = problem.pose(best, loss)
    if pose.iou < _BAD_IOU:
        raise DataError(
            f"the scan covers {100 * pose.iou:.0f} % of what it and the masks cover together",
            where="register_scan",
            expected=f"{100 * _BAD_IOU:.0f} % or more",
            fix="check that scan and video show the same object in the same shape, try more "
            "rotations (tries), or give one",
        )
    return pose


_State = dict[str, torch.Tensor]


class _Problem:
    """Loss of a pose, and descent on it."""

    def __init__(
        self,
        scan: GaussianCloud,
        views: PosedImages,
        config: RegisterConfig,
        perceptual: Perceptual | None,
    ) -> None:
        self.scan, self.views, self.config, self.perceptual = (
            scan.detach(),
            views,
            config,
            perceptual,
        )
        self.middle = self.scan.mean.mean(dim=0)
        hull, _ = hull_of(views, 2000)
        self.centre = torch.as_tensor(hull.mean(axis=0), dtype=torch.float32)
        spread = float(np.sqrt(((hull - hull.mean(axis=0)) ** 2).sum(axis=1).mean()))
        own = float((self.scan.mean - self.middle).square().sum(dim=1).mean().sqrt())
        self.size_m, self.start_scale = 2.0 * spread, spread / max(own, 1e-12)
        self.seen = SeenImages(views.rgb * views.known[..., None])
        self.ways, self.whole = mask_centres(views)

    def start(self, rotation: np.ndarray) -> _State:
        """A pose in the middle of the hull and as large."""
        return {
            "six": torch.as_tensor(rotation[:2].reshape(6), dtype=torch.float32),
            "log_scale": torch.tensor(float(np.log(self.start_scale))),
            "shift": torch.zeros(3),
        }

    def descended(self, rotations: np.ndarray) -> list[_State]:
        """Poses, the best first: all rotations go down a little, few of them more."""
        steps = self.config.try_steps
        tried = [self.descend(self.start(r), steps, faster=_FASTER) for r in rotations]
        tried.sort(key=lambda found: found[1])
        more = [self.descend(state, 3 * steps) for state, _ in tried[:_FINAL]]
        return [state for state, _ in sorted(more, key=lambda found: found[1])]

    def descend(
        self,
        start: _State,
        steps: int,
        on_step: Callable[[int, float], None] = lambda step, value: None,
        *,
        faster: float = 1.0,
    ) -> tuple[_State, float]:
        """Adam; the best pose and its loss."""
        state = {k: v.clone().requires_grad_() for k, v in start.items()}
        adam = torch.optim.Adam(
            [{"params": [v], "lr": faster * _RATES[k]} for k, v in state.items()]
        )
        rates = [group["lr"] for group in adam.param_groups]
        best, lowest = start, float("inf")
        for step in range(steps + 1):
            loss = self.loss(state)
            if float(loss.detach()) < lowest:
                best = {k: v.detach().clone() for k, v in state.items()}
                lowest = float(loss.detach())
            loss.backward()
            for group, rate in zip(adam.param_groups, rates):
                group["lr"] = rate * (0.05 + 0.95 * (1.0 - step / (steps + 1)))
            adam.step()
            adam.zero_grad()
            on_step(step, lowest)
        return best, lowest

    def drawn(self, state: _State) -> Gaussians:
        """The scan at a pose; harmonics above the constant stay out while poses are tried."""
        turn = rotation_of_six(state["six"])
        scale = state["log_scale"].exp()
        mean = scale * (self.scan.mean - self.middle) @ turn.T
        spread = scale**2 * (turn @ self.scan.covariance() @ turn.T)
        at = mean + self.centre + self.size_m * state["shift"]
        return Gaussians(at, spread, self.scan.opacity, self.scan.sh[:, :1])

    def loss(self, state: _State) -> torch.Tensor:
        """L1 of colours, masks, centres and, where there is one, a perceptual loss."""
        views, config = self.views, self.config
        gaussians = self.drawn(state)
        drawn = rasterize(gaussians, views.cameras)
        known = views.known[..., None]
        loss = self.seen.loss(drawn.rgb * known, dssim=0.0)
        loss = loss + config.mask_weight * ((drawn.alpha - views.mask) * views.known).abs().mean()
        loss = loss + config.centre_weight * self._apart(drawn.alpha, gaussians.mean)
        if self.perceptual is not None:
            near = self.perceptual(drawn.rgb * known, self.seen.rgb)
            loss = loss + config.perceptual_weight * near
        return loss

    def _apart(self, alpha: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Distance of the centres of alpha and mask, or of the mean where nothing is drawn."""
        drawn, _ = mask_centres(dataclasses.replace(self.views, mask=alpha))
        apart = []
        for c, camera in enumerate(self.views.cameras):
            if not self.whole[c]:
                continue
            way = drawn[c]
            if float(alpha[c].sum().detach()) < 1.0:
                pose = torch.from_numpy(np.linalg.inv(camera.T_world_cam)).float()
                inside = mean.mean(dim=0) @ pose[:3, :3].T + pose[:3, 3]
                way = inside[:2] / inside[2].clamp(min=0.01)
            error = (way - self.ways[c]).square().sum() + 1e-12
            apart.append(error.sqrt() * float(camera.K[0, 0]) / camera.width)
        return torch.stack(apart).mean() if apart else mean.sum() * 0.0

    def pose(self, state: _State, loss: float) -> ScanPose:
        """What was found."""
        with torch.no_grad():
            alpha = rasterize(self.drawn(state), self.views.cameras).alpha
        known = self.views.known > 0.5
        solid, mask = (alpha > 0.5) & known, (self.views.mask > 0.5) & known
        both = (solid & mask).sum(dim=(1, 2)) / (solid | mask).sum(dim=(1, 2)).clamp(min=1)
        return ScanPose(
            scale=float(state["log_scale"].exp()),
            rotation=rotation_of_six(state["six"].double()).numpy(),
            shift_m=(self.centre + self.size_m * state["shift"]).double().numpy(),
            middle=self.middle.double().numpy(),
            loss=loss,
            iou=float(both.float().mean()),
        )


def _even_rotations(count: int, seed: int) -> np.ndarray:
    """The 24 of a cube and then random ones, shape (M, 3, 3)."""
    cube = Rotation.create_group("O").as_matrix()
    rest = Rotation.random(max(count - 24, 0), random_state=seed).as_matrix()
    return np.concatenate([cube, rest.reshape(-1, 3, 3)])[: max(count, 1)]
