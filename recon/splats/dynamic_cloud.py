"""DynamicCloud: Gaussians over the frames of a video, each with its local deformation.

Shapes: T frames, G Gaussians, C cameras, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.splats.cloud import GaussianCloud, Gaussians, matrix_from_quat
from physgym.splats.harmonics import rotate_harmonics
from physgym.splats.projection import packed_covariance
from physgym.splats.rasterize import rasterize
from recon.npz import number_array, read_npz, write_npz

__all__ = ["FORMAT", "FORMAT_VERSION", "DynamicCloud", "drawn", "quat_product"]

FORMAT = "physgym-dynamic-splats"
FORMAT_VERSION = 1
_UNIT_TOLERANCE = 1e-3  # of float32 quaternions


def quat_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The turn ``second``, then ``first``; differentiable.

    Args:
        first: ``quat_wxyz``, shape (..., 4).
        second: likewise.

    Returns:
        Shape (..., 4).
    """
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    parts = [
        a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w,
    ]  # fmt: skip
    return torch.stack(parts, dim=-1)


def drawn(
    cloud: GaussianCloud, mean: torch.Tensor, turn: torch.Tensor, stretch: torch.Tensor
) -> Gaussians:
    """Gaussians with the covariance ``F Sigma_0 F^T``, ``F = R diag(s)`` (MoSA, eq. 10).

    Args:
        cloud: at rest.
        mean: now [m], shape (G, 3).
        turn: R, shape (G, 3, 3).
        stretch: s, shape (G, 3) or (G, 1).

    Returns:
        What to draw; harmonics turn with R.
    """
    F = turn * stretch[:, None, :]
    if cloud.log_scale.shape[1] == 1:
        spread = (F @ F.transpose(1, 2)) * (2.0 * cloud.log_scale).exp()[..., None]
    else:
        spread = F @ cloud.covariance() @ F.transpose(1, 2)
    colour = rotate_harmonics(cloud.sh, turn) if cloud.sh_degree > 0 else cloud.sh
    return Gaussians(mean, packed_covariance(spread), cloud.opacity, colour)


