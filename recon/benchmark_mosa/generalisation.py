"""One drop learned, others predicted: the full model, the isotropic fit, and what parts are worth.

MoSA (2026), sections 4.2 and 4.3, on bodies whose truth a finite-element solver made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from physgym.cell.fem_scenes import BenchmarkObject
from physgym.errors import BlowUpError
from physgym.sim.mpm.directional import directional_response_of, fibonacci_directions
from physgym.twin import Twin
from recon.benchmark_mosa.fits import Fit, ballistic, fit_backbone, fit_residual, predict, score
from recon.benchmark_mosa.objects import object_named
from recon.benchmark_mosa.settings import Settings
from recon.identify.motion import Motion
from recon.identify.progress import Progress

__all__ = ["VARIANTS", "fit_object", "generalise", "isotropic_control", "mean_of_tests", "scored"]

_FPS = 60.0
_DIRECTIONS = 200  # as in the paper's Fig. 6

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no heterogeneity": {"heterogeneity": False},
    "no redistribution": {"adapter_maps": ("pre", "post")},
    "no pre": {"adapter_maps": ("redistribution", "post")},
    "no post": {"adapter_maps": ("pre", "redistribution")},
    "no adapter": {"adapter": False},
}
"""What is changed in `MosaConfig`; the last is not in the paper: the field alone."""


def generalise(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Learn every object from its training drop and predict its test drops.

    Args:
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.

    Returns:
        By object: ``rows`` (variant -> drop -> `score`), ``seconds`` by variant, ``kept`` (what the
        held-out frames left of the full model), ``beats_isotropic``.
    """
    return {name: _object(name, settings, folder / name, progress) for name in settings.objects}


def isotropic_control(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """The full model on a body that has neither fibres nor a gradient.

    Args:
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.

    Returns:
        As one object of `generalise`, and ``anisotropy``, ``largest`` of the directional Jacobian
        (0 for the identity) and ``modulus_spread`` (standard deviation over mean).
    """
    name = "plain"
    made = _object(name, settings, folder / name, progress, ablations=False)
    full = Twin.load(folder / name / "full" / "twin")
    response = directional_response_of(full, fibonacci_directions(_DIRECTIONS))
    return {
        **made,
        "anisotropy": response.anisotropy,
        "largest": float(np.abs(response.jacobian).max()),
        "modulus_spread": float(response.young_pa.std() / response.young_pa.mean()),
    }


def fit_object(
    item: BenchmarkObject,
    settings: Settings,
    folder: Path,
    progress: Progress,
    variants: dict[str, dict[str, Any]],
    **changes: Any,
) -> dict[str, Fit]:
    """Identify an object from its training drop.

    Args:
        item: the object.
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.
        variants: what is changed in `MosaConfig` for each.
        **changes: of all variants.

    Returns:
        By variant, first ``"isotropic"``: the backbone that all others begin with.
    """
    motion = Motion.from_recording(item.record(item.train, frames=settings.frames, fps=_FPS))
    config = settings.config(**changes)
    progress.say(f"{item.name}: isotropic")
    backbone = fit_backbone([motion], config, folder / "isotropic", progress)
    fits = {"isotropic": backbone}
    for name, change in variants.items():
        progress.say(f"{item.name}: {name}")
        fits[name] = fit_residual(
            [motion],
            settings.config(**{**changes, **change}),
            folder / name.replace(" ", "_"),
            progress,
            backbone=backbone,
        )
    return fits


def scored(
    item: BenchmarkObject, fits: dict[str, Fit], settings: Settings
) -> dict[str, dict[str, Any]]:
    """Scores of all twins and of the trivial predictions on all drops.

    Args:
        item: the object.
        fits: by variant.
        settings: sizes.

    Returns:
        By row (``frozen``, ``rigid``, variants) and drop (``train``, ``test 1`` ...): as `score`,
        or None where the simulation left the finite numbers.
    """
    drops = {"train": item.train}
    drops |= {f"test {i + 1}": setup for i, setup in enumerate(item.tests)}
    rows: dict[str, dict[str, Any]] = {}
    for drop, setup in drops.items():
        recording = item.record(setup, frames=settings.frames, fps=_FPS)
        still = np.broadcast_to(recording.points[0], recording.points.shape)
        for row, guess in (("frozen", still), ("rigid", ballistic(recording))):
            rows.setdefault(row, {})[drop] = score(guess, recording)
        for row, fit in fits.items():
            try:
                found: dict[str, float] | None = score(predict(fit.twin, recording), recording)
            except BlowUpError:
                found = None
            rows.setdefault(row, {})[drop] = found
    return rows


def mean_of_tests(row: dict[str, Any], key: str = "node_m_after_contact") -> float:
    """Mean of a figure over the drops that were only predicted.

    Args:
        row: by drop.
        key: of `score`.

    Returns:
        [m]; infinite where one could not be simulated.
    """
    tests = [value for drop, value in row.items() if drop != "train"]
    return float(np.mean([np.inf if value is None else value[key] for value in tests]))


def _object(
    name: str, settings: Settings, folder: Path, progress: Progress, *, ablations: bool = True
) -> dict[str, Any]:
    item = object_named(name)
    wanted = VARIANTS if ablations and settings.ablations else {"full": VARIANTS["full"]}
    fits = fit_object(item, settings, folder, progress, wanted)
    rows = scored(item, fits, settings)
    full = fits["full"].twin.provenance
    return {
        "rows": rows,
        "seconds": {row: fit.seconds for row, fit in fits.items()},
        "kept": {"adapter": full["adapter"], "heterogeneity": full["heterogeneity"]},
        "held_out_loss": full["held_out_loss"],
        "young_pa": {
            row: float(np.mean(fit.twin.parameters["young_pa"])) for row, fit in fits.items()
        },
        "truth": {
            "young_pa": item.material.young_pa,
            "fibre_modulus_pa": item.material.fibre_modulus_pa,
        },
        "beats_isotropic": mean_of_tests(rows["full"]) < mean_of_tests(rows["isotropic"]),
    }
