"""One Warp kernel around any native body: named arrays in, no kernel signature per body.

A native body is C++ that names its arrays. Ten int arrays and twenty float arrays are passed; a
line of C++ per array gives them the names that the body uses.
"""
# mypy: disable-error-code="valid-type"

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import warp as wp

__all__ = ["NativeKernel"]

_INTS, _FLOATS = 10, 20
# Warp forgets the hashes of a module when the same body is wrapped again, which another thread that
# loads or launches it stumbles over: each body is wrapped once.
_BUILDING = threading.Lock()
_built: dict[str, Any] = {}
_I = wp.array(dtype=wp.int32)
_F = wp.array(dtype=wp.float32)


class NativeKernel:
    """A native body that can be launched with arrays by name.

    Args:
        name: shown in Warp's compile messages.
        source: C++ statements.
        ints: names of the int32 arrays.
        floats: names of the float32 arrays.
    """

    def __init__(
        self, name: str, source: str, *, ints: tuple[str, ...], floats: tuple[str, ...]
    ) -> None:
        if len(ints) > _INTS or len(floats) > _FLOATS:
            raise ValueError(
                f"{name}: {len(ints)} int and {len(floats)} float arrays, room for 10 and 20"
            )
        self.ints, self.floats = ints, floats
        names = [f"auto& {n} = i{k};" for k, n in enumerate(ints)]
        names += [f"auto& {n} = f{k};" for k, n in enumerate(floats)]
        self._no_int = wp.zeros(1, dtype=wp.int32, device="cpu")
        self._no_float = wp.zeros(1, dtype=wp.float32, device="cpu")
        # `contract(off)` must open the block, so the names come after it.
        body = "{\n#pragma clang fp contract(off)\n" + "\n".join(names) + source + "}"
        with _BUILDING:
            if body not in _built:
                kernel = _wrap(body)
                # One compilation: launches on the CPU have blocks of one.
                kernel.module.load("cpu", block_dim=1)
                _built[body] = kernel
            self._kernel = _built[body]

    def launch(self, arrays: Mapping[str, Any]) -> None:
        """Run the body once; the launch releases Python's lock, so threads run side by side.

        Args:
            arrays: Warp arrays on the CPU for every name of the body.
        """
        ints = [arrays[n] for n in self.ints] + [self._no_int] * (_INTS - len(self.ints))
        floats = [arrays[n] for n in self.floats] + [self._no_float] * (_FLOATS - len(self.floats))
        wp.launch(self._kernel, dim=1, inputs=[*ints, *floats], device="cpu", record_tape=False)


def _wrap(snippet: str) -> Any:
    @wp.func_native(snippet)
    def body(
        i0: _I, i1: _I, i2: _I, i3: _I, i4: _I, i5: _I, i6: _I, i7: _I, i8: _I, i9: _I,
        f0: _F, f1: _F, f2: _F, f3: _F, f4: _F, f5: _F, f6: _F, f7: _F, f8: _F, f9: _F,
        f10: _F, f11: _F, f12: _F, f13: _F, f14: _F, f15: _F, f16: _F, f17: _F, f18: _F, f19: _F,
    ) -> None: ...  # fmt: skip

    @wp.kernel(enable_backward=False, module="unique")
    def native_body(
        i0: _I, i1: _I, i2: _I, i3: _I, i4: _I, i5: _I, i6: _I, i7: _I, i8: _I, i9: _I,
        f0: _F, f1: _F, f2: _F, f3: _F, f4: _F, f5: _F, f6: _F, f7: _F, f8: _F, f9: _F,
        f10: _F, f11: _F, f12: _F, f13: _F, f14: _F, f15: _F, f16: _F, f17: _F, f18: _F, f19: _F,
    ) -> None:  # fmt: skip
        body(
            i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, f0, f1, f2, f3, f4, f5, f6, f7, f8, f9,
            f10, f11, f12, f13, f14, f15, f16, f17, f18, f19,
        )  # fmt: skip

    return native_body
