"""GaussianCloud: 3D Gaussians with the parameters that 3DGS stores and optimises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from physgym.errors import DataError
from physgym.splats.harmonics import harmonics_degree
from physgym.splats.projection import packed_covariance

__all__ = ["GaussianCloud", "Gaussians", "matrix_from_quat"]


@dataclass(frozen=True, eq=False)
class GaussianCloud:
    """Gaussians as files hold them and optimisers move them: every number is free of limits.

    Attributes:
        mean: centres [m], shape (G, 3).
        log_scale: logarithm of the standard deviations [m] along the own axes, shape (G, 3), or
            (G, 1) for isotropic Gaussians, whose rotation is not used.
        quat_wxyz: own axes in the world, need not be unit, shape (G, 4).
        opacity_logit: shape (G,).
        sh: colour as spherical harmonics, shape (G, K, 3) with K = 1, 4, 9 or 16.

    All tensors are float32 on one device.
    """

    mean: torch.Tensor
    log_scale: torch.Tensor
    quat_wxyz: torch.Tensor
    opacity_logit: torch.Tensor
    sh: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together.

        Raises:
            DataError: naming the field.
        """
        count = len(self.mean)
        scales = self.log_scale.shape[-1] if self.log_scale.ndim == 2 else 0
        basis = self.sh.shape[1] if self.sh.ndim == 3 else 0
        wanted = {
            "mean": (count, 3),
            "log_scale": (count, scales if scales in (1, 3) else 3),
            "quat_wxyz": (count, 4),
            "opacity_logit": (count,),
            "sh": (count, basis, 3),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape or value.dtype != torch.float32:
                raise DataError(
                    f"{value.dtype} of shape {tuple(value.shape)}",
                    where=f"GaussianCloud.{name}",
                    expected=f"float32 of shape {shape}",
                )
        harmonics_degree(basis)

    def __len__(self) -> int:
        """G."""
        return len(self.mean)

    @property
    def sh_degree(self) -> int:
        """Degree of the harmonics, 0 to 3."""
        return harmonics_degree(self.sh.shape[1])

    @property
    def opacity(self) -> torch.Tensor:
        """Between 0 and 1, shape (G,)."""
        return torch.sigmoid(self.opacity_logit)

    def covariance(self) -> torch.Tensor:
        """``R diag(s)^2 R^T`` [m^2].

        Returns:
            Shape (G, 3, 3).
        """
        turn = matrix_from_quat(self.quat_wxyz) * self.log_scale.exp()[:, None]
        return turn @ turn.transpose(1, 2)

    def gaussians(self) -> Gaussians:
        """The same as tensors that a deformation can change.

        Returns:
            Means, covariances, opacities and harmonics.
        """
        return Gaussians(self.mean, packed_covariance(self.covariance()), self.opacity, self.sh)

    def replace(self, **fields: torch.Tensor) -> GaussianCloud:
        """A copy with other values.

        Args:
            **fields: by name.

        Returns:
            The cloud.
        """
        return replace(self, **fields)

    def to(self, device: str | torch.device) -> GaussianCloud:
        """The cloud on a device.

        Args:
            device: a torch device.

        Returns:
            The cloud; itself where nothing has to move.
        """
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> GaussianCloud:
        """The cloud cut off from autograd.

        Returns:
            The cloud, sharing memory.
        """
        return self._map(lambda tensor: tensor.detach())

    def __getitem__(self, index: Any) -> GaussianCloud:
        """Some of the Gaussians, by slice, mask or indices."""
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Any) -> GaussianCloud:
        return GaussianCloud(**{name: change(value) for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Gaussians as they are drawn: what a deformation, a network or an importer made.

    Attributes:
        mean: [m], shape (G, 3).
        covariance: [m^2], shape (G, 3, 3), or ``xx xy xz yy yz zz``, shape (G, 6).
        opacity: 0 to 1, shape (G,).
        colour: RGB, shape (G, 3), or spherical harmonics, shape (G, K, 3).
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    opacity: torch.Tensor
    colour: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together.

        Raises:
            DataError: naming the field.
        """
        count = len(self.mean)
        colour = (count, 3) if self.colour.ndim == 2 else (count, *self.colour.shape[1:2], 3)
        packed = self.covariance.ndim == 2
        wanted = {
            "mean": (count, 3),
            "covariance": (count, 6) if packed else (count, 3, 3),
            "opacity": (count,),
            "colour": colour,
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape or not value.is_floating_point():
                raise DataError(
                    f"{value.dtype} of shape {tuple(value.shape)}",
                    where=f"Gaussians.{name}",
                    expected=f"floating point of shape {shape}",
                )
        if self.colour.ndim == 3:
            harmonics_degree(self.colour.shape[1])

    def __len__(self) -> int:
        """G."""
        return len(self.mean)


def matrix_from_quat(quat_wxyz: torch.Tensor) -> torch.Tensor:
    """Rotation matrices, differentiable (`physgym.frames` has the NumPy one).

    Args:
        quat_wxyz: need not be unit, shape (..., 4).

    Returns:
        Shape (..., 3, 3).
    """
    w, x, y, z = torch.nn.functional.normalize(quat_wxyz, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
