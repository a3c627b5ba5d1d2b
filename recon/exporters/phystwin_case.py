"""Episode -> raw PhysTwin case; the layout is that of `recon.importers.phystwin_case`.

The case's pickle (``calibrate.pkl``) is what that project reads; PhysGym never loads one without
its restricted unpickler.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from recon.episode import Episode, Frame
from recon.images import depth_mm
from recon.importers.world_axis import TURN_Z_DOWN
from recon.tracks import PhysGymWarning

__all__ = ["export_case"]

_TRAIN_SHARE = 0.7  # the method's own split


def export_case(
    episode: Episode,
    out: str | Path,
    *,
    world_z: Literal["down", "up"] = "down",
    slop_s: float = 0.017,
) -> Path:
    """Write an episode as a case: frames of all cameras in step, numbered from 0.

    Masks (``mask/``, object 0 and hand 1) and gripper poses (``gripper.npz``) go along when the
    episode has them. Lens distortion does not fit into the layout: images are rectified.

    Args:
        episode: every camera needs depth.
        out: the case's folder; must not exist.
        world_z: which way the case's z points; that project's own data have it down.
        slop_s: largest distance of cameras' stamps in one frame [s].

    Returns:
        The folder.

    Raises:
        DataError: if the folder exists, a camera has no depth, image sizes differ, or no frame has
            all cameras.
    """
    target = _new_folder(out, world_z)
    cameras = list(episode.cameras.values())
    sizes = {(camera.width, camera.height) for camera in cameras}
    sets = episode.synchronized(slop_s)
    if len(sizes) != 1 or not len(sets):
        raise DataError(
            f"image sizes {sorted(sizes)}, {len(sets)} frames with all cameras",
            where=episode.name,
            expected="one image size (WH), and at least one frame",
        )
    turn = TURN_Z_DOWN if world_z == "down" else np.eye(4)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        rectify = [_Rectifier(camera) for camera in cameras]
        for number, group in enumerate(sets):
            for c, camera in enumerate(cameras):
                _write_frame(folder, c, number, group.frames[camera.name], rectify[c], episode.name)
                _write_masks(folder, episode, c, number, int(sets.index[number, c]), rectify[c])
        poses = [np.array(turn @ camera.T_world_cam) for camera in cameras]
        (folder / "calibrate.pkl").write_bytes(pickle.dumps(poses))
        _write_json(folder / "metadata.json", _metadata(episode, cameras, sets.stamp_s))
        count = len(sets)
        train = int(_TRAIN_SHARE * count)
        split = {"frame_len": count, "train": [0, train], "test": [train, count]}
        _write_json(folder / "split.json", split)
        _write_grippers(folder, episode, sets.stamp_s, turn)
        folder.rename(target)
    return target


def _new_folder(out: str | Path, world_z: str) -> Path:
    target = Path(out).expanduser().absolute()
    if target.exists():
        raise DataError("it exists already", where=str(target), expected="a new folder")
    if world_z not in ("down", "up"):
        raise DataError(f"world_z {world_z!r}", where="export_case", expected="down or up")
    return target


class _Rectifier:
    """Takes lens distortion out of images, keeping K."""

    def __init__(self, camera: PinholeCamera) -> None:
        self._maps = None
        if camera.distortion.any():
            size = (camera.width, camera.height)
            self._maps = cv2.initUndistortRectifyMap(
                camera.K, camera.distortion, np.eye(3), camera.K, size, cv2.CV_32FC1
            )

    def __call__(self, pixels: np.ndarray, *, smooth: bool) -> np.ndarray:
        if self._maps is None:
            return pixels
        # Depth and masks are not mixed across edges.
        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        return np.asarray(cv2.remap(pixels, self._maps[0], self._maps[1], how))


def _write_frame(
    folder: Path, camera: int, number: int, frame: Frame, rectify: _Rectifier, where: str
) -> None:
    if frame.depth_m is None:
        raise DataError("no depth", where=f"{where}: camera {camera}", expected="RGB-D cameras")
    color = folder / "color" / str(camera) / f"{number}.png"
    depth = folder / "depth" / str(camera) / f"{number}.npy"
    for path in (color, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write_png(color, rectify(frame.rgb, smooth=True)[..., ::-1])
    np.save(depth, depth_mm(rectify(frame.depth_m, smooth=False)))


def _write_masks(
    folder: Path, episode: Episode, camera: int, number: int, frame: int, rectify: _Rectifier
) -> None:
    name = list(episode.cameras)[camera]
    # The object first, and the hand behind it, as that project's own data have them.
    labels = sorted(episode.mask_labels(name), key=lambda label: (label == "hand", label))
    if not labels:
        return
    _write_json(
        folder / "mask" / f"mask_info_{camera}.json",
        {str(identity): label for identity, label in enumerate(labels)},
    )
    for identity, label in enumerate(labels):
        mask = episode.mask(name, frame, label)
        if mask is not None:
            path = folder / "mask" / str(camera) / str(identity) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_png(path, rectify(np.where(mask, 255, 0).astype(np.uint8), smooth=False))


def _write_grippers(folder: Path, episode: Episode, times: np.ndarray, turn: np.ndarray) -> None:
    poses, closed = [], []
    for number in episode.grippers:
        track = episode.gripper_pose(number).at(times)
        poses.append(turn @ T_from_parts(matrix_from_quat_wxyz(track.quat_wxyz), track.position))
        closed.append(episode.gripper_closed(number).at(times))
    if poses:
        np.savez(
            folder / "gripper.npz",
            time=times,
            pose=np.stack(poses, axis=1),
            closed=np.stack(closed, axis=1),
        )


def _metadata(episode: Episode, cameras: list[PinholeCamera], times: np.ndarray) -> dict:
    step = np.diff(times)
    fps = float(1 / np.median(step)) if len(step) else 30.0
    if len(step) and step.max() > 1.5 * np.median(step):
        text = f"{episode.name}: the layout knows a frame rate only; a gap of {step.max():.3f} s"
        warnings.warn(text, PhysGymWarning, stacklevel=3)
    return {
        "intrinsics": [camera.K.tolist() for camera in cameras],
        "WH": [cameras[0].width, cameras[0].height],
        # A rate that is a whole number but for the stamps' rounding is written as one.
        "fps": round(fps) if abs(fps - round(fps)) < 1e-3 else fps,
        "frame_num": len(times),
        "serial_numbers": [camera.serial for camera in cameras],
    }


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    _, packed = cv2.imencode(".png", np.ascontiguousarray(pixels))
    path.write_bytes(packed.tobytes())
