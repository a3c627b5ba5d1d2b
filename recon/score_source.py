"""What a recording of any layout holds for scores: as a bag, and as what was perceived of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from physgym.errors import DataError
from recon.perception.prompt import Prompt

if TYPE_CHECKING:
    from recon.perception.perceive import PerceiveConfig
    from recon.perception.result import Perception
    from recon.score_report import Strip
    from recon.tracks import Tracks

__all__ = [
    "Evidence",
    "as_bag",
    "evidence_of",
    "known_perception",
    "needs_conversion",
    "prompts_of",
]


def needs_conversion(source: Path) -> bool:
    """Whether a recording is in somebody else's layout.

    Args:
        source: a file or folder.

    Returns:
        True for a raw PhysTwin case and a folder of images; a processed case is read as it is.
    """
    from recon.importers import image_folder, phystwin_case, phystwin_final

    if not source.is_dir() or phystwin_final.matches(source):
        return False
    return phystwin_case.matches(source) or image_folder.matches(source)


@contextmanager
def as_bag(source: Path) -> Iterator[Path]:
    """The recording as a bag, or as a processed PhysTwin case.

    Args:
        source: a recording of cameras in any layout.

    Yields:
        The same; of other layouts a bag that is there as long as this lasts.

    Raises:
        DataError: if the recording cannot be converted.
    """
    from recon.importers import convert_episode

    source = source.expanduser()
    if not needs_conversion(source):
        yield source
        return
    with TemporaryDirectory(prefix="physgym-") as room:
        yield convert_episode(source, Path(room) / source.name)


def prompts_of(clicks: Sequence[str], boxes: Sequence[str]) -> dict[str, Prompt]:
    """Prompts as they are typed.

    Args:
        clicks: each CAMERA:U,V; several of one camera are one prompt.
        boxes: each CAMERA:LEFT,TOP,RIGHT,BOTTOM, one for a camera.

    Returns:
        By camera name.

    Raises:
        DataError: if one is written otherwise, or a camera has both, or two boxes.
    """
    places: dict[str, list[list[float]]] = {}
    for click in clicks:
        camera, numbers = _parted(click, 2, "--click", "CAMERA:U,V", "cam0:320,240")
        places.setdefault(camera, []).append(numbers)
    made = {camera: Prompt(clicks=np.array(at)) for camera, at in places.items()}
    for box in boxes:
        camera, numbers = _parted(
            box, 4, "--box", "CAMERA:LEFT,TOP,RIGHT,BOTTOM", "cam0:100,80,220,190"
        )
        left, top, right, bottom = (round(number) for number in numbers)
        if camera in made or right <= left or bottom <= top:
            raise DataError(
                f"{box!r}",
                where="--box",
                expected="one prompt for a camera, left < right and top < bottom",
            )
        made[camera] = Prompt(box=(left, top, right, bottom))
    return made


def _parted(
    text: str, count: int, flag: str, expected: str, example: str
) -> tuple[str, list[float]]:
    camera, _, place = text.rpartition(":")
    try:
        numbers = [float(number) for number in place.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not camera or not np.isfinite(numbers).all():
        raise DataError(f"{text!r}", where=flag, expected=expected, fix=example)
    return camera, numbers


def known_perception(
    path: Path,
    config: PerceiveConfig | None = None,
    prompts: Mapping[str, Prompt] | None = None,
    *,
    ground_m: float | None = None,
    calibration: Path | None = None,
) -> Perception:
    """What was perceived of a recording before, however it was asked for, or perceive it now.

    Args:
        path: the recording, a bag or a processed PhysTwin case.
        config: of perception; given, only a perception made with the same counts. Without depth
            what was found with whatever kind and ground counts, unless a ground is given.
        prompts: likewise.
        ground_m: height of a level ground, where there is no depth to find it by [m].
        calibration: as in `recon.episode.Episode.open`.

    Returns:
        The perception, of the recording as it is now.

    Raises:
        DataError: if the recording cannot be opened or perceived.
    """
    from recon.episode_files import bag_folder
    from recon.perceive_video import cached_video_perception, is_video, records_depth
    from recon.perception.perceive_episode import (
        cache_path,
        cached_perception,
        episode_fingerprint,
    )
    from recon.perception.result import Perception

    kept = cache_path(path)
    if not prompts and calibration is None and kept.is_file():
        try:
            known = Perception.load(kept)
        except DataError:  # of another version, or damaged: perceive again
            known = None
        if known is not None and (config is None or (is_video(known) and ground_m is None)):
            source = bag_folder(path.expanduser())
            if known.tracks.source_sha256 == episode_fingerprint(source):
                return known
    asked = prompts or None
    if records_depth(path, calibration=calibration):
        return cached_perception(path, config, prompts=asked, calibration=calibration)
    return cached_video_perception(
        path,
        ground_m=ground_m,
        kind="auto" if config is None else config.kind,
        prompts=asked,
        calibration=calibration,
    )


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a recording holds for scores beside its perception.

    Attributes:
        truth: true motion of points of the object, where it is known.
        ignored: pixels of masks that do not count, shape (C, T, H, W), bool, or None.
        strip: what pictures of it need, where they were asked for.
    """

    truth: Tracks | None
    ignored: np.ndarray | None
    strip: Strip | None


def evidence_of(path: Path, perception: Perception, *, pictures: bool = False) -> Evidence:
    """Read it.

    Args:
        path: the recording, a bag or a processed PhysTwin case.
        perception: of it.
        pictures: whether some will be drawn.

    Returns:
        The evidence; a processed case has no pictures.
    """
    from recon.episode import Episode
    from recon.importers.phystwin_final import matches
    from recon.importers.phystwin_perception import case_occluders, case_truth
    from recon.occluders import occluders
    from recon.score_report import Strip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the recording was said when perceived
        if matches(path):
            return Evidence(case_truth(path, perception), case_occluders(path, perception), None)
        episode = Episode.open(path, allow_uncalibrated=True)  # poses are the perception's
    with episode:
        strip = Strip.of(episode, perception) if pictures else None
        return Evidence(episode.ground_truth(), occluders(episode, perception), strip)
