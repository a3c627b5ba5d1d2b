"""WarpArrays: the arrays of the plain engine, new ones and those of tensors.

Shapes: B worlds, P particles.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp

from physgym.sim.mpm.rollout import Particles

__all__ = ["WarpArrays"]


class WarpArrays:
    """Makes arrays on one device, and runs kernels on them.

    Args:
        shape: (B, P).
        device: Warp name of the device.

    Attributes:
        grad: whether arrays get adjoints.
    """

    def __init__(self, shape: tuple[int, int], device: str) -> None:
        self.grad = False
        self._shape, self._device = shape, device

    def launch(self, kernel: Any, dim: Any, inputs: list[Any], outputs: list[Any]) -> None:
        """Run a kernel."""
        wp.launch(kernel, dim=dim, inputs=inputs, outputs=outputs, device=self._device)

    def empty(self, dtype: Any) -> Any:
        """An array of one value a particle, not filled."""
        return wp.empty(self._shape, dtype=dtype, device=self._device, requires_grad=self.grad)

    def grid(self, dtype: Any, shape: tuple[int, ...]) -> Any:
        """An array of zeros."""
        return wp.zeros(shape, dtype=dtype, device=self._device, requires_grad=self.grad)

    def of(self, tensor: torch.Tensor, dtype: Any) -> Any:
        """A tensor as an array, without a copy where it is contiguous."""
        if tensor.numel() == 0:
            return self.grid(dtype, tuple(tensor.shape[:2]))
        return wp.from_torch(tensor.contiguous(), dtype=dtype, requires_grad=self.grad)

    def of_state(self, here: Particles) -> list[Any]:
        """Arrays of a state: x, v, F, C; copies."""
        x, v = (self.of(a.detach().clone(), wp.vec3) for a in here[:2])
        f, c = here.internal.detach().unflatten(-1, (2, 3, 3)).unbind(-3)
        return [x, v, *(self.of(a.contiguous().clone(), wp.mat33) for a in (f, c))]

    def particles(self, arrays: list[Any]) -> Particles:
        """The inverse of `of_state`, without a copy of x and v."""
        self.synchronize()
        x, v, f, c = (wp.to_torch(a) for a in arrays)
        return Particles(x, v, torch.cat([f.flatten(-2), c.flatten(-2)], dim=-1))

    def seeds(self, end: list[Any], adjoint: list[torch.Tensor]) -> dict[Any, Any]:
        """Where the backward pass of a tape begins: adjoints of the arrays of a state."""
        x, v, internal = adjoint
        return dict(zip(end, self.of_state(Particles(x, v, internal)), strict=True))

    def synchronize(self) -> None:
        """Let torch and Warp see each other's work; they use different CUDA streams."""
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)
            wp.synchronize_device(self._device)
