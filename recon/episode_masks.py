"""Masks beside a recording: ``masks/CAMERA/LABEL/STAMP_NS.png`` in the folder of the bag."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

__all__ = ["mask_labels", "read_mask", "write_mask"]


def mask_labels(folder: Path, camera: str) -> tuple[str, ...]:
    """Labels that a camera has masks for.

    Args:
        folder: of the bag.
        camera: its name.

    Returns:
        Sorted.
    """
    beside = folder / "masks" / camera
    return tuple(sorted(p.name for p in beside.iterdir())) if beside.is_dir() else ()


def read_mask(folder: Path, camera: str, label: str, stamp_ns: int) -> np.ndarray | None:
    """The mask of one frame.

    Args:
        folder: of the bag.
        camera: its name.
        label: one of `mask_labels`.
        stamp_ns: the frame's stamp [ns].

    Returns:
        Shape (H, W), bool, or None when there is none, or it is damaged.
    """
    path = _path(folder, camera, label, stamp_ns)
    if not path.is_file():
        return None
    packed = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
    return None if pixels is None else np.asarray(pixels > 127)


def write_mask(folder: Path, camera: str, label: str, stamp_ns: int, mask: np.ndarray) -> None:
    """Write what `read_mask` reads.

    Args:
        folder: of the bag.
        camera: its name.
        label: ``object``, ``hand`` or another word.
        stamp_ns: the frame's stamp [ns].
        mask: shape (H, W), bool.
    """
    path = _path(folder, camera, label, stamp_ns)
    _, packed = cv2.imencode(".png", np.where(mask, 255, 0).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.tobytes())


def _path(folder: Path, camera: str, label: str, stamp_ns: int) -> Path:
    return folder / "masks" / camera / label / f"{stamp_ns}.png"
