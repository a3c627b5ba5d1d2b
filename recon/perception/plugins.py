"""Where stronger models plug in: segmenters of SAM 2's class and trackers of CoTracker's class.

PhysGym ships no weights. A user who has some writes ``module:function``; the function is called
with the keyword arguments given and returns an object with the methods below.
Shapes: T frames, N points, H W image.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from physgym.errors import DataError

__all__ = ["CoTrackerAdapter", "PixelTracks", "PointTracker", "Segmenter", "load_plugin"]


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """2D tracks in one camera.

    Attributes:
        pixel: (u, v), shape (T, N, 2), float32; what stands where a point is unseen is not read.
        visible: shape (T, N), bool.
    """

    pixel: np.ndarray
    visible: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises:
            DataError: with the two shapes.
        """
        if self.pixel.ndim != 3 or self.pixel.shape != (*self.visible.shape, 2):
            raise DataError(
                f"shapes {self.pixel.shape} and {self.visible.shape}",
                where="PixelTracks",
                expected="(T, N, 2) and (T, N)",
            )


@runtime_checkable
class Segmenter(Protocol):
    """Carries the mask of an object through a video."""

    def propagate(
        self, rgb: Sequence[np.ndarray], depth_m: Sequence[np.ndarray], first_mask: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Masks of every frame.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            depth_m: T aligned depth images [m], shape (H, W).
            first_mask: the object in the first frame, shape (H, W), bool.

        Returns:
            T masks, shape (H, W), bool.
        """
        ...


@runtime_checkable
class PointTracker(Protocol):
    """Follows pixels of the first frame through a video."""

    def track(
        self, rgb: Sequence[np.ndarray], masks: Sequence[np.ndarray], seeds: np.ndarray
    ) -> PixelTracks:
        """Tracks of the seeds.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            masks: where the object is, T of shape (H, W), bool.
            seeds: (u, v) in the first frame, shape (N, 2).

        Returns:
            Their tracks.
        """
        ...


class CoTrackerAdapter:
    """A `PointTracker` from a torch model that is called as CoTracker is.

    That call is ``model(video, queries=queries) -> (tracks, visibility)`` with video
    (1, T, 3, H, W) float in [0, 255], queries (1, N, 3) as (frame, u, v), tracks (1, T, N, 2) and
    visibility (1, T, N), bool or a probability (Karaev et al., "CoTracker3", 2024).

    Args:
        model: the user's own, with its weights loaded.
        device: where the video goes.
        visible_from: probability from which a point counts as seen.
    """

    def __init__(
        self, model: Callable[..., Any], *, device: str = "cpu", visible_from: float = 0.5
    ) -> None:
        self.model, self.device, self.visible_from = model, device, visible_from

    def track(
        self, rgb: Sequence[np.ndarray], masks: Sequence[np.ndarray], seeds: np.ndarray
    ) -> PixelTracks:
        """Tracks of the seeds; what leaves the mask counts as unseen there, as in PhysTwin.

        Args:
            rgb: T images, uint8, shape (H, W, 3).
            masks: where the object is, T of shape (H, W), bool.
            seeds: (u, v) in the first frame, shape (N, 2).

        Returns:
            Their tracks.
        """
        frames = np.stack([np.asarray(image) for image in rgb])
        video = torch.as_tensor(frames).permute(0, 3, 1, 2)[None].float().to(self.device)
        at_start = np.concatenate([np.zeros((len(seeds), 1)), seeds], axis=1)
        queries = torch.as_tensor(at_start, dtype=torch.float32)[None].to(self.device)
        with torch.no_grad():
            tracks, seen = self.model(video, queries=queries)
        pixel = tracks[0].float().cpu().numpy()
        visible = seen[0].cpu().numpy().reshape(pixel.shape[:2]) >= self.visible_from
        height, width = frames.shape[1:3]
        column, row = np.rint(pixel).astype(np.int64).transpose(2, 0, 1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        frame = np.arange(len(frames))[:, None]
        stacked = np.stack([np.asarray(mask, bool) for mask in masks])
        on_object = stacked[frame, row.clip(0, height - 1), column.clip(0, width - 1)]
        return PixelTracks(pixel, visible & inside & on_object)


def load_plugin(
    address: str, protocol: type[Any], arguments: Mapping[str, Any] | None = None
) -> Any:
    """Make a plug-in from its address.

    Args:
        address: ``module:function``, the function (or class) returning the plug-in.
        protocol: `Segmenter` or `PointTracker`.
        arguments: keyword arguments for the function, such as the path of the weights.

    Returns:
        The plug-in.

    Raises:
        DataError: if there is no such function, or if what it returns lacks the method.
    """
    module_name, _, function_name = address.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"plug-in {address!r} cannot be loaded: {error}",
            where="load_plugin",
            expected="module:function that Python can import",
            fix="install the model's package, or put the module's folder on PYTHONPATH",
        ) from error
    plugin = factory(**dict(arguments or {}))
    if not isinstance(plugin, protocol):
        raise DataError(
            f"{address!r} returned a {type(plugin).__name__}",
            where="load_plugin",
            expected=f"an object with the methods of recon.perception.plugins.{protocol.__name__}",
        )
    return plugin
