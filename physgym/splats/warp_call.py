"""Plain Warp kernels on torch's tensors, in the order of torch's own work on a device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import warp as wp

from physgym.sim.device import resolve_device

__all__ = ["BLOCK", "launch", "load_module"]

BLOCK = 256  # threads that share a block on CUDA: the pixels of a tile
_LOADING = threading.Lock()


def load_module(module: Any, device: torch.device) -> None:
    """Compile a module for a device, unless that is done: threads may not do so at the same time.

    Args:
        module: of the kernels.
        device: torch's.
    """
    with _LOADING:
        # On the CPU blocks have one thread.
        module.load(resolve_device(str(device)), block_dim=1 if device.type == "cpu" else BLOCK)


def launch(kernel: Any, dim: Any, given: Sequence[Any], device: torch.device) -> None:
    """Run a kernel on the device's current torch stream, so that neither side waits for the other.

    Args:
        kernel: a kernel of a loaded module.
        dim: number of threads, or a tuple.
        given: arguments in order: numbers, or pairs of a contiguous tensor and Warp's type of one
            element; vectors take the last axis.
        device: torch's.
    """
    inputs = [
        wp.from_torch(item[0], dtype=item[1], requires_grad=False, return_ctype=True)
        if isinstance(item, tuple)
        else item
        for item in given
    ]
    cuda = device.type == "cuda"
    wp.launch(
        kernel,
        dim=dim,
        inputs=inputs,
        device=None if cuda else "cpu",
        stream=wp.stream_from_torch(device) if cuda else None,
        block_dim=BLOCK,
        record_tape=False,
    )
