"""The figures as Markdown for ``docs/benchmarks.md``."""

from __future__ import annotations

from typing import Any

from recon.benchmark_mosa.generalisation import mean_of_tests

__all__ = ["markdown"]


def markdown(result: dict[str, Any]) -> str:
    """All parts that were run.

    Args:
        result: as `run_mosa` returns it.

    Returns:
        Markdown; lengths in millimetres.
    """
    parts = result["parts"]
    lines: list[str] = []
    if "compression" in parts:
        for truth, part in parts["compression"].items():
            lines += [f"Pressed cylinder, truth by {truth}:", "", *_compression(part), ""]
    if "generalisation" in parts:
        for name, item in parts["generalisation"].items():
            lines += [f"{name}, node / Chamfer error after contact [mm]:", "", *_rows(item), ""]
    if "isotropic" in parts:
        lines += ["Isotropic truth:", "", *_control(parts["isotropic"]), ""]
    if "presets" in parts:
        lines += ["Presets:", "", *_presets(parts["presets"]), ""]
    if "priors" in parts:
        lines += ["Priors, mean node error of the test drops after contact [mm]:", ""]
        lines += [*_priors(parts["priors"]), ""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    every = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in every]


def _compression(part: dict[str, Any]) -> list[str]:
    header = [
        "curve", "mean error", "largest error", "shape: mean", "shape: largest", "max / min",
        "correlation", "s",
    ]  # fmt: skip
    truth = part["young_pa"]["truth"]
    rows = [["truth", "-", "-", "-", "-", f"{max(truth) / min(truth):.2f}", "1", "-"]]
    for name, c in part["compared"].items():
        errors = ("mean_error", "largest_error", "shape_mean_error", "shape_largest_error")
        rows.append(
            [name, *(f"{100 * c[key]:.1f} %" for key in errors), f"{c['spread']:.2f}",
             f"{c['correlation']:.3f}", f"{part['seconds'][name]:.0f}"]
        )  # fmt: skip
    return _table(header, rows)


def _rows(item: dict[str, Any]) -> list[str]:
    drops = list(next(iter(item["rows"].values())))
    rows = []
    for name, row in item["rows"].items():
        cells = [
            "blew up"
            if row[d] is None
            else f"{_mm(row[d]['node_m_after_contact'])} / {_mm(row[d]['chamfer_m_after_contact'])}"
            for d in drops
        ]
        seconds = item["seconds"].get(name)
        took = "-" if seconds is None else f"{seconds:.0f}"
        rows.append([name, *cells, _mm(mean_of_tests(row)), took])
    return _table(["prediction", *drops, "tests, node", "s"], rows)


def _control(item: dict[str, Any]) -> list[str]:
    kept = ", ".join(part for part, kept in item["kept"].items() if kept) or "nothing"
    return [
        *_rows(item),
        "",
        f"Directional Jacobian: standard deviation {item['anisotropy']:.4f}, largest "
        f"{item['largest']:.4f}; modulus over directions: {100 * item['modulus_spread']:.2f} % "
        f"(standard deviation); kept by the held-out frames: {kept}.",
    ]


def _presets(part: dict[str, Any]) -> list[str]:
    grids = list(next(iter(part.values())))
    rows = []
    for name, by_grid in part.items():
        first = by_grid[grids[0]]
        title = name + ("" if first["verified"] else " (truth from memory)")
        for key, value in first["parameters"].items():
            cells = []
            for grid in grids:
                found = by_grid[grid]["parameters"][key]
                error = found["error"]
                ratio = key not in ("poisson_ratio", "friction_angle_rad")
                shown = f"{100 * error:+.1f} %" if ratio else f"{error:+.3f}"
                cells += [f"{found['found']:.4g}", shown]
            rows.append([title, key, f"{value['truth']:.4g}", *cells])
    titles = [cell for grid in grids for cell in (f"found, {grid}", "error")]
    return _table(["preset", "parameter", "truth", *titles], rows)


def _priors(part: dict[str, Any]) -> list[str]:
    rows = []
    for name, laws in part.items():
        for law, item in laws.items():
            cells = [_mm(mean_of_tests(item["rows"][row])) for row in ("isotropic", "full")]
            rows.append([name, law, *cells])
    return _table(["object", "prior", "isotropic", "with adapter and field"], rows)


def _mm(metres: float) -> str:
    return f"{1e3 * metres:.2f}" if metres < 1e3 else "blew up"