@dataclass(frozen=True, eq=False)
class DynamicCloud:
    """A cloud that moves, turns and stretches.

    Attributes:
        cloud: in the first frame, which is the shape at rest.
        mean: centres [m], float32, shape (T, G, 3).
        quat_wxyz: turn of the matter since rest, unit, float32, shape (T, G, 4).
        log_stretch: logarithm of its stretches along the axes of the rest frame, before the turn,
            float32, shape (T, G, 3), or (T, G, 1) where it is the same along all.
        time_s: stamps, increasing [s], float64, shape (T,).
        index: which frames of the recording these are, shape (T,).
        name: of the recording.
    """

    cloud: GaussianCloud
    mean: torch.Tensor
    quat_wxyz: torch.Tensor
    log_stretch: torch.Tensor
    time_s: np.ndarray
    index: np.ndarray
    name: str

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together, and what is not finite.

        Raises:
            DataError: naming the field.
        """
        shape = (len(self.time_s), len(self.cloud))
        wide = self.log_stretch.shape[-1] if self.log_stretch.ndim == 3 else 0
        wanted = {
            "mean": (*shape, 3),
            "quat_wxyz": (*shape, 4),
            "log_stretch": (*shape, wide if wide in (1, 3) else 3),
        }
        for name, expected in wanted.items():
            value = getattr(self, name)
            if tuple(value.shape) != expected or value.dtype != torch.float32:
                raise self._bad(name, f"{value.dtype} of shape {tuple(value.shape)}", f"{expected}")
            if not bool(torch.isfinite(value).all()):
                raise self._bad(name, "numbers that are not finite", "finite float32")
        if not bool(((self.quat_wxyz.norm(dim=-1) - 1.0).abs() < _UNIT_TOLERANCE).all()):
            raise self._bad("quat_wxyz", "quaternions that are not unit", "unit quaternions")
        stamps = (np.asarray(self.time_s, float), np.asarray(self.index))
        short = not shape[0] or np.shape(stamps[1]) != (shape[0],)
        if short or not all((np.diff(s) > 0).all() for s in stamps):
            raise self._bad("time_s, index", f"{stamps}", "T increasing stamps and numbers")

    def __len__(self) -> int:
        """T."""
        return len(self.time_s)

    def at(self, frame: int) -> Gaussians:
        """The Gaussians in a frame.

        Args:
            frame: from 0; negative ones count from the end.

        Returns:
            What `physgym.splats.rasterize` draws.
        """
        turn = matrix_from_quat(self.quat_wxyz[frame])
        return drawn(self.cloud, self.mean[frame], turn, self.log_stretch[frame].exp())

    def F(self, frame: int) -> torch.Tensor:
        """Deformation gradients since rest, from the learned turns and stretches: ``R diag(s)``.

        For a Gaussian that was round at rest this is ``R_t S_t S_0^-1``. Images see its covariance,
        ``F F^T``, alone: the turn of matter that is not stretched is told by how neighbours move.

        Args:
            frame: as in `at`.

        Returns:
            Shape (G, 3, 3).
        """
        turn = matrix_from_quat(self.quat_wxyz[frame])
        return turn * self.log_stretch[frame].exp()[:, None, :]

    def rotation(self, frame: int) -> torch.Tensor:
        """R of `F`.

        Args:
            frame: as in `at`.

        Returns:
            Shape (G, 3, 3).
        """
        return matrix_from_quat(self.quat_wxyz[frame])

    def relative_scale(self, frame: int) -> torch.Tensor:
        """Stretches without their common size: ``s / |s|`` (MoSA, eq. 13).

        Args:
            frame: as in `at`.

        Returns:
            Along the axes of the rest frame, shape (G, 3).
        """
        stretch = self.log_stretch[frame].exp().expand(-1, 3)
        return stretch / stretch.norm(dim=1, keepdim=True)

    def flow(
        self, frame: int, to: int, cameras: PinholeCamera | Sequence[PinholeCamera]
    ) -> torch.Tensor:
        """Where in the images what is seen in one frame is in another (MoSA, eq. 15).

        Args:
            frame: in whose images.
            to: the other frame.
            cameras: one or C.

        Returns:
            [pixels], shape (C, H, W, 2).
        """
        made = rasterize(self.at(frame), cameras, flow_to=self.at(to)).flow
        assert made is not None
        return made

    def save(self, path: str | Path) -> Path:
        """Write it, in one step, without pickles.

        Args:
            path: where; must end in ``.npz``.

        Returns:
            The path, absolute.

        Raises:
            DataError: if the name does not end in ``.npz``.
        """
        own = {name: getattr(self, name).numpy() for name in ("mean", "quat_wxyz", "log_stretch")}
        rest = {f"rest_{name}": value.numpy() for name, value in vars(self.cloud).items()}
        about = {"format": FORMAT, "version": FORMAT_VERSION, "name": self.name}
        stamps = {"time_s": self.time_s, "index": self.index}
        return write_npz(path, {**about, **stamps, **own, **rest}, "DynamicCloud.save")

    @classmethod
    def load(cls, path: str | Path) -> DynamicCloud:
        """Read what `save` wrote.

        Args:
            path: the ``.npz``.

        Returns:
            The same.

        Raises:
            DataError: if the file is missing, damaged, foreign or of another version.
        """
        arrays = read_npz(path)
        if str(arrays.get("format")) != FORMAT or arrays.get("version") != FORMAT_VERSION:
            raise DataError(
                f"{arrays.get('format')} version {arrays.get('version')}",
                where=f"{path}: format",
                expected=f"{FORMAT} version {FORMAT_VERSION}",
                fix="fit the dynamic Gaussians again",
            )

        def tensor(name: str, *shape: int | str) -> torch.Tensor:
            if name not in arrays:
                raise DataError(f"no array {name}", where=str(path), expected="a whole file")
            made = number_array(arrays[name], np.float32, shape, f"{path}: {name}")
            return torch.from_numpy(made)

        cloud = GaussianCloud(
            mean=tensor("rest_mean", "G", 3),
            log_scale=tensor("rest_log_scale", "G", "1 or 3"),
            quat_wxyz=tensor("rest_quat_wxyz", "G", 4),
            opacity_logit=tensor("rest_opacity_logit", "G"),
            sh=tensor("rest_sh", "G", "K", 3),
        )
        time_s, index = (
            number_array(arrays.get(name, ""), dtype, ("T",), f"{path}: {name}")
            for name, dtype in (("time_s", np.float64), ("index", np.int64))
        )
        mean, quat = tensor("mean", "T", "G", 3), tensor("quat_wxyz", "T", "G", 4)
        stretch = tensor("log_stretch", "T", "G", "1 or 3")
        return cls(cloud, mean, quat, stretch, time_s, index, str(arrays.get("name", "")))

    def _bad(self, field: str, what: str, expected: str) -> DataError:
        return DataError(what, where=f"{self.name}: DynamicCloud.{field}", expected=expected)
