"""A twin's prediction of an episode, drawn into the cameras that recorded it, and how it compares.

What Jiang et al. 2025 report beside tracks: PSNR, SSIM, LPIPS and IoU of rendered Gaussians. Here
of every camera, with a frozen, a rigidly carried and a falling appearance beside it. Frame 0 is
given and never counts. Shapes: T frames, C cameras, N nodes, G Gaussians, H W image.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.splats import GaussianCloud, Gaussians, rasterize
from physgym.splats.follower import Follower
from physgym.splats.projection import packed_covariance
from physgym.splats.skinning import moved, nearest_rotation
from physgym.twin import Twin
from recon.falling import Fall, HullFall
from recon.image_metrics import IMAGE_MEASURES, Window, image_scores
from recon.perception.result import Perception
from recon.score_episode import baselines_of, parts_of
from recon.splats.perceptual import LPIPS_VARIABLE, Lpips
from recon.splats.posed_images import cropped_camera, posed_images

__all__ = ["IMAGE_DEFINITIONS", "draw_window", "plain_camera", "render_episode"]

IMAGE_DEFINITIONS = {
    "psnr_db": "peak signal-to-noise ratio of the whole image, the object before black [dB]; what "
    "hides the object counts in neither image",
    "ssim": "structural similarity of the same, 11 x 11 window, sigma 1.5, zeros outside",
    "iou": "intersection over union of the mask and drawn alpha above a half (PhysTwin's code: "
    "above 0)",
    "psnr_crop_db": "PSNR within the box of the observed mask [dB]: whole images are mostly black",
    "ssim_crop": "SSIM within the same box",
    "lpips": "perceptual distance of the whole images (Zhang et al. 2018), of weights that the "
    "user has",
    "frozen": "the appearance stays where the prediction starts",
    "rigid": "the same moves rigidly with what holds or pushes the object",
    "falling": "the same falls rigidly, as the points of the row falling do",
    "means": "over the cameras that see the object, then over the frames of a part; frame 0 never "
    "counts",
}
"""What each figure is."""

_MARGIN_PX = 6  # SSIM's window reaches five pixels
_REACH = 3.4  # standard deviations after which a Gaussian's alpha is below 1 / 255


def render_episode(
    twin: Twin,
    perception: Perception,
    points: np.ndarray,
    images: Sequence[Sequence[np.ndarray]],
    *,
    train_stop: int | None,
    ignored: np.ndarray | None = None,
    lpips: Lpips | None = None,
    fall: Fall | HullFall | None = None,
) -> dict[str, Any]:
    """Draw a prediction into the recording's cameras and compare.

    Args:
        twin: with splats.
        perception: of the episode, with masks.
        points: what `recon.predict_episode.predict_episode` predicted [m], shape (T, M + N, 3);
            the last N are the nodes.
        images: of C cameras, T each (`recon.splats.frame.recorded_images`).
        train_stop: frames before this one were fitted on; None for an interaction never seen.
        ignored: pixels that do not count, shape (C, T, H, W), bool.
        lpips: from `recon.splats.perceptual.load_lpips`.
        fall: of the object (`recon.falling.fall_of`); None leaves out the row ``falling``.

    Returns:
        JSON values: ``definitions``; ``gaussians``; ``lpips``: where it comes from, or why there is
        none; ``parts``: by part, row (`recon.score_episode.rows_of`) and measure (`IMAGE_MEASURES`)
        the mean, null where there is none, and ``by_camera``; ``frame0`` likewise; ``per_frame``:
        T values.

    Raises:
        TwinError: if the twin has no appearance.
        DataError: if the perception has no masks, or shapes do not fit.
    """
    follower = Follower(twin)
    frames, cameras, masks = perception.tracks.frame_count, perception.cameras, perception.masks
    if masks is None or not cameras:
        raise DataError(
            "no masks or no cameras",
            where=f"{perception.name}: render_episode",
            expected="a perception that kept the masks of its cameras",
        )
    if len(points) != frames or points.shape[1] < twin.node_count or len(images) != len(cameras):
        raise DataError(
            f"points {points.shape}, images of {len(images)} cameras",
            where=f"{perception.name}: render_episode",
            expected=f"({frames}, {twin.node_count} or more, 3) and {len(cameras)}",
        )
    nodes = points[:, -twin.node_count :]
    baselines = _Baselines(follower, nodes[0], perception, fall)
    shape = (frames, len(cameras))
    table = {
        row: {key: np.full(shape, np.nan) for key in IMAGE_MEASURES}
        for row in ("twin", *baselines.moved)
    }
    with torch.no_grad():
        for t in range(frames):
            rows = {"twin": follower.at(nodes[t]), **baselines.at(t)}
            for c, camera in enumerate(cameras):
                if not masks[c, t].any():
                    continue
                hidden = None if ignored is None else ignored[c, t]
                image = np.asarray(images[c][t])
                found = _compared(rows, image, masks[c, t], hidden, camera, lpips)
                for row, scores in found.items():
                    for key, value in scores.items():
                        table[row][key][t, c] = value
    return _summary(table, [c.name for c in cameras], train_stop, len(follower.rest), lpips)


class _Baselines:
    """The appearance at the start, frozen, carried and falling: ``moved`` holds its means."""

    def __init__(
        self,
        follower: Follower,
        start: np.ndarray,
        perception: Perception,
        fall: Fall | HullFall | None,
    ) -> None:
        self._start = follower.turned(start)
        self.moved = baselines_of(self._start.mean.double().numpy(), perception, fall)

    def at(self, frame: int) -> dict[str, GaussianCloud]:
        return {row: self._placed(torch.from_numpy(at[frame])) for row, at in self.moved.items()}

    def _placed(self, after: torch.Tensor) -> GaussianCloud:
        before = self._start.mean
        spread = (after - after.mean(0)).T @ (before - before.mean(0))
        turn = nearest_rotation(spread[None]).expand(len(before), 3, 3)
        return moved(self._start, after, turn)


def _compared(
    rows: Mapping[str, GaussianCloud | Gaussians],
    image: np.ndarray,
    mask: np.ndarray,
    hidden: np.ndarray | None,
    camera: PinholeCamera,
    lpips: Lpips | None,
) -> dict[str, dict[str, float]]:
    """Scores of every row in one image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mask of some pixels is left out, and counts nothing
        try:
            seen = posed_images(
                [image], [mask], [camera], hidden=None if hidden is None else [hidden],
                crop=False, most_pixels=image.shape[0] * image.shape[1],
            )  # fmt: skip
        except DataError:
            return {}
    camera = seen.cameras[0]
    solid = np.asarray(seen.mask[0]) > 0.5
    box = _box(solid, [_reach(cloud, camera) for cloud in rows.values()], camera)
    top, bottom, left, right = box
    part = (slice(top, bottom), slice(left, right))
    window = Window(
        np.asarray(seen.rgb[0])[part],
        solid[part],
        np.asarray(seen.known[0])[part] < 0.5,
        top,
        left,
        (camera.height, camera.width),
    )
    made = {}
    for row, cloud in rows.items():
        rgb, alpha = draw_window(cloud, camera, box)
        made[row] = image_scores(rgb, alpha, window, lpips=lpips)
    return made


