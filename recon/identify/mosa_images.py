"""Image terms of MoSA: a simulated body drawn with Gaussians that ride on its particles.

Every Gaussian moves and stretches with the matter, ``Sigma_t = F Sigma_0 F^T`` (MoSA, Eq. 10), and
what is drawn is compared with the video: colours (Eq. 11), silhouettes, and the flow from frame to
frame (Eq. 12), whose reference is drawn from dynamic Gaussians, or is optical flow of the images.
Shapes: T frames of the motion, F frames of the video, P particles, G Gaussians, C views, H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.sim.mpm.ride import carry, mount
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.rasterize import Render, rasterize
from physgym.splats.skinning import deformed
from recon.identify.mosa_scene import Scene, Seen
from recon.identify.motion import Pose
from recon.identify.motion_losses import LocalFrames
from recon.perception.flow import dense_flow
from recon.splats.image_loss import SeenImages
from recon.splats.posed_images import PosedImages
from recon.splats.video import PosedVideo

__all__ = ["IMAGE_TERMS", "Film", "ImageTerms", "optical_flow"]

IMAGE_TERMS = ("image", "mask", "flow")
"""Names of the terms, those of `recon.identify.motion_losses.MotionWeights`."""

_DSSIM = 0.2  # Kerbl et al. 2023
_SOLID = 0.5  # a pixel is the object's from here on
# Flow there and back that misses by more than this share of a window is no flow: a side came into
# view, or the patch has no texture.
_RETURN_SHARE = 0.01
_RETURN_PX = 0.7


@dataclass(frozen=True, eq=False)
class Film:
    """What cameras saw of a motion.

    Attributes:
        video: windows of images and masks.
        tick: frame of the motion that each frame of the video shows, increasing, shape (F,).
        cloud: what the body looks like in frame 0 of the motion, in the world.
        moving: Gaussians of a frame of the video, from a dynamic reconstruction: their flow is the
            reference. Optical flow of the images is, where None.
        views: drawn of a frame at most, in turn; the next frame begins with the next view.
    """

    video: PosedVideo
    tick: np.ndarray
    cloud: GaussianCloud
    moving: Callable[[int], Gaussians] | None = None
    views: int = 4

    def __post_init__(self) -> None:
        if len(self.tick) != len(self.video) or (np.diff(self.tick) <= 0).any():
            raise DataError(
                f"{len(self.tick)} ticks for {len(self.video)} frames, or not increasing",
                where=f"{self.video.name}: film",
                expected="the frame of the motion that each frame of the video shows",
            )
        if self.views < 1:
            raise DataError(f"{self.views} views", where="Film.views", expected="1 or more")


class _Flow(NamedTuple):
    """Reference flow [pixels], (C, H, W, 2), and what it counts for, (C, H, W)."""

    flow: torch.Tensor
    weight: torch.Tensor


class ImageTerms:
    """Terms of the loss of one simulated motion.

    Which views of a frame are drawn follows from its number, not from the step of the descent: the
    loss has no noise, and a run that was cut off goes on to the same bits.

    Args:
        film: what was seen.
        scene: of the motion.
        reference: from the body's own frame to that of the particles at rest, as the scene's.
        wanted: which of `IMAGE_TERMS`.
    """

    def __init__(
        self,
        film: Film,
        scene: Scene,
        reference: Pose,
        wanted: Sequence[str] = IMAGE_TERMS,
    ) -> None:
        unknown = set(wanted) - set(IMAGE_TERMS)
        if unknown:
            raise DataError(
                f"{sorted(unknown)}", where="ImageTerms: wanted", expected=f"some of {IMAGE_TERMS}"
            )
        if film.tick[-1] >= scene.motion.frame_count:
            raise DataError(
                f"the film shows frame {film.tick[-1]} of a motion of {scene.motion.frame_count}",
                where=f"{film.video.name}: film",
                expected="frames of the motion",
            )
        self.film, self.wanted = film, tuple(wanted)
        self._first = scene.first
        pose = scene.motion.start_pose()
        own = (film.cloud.mean.double().numpy() - pose.shift) @ pose.turn
        self._ride = mount(reference.apply(own), scene.rest)
        # F of the particles is from their rest frame; the cloud lies turned to it in frame 0.
        self._turn = torch.as_tensor(reference.turn @ pose.turn.T, dtype=torch.float32)
        self._local = None if scene.keeps_total_deformation else LocalFrames.of(scene.rest)
        self._views = [_in_turn(len(f), i, film.views) for i, f in enumerate(film.video.frames)]
        self._seen: dict[int, SeenImages] = {}
        self._flows: dict[int, _Flow] = {}

    def __call__(self, seen: Seen, begin: int, stop: int) -> dict[str, torch.Tensor]:
        """Means over the frames of the video in a range.

        Args:
            seen: simulated, one world.
            begin: first frame of the motion that counts.
            stop: one past the last.

        Returns:
            By name of `IMAGE_TERMS`; terms that are not wanted, or that no frame shows, are left
            out.
        """
        begin = max(begin, self._first)
        frames = np.flatnonzero((self.film.tick >= begin) & (self.film.tick < stop)).tolist()
        clouds = self._clouds(seen, frames) if self.wanted else {}
        made: dict[str, list[torch.Tensor]] = {}
        for i in clouds:
            for name, value in self._frame(i, clouds[i], clouds.get(i + 1)).items():
                made.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in made.items()}

    def _clouds(self, seen: Seen, frames: list[int]) -> dict[int, Gaussians]:
        """Gaussians of frames of the video."""
        if not frames:
            return {}
        slots = torch.as_tensor(self.film.tick[frames] - self._first)
        position = seen.particles[0, slots]
        if self._local is None:
            f = seen.deformation[0, slots]
            mean = carry(self._ride, position, f)
        else:
            mean, f = carry(self._ride, position), self._local(position)
            known = torch.isfinite(f).all(-1).all(-1)[..., None, None]
            f = torch.where(known, f, torch.eye(3).to(f))
        weight, near = self._ride.weight.to(f), self._ride.particle
        mixed = (weight[..., None, None] * f[:, near]).sum(dim=-3) @ self._turn.to(f)
        cloud = self.film.cloud
        return {i: deformed(cloud, mean[k], mixed[k]) for k, i in enumerate(frames)}

    def _frame(self, i: int, now: Gaussians, after: Gaussians | None) -> dict[str, torch.Tensor]:
        """Terms of a frame of the video."""
        views = self.film.video.frames[i][self._views[i]]
        flows = "flow" in self.wanted and after is not None
        drawn = rasterize(now, views.cameras, flow_to=after if flows else None)
        made = {}
        if "image" in self.wanted:
            if i not in self._seen:
                self._seen[i] = SeenImages(views.rgb * views.known[..., None])
            made["image"] = self._seen[i].loss(drawn.rgb * views.known[..., None], dssim=_DSSIM)
        if "mask" in self.wanted:
            made["mask"] = ((drawn.alpha - views.mask) * views.known).abs().mean()
        if flows:
            term = self._flow_term(i, drawn)
            if term is not None:
                made["flow"] = term
        return made

    def _flow_term(self, i: int, drawn: Render) -> torch.Tensor | None:
        """Mean difference of the flows in widths of the window; None where nothing tells."""
        assert drawn.flow is not None
        if i not in self._flows:
            self._flows[i] = self._reference_flow(i)
        known = self._flows[i]
        # What is drawn beside the object is the mask's concern, and would pay for shrinking here.
        weight = known.weight * drawn.alpha.detach()
        if not float(known.weight.sum()) > 0.0:
            return None
        apart = (drawn.flow - known.flow).abs().sum(-1)
        return (weight * apart).sum() / weight.sum().clamp(min=1e-6) / drawn.alpha.shape[-1]

    def _reference_flow(self, i: int) -> _Flow:
        frames, moving = self.film.video.frames, self.film.moving
        views = frames[i][self._views[i]]
        inside = (views.mask > _SOLID) & (views.known > _SOLID)
        if moving is None:
            flow, good = optical_flow(views, frames[i + 1])
            return _Flow(flow, (inside & good).float())
        with torch.no_grad():
            drawn = rasterize(moving(i), views.cameras, flow_to=moving(i + 1))
        assert drawn.flow is not None
        return _Flow(drawn.flow, inside * drawn.alpha)


def optical_flow(before: PosedImages, after: PosedImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow of the images from one frame to the next, in the windows of the first.

    DIS (Kroeger et al. 2016), there and back. Cameras stand still, so a window of the second frame
    is put into that of the first by a shift and a scale.

    Args:
        before: views of a frame.
        after: views of the next; a camera that has none there has no flow.

    Returns:
        Flow [pixels of the windows of ``before``], shape (C, H, W, 2), and where it came back,
        shape (C, H, W), bool.
    """
    names = [camera.name for camera in after.cameras]
    flows, good = [], []
    for view, camera in enumerate(before.cameras):
        height, width = before.mask.shape[1:]
        if camera.name not in names:
            flows.append(np.zeros((height, width, 2), np.float32))
            good.append(np.zeros((height, width), bool))
            continue
        other = names.index(camera.name)
        first = _grey(before.rgb[view])
        second = _grey(_rewindowed(after.rgb[other], after.cameras[other], camera))
        there, back = dense_flow(first, second), dense_flow(second, first)
        flows.append(there)
        good.append(_returned(there, back))
    return torch.from_numpy(np.stack(flows)), torch.from_numpy(np.stack(good))


