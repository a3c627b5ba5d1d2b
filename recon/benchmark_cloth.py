"""The benchmark of sheets: real clouds of lifts and folds, one trial fitted, another predicted.

Trials of one fabric and one action are repeats. A twin is made from the clouds of one and predicts
the other open loop from what is known beforehand: the sheet flat at the start, the commanded path
of the gripper, the table. No image, no cloud and no lag of the predicted trial is looked at.
Data: DiffCloud (Sundaresan, Antonova, Bohg, arXiv 2204.03139). Shapes: T frames, N nodes, M points.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from physgym.errors import BlowUpError, DataError
from physgym.files import write_atomically
from physgym.grip import simulate_gripped
from physgym.twin import Twin
from recon.clouds import PointClouds
from recon.identify.episode_fit import EpisodeConfig, identify_episode
from recon.identify.even_clock import even_clock
from recon.identify.handling import handling_of
from recon.identify.progress import Progress, RichProgress
from recon.importers import load_clouds
from recon.importers.cloth_perception import SheetMesh, clean_clouds, cloth_perception, sheet_mesh
from recon.npz import read_npz
from recon.tracks import PhysGymWarning

__all__ = [
    "DEFINITIONS",
    "Trial",
    "load_trial",
    "markdown",
    "predict_sheet",
    "run_cloth",
    "score_cloud",
    "score_sheet",
    "straight_sheet",
    "trial_pairs",
]

# Edges of the source's mesh (46 mm) are cut in three, so nodes lie 15 mm apart.
_PARTS, _QUICK_PARTS = 3, 2
# 0.077 m^2 of light cloth or paper at 0.2 kg/m^2; the source weighed nothing. Mass scales stiffness
# alone, no motion.
_MASS_KG = 0.015
# Frames with fewer cleaned points show no sheet; early ones are left out by cleaning.
_FEWEST_POINTS = 200
# The source's unit of length in metres, and how many points it samples.
_SOURCE_UNIT_M, _SOURCE_SAMPLES = 0.35, 3500
# Finer than 2 mm: the nearest sample is then nearly as near as the surface.
_SAMPLE_PARTS = 24

DEFINITIONS = {
    "observed_to_surface_m": "mean distance from the points of the scored frame, as recorded, to "
    "the predicted surface [m]",
    "observed_to_surface_all_m": "the same with cleaned clouds, mean over frames with at least "
    f"{_FEWEST_POINTS} points [m]",
    "source_measure": f"{_SOURCE_SAMPLES} points sampled on the predicted surface (fold: on the "
    "faces that the source scores) to the nearest observed point, squared, mean, in the source's "
    f"unit of {_SOURCE_UNIT_M} m, at the scored frame",
}
"""What the figures mean."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One recording with what scoring needs.

    Attributes:
        clouds: as recorded.
        cleaned: T clouds [m], each (M, 3).
        scored_frame: that the source scores.
        scored_faces: triangles of the source's mesh that it scores, shape (F,).
    """

    clouds: PointClouds
    cleaned: tuple[np.ndarray, ...]
    scored_frame: int
    scored_faces: np.ndarray

    @property
    def name(self) -> str:
        """Which trial."""
        return self.clouds.name


def run_cloth(
    data: Path, json_path: Path | None = None, *, quick: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Fit every trial, predict its repeat.

    Args:
        data: folder with ``ACTION_FABRIC.npz``, ``ACTION_FABRIC2.npz`` and ``ACTION_setup.npz``.
        json_path: where the figures go; nowhere when None.
        quick: coarser sheets, and only one of the two directions of every pair.
        seed: of all random numbers.

    Returns:
        The figures, as in the JSON: ``trials`` by name, each with ``fitted_on`` (the repeat),
        ``twin``, ``train`` (of the twin on the trial that it was fitted on), ``static``,
        ``straight`` and ``repeat``; see `DEFINITIONS`.

    Raises:
        DataError: if the folder holds no pair of trials, or the JSON cannot be written.
    """
    if json_path is not None:
        if json_path.is_dir():
            raise DataError("a folder", where=f"--json {json_path}", expected="the name of a file")
        json_path.parent.mkdir(parents=True, exist_ok=True)
    progress = RichProgress()
    result: dict[str, Any] = {
        "format": "physgym-cloth",
        "version": 1,
        "quick": quick,
        "seed": seed,
        "command": sys.argv[1:],
        "definitions": DEFINITIONS,
        "trials": {},
    }
    for pair in trial_pairs(data):
        first, second = (load_trial(path) for path in pair)
        directions = [(first, second)] if quick else [(first, second), (second, first)]
        for train, test in directions:
            progress.say(f"{train.name} fitted, {test.name} predicted")
            result["trials"][test.name] = _measure(train, test, quick, seed, progress)
            if json_path is not None:
                # After each, so that a long run leaves what it has.
                text = json.dumps(result, indent=1, allow_nan=False)
                write_atomically(json_path, text.encode())
    print(markdown(result))
    return result