def draw_window(
    cloud: GaussianCloud | Gaussians, camera: PinholeCamera, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a part of an image.

    Args:
        cloud: what.
        camera: of the whole image, without distortion.
        box: first row, one past the last, first column, one past the last.

    Returns:
        Colour over black, (H, W, 3), and alpha, (H, W), of the part.
    """
    top, bottom, left, right = box
    part = cropped_camera(camera, top, left, bottom - top, right - left)
    with torch.no_grad():
        drawn = rasterize(cloud, part)
    return drawn.rgb[0].clamp(0.0, 1.0).cpu().numpy(), drawn.alpha[0].cpu().numpy()


def plain_camera(camera: PinholeCamera) -> PinholeCamera:
    """The camera of an undistorted image.

    Args:
        camera: with or without distortion.

    Returns:
        The same without.
    """
    return dataclasses.replace(camera, distortion=np.zeros(5))


def _reach(cloud: GaussianCloud | Gaussians, camera: PinholeCamera) -> np.ndarray:
    """Box of what is drawn [pixels]: left, top, right, bottom; empty where nothing is."""
    pixels, depth = camera.project(cloud.mean.double().numpy())
    if isinstance(cloud, GaussianCloud):
        radius = cloud.log_scale.exp().amax(dim=1).double().numpy()
    else:
        packed = (
            cloud.covariance if cloud.covariance.ndim == 2 else packed_covariance(cloud.covariance)
        )
        # no axis is longer than the root of the trace
        radius = packed[:, [0, 3, 5]].sum(dim=1).sqrt().double().numpy()
    ahead = depth > 0.01
    if not ahead.any():
        return np.zeros((0, 4))
    focal = max(camera.K[0, 0], camera.K[1, 1])
    # perspective stretches a Gaussian at the side of the image by less than this
    far = _REACH * 1.5 * (focal * radius[ahead] / depth[ahead] + 1.0)
    pixels = pixels[ahead]
    low, high = (pixels - far[:, None]).min(axis=0), (pixels + far[:, None]).max(axis=0)
    return np.concatenate([low, high])[None]


def _box(
    mask: np.ndarray, reaches: Sequence[np.ndarray], camera: PinholeCamera
) -> tuple[int, int, int, int]:
    """Rows and columns of the image that hold mask and Gaussians with a margin."""
    place = np.argwhere(mask)[:, ::-1].astype(float)
    every = [np.concatenate([place.min(axis=0), place.max(axis=0)])[None], *reaches]
    boxes = np.concatenate(every)
    low = np.floor(boxes[:, :2].min(axis=0)) - _MARGIN_PX
    high = np.ceil(boxes[:, 2:].max(axis=0)) + 1 + _MARGIN_PX
    left, top = (int(v) for v in low.clip(0, [camera.width - 1, camera.height - 1]))
    right, bottom = (int(v) for v in high.clip(1, [camera.width, camera.height]))
    return top, max(bottom, top + 1), left, max(right, left + 1)


def _summary(
    table: Mapping[str, Mapping[str, np.ndarray]],
    cameras: list[str],
    train_stop: int | None,
    count: int,
    lpips: Lpips | None,
) -> dict[str, Any]:
    absent = f"not measured: no weights (name a TorchScript file in {LPIPS_VARIABLE})"
    means = {
        row: {key: _mean(values, 1) for key, values in measures.items()}
        for row, measures in table.items()
    }
    parts = {}
    for part, span in parts_of(len(table["twin"]["iou"]), train_stop).items():
        inside = slice(*span)
        parts[part] = {"start": span[0], "stop": span[1]} | {
            row: {
                **{key: _plain(_mean(values[inside], 0)) for key, values in means[row].items()},
                "by_camera": {
                    name: {
                        key: _plain(_mean(values[inside, c], 0))
                        for key, values in table[row].items()
                    }
                    for c, name in enumerate(cameras)
                },
            }
            for row in table
        }
    return {
        "definitions": IMAGE_DEFINITIONS,
        "gaussians": count,
        "lpips": absent if lpips is None else "measured",
        "parts": parts,
        "frame0": {row: {k: _plain(v[0]) for k, v in one.items()} for row, one in means.items()},
        "per_frame": {
            row: {key: [_plain(v) for v in values] for key, values in one.items()}
            for row, one in means.items()
        },
    }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
