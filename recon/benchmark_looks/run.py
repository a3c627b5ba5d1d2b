"""Runs the benchmark of looks; what is there already is not made again."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym import __version__
from physgym.errors import DataError
from physgym.files import check_writable, write_atomically
from physgym.twin import Twin
from recon.benchmark_folder import claim_folder
from recon.benchmark_looks.halves import half_ratio
from recon.benchmark_looks.objects import (
    HALF_FACTORS,
    OBJECTS,
    Setting,
    contestants_of_object,
    source_of,
)
from recon.capture.record import record
from recon.compare import CompareConfig, compare
from recon.compare.table import failures as failures_of
from recon.compare.table import header, shown_measures, table_rows
from recon.identify.progress import Progress, RichProgress
from recon.tracks import PhysGymWarning

__all__ = ["looks_markdown", "run_looks"]


def run_looks(
    folder: Path,
    json_path: Path | None = None,
    *,
    quick: bool = False,
    objects: Sequence[str] = OBJECTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Record every object and let every method learn and predict.

    Args:
        folder: where everything goes; what is there already is not made again.
        json_path: where the figures go; ``FOLDER/looks.json`` when None. The table goes to
            ``FOLDER/looks.md``.
        quick: small images, few frames, short searches. For a look, not for figures.
        objects: which, of `OBJECTS`.
        seed: of all random numbers.
        progress: told how it goes; a bar on stderr when None.

    Returns:
        The figures, as in the JSON: ``objects`` by name, each with ``record_s``, ``compare_s`` and
        ``compared``, as `recon.compare.compare` returns it; of ``halves`` also ``half_ratio``: the
        truth and what each contestant found.

    Raises:
        DataError: if the folder holds a run with other settings, or the JSON cannot be written.
        KeyboardInterrupt: at Ctrl-C, after what was done has been written.
    """
    progress, setting = progress or RichProgress(), Setting(quick, seed)
    out = json_path or folder / "looks.json"
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    check_writable(folder, f"--out {folder}")
    check_writable(out, f"--json {out}")
    folder.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, {"quick": quick, "seed": seed})
    result: dict[str, Any] = {
        "format": "physgym-looks",
        "version": 1,
        "physgym": __version__,
        "command": sys.argv[1:],
        "quick": quick,
        "seed": seed,
        "objects": {},
    }
    for name in objects:
        progress.say(f"{name}:")
        result["objects"][name] = _object(name, folder / name, setting, progress)
        # After each, so that a long run leaves what it has.
        write_atomically(out, json.dumps(result, indent=1, allow_nan=False).encode())
        write_atomically(folder / "looks.md", looks_markdown(result).encode())
        if result["objects"][name]["compared"]["stopped"]:
            raise KeyboardInterrupt
    progress.say(looks_markdown(result))
    return result


def _object(name: str, folder: Path, setting: Setting, progress: Progress) -> dict[str, Any]:
    began_s = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)  # that nothing drives what falls
        episode = _recorded(name, folder, setting)
        recorded_s = time.perf_counter() - began_s
        config = CompareConfig(
            train=str(setting.train),
            kind="volume",
            emd_points=setting.emd_points,
            seed=setting.seed,
            resume=True,
        )
        place = folder / "compared"
        contestants = contestants_of_object(name, setting)
        compared = compare(episode, contestants, place, config, progress=progress)
    found: dict[str, Any] = {
        "record_s": recorded_s,
        "compare_s": time.perf_counter() - began_s - recorded_s,
        "compared": compared,
    }
    if name == "halves":
        found["half_ratio"] = {
            "truth": HALF_FACTORS[1] / HALF_FACTORS[0],
            **{
                row["name"]: half_ratio(Twin.load(place / row["name"] / "twin"))
                for row in compared["contestants"]
                if row["status"] == "done"
            },
        }
    return found


def _recorded(name: str, folder: Path, setting: Setting) -> Path:
    """The episode, recorded unless it is there."""
    episode = folder / "episode"
    if (episode / "metadata.yaml").is_file():
        return episode
    # What is left of a recording that was cut off.
    for left in (episode, episode.with_name(episode.name + ".partial")):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    report = record(source_of(name, setting), episode)
    if report.losses:
        raise DataError("; ".join(report.losses), where=str(episode), expected="a whole recording")
    return episode


def looks_markdown(result: Mapping[str, Any]) -> str:
    """One table of all objects; the best of each part is bold.

    Args:
        result: as `run_looks` returns it.

    Returns:
        Markdown.
    """
    every = [entry["compared"] for entry in result["objects"].values()]
    keys = {key for one in every for key in shown_measures(one)}
    measures = [key for key in _order(every) if key in keys]
    titles = ["object", *header(measures)]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name, entry in result["objects"].items():
        for row in table_rows(entry["compared"], measures):
            figures = [f"**{t}**" if best else t for t, best in zip(row.figures, row.best)]
            cells = [name, row.part, row.who, *figures, row.seconds, row.memory]
            lines.append(f"| {' | '.join(cells)} |")
    if not measures:
        lines = []
    for name, entry in result["objects"].items():
        lines += [f"{name}, {who}: {why}" for who, why, _ in failures_of(entry["compared"])]
        ratios = entry.get("half_ratio", {})
        told = ", ".join(f"{who} {v:.2f}" for who, v in ratios.items() if v is not None)
        lines += ["", f"{name}: stiffness of the soft half over that of the stiff one: {told}."] * (
            1 if ratios else 0
        )
    return "\n".join([*lines, ""])


def _order(every: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(every[0]["measures"]) if every else []
