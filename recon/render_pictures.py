"""Pictures of a twin beside the recording: a strip of four frames, and a video.

Shapes: T frames, C cameras, N nodes, H W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from matplotlib.figure import Figure as Plot

from physgym.camera import PinholeCamera
from physgym.report import Figure, Video, write_video
from physgym.splats.follower import Follower
from physgym.twin import Twin
from recon.perception.result import Perception
from recon.render_episode import draw_window, plain_camera

__all__ = ["Beside", "beside_strip", "beside_video"]

_SHOWN = 4
_MOST_HEIGHT = 360  # of the video [pixels]
_GAP = 6


@dataclass(frozen=True, eq=False)
class Beside:
    """What pictures of one episode need.

    Attributes:
        follower: the twin's appearance.
        nodes: predicted [m], shape (T, N, 3).
        images: of the camera, T of uint8, (H, W, 3).
        masks: of the object, shape (T, H, W), bool.
        camera: that took them.
        time_s: stamps [s], shape (T,).
    """

    follower: Follower
    nodes: np.ndarray
    images: Sequence[np.ndarray]
    masks: np.ndarray
    camera: PinholeCamera
    time_s: np.ndarray

    @classmethod
    def of(
        cls,
        twin: Twin,
        perception: Perception,
        points: np.ndarray,
        images: Sequence[Sequence[np.ndarray]],
    ) -> Beside:
        """The camera that sees most of the object.

        Args:
            twin: with splats.
            perception: with masks.
            points: predicted [m], shape (T, M + N, 3); the last N are the nodes.
            images: of C cameras, T each.

        Returns:
            What pictures need.
        """
        assert perception.masks is not None  # without, nothing was scored
        best = int(perception.masks.reshape(len(images), -1).sum(axis=1).argmax())
        return cls(
            Follower(twin),
            points[:, -twin.node_count :],
            images[best],
            perception.masks[best],
            perception.cameras[best],
            perception.time_s,
        )

    def box(self) -> tuple[int, int, int, int]:
        """First row, one past the last, first column, one past the last of what is shown."""
        camera = plain_camera(self.camera)
        places = [np.argwhere(self.masks.any(axis=0))[:, ::-1].astype(float)]
        for now in self.nodes[:: max(1, len(self.nodes) // 16)]:
            pixel, _ = camera.project(now)
            pixel = pixel[np.isfinite(pixel).all(axis=1)]
            places.append(pixel[camera.visible(pixel)])
        every = np.concatenate(places)
        low, high = every.min(axis=0), every.max(axis=0)
        edge = 0.08 * (high - low) + 8
        left, top = (int(v) for v in np.maximum(low - edge, 0))
        right, bottom = (int(v) for v in np.minimum(high + edge, [camera.width, camera.height]))
        return top, bottom, left, right

    def pair(self, frame: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The recorded and the drawn part of an image, uint8."""
        top, bottom, left, right = box
        camera, image = self.camera, np.asarray(self.images[frame])
        if camera.distortion.any():
            image = np.asarray(cv2.undistort(image, camera.K, camera.distortion))
        rgb, _ = draw_window(self.follower.at(self.nodes[frame]), plain_camera(camera), box)
        return image[top:bottom, left:right], np.asarray(np.rint(255 * rgb), np.uint8)


def beside_strip(beside: Beside, train_stop: int | None) -> Figure:
    """Four frames: recorded above, the twin below.

    Args:
        beside: what it needs.
        train_stop: frames before this one were fitted on; None for none.

    Returns:
        The picture.
    """
    box, last = beside.box(), len(beside.nodes) - 1
    frames = np.unique(np.linspace(0, last, _SHOWN).round().astype(int))
    shape = (box[1] - box[0]) / (box[3] - box[2])
    plot = Plot(figsize=(3.2 * len(frames), 2 * 3.2 * shape + 0.75))
    axes = plot.subplots(2, len(frames), squeeze=False)
    for column, frame in enumerate(int(f) for f in frames):
        kind = "given" if frame == 0 else "future"
        if frame and (train_stop is None or frame < train_stop):
            kind = "unseen" if train_stop is None else "train"
        for row, image in enumerate(beside.pair(frame, box)):
            axes[row, column].imshow(image)
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        seconds = beside.time_s[frame] - beside.time_s[0]
        axes[0, column].set_title(f"{seconds:.2f} s, {kind}", fontsize=11)
    axes[0, 0].set_ylabel("recorded", fontsize=11)
    axes[1, 0].set_ylabel("twin", fontsize=11)
    plot.tight_layout(pad=0.4)
    return Figure.from_plot(
        plot,
        f"{beside.camera.name}: recorded, and the twin as it predicts the object, before black.",
    )


def beside_video(beside: Beside) -> Video:
    """The recording on the left, the twin on the right.

    Args:
        beside: what it needs.

    Returns:
        The video, at the recording's pace.
    """
    seconds = float(beside.time_s[-1] - beside.time_s[0])
    rate_hz = (len(beside.nodes) - 1) / seconds if seconds > 0 else 1.0
    with TemporaryDirectory() as folder:
        path = write_video(_pairs(beside), Path(folder) / "beside.mp4", rate_hz=rate_hz)
        content = path.read_bytes()
    return Video(content, f"{beside.camera.name}: recorded on the left, the twin on the right.")


def _pairs(beside: Beside) -> Iterator[np.ndarray]:
    box = beside.box()
    height, width = box[1] - box[0], box[3] - box[2]
    scale = min(1.0, _MOST_HEIGHT / height)
    size = (2 * max(1, round(scale * width / 2)), 2 * max(1, round(scale * height / 2)))
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    for frame in range(len(beside.nodes)):
        both = [
            np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            for image in beside.pair(frame, box)
        ]
        yield np.concatenate([both[0], gap, both[1]], axis=1)