def trial_pairs(data: Path) -> list[tuple[Path, Path]]:
    """Trials that have a repeat.

    Args:
        data: the folder.

    Returns:
        Pairs ``NAME.npz``, ``NAME2.npz`` in the order of names.

    Raises:
        DataError: if there are none.
    """
    pairs = [
        (path, path.with_name(f"{path.stem}2.npz"))
        for path in sorted(Path(data).glob("*.npz"))
        if path.with_name(f"{path.stem}2.npz").is_file()
    ]
    if not pairs:
        raise DataError(
            "no NAME.npz with a NAME2.npz beside it",
            where=str(data),
            expected="at least one pair of trials",
            fix="point --data at the folder of the clouds",
        )
    return pairs


def load_trial(path: Path) -> Trial:
    """Read a trial and what its setup says about scoring.

    Args:
        path: the trial's file.

    Returns:
        It.

    Raises:
        DataError: if a file cannot be used.
    """
    clouds = load_clouds(path)
    faces = len(sheet_mesh(clouds, 1).faces)
    where = path.with_name(f"{path.stem.partition('_')[0]}_setup.npz")
    setup = read_npz(where)
    frame = int(setup.get("scored_frame", clouds.frame_count - 1))
    scored = np.asarray(setup.get("faces_scored", np.arange(faces)), np.int64)
    if not 0 <= frame < clouds.frame_count or not set(scored.tolist()) <= set(range(faces)):
        raise DataError(
            f"frame {frame}, faces up to {scored.max(initial=-1)}",
            where=f"{where}: scored_frame, faces_scored",
            expected=f"one of {clouds.frame_count} frames and of {faces} faces",
        )
    return Trial(clouds, clean_clouds(clouds), frame, scored)


