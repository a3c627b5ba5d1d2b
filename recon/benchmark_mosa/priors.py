"""Robustness to a wrong prior: every elastic law, alone and with what is learned on top of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recon.benchmark_mosa.generalisation import VARIANTS, fit_object, scored
from recon.benchmark_mosa.objects import object_named
from recon.benchmark_mosa.settings import Settings
from recon.identify.progress import Progress

__all__ = ["OWN_LAW", "try_priors"]

OWN_LAW = "neo-hookean"
"""Of the identification where nothing else is said; the truth is neo-Hookean with fibres."""


def try_priors(
    settings: Settings, folder: Path, progress: Progress, *, known: Path | None = None
) -> dict[str, Any]:
    """Learn an object with each law as its prior.

    Args:
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.
        known: folder of `generalise`, whose fits of the law `OWN_LAW` are the same.

    Returns:
        By object and law: ``rows`` (``isotropic`` and ``full`` -> drop -> score) and ``young_pa``
        of the isotropic fit.
    """
    made: dict[str, Any] = {}
    for name in settings.prior_objects:
        item = object_named(name)
        for law in settings.laws:
            at = known / name if known is not None and law == OWN_LAW else folder / name / law
            progress.say(f"{name}, prior {law}")
            changes = {} if law == OWN_LAW else {"prior": law}
            variants = {"full": VARIANTS["full"]}
            fits = fit_object(item, settings, at, progress, variants, **changes)
            rows = scored(item, fits, settings)
            made.setdefault(name, {})[law] = {
                "rows": {row: rows[row] for row in ("isotropic", "full")},
                "young_pa": float(fits["isotropic"].twin.parameters["young_pa"]),
                "seconds": {row: fit.seconds for row, fit in fits.items()},
            }
    return made
