"""Colour images of a recording at the times of its perception, and one instant ready to be fitted.

Shapes: T frames, C cameras, H W image.
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from recon.episode import Episode
from recon.images import color_file
from recon.importers import phystwin_final
from recon.importers.phystwin_perception import case_occluders
from recon.occluders import frame_numbers, occluders
from recon.perception.episode_views import episode_views
from recon.perception.result import Perception
from recon.splats.posed_images import PosedImages, posed_images

__all__ = ["posed_frame", "recorded_images"]


@contextmanager
def recorded_images(
    source: str | Path, perception: Perception, *, calibration: str | Path | None = None
) -> Iterator[list[Sequence[np.ndarray]]]:
    """Images of every camera, decoded when they are asked for.

    Args:
        source: the recording, or a processed PhysTwin case with its images.
        perception: of it.
        calibration: as in `recon.episode.Episode.open`; poses are the perception's in any case.

    Yields:
        C sequences of T images, uint8, shape (H, W, 3), of the size of the perception's cameras.

    Raises:
        DataError: if the recording cannot be opened.
    """
    cameras, path = perception.cameras, Path(source).expanduser()
    if phystwin_final.matches(path):
        folder = phystwin_final.data_file(path).parent
        frames = perception.tracks.frame_count
        yield [_CaseImages(folder / "color" / str(n), frames) for n in range(len(cameras))]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with it was said when it was perceived
        episode = Episode.open(path, calibration=calibration, allow_uncalibrated=True)
    with episode:
        numbers = [frame_numbers(episode, one.name, perception.time_s) for one in cameras]
        views = episode_views(episode, [one.name for one in cameras], np.stack(numbers, axis=1))
        yield [_Sized(view.rgb, one) for view, one in zip(views, cameras)]


def posed_frame(
    source: str | Path,
    perception: Perception,
    frame: int = 0,
    *,
    calibration: str | Path | None = None,
    most_pixels: int = 640 * 480,
) -> PosedImages:
    """One instant of an episode: images, masks and what hides the object.

    Args:
        source: the recording, or a processed PhysTwin case with its images.
        perception: of it, with masks.
        frame: which of the perception's frames.
        calibration: as in `recon.episode.Episode.open`.
        most_pixels: of a view's window around the object.

    Returns:
        The views that see the object, undistorted and cut to it.

    Raises:
        DataError: if there is no such frame, no mask, or the recording cannot be opened.
    """
    count = perception.tracks.frame_count
    if not 0 <= frame < count:
        raise DataError(
            f"frame {frame}", where=f"{perception.name}: posed_frame", expected=f"0 to {count - 1}"
        )
    if perception.masks is None or not perception.cameras:
        raise DataError(
            "no masks or no cameras",
            where=f"{perception.name}: posed_frame",
            expected="a perception that kept the masks of its cameras",
            fix="perceive the recording again with masks=True",
        )
    with recorded_images(source, perception, calibration=calibration) as images:
        now = [np.asarray(one[frame]) for one in images]
    hidden = _hidden(Path(source).expanduser(), perception, frame, calibration)
    masks = list(perception.masks[:, frame])
    return posed_images(now, masks, perception.cameras, hidden=hidden, most_pixels=most_pixels)


def _hidden(
    path: Path, perception: Perception, frame: int, calibration: str | Path | None
) -> list[np.ndarray] | None:
    """What hides the object in one frame, C of (H, W)."""
    if phystwin_final.matches(path):
        every = case_occluders(path, perception)
        return None if every is None else list(every[:, frame])
    assert perception.masks is not None
    instant = dataclasses.replace(
        perception,
        tracks=perception.tracks.slice(frame, frame + 1),
        clouds=perception.clouds[frame : frame + 1],
        grippers=(),
        hands=(),
        masks=perception.masks[:, frame : frame + 1],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        episode = Episode.open(path, calibration=calibration, allow_uncalibrated=True)
    with episode:
        found = occluders(episode, instant)
    return None if found is None else list(found[:, 0])


class _Lazy(Sequence[np.ndarray], ABC):
    """Images by number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        return self._image(range(self._count)[index])

    @abstractmethod
    def _image(self, number: int) -> np.ndarray:
        """One of them."""


class _CaseImages(_Lazy):
    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(count)
        self._folder = folder

    def _image(self, number: int) -> np.ndarray:
        return color_file(self._folder / f"{number}.png")


class _Sized(_Lazy):
    """Images as large as the perception's camera, where the stream's are not."""

    def __init__(self, images: Sequence[np.ndarray], camera: PinholeCamera) -> None:
        super().__init__(len(images))
        self._images, self._size = images, (camera.width, camera.height)

    def _image(self, number: int) -> np.ndarray:
        rgb = self._images[number]
        if rgb.shape[1::-1] == self._size:
            return rgb
        return np.asarray(cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA))
