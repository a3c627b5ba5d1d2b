"""Other people's layouts -> Tracks, one file each.

A new importer is one module with ``matches(path)`` and ``read(path)``, and one line in
`_IMPORTERS`. The layout is told by the content of a file, never by its name; only the split
(``NAME_train.npz``, ``NAME_eval.npz``) is in the name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from physgym.errors import DataError
from recon.importers import deform_dlo, tracks_npz
from recon.npz import read_npz
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["Importer", "load_recordings"]


@dataclass(frozen=True)
class Importer:
    """One layout.

    Attributes:
        name: what it is called in messages.
        matches: whether a file or folder has this layout; cheap, never raises.
        read: every recording in it, checked.
    """

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], list[Tracks]]


_IMPORTERS = (
    Importer("tracks .npz", tracks_npz.matches, tracks_npz.read),
    Importer("deform_dlo clips", deform_dlo.matches, deform_dlo.read),
)
_SPLITS = ("train", "eval", "test")


def load_recordings(source: str | Path, split: str | None = None) -> list[Tracks]:
    """Read every recording in a file, or in the ``.npz`` files of a folder.

    Samples that cannot be right are masked with a `PhysGymWarning` that names frame and node.

    Args:
        source: a file, or a folder of files.
        split: ``"train"``, ``"eval"`` or ``"test"`` leaves out files whose name ends in another
            split's; a file whose name tells no split belongs to each.

    Returns:
        At least one recording, in the order of file names and of clips in a file.

    Raises:
        DataError: if nothing is there, no importer knows it, or a recording cannot be used.
    """
    path = Path(source).expanduser()
    if split is not None and split not in _SPLITS:
        raise DataError(f"unknown split {split!r}", where="split", expected=" or ".join(_SPLITS))
    if not path.exists():
        raise DataError("no such file or folder", where=str(path), expected="a recording")
    importer = _importer_of(path)
    if importer is None and path.is_dir():
        return _load_folder(path, split)
    if importer is None:
        raise _unknown(path)
    if not _in_split(path, split):
        raise DataError(
            "the file belongs to another split", where=str(path), expected=f"a {split} file"
        )
    return importer.read(path)


def _load_folder(folder: Path, split: str | None) -> list[Tracks]:
    files = [path for path in sorted(folder.glob("*.npz")) if _in_split(path, split)]
    recordings: list[Tracks] = []
    for path in files:
        importer = _importer_of(path)
        if importer is None:
            warnings.warn(f"{path}: no importer knows this file; left out", PhysGymWarning, 3)
        else:
            recordings += importer.read(path)
    if not recordings:
        wanted = f"{split} " if split else ""
        raise DataError(
            f"no {wanted}recordings among {len(files)} files",
            where=str(folder),
            expected=f".npz files that hold {wanted}recordings",
        )
    return recordings


def _importer_of(path: Path) -> Importer | None:
    return next((importer for importer in _IMPORTERS if importer.matches(path)), None)


def _in_split(path: Path, split: str | None) -> bool:
    told = path.stem.rpartition("_")[2]
    return split is None or told not in _SPLITS or told == split


def _unknown(path: Path) -> DataError:
    # Reading it names the real cause when the file is cut off or holds a pickle.
    arrays = read_npz(path)
    return DataError(
        f"no importer knows a file with the arrays {sorted(arrays)}",
        where=str(path),
        expected="time, points and driven or driven_index; or positions, dt and driven",
        fix="write a tracks.npz: `physgym reconstruct --help` and recon.importers.tracks_npz",
    )
