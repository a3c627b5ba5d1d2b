"""PosedVideo: frames of an object in several calibrated views, ready to be fitted.

Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.episode import Episode
from recon.importers import phystwin_final
from recon.importers.phystwin_perception import case_occluders
from recon.occluders import occluders
from recon.perception.result import Perception
from recon.splats.frame import recorded_images
from recon.splats.posed_images import PosedImages, posed_images
from recon.tracks import PhysGymWarning

__all__ = ["PosedVideo", "make_video", "posed_video", "smaller"]

_LEAST_MASK_PX = 16  # as `posed_images`
_EVEN_LIGHT = 1.45  # sides of an object that differ in colour or light stay below that
_DARK = 0.02  # of full light, where ratios mean nothing


@dataclass(frozen=True, eq=False)
class PosedVideo:
    """Images of an object over time.

    Attributes:
        frames: views of each frame, cut to the object; their number and size may differ from frame
            to frame.
        time_s: stamps, increasing [s], shape (T,).
        index: which frames of the recording these are, increasing from 0, shape (T,).
        name: of the recording.
    """

    frames: tuple[PosedImages, ...]
    time_s: np.ndarray
    index: np.ndarray
    name: str

    def __post_init__(self) -> None:
        count = len(self.frames)
        shapes = (np.shape(self.time_s), np.shape(self.index))
        if not count or shapes != ((count,), (count,)):
            raise DataError(
                f"{count} frames, stamps and numbers of shapes {shapes}",
                where=f"{self.name}: video",
                expected="a stamp and a number for each frame, and at least one frame",
            )
        if (np.diff(self.time_s) <= 0).any() or (np.diff(self.index) <= 0).any():
            raise DataError("stamps do not increase", where=f"{self.name}: video")
        if self.index[0] != 0:
            raise DataError(
                f"no view shows the object in frame 0, but first in frame {self.index[0]}",
                where=f"{self.name}: video",
                expected="the object in the first frame: the static cloud is made from it",
                fix="begin the recording (or --start) when the object is seen",
            )

    def __len__(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def camera_count(self) -> int:
        """Cameras that see the object in the frame that most of them see."""
        return max(len(frame) for frame in self.frames)

    def first(self, count: int) -> PosedVideo:
        """The first frames.

        Args:
            count: how many.

        Returns:
            The video, sharing memory.
        """
        return PosedVideo(self.frames[:count], self.time_s[:count], self.index[:count], self.name)

    def smaller(self, most_pixels: int) -> PosedVideo:
        """The same with images of so many pixels at most.

        Args:
            most_pixels: of a window.

        Returns:
            The video.
        """
        frames = tuple(smaller(frame, most_pixels) for frame in self.frames)
        return PosedVideo(frames, self.time_s, self.index, self.name)


def smaller(views: PosedImages, most_pixels: int) -> PosedImages:
    """Views with fewer pixels, each the mean of those that it takes the place of.

    Args:
        views: the views.
        most_pixels: of one view.

    Returns:
        The views; the same where they are small enough.
    """
    height, width = views.mask.shape[1:]
    scale = (most_pixels / (height * width)) ** 0.5
    if scale >= 1.0:
        return views
    cameras = tuple(camera.scaled(scale) for camera in views.cameras)
    size = (cameras[0].width, cameras[0].height)

    def small(planes: torch.Tensor) -> torch.Tensor:
        made = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in planes.numpy()]
        return torch.from_numpy(np.stack(made))

    return PosedImages(small(views.rgb), small(views.mask), small(views.known), cameras)


def make_video(
    images: Sequence[Sequence[np.ndarray]],
    masks: Sequence[Sequence[np.ndarray]],
    cameras: Sequence[PinholeCamera],
    time_s: np.ndarray,
    *,
    hidden: Sequence[Sequence[np.ndarray]] | None = None,
    most_pixels: int = 320 * 240,
    margin: float = 0.3,
    name: str = "video",
) -> PosedVideo:
    """Cut the images of every frame to the object; leave out frames that do not show it.

    Args:
        images: of C cameras, T each, uint8, (H, W, 3).
        masks: of the object, C of T, bool, (H, W).
        cameras: C, with poses.
        time_s: [s], shape (T,).
        hidden: where something else is in front of the object, C of T.
        most_pixels: of a window.
        margin: around the masks, as a share of their size: what a wrong simulation is seen in.
        name: of the recording.

    Returns:
        The video.

    Raises:
        DataError: if images, masks, cameras and stamps do not fit, or no mask shows the object in
            the first frame.
    """
    counts = [len(one) for one in (*images, *masks)]
    if len(images) != len(cameras) or len(masks) != len(cameras) or set(counts) != {len(time_s)}:
        raise DataError(
            f"images and masks of {counts} frames, {len(cameras)} cameras, {len(time_s)} stamps",
            where=f"{name}: video",
            expected="for each camera with a pose, as many images and masks as stamps",
            fix="leave out views without a pose (physgym calibrate finds poses)",
        )
    return _cut(
        images, masks, cameras, np.asarray(time_s, float), hidden, name, most_pixels, margin
    )


def _cut(
    images: Sequence[Sequence[np.ndarray]],
    masks: Sequence[Sequence[np.ndarray]] | np.ndarray,
    cameras: Sequence[PinholeCamera],
    time_s: np.ndarray,
    hidden: Sequence[Sequence[np.ndarray]] | np.ndarray | None,
    name: str,
    most_pixels: int,
    margin: float,
) -> PosedVideo:
    made, kept, lost = [], [], 0
    for t in range(len(time_s)):
        shown = [c for c in range(len(cameras)) if np.count_nonzero(masks[c][t]) >= _LEAST_MASK_PX]
        lost += len(cameras) - len(shown)
        if not shown:
            continue
        kept.append(t)
        made.append(
            posed_images(
                [images[c][t] for c in shown],
                [masks[c][t] for c in shown],
                [cameras[c] for c in shown],
                hidden=None if hidden is None else [hidden[c][t] for c in shown],
                most_pixels=most_pixels,
                margin=margin,
            )
        )
    if not made:
        raise DataError(
            f"no mask of {len(cameras)} cameras and {len(time_s)} frames shows the object",
            where=f"{name}: video",
            expected=f"masks of at least {_LEAST_MASK_PX} pixels",
            fix="check the masks (recon.perception.segment), or give a prompt",
        )
    if lost:
        warnings.warn(
            f"{name}: {lost} of {len(cameras) * len(time_s)} images do not show the object; they "
            "are left out",
            PhysGymWarning,
            stacklevel=3,
        )
    _warn_exposures(made[0], name)
    return PosedVideo(tuple(made), time_s[kept], np.array(kept), name)


def _warn_exposures(views: PosedImages, name: str) -> None:
    """Say so where one camera sees the object far darker or brighter than the others do."""
    inside = np.asarray(views.mask)
    light = (np.asarray(views.rgb).mean(axis=-1) * inside).sum(axis=(1, 2))
    light = light / inside.sum(axis=(1, 2))
    odd = []
    for c, camera in enumerate(views.cameras):
        others = np.delete(light, c)
        usual = float(np.median(others)) if len(others) else 0.0
        if usual < _DARK:  # one camera alone, or no light to compare
            continue
        ratio = float(light[c]) / usual
        if not 1.0 / _EVEN_LIGHT < ratio < _EVEN_LIGHT:
            odd.append(f"{ratio:.2f} times as bright in {camera.name} as in the others")
    if odd:
        warnings.warn(
            f"{name}: the object is {', '.join(odd)}: where exposures differ, its colours become "
            "a mean of them (lock exposure and white balance, as physgym record does)",
            PhysGymWarning,
            stacklevel=4,
        )


def posed_video(
    source: str | Path,
    perception: Perception,
    *,
    stop_frame: int | None = None,
    calibration: str | Path | None = None,
    most_pixels: int = 320 * 240,
    margin: float = 0.3,
) -> PosedVideo:
    """The colour images of an episode, cut to the object that was perceived in it.

    Args:
        source: the episode, or a processed PhysTwin case with its images.
        perception: of it, with masks.
        stop_frame: frames of the perception from here on are not read; None for none.
        calibration: as in `recon.episode.Episode.open`.
        most_pixels: of a window.
        margin: around the masks, as a share of their size.

    Returns:
        The video; pixels in which grippers and hands hide the object say nothing.

    Raises:
        DataError: if the perception kept no masks, or they do not show the object in frame 0.
    """
    masks, name = perception.masks, perception.name
    if masks is None:
        sizes = sorted({(one.width, one.height) for one in perception.cameras})
        if len(sizes) > 1:
            raise DataError(
                f"images of {' and '.join(f'{w} x {h}' for w, h in sizes)} pixels",
                where=f"{name}: video",
                expected="cameras whose images have one size, where a method fits images",
                fix="scale images and intrinsics to one size, or use --method phystwin",
            )
        raise DataError(
            "the perception kept no masks",
            where=f"{name}: video",
            expected="masks of the object in every camera",
            fix="perceive the episode with masks=True",
        )
    stop = masks.shape[1] if stop_frame is None else min(stop_frame, masks.shape[1])
    hidden = _hidden(Path(source).expanduser(), _first(perception, stop), calibration)
    with recorded_images(source, perception, calibration=calibration) as images:
        return _cut(
            images, masks, perception.cameras, perception.time_s[:stop], hidden, name,
            most_pixels, margin,
        )  # fmt: skip


def _first(perception: Perception, stop: int) -> Perception:
    """The first frames, for whom grippers and hands play no part."""
    assert perception.masks is not None
    return dataclasses.replace(
        perception,
        tracks=perception.tracks.slice(0, stop),
        clouds=perception.clouds[:stop],
        grippers=(),
        hands=(),
        masks=perception.masks[:, :stop],
    )


def _hidden(
    path: Path, perception: Perception, calibration: str | Path | None
) -> np.ndarray | None:
    """What hides the object, shape (C, T, H, W)."""
    if phystwin_final.matches(path):
        return case_occluders(path, perception)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong was said when it was perceived
        episode = Episode.open(path, calibration=calibration, allow_uncalibrated=True)
    with episode:
        return occluders(episode, perception)
