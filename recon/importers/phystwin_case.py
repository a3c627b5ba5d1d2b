"""A raw PhysTwin case -> Episode.

``color/CAMERA/FRAME.png``, ``depth/CAMERA/FRAME.npy`` (uint16, mm, aligned to colour),
``calibrate.pkl`` (a camera-to-world 4x4 per camera), ``metadata.json`` (``intrinsics`` C x 3 x 3,
``fps``, ``WH``, ``serial_numbers``); optional ``mask/`` and ``gripper.npz`` (see `_grippers`). The
layout is that of Jiang et al., "PhysTwin" (arXiv 2503.17973). Processed cases: `phystwin_final`.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix, quat_wxyz_from_xyzw
from recon.episode_write import EpisodeWriter
from recon.images import color_file
from recon.importers.world_axis import WorldZ, turn_to_z_up
from recon.npz import read_npy, read_npz
from recon.pickles import read_pickle
from recon.tracks import PhysGymWarning

__all__ = [
    "case_cameras",
    "case_masks",
    "case_poses",
    "convert",
    "matches",
    "read_metadata",
    "told_world_z",
]

_FURTHEST_M = 20.0  # of a table and a camera; 20 mm is nearer than any camera measures
_Files = tuple[Path, Path]  # of colour and depth
_GRIPPER_KEYS = ("time", "pose", "position", "quat_wxyz", "quat_xyzw", "closed")


def matches(path: Path) -> bool:
    """Whether a folder is a raw case.

    Args:
        path: any path.

    Returns:
        True when it has ``color/``, ``calibrate.pkl`` and ``metadata.json``.
    """
    files = all((path / name).is_file() for name in ("calibrate.pkl", "metadata.json"))
    return files and (path / "color").is_dir()


def convert(source: str | Path, out: str | Path, *, world_z: WorldZ = "auto") -> Path:
    """Write a case as an episode, in a world with z up.

    Args:
        source: the case's folder.
        out: the episode's folder; must not exist.
        world_z: which way the case's z points; ``auto`` takes ``world_z`` of ``metadata.json``, and
            else tells it by the cameras, which stand above the table.

    Returns:
        The episode's folder.

    Raises:
        DataError: if a file is missing, damaged or of another shape.
    """
    folder = Path(source).expanduser()
    metadata = read_metadata(folder)
    poses = case_poses(folder)
    told = told_world_z(world_z, metadata)
    turn = turn_to_z_up(told, poses[:, 2, 3], f"{folder / 'calibrate.pkl'}")
    frames = {number: _frames(folder, number) for number in range(len(poses))}
    height, width = color_file(next(iter(frames[0].values()))[0]).shape[:2]
    cameras = case_cameras(folder, {"WH": (width, height), **metadata}, turn @ poses)
    clock = _Clock.of(metadata, frames)
    kept = {"source": "phystwin case", "case": folder.name, "world_turned": bool(turn[2, 2] < 0)}
    with EpisodeWriter(out, cameras, name=folder.name, metadata=kept) as writer:
        for time in sorted(set().union(*frames.values())):
            for number, camera in enumerate(cameras):
                if time in frames[number]:
                    rgb, depth = _images(frames[number][time], camera)
                    stamp_s = clock.stamp_s(number, time)
                    writer.write_frame(camera.name, stamp_s, rgb, depth)
                    for label, mask in case_masks(
                        folder, number, frames[number][time][0].name, camera
                    ).items():
                        writer.write_mask(camera.name, stamp_s, label, mask)
        _grippers(folder, writer, clock, turn)
    return writer.path


def read_metadata(folder: Path) -> dict[str, Any]:
    """``metadata.json`` of a case.

    Args:
        folder: of the case.

    Returns:
        Its content, with ``fps`` checked.

    Raises:
        DataError: if it is missing or damaged.
    """
    path = folder / "metadata.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        fps = float(content["fps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"it cannot be read: {error!r}", where=str(path), expected="JSON with fps, intrinsics"
        ) from error
    if not 0 < fps < 1e4:
        raise DataError(f"{fps}", where=f"{path}: fps", expected="frames per second")
    return dict(content)


def told_world_z(world_z: WorldZ, metadata: dict[str, Any]) -> WorldZ:
    """Which way z points: as asked for, else as ``metadata.json`` says, else ``auto``.

    Args:
        world_z: what was asked for.
        metadata: of the case; ``world_z`` in it is PhysGym's own key.
    """
    return metadata.get("world_z", "auto") if world_z == "auto" else world_z


def case_poses(folder: Path) -> np.ndarray:
    """Camera-to-world transforms of a case as they are.

    Args:
        folder: of the case.

    Returns:
        Shape (C, 4, 4).

    Raises:
        DataError: if the file is missing, no plain pickle, or of another shape.
    """
    path = folder / "calibrate.pkl"
    try:
        poses = np.array(read_pickle(path), np.float64)
    except (TypeError, ValueError):
        poses = np.zeros(0)
    if (
        poses.ndim != 3
        or poses.shape[1:] != (4, 4)
        or not len(poses)
        or not np.isfinite(poses).all()
    ):
        raise DataError(
            f"shape {poses.shape}", where=str(path), expected="a list of 4 x 4 camera-to-world"
        )
    return poses


@dataclass(frozen=True)
class _Clock:
    """Stamps of frames: the recorder's own while the clip is uncut, else the frame rate."""

    fps: float
    recorded: dict[tuple[int, int], float]

    @classmethod
    def of(cls, metadata: dict[str, Any], frames: dict[int, dict[int, _Files]]) -> _Clock:
        """The clock of a case.

        Args:
            metadata: of the case.
            frames: by camera and frame.
        """
        recorded: dict[tuple[int, int], float] = {}
        by_camera = metadata.get("recording")
        # A clip with frame_num was cut and renumbered: steps in "recording" are other frames.
        if isinstance(by_camera, dict) and "frame_num" not in metadata:
            serials = [str(serial) for serial in metadata.get("serial_numbers", [])]
            for name, steps in by_camera.items():
                camera = serials.index(name) if name in serials else name
                if str(camera).isdecimal() and isinstance(steps, dict):
                    recorded |= {(int(camera), int(k)): float(t) for k, t in steps.items()}
        needed = {(camera, frame) for camera, found in frames.items() for frame in found}
        lost = len(needed - set(recorded))
        if recorded and lost:  # the two clocks have nothing in common
            text = f"recording: {lost} frames have no stamp; the frame rate tells all of them"
            warnings.warn(text, PhysGymWarning, stacklevel=3)
            recorded = {}
        return cls(float(metadata["fps"]), recorded)

    def stamp_s(self, camera: int, frame: int) -> float:
        return self.recorded.get((camera, frame), frame / self.fps)

    def gripper_stamps_s(self, count: int, path: Path) -> np.ndarray:
        """Stamps of one pose per frame, with those of the first camera [s], shape (T,)."""
        if self.recorded and not all((0, frame) in self.recorded for frame in range(count)):
            raise DataError(
                f"{count} poses without time, but not {count} frames in metadata.json's recording",
                where=str(path),
                expected="time (T,) [s]",
            )
        return np.array([self.stamp_s(0, frame) for frame in range(count)])


