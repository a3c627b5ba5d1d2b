"""Arrays in files: plain numbers only, never a pickle."""

from __future__ import annotations

import hashlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.errors import DataError
from physgym.files import write_atomically

__all__ = ["file_sha256", "npz_keys", "number_array", "read_npy", "read_npz", "write_npz"]

# NumPy and zipfile raise RuntimeError for encrypted members, MemoryError for a header that lies
# about the shape, and TokenError (a SyntaxError in newer ones) for one that is no Python.
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, SyntaxError, TypeError,
    OverflowError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read every array of an ``.npz`` and never unpickle.

    Args:
        path: the file.

    Returns:
        The arrays by name.

    Raises:
        DataError: if the file is missing, truncated, no ``.npz``, or holds Python objects.
    """
    path = Path(path).expanduser()
    key = ""
    if not path.is_file():
        raise DataError("no such file", where=str(path), expected="an .npz file")
    if not zipfile.is_zipfile(path):
        raise DataError(
            "not an .npz archive, or the end of it is missing",
            where=str(path),
            expected="a whole .npz of plain number arrays",
            fix="copy or record the file again",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for key in archive.files:
                arrays[key] = archive[key]
                if not isinstance(arrays[key], np.ndarray):  # NumPy gives bytes for what is none
                    raise ValueError("no array")
    except _UNREADABLE as error:
        objects = "pickle" in str(error).lower()
        raise DataError(
            "it holds Python objects (a pickle)" if objects else f"it cannot be read: {error}",
            where=f"{path}: {key}" if key else str(path),
            expected="a whole .npz of plain number arrays",
            fix="save it again with plain arrays; pickles are never loaded"
            if objects
            else "copy or record the file again; it may be cut off",
        ) from error
    return arrays


def write_npz(path: str | Path, arrays: Mapping[str, Any], where: str) -> Path:
    """Write an ``.npz`` in one step: the old file or the whole new one, never half.

    Args:
        path: where; must end in ``.npz``. Its folder is made.
        arrays: by name, or what NumPy makes arrays of.
        where: who writes, for the message.

    Returns:
        The path, absolute.

    Raises:
        DataError: if the name does not end in ``.npz``.
    """
    target = Path(path).expanduser().resolve()
    if target.suffix != ".npz":
        raise DataError(target.name, where=where, expected="a name ending in .npz")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, buffer.getvalue())
    return target


def read_npy(path: str | Path, expected: str) -> np.ndarray:
    """Read an ``.npy`` and never unpickle.

    Args:
        path: the file.
        expected: what it should hold, for the message.

    Returns:
        The array.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _UNREADABLE as error:
        raise DataError(f"{error}", where=str(path), expected=expected) from error


def npz_keys(path: str | Path) -> set[str]:
    """Names of the arrays in an ``.npz``, without reading them.

    Args:
        path: any path.

    Returns:
        The names; none when it is no readable ``.npz``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _UNREADABLE:
        return set()
    return {name.removesuffix(".npy") for name in names if name.endswith(".npy")}


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def number_array(value: Any, dtype: Any, shape: tuple[Any, ...], where: str) -> np.ndarray:
    """A writable copy of an array of numbers.

    Args:
        value: anything.
        dtype: of the copy.
        shape: expected lengths; a text stands for any length.
        where: file and field, for the message.

    Returns:
        The copy.

    Raises:
        DataError: if it is not numbers, or of another shape.
    """
    expected = "(" + ", ".join(str(length) for length in shape) + ("," * (len(shape) == 1)) + ")"
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf":
            raise TypeError(f"dtype {given.dtype}")
        array = np.array(given, dtype=dtype, order="C")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"not an array of numbers: {error}", where=where, expected=expected
        ) from error
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape)
    )
    if not fits:
        raise DataError(f"shape {array.shape}", where=where, expected=f"shape {expected}")
    return array
