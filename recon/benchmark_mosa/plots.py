"""Pictures of the benchmark, as PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from physgym.files import write_atomically

__all__ = ["plot_drops", "plot_moduli"]

_COLOUR = {
    "truth": "black", "isotropic": "tab:gray", "black box": "tab:green", "adapter": "tab:orange",
    "full": "tab:orange", "rigid": "tab:blue",
}  # fmt: skip
_DOTS_PER_INCH = 100


def plot_moduli(compression: dict[str, Any], path: Path) -> None:
    """Effective modulus over directions, polar, and the directional Jacobian beside the truth.

    Args:
        compression: of one truth, as `compress` returns it.
        path: of the picture.
    """
    angle = np.radians(compression["angle_deg"])
    both = np.concatenate([angle, angle + np.pi, angle[:1]])
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    polar = figure.add_subplot(1, 2, 1, projection="polar")
    for name, curve in compression["young_pa"].items():
        around = 1e-3 * np.concatenate([curve, curve, curve[:1]])
        style = {"lw": 2.5} if name == "truth" else {"lw": 1.5, "ls": "--"}
        polar.plot(both, around, label=name, color=_COLOUR[name], **style)
    polar.set_title("effective modulus [kPa] in the XY plane")
    polar.set_ylim(bottom=0.0)
    polar.legend(loc="lower left", bbox_to_anchor=(-0.25, -0.08), fontsize=8)
    flat = figure.add_subplot(1, 2, 2)
    degrees = np.asarray(compression["angle_deg"])
    for name, curve, colour in (
        ("modulus, truth", compression["young_pa"]["truth"], _COLOUR["truth"]),
        ("directional Jacobian, adapter", compression["jacobian"], _COLOUR["adapter"]),
    ):
        flat.plot(degrees, _normalised(np.asarray(curve)), label=name, color=colour)
    flat.set_xlabel("angle from x [degrees]")
    flat.set_title("mean removed, scaled to 1")
    flat.legend(fontsize=8)
    _write(figure, path)


def plot_drops(generalisation: dict[str, Any], path: Path) -> None:
    """Node error after contact, mean over test drops, of every variant of every object.

    Args:
        generalisation: as `generalise` returns it.
        path: of the picture.
    """
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    axes = figure.subplots(1, len(generalisation), squeeze=False)[0]
    for axis, (name, item) in zip(axes, generalisation.items()):
        means = {
            who: 1e3
            * float(
                np.mean([d["node_m_after_contact"] for k, d in row.items() if k != "train" and d])
            )
            for who, row in item["rows"].items()
        }
        # Bars of the trivial ones would leave no room for what is compared.
        trivial = ", ".join(f"{who} {means.pop(who):.0f}" for who in ("frozen", "rigid"))
        axis.barh(
            list(means), list(means.values()), color=[_COLOUR.get(w, "tab:red") for w in means]
        )
        axis.invert_yaxis()
        axis.set_title(f"{name} ({trivial})", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel("node error after contact, mean of the test drops [mm]", fontsize=9)
    _write(figure, path)


def _normalised(curve: np.ndarray) -> np.ndarray:
    free = curve - curve.mean()
    return np.asarray(free / max(float(np.abs(free).max()), 1e-12))


def _write(figure: Figure, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    write_atomically(path, stream.getvalue())