def _in_turn(count: int, frame: int, most: int) -> list[int]:
    """Which views of a frame are drawn."""
    return sorted({(frame * most + k) % count for k in range(min(most, count))})


def _grey(rgb: torch.Tensor | np.ndarray) -> np.ndarray:
    levels = np.rint(255.0 * np.clip(np.asarray(rgb), 0.0, 1.0)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY))


def _rewindowed(image: torch.Tensor, own: PinholeCamera, other: PinholeCamera) -> np.ndarray:
    """An image in the window of another camera at the same place; black beyond it."""
    change = other.K @ np.linalg.inv(own.K)
    return np.asarray(
        cv2.warpAffine(
            np.ascontiguousarray(image.numpy()),
            change[:2],
            (other.width, other.height),
            flags=cv2.INTER_LINEAR,
        )
    )


def _returned(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Pixels that the flow back brings to where they were, and whose end is in the window."""
    height, width = there.shape[:2]
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    end_u, end_v = u + there[..., 0], v + there[..., 1]
    way = cv2.remap(back, end_u, end_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    miss = np.linalg.norm(there + way, axis=-1)
    inside = (end_u >= 0) & (end_u <= width - 1) & (end_v >= 0) & (end_v <= height - 1)
    return np.asarray(inside & (miss < max(_RETURN_PX, _RETURN_SHARE * width)))
