"""The folder a twin lives in: written whole and renamed, checked in full before anything is used.

Knows files, sizes and hashes; what the arrays mean is `physgym.twin`'s business.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from physgym.errors import TwinError

__all__ = [
    "BLOBS",
    "COPY_AGAIN",
    "FORMAT",
    "FORMAT_VERSION",
    "GROUPS",
    "is_twin_folder",
    "read",
    "write",
]

FORMAT = "physgym-twin"
FORMAT_VERSION = 1
GROUPS = ("geometry", "parameters", "uncertainty", "residual")
BLOBS = ("splats.ply",)  # files of another format than arrays
COPY_AGAIN = "copy the twin again from where it was made, or make it again"

_MANIFEST = "twin.json"
_NEEDED = ("geometry", "parameters")
_RENAME_EXCHANGE = 2  # renameat2(2): swap two paths in one step
_AT_FDCWD = -100


def is_twin_folder(folder: str | Path) -> bool:
    """Whether a folder says of itself that it is a twin, of whatever version.

    Args:
        folder: any path.

    Returns:
        True when it holds a ``twin.json`` of this format; the rest is not checked.
    """
    try:
        manifest = json.loads((Path(folder) / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def write(
    folder: Path,
    document: dict[str, Any],
    groups: dict[str, dict[str, np.ndarray]],
    blobs: dict[str, bytes] | None = None,
) -> Path:
    """Write a twin folder under a temporary name and put it in place in one step.

    Args:
        folder: where; its parent is made when missing.
        document: JSON values for ``twin.json``.
        groups: arrays of each of `GROUPS`.
        blobs: contents of some of `BLOBS`.

    Returns:
        The folder, absolute.

    Raises:
        TwinError: if something stands there that is not a twin; it is left as it is.
    """
    target = folder.expanduser().resolve()
    replaces = _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        fresh.chmod(0o755)
        if replaces:
            _carry_over(target, fresh)
        _write_files(fresh, document, groups, blobs or {})
        _put_in_place(fresh, target, replaces=replaces)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def read(
    folder: Path, fields: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]], dict[str, bytes]]:
    """Read a twin folder.

    Args:
        folder: where.
        fields: what ``twin.json`` must hold besides the format's own fields.

    Returns:
        The fields, the arrays of each of `GROUPS` (empty where the twin has none), and the contents
        of those of `BLOBS` that it has.

    Raises:
        TwinError: naming the file and field, if anything is missing, foreign, damaged, truncated
            or of another version.
    """
    folder = folder.expanduser()
    manifest = _read_manifest(folder, fields)
    groups: dict[str, dict[str, np.ndarray]] = {group: {} for group in GROUPS}
    blobs: dict[str, bytes] = {}
    for name, entry in manifest["files"].items():
        content = _read_checked(folder / name, entry)
        if name in BLOBS:
            blobs[name] = content
        else:
            groups[name.partition(".")[0]] = _arrays_of(content, folder / name)
    return {key: manifest[key] for key in fields}, groups, blobs


def _document_hash(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "document_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_files(
    folder: Path,
    document: dict[str, Any],
    groups: dict[str, dict[str, np.ndarray]],
    blobs: dict[str, bytes],
) -> None:
    files: dict[str, Any] = {}
    contents = {
        f"{group}.safetensors": save_safetensors(arrays)
        for group, arrays in groups.items()
        if arrays or group in _NEEDED
    }
    for name, content in {**contents, **blobs}.items():
        _write_file(folder / name, content)
        digest = hashlib.sha256(content).hexdigest()
        files[name] = {"bytes": len(content), "sha256": digest}
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, **document, "files": files}
    manifest["document_sha256"] = _document_hash(manifest)
    _write_file(folder / _MANIFEST, json.dumps(manifest, indent=2).encode())
    _sync_folder(folder)


def _check_target(target: Path) -> bool:
    """Whether a folder stands at the target; refuse what is neither a twin nor empty."""
    if not target.exists():
        return False
    if target.is_dir() and (is_twin_folder(target) or not any(target.iterdir())):
        return True
    raise TwinError(
        "something that is not a twin stands there",
        where=str(target),
        expected="a twin, an empty folder or nothing",
        fix="choose another folder, or move this one away",
    )


def _carry_over(old: Path, fresh: Path) -> None:
    own = {_MANIFEST, *BLOBS, *(f"{group}.safetensors" for group in GROUPS)}
    for entry in old.iterdir():
        if entry.name in own:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, fresh / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, fresh / entry.name, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step where the system can; False where it cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _put_in_place(fresh: Path, target: Path, *, replaces: bool) -> None:
    if not replaces:
        fresh.rename(target)
    elif not _exchange(fresh, target):
        # No atomic swap on this file system: two renames, undone if the second fails.
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def _read_manifest(folder: Path, fields: tuple[str, ...]) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not folder.is_dir():
        raise TwinError("no such twin folder", where=str(folder), expected="a folder")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TwinError(
            "the folder is not a twin", where=str(path), expected="a file twin.json"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise TwinError(
            f"the file cannot be read: {error}",
            where=str(path),
            expected="whole JSON",
            fix=COPY_AGAIN,
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TwinError("the folder is not a twin", where=f"{path}: format", expected=FORMAT)
    version = manifest.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise TwinError(
            f"format version {version!r}",
            where=f"{path}: version",
            expected=f"version {FORMAT_VERSION}",
            fix="use the PhysGym that made it, or make the twin again",
        )
    _check_manifest(path, manifest, {"format", "version", "files", "document_sha256", *fields})
    return manifest


def _check_manifest(path: Path, manifest: dict[str, Any], fields: set[str]) -> None:
    for key in sorted(fields ^ set(manifest)):
        what = "an unknown field" if key in manifest else "a field is missing"
        raise TwinError(what, where=f"{path}: {key}", expected=", ".join(sorted(fields)))
    if manifest["document_sha256"] != _document_hash(manifest):
        raise TwinError(
            "the file was changed after it was written",
            where=f"{path}: document_sha256",
            expected="the hash of its own fields",
            fix="change a twin with Twin.replace(...).save(...), not by hand",
        )
    files = manifest["files"]
    allowed = {*BLOBS, *(f"{group}.safetensors" for group in GROUPS)}
    needed = {f"{group}.safetensors" for group in _NEEDED}
    if not isinstance(files, dict) or not needed <= set(files) <= allowed:
        raise TwinError(
            f"it lists the files {files!r}",
            where=f"{path}: files",
            expected=f"{sorted(needed)}, and of {sorted(allowed)} no other",
        )
    for name, entry in files.items():
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise TwinError(
                f"{entry!r}", where=f"{path}: files[{name!r}]", expected="bytes and sha256"
            )


def _read_checked(path: Path, entry: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        what = f"a file of the twin cannot be read: {error.strerror}"
        raise TwinError(what, where=str(path), expected="the file", fix=COPY_AGAIN) from error
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    for what, got, want in (
        ("the file is cut off or has grown: bytes", size, entry["bytes"]),
        ("the file is damaged: sha256", digest, entry["sha256"]),
    ):
        if got != want:
            raise TwinError(f"{what} {got}", where=str(path), expected=str(want), fix=COPY_AGAIN)
    return content


def _arrays_of(content: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        arrays: dict[str, np.ndarray] = load_safetensors(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        what = f"not a safetensors file of plain numbers: {error}"
        raise TwinError(what, where=str(path), fix=COPY_AGAIN) from error
    return arrays
