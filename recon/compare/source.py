"""What a comparison is made of: the recording as a bag, and what was perceived of it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from physgym.errors import DataError
from recon.perceive_video import cached_video_perception, records_depth
from recon.score_source import needs_conversion, prompts_of
from recon.tracks import PhysGymWarning

if TYPE_CHECKING:
    from recon.compare.run import CompareConfig
    from recon.identify.progress import Progress
    from recon.perception.result import Perception

__all__ = ["as_episode", "perceived"]

_EXPECTED = (
    "a rosbag2 folder, a PhysTwin case, or a folder of images: cameras.json beside "
    "color/CAMERA/*.png"
)


def as_episode(source: Path, folder: Path, *, resume: bool) -> Path:
    """The recording as a bag; other layouts are converted once, beside the comparison's folder.

    Args:
        source: a recording of cameras in any layout.
        folder: of the comparison.
        resume: take what was converted before, unless the source has changed since.

    Returns:
        The bag, or a processed PhysTwin case.

    Raises:
        DataError: if nothing is there, or no recording of cameras.
    """
    from recon.importers import convert_episode, image_folder, phystwin_final
    from recon.reconstruct import is_episode

    if not source.exists() and not source.with_name(source.name + ".partial").is_dir():
        raise DataError("no such file or folder", where=str(source), expected="an episode")
    if needs_conversion(source):
        made = folder.with_name(f"{folder.name}.episode") / source.name
        changed_s = max(path.stat().st_mtime for path in source.rglob("*"))
        if resume and made.is_dir() and changed_s <= made.stat().st_mtime:
            return made
        shutil.rmtree(made, ignore_errors=True)
        made.parent.mkdir(parents=True, exist_ok=True)
        return convert_episode(source, made)
    plain = source.is_dir() and not phystwin_final.matches(source)
    if plain and any((source / name).is_file() for name in ("cameras.json", "cameras.yaml")):
        return image_folder.convert(source, folder)  # it matches not, and says what is wrong
    if not is_episode(source) or (plain and (source / "color").is_dir()):
        raise DataError(
            f"{source} is no recording of cameras",
            where="compare",
            expected=_EXPECTED,
            fix="of tracks, which have no images, reconstruct with one method after the other; for "
            "images, write cameras.json with K and T_world_cam of each camera, and fps "
            "(docs/capture.md, recon.importers.image_folder)",
        )
    return source


def perceived(source: Path, config: CompareConfig, progress: Progress) -> Perception:
    """What every contestant is told of the episode.

    Args:
        source: a bag or a processed PhysTwin case.
        config: of the comparison.
        progress: told how it goes.

    Returns:
        The perception; without depth that of `recon.perceive_video`.

    Raises:
        DataError: if the episode cannot be perceived, or what is given for recordings without depth
            is given for one with depth.
    """
    from recon.perception.perceive_config import PerceiveConfig
    from recon.perception.perceive_episode import cached_perception

    prompts = prompts_of(config.click, config.box)
    with progress.stage("perceive", 100) as tick:
        if not records_depth(source, calibration=config.calibration):
            if config.ground_m is None:
                warnings.warn(
                    "the recording has no depth, and no height of the ground is given (--ground): "
                    "nothing stops what falls",
                    PhysGymWarning,
                    stacklevel=2,
                )
            return cached_video_perception(
                source,
                ground_m=config.ground_m,
                kind=config.kind,
                prompts=prompts,
                calibration=config.calibration,
            )
        for flag, given in (("--ground", config.ground_m is not None), ("--box", bool(prompts))):
            if given:
                raise DataError(
                    f"{flag} for a recording with depth",
                    where=flag,
                    expected="nothing: depth tells where table and object are",
                    fix="leave it out; an object that is not found by itself needs recorded masks",
                )
        return cached_perception(
            source,
            PerceiveConfig(kind=config.kind),
            calibration=config.calibration,
            on_progress=lambda _, share: tick(round(100 * share), 0.0),
        )
