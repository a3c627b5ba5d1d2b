"""The appearance of a twin: checked, named, moved, and as the file beside its arrays.

Torch is imported when there is an appearance, so that a twin without one loads without it.
Shapes: G Gaussians.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym._twin_folder import COPY_AGAIN
from physgym.errors import DataError, TwinError
from physgym.frames import apply_T

if TYPE_CHECKING:
    from physgym.splats import GaussianCloud

__all__ = ["checked_splats", "placed_splats", "read_splats", "splats_file", "splats_text"]

_FILE = "splats.ply"


def checked_splats(splats: Any) -> GaussianCloud | None:
    """A copy on the CPU, cut off from autograd.

    Args:
        splats: what was given.

    Returns:
        The copy; None of None.

    Raises:
        TwinError: if it is no cloud, is empty, or holds a number that is not finite.
    """
    if splats is None:
        return None
    from physgym.splats import GaussianCloud

    if not isinstance(splats, GaussianCloud):
        raise TwinError(f"{type(splats).__name__}", where="splats", expected="a GaussianCloud")
    fields = {name: value.detach().cpu().clone() for name, value in vars(splats).items()}
    wrong = [name for name, value in fields.items() if not value.isfinite().all()]
    if wrong or not len(splats):
        raise TwinError(
            f"{len(splats)} Gaussians" + (f", not finite: {', '.join(wrong)}" if wrong else ""),
            where="splats",
            expected="at least one, finite numbers",
        )
    return GaussianCloud(**fields)


def splats_file(splats: GaussianCloud | None) -> dict[str, bytes]:
    """What a twin folder holds of it.

    Args:
        splats: of the twin.

    Returns:
        Content by name of the file; nothing of None.
    """
    if splats is None:
        return {}
    from physgym.splats.ply import encode_ply

    return {_FILE: encode_ply(splats)}


def read_splats(blobs: dict[str, bytes], folder: str | Path) -> GaussianCloud | None:
    """The way back from `splats_file`.

    Args:
        blobs: contents by name of the file.
        folder: where they come from, for errors.

    Returns:
        The cloud; None where there is no such file.

    Raises:
        TwinError: if the file is no 3DGS PLY.
    """
    if _FILE not in blobs:
        return None
    from physgym.splats.ply import decode_ply

    where = str(Path(folder) / _FILE)
    try:
        cloud = decode_ply(blobs[_FILE], where)
    except DataError as error:
        raise TwinError(error.what, where=where, expected=error.expected, fix=COPY_AGAIN) from error
    # The file has three scales of every Gaussian; balls were saved from one.
    scale = cloud.log_scale
    return cloud.replace(log_scale=scale[:, :1]) if (scale == scale[:, :1]).all() else cloud


def placed_splats(splats: GaussianCloud | None, pose: np.ndarray) -> GaussianCloud | None:
    """Moved rigidly: axes turn, and what is seen from which side.

    Args:
        splats: of the twin.
        pose: shape (4, 4).

    Returns:
        The moved cloud; None of None.
    """
    if splats is None:
        return None
    import torch

    from physgym.splats.skinning import moved

    mean = torch.from_numpy(apply_T(pose, splats.mean.double().numpy())).float()
    turn = torch.from_numpy(pose[:3, :3]).float().expand(len(mean), 3, 3)
    return moved(splats, mean, turn)


def splats_text(splats: GaussianCloud) -> str:
    """It in a few words.

    Args:
        splats: of the twin.

    Returns:
        Such as ``5000 isotropic Gaussians, harmonics of degree 0``.
    """
    shape = "isotropic" if splats.log_scale.shape[1] == 1 else "anisotropic"
    return f"{len(splats)} {shape} Gaussians, harmonics of degree {splats.sh_degree}"
