"""Other people's pickles: numbers and plain containers, and nothing that runs.

A pickle is a program. Here only opcodes that build dict, list, tuple, set, text, bytes and numbers
run; the few NumPy names that an array needs are answered by stand-ins that hold the array's bytes,
so that not even NumPy's own unpickling code sees them. Every other name is refused and named.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import DataError

__all__ = ["read_pickle", "unpickle"]

_KINDS = "biufcSU"
_LARGEST_ITEM = 1 << 20  # bytes of one text in an array
_MOST_PER_BYTE = 64  # values per byte of a pickle; plain ones have less than one


class _Refused(pickle.UnpicklingError):
    """A name or a type that is not plain data."""


class _Dtype:
    """Stand-in for ``numpy.dtype``."""

    def __init__(self, code: Any, *_: Any) -> None:
        try:
            found = np.dtype(code if isinstance(code, str) else "V")
        except (TypeError, ValueError) as error:
            raise _Refused(f"an array of dtype {code!r}") from error
        if found.kind not in _KINDS or not 0 <= found.itemsize <= _LARGEST_ITEM:
            raise _Refused(f"an array of dtype {code!r}")
        self.dtype = found

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(x is not None for x in state[2:5]):
            raise _Refused("an array with fields")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for ``numpy.ndarray``, filled in by its state."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array in an unknown layout")
        _, shape, dtype, fortran, raw = state
        self.value = _filled(raw, dtype, shape, "F" if fortran else "C")


def _filled(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(raw, str):  # Python 2 wrote bytes as text
        raw = raw.encode("latin-1")
    if isinstance(raw, pickle.PickleBuffer):
        raw = raw.raw()
    if not isinstance(raw, bytes | bytearray | memoryview) or not isinstance(dtype, _Dtype):
        raise _Refused("an array of Python objects")
    lengths = (shape,) if isinstance(shape, int) else shape
    plain = isinstance(lengths, tuple) and all(type(n) is int and n >= 0 for n in lengths)
    if not plain or order not in ("C", "F"):
        raise _Refused(f"an array of shape {shape!r}")
    flat = np.frombuffer(bytes(raw), dtype.dtype)
    if flat.size != int(np.prod(lengths, dtype=object)):
        raise _Refused(f"an array of shape {shape!r} with {flat.size} elements")
    return flat.reshape(lengths, order=order).copy(order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    return _filled(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any = None) -> Any:
    return _filled(raw, dtype, (1,), "C")[0]


def _encode(text: Any, encoding: Any = "") -> bytes:
    # How protocol 2 writes bytes. The real codecs.encode would take any codec by name.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"codec {encoding!r}")
    return text.encode("latin-1")


def _bytes(*given: Any) -> bytes:
    if given:  # bytes(n) would make n zeros
        raise _Refused("bytes of something")
    return b""


def _bytearray(*given: Any) -> bytearray:
    if given and not isinstance(given[0], bytes):
        raise _Refused("a bytearray of something")
    return bytearray(*given[:1])


class _Maker:
    """A function that a pickle may call and cannot change."""

    __slots__ = ("_make",)
    _make: Any

    def __init__(self, make: Any) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"a state for {name}")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a state for a function")


def _ndarray(*_: Any) -> Any:
    raise _Refused("numpy.ndarray, called")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Maker(_ndarray),  # an argument of _reconstruct; it is never called
    ("_codecs", "encode"): _Maker(_encode),
    ("collections", "OrderedDict"): dict,
}
for _module in ("builtins", "__builtin__"):
    _NAMES |= {
        (_module, "set"): set,
        (_module, "frozenset"): frozenset,
        (_module, "complex"): complex,
        (_module, "bytes"): _Maker(_bytes),
        (_module, "bytearray"): _Maker(_bytearray),
    }
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Maker(_reconstruct)
    _NAMES[f"{_core}.multiarray", "scalar"] = _Maker(_scalar)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Maker(_from_buffer)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Stand-ins for the names of plain data; everything else is refused."""
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to storage outside the file."""
        raise _Refused("an object kept outside the file (a torch tensor?)")


def unpickle(content: bytes, where: str) -> Any:
    """Numbers, text, arrays and plain containers from a pickle.

    Args:
        content: the bytes.
        where: file, for messages.

    Returns:
        None, bool, int, float, complex, text, bytes, `numpy.ndarray` of numbers or text, and dict,
        list, tuple, set of those.

    Raises:
        DataError: if it is damaged or holds anything else, which is named.
    """
    try:
        return _Plain(len(content)).of(_Unpickler(io.BytesIO(content)).load())
    except _Refused as error:
        raise DataError(
            f"the pickle holds {error}",
            where=where,
            expected="arrays of numbers, and dict, list, tuple, text and numbers",
            fix="pickles can run programs: save it as .npz from where it was made",
        ) from error
    except (
        pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError,
        MemoryError, OverflowError, RecursionError, TypeError, UnicodeDecodeError, ValueError,
        struct.error,
    ) as error:  # fmt: skip
        raise DataError(
            f"the pickle cannot be read: {error}",
            where=where,
            expected="a whole pickle file",
            fix="copy it again; it may be cut off",
        ) from error


def read_pickle(path: str | Path) -> Any:
    """`unpickle` for a file.

    Args:
        path: the file.

    Returns:
        As `unpickle`.

    Raises:
        DataError: if the file is missing, damaged or holds more than plain data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="a .pkl file")
    return unpickle(path.read_bytes(), str(path))


class _Plain:
    """The same with arrays for stand-ins.

    A pickle may name one list many times, and so may the lists in it: a few lines then unfold to
    more than any memory holds. What is read may be no more than its file's size accounts for.
    """

    def __init__(self, size: int) -> None:
        self._left = _MOST_PER_BYTE * size + _MOST_PER_BYTE

    def of(self, value: Any) -> Any:
        """Plain data for what the pickle built."""
        self._left -= 1
        if self._left < 0:
            raise _Refused("lists that name each other over and over")
        if isinstance(value, _Array):
            if value.value is None:
                raise _Refused("an array without content")
            return value.value
        if isinstance(value, dict):
            return {self.of(key): self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(self.of(item) for item in value)
        simple = (bool, int, float, complex, str, bytes, bytearray, np.ndarray, np.generic)
        if value is None or isinstance(value, simple):
            return value
        raise _Refused(f"a {type(value).__name__.strip('_')} where data should be")
