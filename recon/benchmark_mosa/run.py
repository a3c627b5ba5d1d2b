"""The parts of the benchmark in their order, each kept once it is done."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from physgym.errors import DataError
from physgym.files import write_atomically
from recon.benchmark_folder import claim_folder, machine
from recon.benchmark_mosa.compression import compress
from recon.benchmark_mosa.generalisation import generalise, isotropic_control
from recon.benchmark_mosa.plots import plot_drops, plot_moduli
from recon.benchmark_mosa.presets import recover
from recon.benchmark_mosa.priors import try_priors
from recon.benchmark_mosa.settings import FULL, QUICK, Settings
from recon.benchmark_mosa.tables import markdown
from recon.identify.progress import Progress, RichProgress
from recon.tracks import PhysGymWarning

__all__ = ["DEFINITIONS", "PARTS", "run_mosa"]

PARTS = ("generalisation", "isotropic", "compression", "presets", "priors")
"""In the order in which they are run."""

DEFINITIONS = {
    "node_m": "mean distance of predicted and true nodes, all nodes and frames [m]",
    "chamfer_m": "half the sum of both mean nearest distances of surface nodes, all frames [m]",
    "..._after_contact": "the same over the frames from the first contact on",
    "beats_isotropic": "mean node_m_after_contact of the test drops below the isotropic fit's",
    "young_pa": "of the compression: 1 / (q^T C^-1 q) at rest, absolute, no force was used [Pa]",
    "anisotropy": "standard deviation over 200 directions of (n n) : (K - I) : (n n) at rest",
    "seconds": "wall time of a fit; variants begin with the isotropic fit and do not include it",
}
"""What the figures mean."""


def run_mosa(
    folder: Path,
    json_path: Path | None = None,
    *,
    quick: bool = False,
    parts: Sequence[str] = PARTS,
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the parts that are not there yet.

    Args:
        folder: where everything goes; what is there already is not made again.
        json_path: where the figures go; ``FOLDER/mosa.json`` when None.
        quick: small bodies, few variants. For a look, not for figures.
        parts: some of `PARTS`.
        seed: of all random numbers.
        settings: in place of those of ``quick`` and ``seed``.
        progress: told how it goes; a bar on stderr when None.

    Returns:
        The figures, as in the JSON: ``parts`` by name, ``seconds`` by part, ``definitions``.

    Raises:
        DataError: if a part is unknown, the folder holds a run with other settings, or the JSON
            cannot be written.
    """
    out = json_path or folder / "mosa.json"
    if out.is_dir():
        raise DataError("a folder", where=f"--json {out}", expected="the name of a file")
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise DataError(f"part {unknown[0]!r}", where="--part", expected=", ".join(PARTS))
    settings = settings or dataclasses.replace(QUICK if quick else FULL, seed=seed)
    progress = progress or RichProgress()
    folder.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, dataclasses.asdict(settings))
    result: dict[str, Any] = {
        "format": "physgym-mosa",
        "version": 1,
        "settings": dataclasses.asdict(settings),
        "command": sys.argv[1:],
        "machine": machine(),
        "definitions": DEFINITIONS,
        "parts": {},
        "seconds": {},
    }
    for name in PARTS:
        kept = folder / name / f"{name}.json"
        if name in parts and not kept.is_file():
            _make(name, settings, folder, kept, progress)
        if kept.is_file():
            found = json.loads(kept.read_text())
            result["parts"][name] = found["figures"]
            result["seconds"][name] = found["seconds"]
            # After each, so that a long run leaves what it has.
            write_atomically(out, json.dumps(result, indent=1).encode())
            write_atomically(folder / "mosa.md", markdown(result).encode())
    for truth, curves in result["parts"].get("compression", {}).items():
        plot_moduli(curves, folder / f"mosa_moduli_{truth.replace(' ', '_')}.png")
    if "generalisation" in result["parts"]:
        plot_drops(result["parts"]["generalisation"], folder / "mosa_drops.png")
    progress.say(markdown(result))
    return result


def _make(name: str, settings: Settings, folder: Path, kept: Path, progress: Progress) -> None:
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "generalisation": lambda: generalise(settings, folder / name, progress),
        "isotropic": lambda: isotropic_control(settings, folder / name, progress),
        "compression": lambda: compress(settings, folder / name, progress),
        "presets": lambda: recover(settings, folder / name, progress),
        "priors": lambda: try_priors(
            settings, folder / name, progress, known=folder / "generalisation"
        ),
    }
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        figures = work[name]()
    noted = {"figures": figures, "seconds": time.perf_counter() - start}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, json.dumps(noted, indent=1).encode())