def case_cameras(folder: Path, metadata: dict[str, Any], poses: np.ndarray) -> list[PinholeCamera]:
    """Cameras of a case.

    Args:
        folder: of the case.
        metadata: of the case, with ``intrinsics`` and ``WH``.
        poses: ``T_world_cam``, shape (C, 4, 4).

    Returns:
        C cameras, ``cam0``, ``cam1``, ...

    Raises:
        DataError: if there are not C intrinsics, or they cannot be read.
    """
    where = f"{folder / 'metadata.json'}: "
    try:
        intrinsics = np.array(metadata["intrinsics"], np.float64)
        if intrinsics.shape == (3, 3) and len(poses) == 1:
            intrinsics = intrinsics[None]
        width, height = (int(n) for n in metadata["WH"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{error!r}", where=where + "intrinsics, WH", expected="C x 3 x 3, and [W, H]"
        ) from error
    if intrinsics.shape != (len(poses), 3, 3):
        raise DataError(
            f"shape {intrinsics.shape}",
            where=where + "intrinsics",
            expected=f"({len(poses)}, 3, 3)",
        )
    serials = [str(s) for s in metadata.get("serial_numbers", [])] + [""] * len(poses)
    return [
        PinholeCamera(f"cam{c}", serials[c], width, height, intrinsics[c], poses[c])
        for c in range(len(poses))
    ]


def _frames(folder: Path, camera: int) -> dict[int, _Files]:
    """Files of each frame that has both images."""
    parts = []
    for part, ending in (("color", "png"), ("depth", "npy")):
        files = (folder / part / str(camera)).glob(f"*.{ending}")
        # By their numbers, because some write 000012.png.
        parts.append({int(file.stem): file for file in files if file.stem.isdecimal()})
    color, depth = parts
    both = color.keys() & depth.keys()
    if not both:
        raise DataError(
            f"no frames: {len(color)} colour images, {len(depth)} depth images",
            where=f"{folder}: camera {camera}",
            expected=f"color/{camera}/0.png and depth/{camera}/0.npy, and so on",
        )
    if color.keys() != depth.keys():
        lost = len(color.keys() ^ depth.keys())
        text = f"{folder}: camera {camera}: {lost} images have no partner; left out"
        warnings.warn(text, PhysGymWarning, stacklevel=3)
    return {number: (color[number], depth[number]) for number in both}


def _images(files: _Files, camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    size = (camera.height, camera.width)
    rgb = color_file(files[0])
    if rgb.shape[:2] != size:
        raise DataError(f"shape {rgb.shape}", where=str(files[0]), expected=f"{size}")
    depth = read_npy(files[1], "uint16 millimetres")
    if depth.shape != size or depth.dtype.kind not in "iuf":
        what = f"{depth.dtype}, shape {depth.shape}"
        raise DataError(what, where=str(files[1]), expected=f"{size}")
    # Millimetres in the layout, whatever the type; floats of metres would all become 0 or 1.
    known = depth[np.isfinite(depth) & (depth > 0)]
    if depth.dtype.kind == "f" and len(known) and known.max() < _FURTHEST_M:
        raise DataError(
            f"depths up to {known.max():.3f}, which look like metres",
            where=str(files[1]),
            expected="millimetres",
            fix="multiply them by 1000",
        )
    usable = np.isfinite(depth) & (depth > 0) & (depth < 65536)
    return rgb, np.where(usable, depth, 0).astype(np.uint16)


def case_masks(
    folder: Path, number: int, file: str, camera: PinholeCamera
) -> dict[str, np.ndarray]:
    """Masks of a frame: ``hand`` for what the case calls so, ``object`` for all else.

    Args:
        folder: of the case.
        number: of the camera.
        file: name of the frame's mask.
        camera: whose masks they are.

    Returns:
        Masks (H, W), bool, by label; none where the case has none.

    Raises:
        DataError: if the list of labels cannot be read, or a mask has another size.
    """
    listing = folder / "mask" / f"mask_info_{number}.json"
    if not listing.is_file():
        return {}
    try:
        labels = dict(json.loads(listing.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{error}", where=str(listing), expected="object id -> label") from error
    found: dict[str, np.ndarray] = {}
    for identity, label in labels.items():
        path = folder / "mask" / str(number) / str(identity) / file
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
        if pixels is None:
            continue
        if pixels.shape != (camera.height, camera.width):
            raise DataError(f"shape {pixels.shape}", where=str(path), expected="the image's size")
        key = "hand" if label in ("hand", "controller") else "object"
        found[key] = found.get(key, np.zeros(pixels.shape, bool)) | (pixels > 127)
    return found


def _grippers(folder: Path, writer: EpisodeWriter, clock: _Clock, turn: np.ndarray) -> None:
    """``gripper.npz``: T poses of one gripper, or (T, G, ...) of several, in the case's world.

    ``pose`` (T, 4, 4), or ``position`` (T, 3) [m] with ``quat_wxyz`` or ``quat_xyzw`` (T, 4) or no
    turn; ``closed`` (T,); ``time`` (T,) [s], else one pose per frame.
    """
    path = folder / "gripper.npz"
    if not path.is_file():
        return
    arrays = read_npz(path)
    unknown = sorted(set(arrays) - set(_GRIPPER_KEYS))
    if unknown or not {"pose", "position"} & set(arrays):
        raise DataError(
            f"arrays {sorted(arrays)}", where=str(path), expected=f"some of {_GRIPPER_KEYS}"
        )
    try:
        poses = turn @ _gripper_poses(arrays)
        frames, grippers = poses.shape[:2]
        times = arrays["time"] if "time" in arrays else clock.gripper_stamps_s(frames, path)
        if times.shape != (frames,):
            raise ValueError(f"{times.shape} stamps for {frames} poses")
        closed = arrays.get("closed")
        if closed is not None:
            closed = closed.reshape(frames, grippers)
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{error}", where=str(path), expected="shapes (T, ...) or (T, G, ...)"
        ) from error
    for frame in range(frames):
        for number in range(grippers):
            T = poses[frame, number]
            holds = None if closed is None else bool(closed[frame, number])
            quat = quat_wxyz_from_matrix(T[:3, :3])
            writer.write_gripper(number, float(times[frame]), T[:3, 3], quat, closed=holds)


def _gripper_poses(arrays: dict[str, np.ndarray]) -> np.ndarray:
    if "pose" in arrays:
        pose = np.asarray(arrays["pose"], np.float64)
        return pose.reshape(len(pose), -1, 4, 4)
    position = np.asarray(arrays["position"], np.float64)
    position = position.reshape(len(position), -1, 3)
    quat = np.broadcast_to([1.0, 0.0, 0.0, 0.0], (*position.shape[:2], 4))
    if "quat_wxyz" in arrays:
        quat = np.asarray(arrays["quat_wxyz"], np.float64).reshape(*position.shape[:2], 4)
    elif "quat_xyzw" in arrays:
        quat = quat_wxyz_from_xyzw(arrays["quat_xyzw"]).reshape(*position.shape[:2], 4)
    poses = np.tile(np.eye(4), (*position.shape[:2], 1, 1))
    poses[..., :3, :3] = matrix_from_quat_wxyz(quat)
    poses[..., :3, 3] = position
    return poses
