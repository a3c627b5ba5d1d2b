"""Writing files so that nobody ever reads half of one, and where none can be written."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile

from physgym.errors import DataError

__all__ = ["check_writable", "write_atomically"]


def check_writable(path: Path, where: str) -> None:
    """Refuse a place where nothing can be written, before the work rather than after.

    Args:
        path: a file or folder, there or to be made together with the folders above it.
        where: what names it, such as ``--out twins/rope``.

    Raises:
        DataError: if a folder above it is a file, or takes no files.
    """
    folder = path.expanduser().absolute()
    folder = folder if folder.is_dir() else folder.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):  # permissions alone do not tell of read-only disks
            pass
    except OSError as error:
        raise DataError(
            f"nothing can be written into {folder}: {error.strerror or error}",
            where=where,
            expected="a place where this user may write",
            fix="choose another place, or change the permissions of this one",
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        content: all of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
