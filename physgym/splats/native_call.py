"""A native C++ body called by the addresses of its arrays: a launch costs some microseconds.

`physgym.sim.native_kernel` passes thirty Warp arrays, which costs a tenth of a frame here. A body
of this module gets one array of 64-bit numbers: addresses of tensors, and whole numbers.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import warp as wp

from physgym.sim.device import resolve_device

__all__ = ["NativeBody", "run_parts"]

_BUILDING = threading.Lock()
_built: dict[str, Any] = {}
_TYPES = {torch.float32: "float", torch.int32: "int"}
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


class NativeBody:
    """C++ statements that name their arrays and whole numbers.

    Args:
        source: the statements.
        floats: names of the float32 tensors.
        ints: names of the int32 tensors.
        counts: names of whole numbers.
    """

    def __init__(
        self,
        source: str,
        *,
        floats: tuple[str, ...],
        ints: tuple[str, ...],
        counts: tuple[str, ...],
    ) -> None:
        self._tensors = dict.fromkeys(floats, torch.float32) | dict.fromkeys(ints, torch.int32)
        self._counts = counts
        lines = [
            f"{_TYPES[dtype]}* const {name} = ({_TYPES[dtype]}*)argument.data[{at}];"
            for at, (name, dtype) in enumerate(self._tensors.items())
        ]
        first = len(lines)
        lines += [f"const int {n} = (int)argument.data[{first + k}];" for k, n in enumerate(counts)]
        # No contraction: forward and backward must see the same bits, so every fma is spelled out.
        body = "{\n#pragma clang fp contract(off)\n" + "\n".join(lines) + source + "}"
        resolve_device("cpu")  # starts Warp without its banner
        wp.init()
        # Wrapped once: see `physgym.sim.native_kernel`.
        with _BUILDING:
            if body not in _built:
                kernel = _wrap(body)
                # One compilation: launches on the CPU have blocks of one.
                kernel.module.load("cpu", block_dim=1)
                _built[body] = kernel
            self._kernel = _built[body]

    def __call__(self, tensors: dict[str, torch.Tensor], **counts: int) -> None:
        """Run the body; the launch releases Python's lock, so threads run side by side.

        Args:
            tensors: contiguous tensors on the CPU for (at least) every name of the body.
            **counts: the whole numbers.

        Raises:
            ValueError: if a tensor has another type, or gaps.
        """
        values = []
        for name, dtype in self._tensors.items():
            tensor = tensors[name]
            if tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.stride())}, wanted {dtype}")
            values.append(tensor.data_ptr())
        values += [counts[name] for name in self._counts]
        argument = np.array(values, np.int64)
        given = wp.array(
            ptr=argument.ctypes.data, dtype=wp.int64, shape=argument.shape, device="cpu", copy=False
        )
        wp.launch(self._kernel, dim=1, inputs=[given], device="cpu", record_tape=False)


def run_parts(work: Callable[..., None], parts: Iterable[Any], threads: int) -> None:
    """Run work on every part, on as many threads as asked for.

    Args:
        work: called with the items of one part.
        parts: tuples.
        threads: most threads to use.
    """
    parts = list(parts)
    if threads == 1 or len(parts) < 2:
        for part in parts:
            work(*part)
        return
    key = (os.getpid(), threads)  # threads do not live on in a forked process
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads)
    list(_pools[key].map(lambda part: work(*part), parts))


def _wrap(snippet: str) -> Any:
    @wp.func_native(snippet)
    def body(argument: wp.array(dtype=wp.int64)) -> None: ...

    @wp.kernel(enable_backward=False, module="unique")
    def splat_body(argument: wp.array(dtype=wp.int64)) -> None:
        body(argument)

    return splat_body
