"""Other people's layouts -> Episode, Tracks, PointClouds or MultiView, one file each.

A new importer of tracks is one module with ``matches(path)`` and ``read(path)``, and one line in
`_IMPORTERS`; of episodes, ``convert(source, out)``, and one line in `_CONVERTERS`. The layout is
told by the content of a file, never by its name; only the split (``NAME_train.npz``,
``NAME_eval.npz``) is in the name.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from physgym.errors import DataError
from recon.clouds import MultiView, PointClouds
from recon.episode_files import PARTIAL_SUFFIX
from recon.importers import (
    cloth_pcd,
    deform_dlo,
    image_folder,
    phystwin_case,
    phystwin_final,
    tracks_npz,
    views4,
)
from recon.npz import read_npz
from recon.tracks import PhysGymWarning, Tracks

__all__ = ["Importer", "convert_episode", "load_clouds", "load_recordings", "load_views"]


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
    Importer("PhysTwin final_data", phystwin_final.matches, phystwin_final.read),
)
_CONVERTERS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path, str | Path], Path]], ...] = (
    ("PhysTwin case", phystwin_case.matches, phystwin_case.convert),
    ("folder of images", image_folder.matches, image_folder.convert),
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


def convert_episode(source: str | Path, out: str | Path) -> Path:
    """Write a recording in somebody else's layout as an episode.

    Args:
        source: a raw PhysTwin case, or a folder of images with a cameras file. A rosbag2 folder
            needs no conversion: `recon.episode.Episode.open` reads it.
        out: the episode's folder; must not exist.

    Returns:
        The episode's folder.

    Raises:
        DataError: if no importer knows the layout, or the recording cannot be used.
    """
    path = Path(source).expanduser()
    target = Path(out).expanduser().absolute()
    begun = target.with_name(target.name + PARTIAL_SUFFIX)
    fresh = not begun.exists()
    for _, matches, convert in _CONVERTERS:
        if matches(path):
            try:
                return convert(path, out)
            except BaseException:
                # Unlike a recording's, it can be made again, and would be in the way of that.
                if fresh:
                    shutil.rmtree(begun, ignore_errors=True)
                raise
    raise DataError(
        "no importer knows this layout" if path.exists() else "no such folder",
        where=str(path),
        expected="; ".join(name for name, _, _ in _CONVERTERS),
        fix="write cameras.json beside color/CAMERA/*.png; see recon.importers.image_folder",
    )


def load_clouds(source: str | Path) -> PointClouds:
    """Read a recording of point clouds.

    Args:
        source: a trial's ``.npz``.

    Returns:
        The clouds.

    Raises:
        DataError: if no importer knows the file, or it cannot be used.
    """
    path = Path(source).expanduser()
    if not cloth_pcd.matches(path):
        raise DataError(
            "no clouds", where=str(path), expected="points (M, 3), frame_start (T + 1,)"
        )
    return cloth_pcd.read(path)


def load_views(source: str | Path) -> MultiView:
    """Read one instant in several views.

    Args:
        source: a folder.

    Returns:
        The views.

    Raises:
        DataError: if no importer knows the folder, or it cannot be used.
    """
    path = Path(source).expanduser()
    if not views4.matches(path):
        raise DataError("no views", where=str(path), expected="cameras.json, its images, pcd.ply")
    return views4.read(path)


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
