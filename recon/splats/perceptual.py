"""LPIPS from weights that a user has: PhysGym ships none and fetches none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from physgym.errors import DataError

__all__ = ["LPIPS_VARIABLE", "load_lpips"]

LPIPS_VARIABLE = "PHYSGYM_LPIPS"
"""Names the file when no argument does."""

Lpips = Callable[[np.ndarray, np.ndarray], float]


def load_lpips(path: str | Path | None = None) -> Lpips | None:
    """The perceptual distance of Zhang et al. 2018 (LPIPS) from a TorchScript file.

    The module is called with two images of shape (1, 3, H, W) in [-1, 1], float32, as the ``lpips``
    package's modules are; ``torch.jit.trace(lpips.LPIPS(net="alex"), (a, b)).save(path)`` makes
    such a file. (PhysTwin's evaluation gives its module images in [0, 1].)

    Args:
        path: the file; the environment variable `LPIPS_VARIABLE` names it when None.

    Returns:
        A function of two images of shape (H, W, 3) in [0, 1]; None where no file is named.

    Raises:
        DataError: if the file is missing or holds no such module.
    """
    named = str(path or os.environ.get(LPIPS_VARIABLE, ""))
    if not named:
        return None
    where = f"LPIPS weights {named}"
    try:
        with warnings.catch_warnings():
            # torch favours torch.export, whose files hold fixed sizes of images
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(named, map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{str(error).splitlines()[0]}",
            where=where,
            expected="a TorchScript module of two images",
            fix='torch.jit.trace(lpips.LPIPS(net="alex"), (a, b)).save(path)',
        ) from error

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        a, b = (
            torch.as_tensor(2.0 * np.asarray(one, np.float32) - 1.0).permute(2, 0, 1)[None]
            for one in (first, second)
        )
        with torch.no_grad():
            found = module(a, b)
        if found.numel() != 1 or not found.isfinite().all():
            raise DataError(
                f"a result of shape {tuple(found.shape)}, or not finite",
                where=where,
                expected="one number for a pair of images",
            )
        return float(found)

    return distance
