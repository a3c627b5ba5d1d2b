"""Who takes part in a comparison, and how many frames all of them learn from."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from physgym.errors import DataError
from recon.commands import train_share
from recon.compare.table import BASELINES
from recon.reconstruct import ReconstructConfig

__all__ = [
    "METHODS",
    "Contestant",
    "check_contestants",
    "contestants_of",
    "own_fields",
    "read_settings",
    "train_stop_of",
]

METHODS: tuple[str, ...] = get_args(get_type_hints(ReconstructConfig)["method"])
"""Names of the methods that `physgym reconstruct` knows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")
# What is the same for all, or belongs to the comparison itself.
_COMMON = {"method", "train_share", "resume", "calibration", "robot"}


@dataclass(frozen=True)
class Contestant:
    """One row of a comparison.

    Attributes:
        name: of the row, and of its folder.
        method: one of `METHODS`.
        options: fields of `recon.reconstruct.ReconstructConfig`, or of the method's own
            configuration, that differ from those of the comparison; JSON values.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def parted(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of the reconstruction, and of the method's own configuration.

        Returns:
            Both; lists are tuples, as JSON knows no tuples.

        Raises:
            DataError: if neither knows an option.
        """
        common = {one.name for one in dataclasses.fields(ReconstructConfig)} - _COMMON
        own = own_fields(self.method)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        for key in values:
            if key not in common | own:
                near = difflib.get_close_matches(key, common | own, n=2)
                raise DataError(
                    f"{self.method} has no option {key!r}",
                    where=f"contestant {self.name}",
                    expected=f"one of {', '.join(sorted(common | own))}",
                    fix=f"{' or '.join(near)}?" if near else "leave it out",
                )
        return (
            {k: v for k, v in values.items() if k in common},
            {k: v for k, v in values.items() if k not in common},
        )


def own_fields(method: str) -> set[str]:
    """Fields of a method's own configuration.

    Args:
        method: one of `METHODS`.

    Returns:
        Their names.
    """
    from recon.identify.episode_fit import EpisodeConfig
    from recon.identify.mosa_config import MosaConfig
    from recon.identify.spring_gaus_config import SpringGausConfig

    kinds: dict[str, Any] = {
        "phystwin": EpisodeConfig,
        "mosa": MosaConfig,
        "spring-gaus": SpringGausConfig,
    }
    return {one.name for one in dataclasses.fields(kinds[method])} - {"train_share"}


def contestants_of(
    methods: str, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Contestant]:
    """Contestants as they are typed.

    Args:
        methods: names of methods, separated by commas.
        settings: by method, its options.

    Returns:
        One of each, in that order, named as its method.

    Raises:
        DataError: if a name is unknown, comes twice, or there is none; or settings are of another
            method.
    """
    settings = settings or {}
    names = [name.strip() for name in methods.split(",") if name.strip()]
    made = [Contestant(name, name, settings.get(name, {})) for name in names]
    check_contestants(made)
    for name in settings:
        if name not in names:
            raise DataError(
                f"settings of {name!r}", where="--settings", expected=f"of {', '.join(names)}"
            )
    return made


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Options by method, from a file.

    Args:
        path: JSON, such as ``{"spring-gaus": {"anchors": 200}}``.

    Returns:
        What it holds; `contestants_of` checks the names.

    Raises:
        DataError: if it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{error}", where=f"--settings {path}", expected="a JSON file") from error
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise DataError(
            "not options by method",
            where=f"--settings {path}",
            expected='such as {"spring-gaus": {"anchors": 200}}',
        )
    return found


def check_contestants(contestants: Sequence[Contestant]) -> None:
    """Refuse what cannot be compared, before hours of work rather than after.

    Args:
        contestants: of one comparison.

    Raises:
        DataError: if there is none, or one has an unknown method, an unknown option, or a name that
            is taken or is no name.
    """
    if not contestants:
        raise DataError("no method", where="--methods", expected=", ".join(METHODS))
    taken: set[str] = set()
    for one in contestants:
        if one.method not in METHODS:
            near = difflib.get_close_matches(one.method, METHODS, n=2, cutoff=0.4)
            raise DataError(
                f"there is no method {one.method!r}",
                where="--methods",
                expected=", ".join(METHODS),
                fix=f"{' or '.join(near)}?" if near else "",
            )
        if one.name in taken:
            raise DataError(f"{one.name} comes twice", where="--methods", expected="each once")
        if one.name in BASELINES or not _NAME.fullmatch(one.name):
            raise DataError(
                f"a contestant named {one.name!r}",
                where="compare",
                expected="letters, digits, blanks, dots and dashes; not the name of a baseline",
            )
        taken.add(one.name)
        one.parted()


def train_stop_of(train: str, frames: int) -> int:
    """How many frames are learned from.

    Args:
        train: a number of frames, from 2 (Spring-Gaus learns from 20 of 30); or as
            ``physgym reconstruct --train`` has it: ``"auto"`` for 0.7, ``"all"``, a share.
        frames: T, of the episode.

    Returns:
        The first frame that is predicted; T where nothing is.

    Raises:
        DataError: if it is neither, or more frames than there are.
    """
    if train.isdigit() and int(train) > 1:
        count = int(train)
    else:
        count = max(3, round(train_share(train) * frames))
    if not 3 <= count <= frames:
        raise DataError(
            f"{count} frames to learn from",
            where=f"--train {train}",
            expected=f"3 to {frames}, the frames of the episode",
            fix=f"--train {round(0.7 * frames)}, or --train 0.7",
        )
    return count
