"""Young's modulus over the directions of a plane: truth, isotropic fit, black box, adapter.

MoSA (2026), App. A and Fig. 8. Shapes: A directions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from physgym.cell.fem_material import effective_modulus as true_modulus
from physgym.sim.mpm import directional
from physgym.sim.mpm.black_box import BlackBoxStress
from physgym.sim.mpm.directional import directional_response_of
from recon.benchmark_mosa.black_box import fit_black_box
from recon.benchmark_mosa.cylinder import MATERIAL, Truth, pressed_motions
from recon.benchmark_mosa.fits import fit_backbone, fit_residual
from recon.benchmark_mosa.settings import Settings
from recon.identify.progress import Progress

__all__ = ["angles_deg", "compare_curves", "compress"]

_STEP_DEG = 5.0  # as in the notes (G13)


def compress(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Identify the pressed cylinder three ways and compare the moduli in its XY plane.

    Args:
        settings: sizes.
        folder: where fits are kept.
        progress: told how it goes.

    Returns:
        By what made the truth: ``angle_deg``; ``young_pa``: ``truth``, ``isotropic``,
        ``black box``, ``adapter``, each of shape (A,); ``jacobian`` of the adapter; ``compared`` by
        curve, see `compare_curves`; ``seconds``; ``held_out_loss``.
    """
    return {
        truth: _cylinder(truth, settings, folder / truth.replace(" ", "_"), progress)
        for truth in settings.truths
    }


def _cylinder(truth: Truth, settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    motions = pressed_motions(truth, settings.cell_m, settings.cylinder_particles)
    config = settings.config(
        heterogeneity=False,
        particles=settings.cylinder_particles,
        budget=settings.cylinder_budget,
    )
    progress.say(f"cylinder by {truth}: isotropic")
    isotropic = fit_backbone(motions, config, folder / "isotropic", progress)
    progress.say(f"cylinder by {truth}: adapter")
    adapter = fit_residual(motions, config, folder / "adapter", progress, backbone=isotropic)
    progress.say(f"cylinder by {truth}: black box")
    box = fit_black_box(motions, isotropic.twin, settings, folder / "black_box", progress)
    plane = directions(angles_deg())
    response = directional_response_of(adapter.twin, plane)
    curves = {
        "truth": true_modulus(MATERIAL, plane),
        "isotropic": directional_response_of(isotropic.twin, plane).young_pa,
        "black box": _modulus_of(box.network, plane),
        "adapter": response.young_pa,
    }
    return {
        "angle_deg": angles_deg().tolist(),
        "young_pa": {name: curve.tolist() for name, curve in curves.items()},
        "jacobian": response.jacobian.tolist(),
        "compared": {
            name: compare_curves(curve, curves["truth"])
            for name, curve in curves.items()
            if name != "truth"
        },
        "jacobian_correlation": _correlation(response.jacobian, curves["truth"]),
        "seconds": {
            "isotropic": isotropic.seconds, "adapter": adapter.seconds, "black box": box.seconds,
        },
        "held_out_loss": {
            **adapter.twin.provenance["held_out_loss"], "black box": box.held_out_loss,
        },
    }  # fmt: skip


def angles_deg() -> np.ndarray:
    """From the x axis, half a turn: n and -n have one modulus."""
    return np.arange(0.0, 180.0, _STEP_DEG)


def directions(angle_deg: np.ndarray) -> np.ndarray:
    """Unit vectors in the XY plane, shape (A, 3)."""
    angle = np.radians(angle_deg)
    return np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)


def compare_curves(curve: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far a curve of moduli is from the truth.

    Args:
        curve: [Pa], shape (A,).
        truth: [Pa], shape (A,).

    Returns:
        ``mean_error`` and ``largest_error`` (relative, absolute values); the same after both curves
        are divided by their means (``shape_...``); ``spread`` (largest over smallest, 1 is flat);
        ``correlation`` (Pearson; 0 for a flat curve).
    """
    error = np.abs(curve / truth - 1.0)
    shape = np.abs(curve / curve.mean() * truth.mean() / truth - 1.0)
    return {
        "mean_error": float(error.mean()),
        "largest_error": float(error.max()),
        "shape_mean_error": float(shape.mean()),
        "shape_largest_error": float(shape.max()),
        "spread": float(curve.max() / curve.min()),
        "correlation": _correlation(curve, truth),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) <= 1e-9 * max(float(np.abs(a).max()), 1e-12):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _modulus_of(network: BlackBoxStress, plane: np.ndarray) -> np.ndarray:
    double = network.double()

    def stress_of(f: torch.Tensor) -> torch.Tensor:
        return double.stress(f, f)

    return directional.effective_modulus(stress_of, plane)
