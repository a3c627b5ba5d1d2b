"""The folder of an episode: what lies beside the bag, and where an unfinished one is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.errors import DataError
from physgym.files import write_atomically
from recon.tracks import PhysGymWarning

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "PARTIAL_SUFFIX",
    "bag_folder",
    "noted_mass_kg",
    "read_sidecar",
    "write_sidecar",
]

FORMAT = "physgym-episode"
FORMAT_VERSION = 1
PARTIAL_SUFFIX = ".partial"
_SIDECAR = "physgym.json"


def bag_folder(path: Path) -> Path:
    """Where the bag itself is: a partial recording lies one level down in its folder.

    Args:
        path: what the user named.

    Returns:
        The folder or file of the bag.

    Raises:
        DataError: if only an unfinished recording of that name is there.
    """
    path = path.absolute()  # "." has no name
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if not path.exists() and partial.exists():
        raise DataError(
            "this recording was not finished",
            where=str(path),
            expected="a finished episode",
            fix=f"open {partial} instead: what was recorded is there",
        )
    if path.name.endswith(PARTIAL_SUFFIX) and path.is_dir():
        inner = path / path.name.removesuffix(PARTIAL_SUFFIX)
        if inner.is_dir():
            return inner
    return path


def read_sidecar(folder: Path) -> dict[str, Any]:
    """What the writer kept beside the bag.

    Args:
        folder: of the bag.

    Returns:
        Its content; empty for a recording that PhysGym did not make.

    Raises:
        DataError: if it is foreign or of another version.
    """
    path = folder / _SIDECAR
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        # The recording itself is in the bag; without this file only name and serials are unknown.
        warnings.warn(f"{path}: cannot be read, left out: {error}", PhysGymWarning, stacklevel=3)
        return {}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError("not PhysGym's", where=f"{path}: format", expected=FORMAT)
    if content.get("version") != FORMAT_VERSION:
        raise DataError(
            f"format version {content.get('version')}",
            where=f"{path}: version",
            expected=str(FORMAT_VERSION),
            fix="use the PhysGym that wrote it",
        )
    # People edit it: what is of another kind is as good as not there.
    plain = {key: part for key, part in content.items() if _fits(key, part)}
    plain["serials"] = {str(k): str(v) for k, v in plain.get("serials", {}).items() if v}
    return plain


def _fits(key: str, value: Any) -> bool:
    kinds = {"serials": dict, "metadata": dict, "name": str}
    return isinstance(value, kinds.get(key, object))


def noted_mass_kg(source: Path) -> float | None:
    """The object's mass where the recording notes it.

    Args:
        source: what the user named.

    Returns:
        [kg], or None.

    Raises:
        DataError: as `bag_folder` and `read_sidecar`.
    """
    about = read_sidecar(bag_folder(source)).get("metadata", {}).get("object")
    mass = about.get("mass_kg") if isinstance(about, dict) else None
    return float(mass) if isinstance(mass, (int, float)) and mass > 0 else None


def write_sidecar(folder: Path, content: Mapping[str, Any]) -> None:
    """Write what `read_sidecar` reads.

    Args:
        folder: of the bag.
        content: ``name``, ``complete``, ``serials``, ``metadata``.
    """
    whole = {"format": FORMAT, "version": FORMAT_VERSION, **content}
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / _SIDECAR, text.encode())