def predict_sheet(twin: Twin, clouds: PointClouds, parts: int) -> np.ndarray:
    """Simulate a trial from its start mesh and its commanded path alone.

    Args:
        twin: of a sheet with the same mesh.
        clouds: of the trial; its clouds are not looked at.
        parts: of every edge, as when the twin was made.

    Returns:
        Vertices of ``sheet_mesh(clouds, parts)`` [m], shape (T, N, 3).

    Raises:
        DataError: if the twin is of another sheet.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    start = cloth_perception(clouds, parts=parts).start_only()
    nodes = np.asarray(start.tracks.rest_position, np.float64)
    off = np.asarray(twin.rest_position, np.float64)
    if off.shape != nodes.shape or np.abs(off - nodes).max() > 1e-4:
        raise DataError(
            f"a twin of {len(off)} nodes", where=f"twin {twin.name}", expected="the trial's sheet"
        )
    clock = even_clock(start.time_s)
    grips, pushers, _ = handling_of(start, clock, nodes)
    moved = simulate_gripped(
        twin, grips, clock.dt_s, frames=clock.ticks, pushers=pushers, position=nodes
    )
    return clock.at_stamps(moved)


def straight_sheet(clouds: PointClouds, mesh: SheetMesh) -> np.ndarray:
    """A sheet without any physics: straight down from the gripper, what is left flat on the table.

    Args:
        clouds: whose commanded path is followed.
        mesh: of the sheet.

    Returns:
        [m], shape (T, N, 3).
    """
    corner = mesh.vertices[int(clouds.driven_vertex[0])]
    away = np.linalg.norm(mesh.vertices - corner, axis=1)
    along = (mesh.vertices[away.argmax()] - corner) / away.max()
    reach = (mesh.vertices - corner) @ along
    aside = mesh.vertices - corner - reach[:, None] * along
    table = float(clouds.table_z_m or 0.0)
    path = np.asarray(clouds.driven_path)
    high = np.maximum(path[:, 2] - table, 0.0)[:, None]
    made = path[:, None] + aside
    made[..., 2] -= np.minimum(reach, high)
    return np.asarray(made + np.maximum(reach - high, 0.0)[..., None] * along)


def score_sheet(
    trial: Trial, mesh: SheetMesh, moved: np.ndarray, *, seed: int = 0
) -> dict[str, float]:
    """A predicted motion against a trial; see `DEFINITIONS`.

    Args:
        trial: what was seen.
        mesh: whose faces and parents are used.
        moved: its vertices [m], shape (T, N, 3).
        seed: of the source's samples.

    Returns:
        ``observed_to_surface_m``, ``observed_to_surface_all_m``, ``source_measure``.
    """
    faces = mesh.faces
    dense = max(1, _SAMPLE_PARTS // round(np.sqrt(len(faces) / (mesh.parent.max() + 1))))
    weights = _lattice(dense)

    def gap(frame: int, cloud: np.ndarray) -> float:
        surface = np.einsum("kc,fcd->fkd", weights, moved[frame][faces]).reshape(-1, 3)
        return float(cKDTree(surface).query(cloud)[0].mean())

    shown = [t for t, cloud in enumerate(trial.cleaned) if len(cloud) >= _FEWEST_POINTS]
    scored = faces[np.isin(mesh.parent, trial.scored_faces)]
    seen = trial.clouds.clouds[trial.scored_frame]
    sampled = _sample(moved[trial.scored_frame][scored], _SOURCE_SAMPLES, seed)
    return {
        "observed_to_surface_m": gap(trial.scored_frame, seen),
        "observed_to_surface_all_m": float(np.mean([gap(t, trial.cleaned[t]) for t in shown])),
        "source_measure": _source_measure(sampled, seen),
    }


def score_cloud(trial: Trial, other: Trial) -> dict[str, float]:
    """A repeat of a trial as its prediction: what no twin of the fabric should be better than.

    Args:
        trial: what was seen.
        other: the repeat.

    Returns:
        As `score_sheet`, with the repeat's points for the surface. Clouds are partial, so the
        source's measure is not that of the fold's scored faces alone.
    """
    seen, guess = (t.clouds.clouds[t.scored_frame] for t in (trial, other))
    gaps = [
        cKDTree(b).query(a)[0].mean()
        for a, b in zip(trial.cleaned, other.cleaned)
        if min(len(a), len(b)) >= _FEWEST_POINTS
    ]
    return {
        "observed_to_surface_m": float(cKDTree(guess).query(seen)[0].mean()),
        "observed_to_surface_all_m": float(np.mean(gaps)),
        "source_measure": _source_measure(guess, seen),
    }


def markdown(result: dict[str, Any]) -> str:
    """The figures as a table for ``docs/benchmarks.md``.

    Args:
        result: as `run_cloth` returns it.

    Returns:
        Markdown: observed to predicted at the scored frame [mm] / mean over frames [mm] / the
        source's measure.
    """
    rows = ("twin", "static", "straight", "repeat", "train")
    lines = [
        f"| predicted | fitted on | {' | '.join(rows)} |",
        f"| --- | --- |{' --- |' * len(rows)}",
    ]
    for name, trial in result["trials"].items():
        cells = [_cell(trial[row]) for row in rows]
        lines.append(f"| {name} | {trial['fitted_on']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(score: dict[str, float] | None) -> str:
    if score is None:
        return "blew up"
    scored, every = score["observed_to_surface_m"], score["observed_to_surface_all_m"]
    return f"{1e3 * scored:.1f} / {1e3 * every:.1f} / {score['source_measure']:.4f}"


def _measure(
    train: Trial, test: Trial, quick: bool, seed: int, progress: Progress
) -> dict[str, Any]:
    parts = _QUICK_PARTS if quick else _PARTS
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhysGymWarning)
        config = EpisodeConfig(train_share=1.0, mass_kg=_MASS_KG, seed=seed)
        perception = cloth_perception(train.clouds, parts=parts)
        twin = identify_episode(perception, config, progress=progress)
    seconds = time.perf_counter() - began
    mesh = sheet_mesh(test.clouds, parts)
    static = np.broadcast_to(mesh.vertices, (test.clouds.frame_count, *mesh.vertices.shape))
    return {
        "fitted_on": train.name,
        "seconds": seconds,
        "nodes": len(mesh.vertices),
        "twin": _scored(twin, test, parts, seed),
        "train": _scored(twin, train, parts, seed),
        "static": score_sheet(test, mesh, static, seed=seed),
        "straight": score_sheet(test, mesh, straight_sheet(test.clouds, mesh), seed=seed),
        "repeat": score_cloud(test, train),
        "parameters": {k: float(v) for k, v in twin.parameters.items() if np.ndim(v) == 0},
    }


def _scored(twin: Twin, trial: Trial, parts: int, seed: int) -> dict[str, float] | None:
    try:
        moved = predict_sheet(twin, trial.clouds, parts)
    except BlowUpError:
        return None
    return score_sheet(trial, sheet_mesh(trial.clouds, parts), moved, seed=seed)


def _source_measure(points: np.ndarray, seen: np.ndarray) -> float:
    return float(np.square(cKDTree(seen).query(points)[0] / _SOURCE_UNIT_M).mean())


def _lattice(parts: int) -> np.ndarray:
    """Barycentric weights of evenly spread points of a triangle, shape (K, 3)."""
    pairs = [(i, j) for i in range(parts + 1) for j in range(parts + 1 - i)]
    return np.array([(parts - i - j, i, j) for i, j in pairs]) / parts


def _sample(triangles: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Points spread by chance and evenly over triangles (F, 3, 3), shape (count, 3)."""
    rng = np.random.default_rng([seed, 7])
    side = triangles[:, 1:] - triangles[:, :1]
    area = np.linalg.norm(np.cross(side[:, 0], side[:, 1]), axis=1)
    chosen = triangles[rng.choice(len(triangles), count, p=area / area.sum())]
    # Turk, "Generating random points in triangles", Graphics Gems, 1990.
    root, t = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    weights = np.concatenate([1.0 - root, root * (1.0 - t), root * t], axis=1)
    return np.asarray(np.einsum("kc,kcd->kd", weights, chosen))
