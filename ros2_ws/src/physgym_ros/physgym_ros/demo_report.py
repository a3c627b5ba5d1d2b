"""The demo's report: what came out, in the order in which a reader asks.

Shapes: T frames, N nodes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physgym import __version__
from physgym.cell import CellConfig
from physgym.report import Figure, Report, Section, Table, Text, Video, write_video
from physgym.twin import Twin
from physgym_ros import demo_pictures as pictures
from physgym_ros.demo_run import SUCCESS_M, Run

__all__ = ["Held", "Outcome", "write_report"]

_MEANING = {
    "bending_damping_s": "internal damping of bending (time constant)",
    "bending_stiffness_nm2": "bending stiffness EI",
    "drag_per_s": "linear air drag over mass",
    "drag_quadratic_per_m": "quadratic air drag over mass",
    "end_roll_rad": "roll of one clamp against the other",
    "friction_ratio": "internal friction over EI",
    "friction_yield_rad": "angle at which internal friction slips",
    "linear_density_kg_per_m": "mass per length (sets the scale, not measured)",
    "natural_curvature_rad": "turning angle at rest",
    "rest_length_m": "edge lengths at rest",
    "stretch_damping_s": "damping of stretch (time constant)",
    "stretch_stiffness_n": "stretch stiffness EA",
    "twist_stiffness_nm2": "twist stiffness GJ",
}


@dataclass(frozen=True, eq=False)
class Held:
    """One recording that the twin has not seen.

    Attributes:
        name: which.
        time_s: since the last given frame [s], shape (T,).
        truth: recorded nodes [m], shape (T, N, 3).
        predicted: the twin's nodes [m], shape (T, N, 3).
        errors_m: mean error of the free nodes at each frame by method, the twin first.
    """

    name: str
    time_s: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    errors_m: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that the report tells.

    Attributes:
        twin: the twin.
        story: where the recordings come from.
        train_names: recordings that the twin was made from.
        held: recordings that it was measured on.
        fit_s: wall time of the reconstruction.
        cell: the cell that the plan ran in.
        own_source: whether the recordings are the user's own.
        run: the run.
        goal: goal nodes [m], shape (N, 3).
        overlay: times of the run, and recorded and predicted nodes, shape (2, T, N, 3).
    """

    twin: Twin
    story: str
    train_names: list[str]
    held: list[Held]
    fit_s: float
    cell: CellConfig
    own_source: bool
    run: Run
    goal: np.ndarray
    overlay: tuple[np.ndarray, np.ndarray]


def write_report(outcome: Outcome, folder: Path, *, started_s: float) -> Path:
    """Write ``report.html`` and ``demo.mp4``.

    Args:
        outcome: what to tell.
        folder: the run folder.
        started_s: when the demo began, on the monotonic clock.

    Returns:
        The report's path, absolute.
    """
    clips = [_run_clip(outcome), _held_clip(outcome.held[0])]
    video = write_video(
        pictures.video_frames(clips), folder / "demo.mp4", rate_hz=pictures.VIDEO_HZ
    )
    scores = _mean_errors(outcome.held)
    final_mm = 1e3 * _final_m(outcome)
    start = outcome.run.distance_m(outcome.goal)[0]
    best_name = min((name for name in scores if name != "twin"), key=lambda name: scores[name])
    report = Report(
        title="A cable, its twin, and a robot that shapes it",
        verdict=(
            f"Goal {'reached' if outcome.run.reached else 'NOT reached'}: the cable ended "
            f"{final_mm:.1f} mm from the goal shape on average; it began {1e3 * start:.0f} mm away."
        ),
        mood="good" if outcome.run.reached else "bad",
        facts=[
            ("from the goal, mean", f"{final_mm:.1f} mm"),
            ("twin's error, unseen recordings", f"{1e3 * scores['twin']:.1f} mm"),
            (f"best baseline ({best_name})", f"{1e3 * scores[best_name]:.1f} mm"),
            ("reconstruction", f"{outcome.fit_s:.0f} s"),
            ("whole demo", f"{time.monotonic() - started_s:.0f} s"),
        ],
        hero=[
            Video(
                video.read_bytes(),
                "First the run in the cell, then a recording that the twin has not seen. Red: the "
                "cable. Blue: the twin's open-loop prediction from the start. Green: the goal.",
            )
        ],
        sections=[
            _run_section(outcome),
            _held_section(outcome.held, scores),
            _parameter_section(outcome),
            _honesty_section(outcome, rendered=clips[0].pictures is not None),
        ],
        footer=f"PhysGym {__version__}; twin {outcome.twin.content_hash()[:16]}",
    )
    return report.write(folder / "report.html").resolve()


def _final_m(outcome: Outcome) -> float:
    """Distance over the last half second: one frame would carry the marker noise."""
    late = outcome.run.time_s > outcome.run.time_s[-1] - 0.5
    return float(outcome.run.distance_m(outcome.goal)[late].mean())


def _mean_errors(held: list[Held]) -> dict[str, float]:
    return {
        name: float(np.mean([np.nanmean(one.errors_m[name][2:]) for one in held]))
        for name in held[0].errors_m
    }


def _run_clip(outcome: Outcome) -> pictures.Clip:
    time_s, (seen, twin) = outcome.overlay
    joints = outcome.run.joint_position
    at = np.stack([np.interp(time_s, outcome.run.joint_time_s, column) for column in joints.T], 1)
    distance = np.linalg.norm(seen - outcome.goal, axis=2).mean(axis=1)
    return pictures.Clip(
        title="Running the plan",
        time_s=time_s,
        lines=[
            (pictures.GOAL, "goal", outcome.goal),
            (pictures.TWIN, "twin", twin),
            (pictures.CABLE, "cable", seen),
        ],
        note=[f"{t:.1f} s   {1e3 * d:.0f} mm from the goal" for t, d in zip(time_s, distance)],
        pictures=pictures.render_joints(outcome.cell, at, rate_hz=pictures.VIDEO_HZ),
    )


def _held_clip(held: Held) -> pictures.Clip:
    step = max(1, round(1.0 / pictures.VIDEO_HZ / float(np.median(np.diff(held.time_s)))))
    keep = slice(1, None, step)
    error = held.errors_m["twin"][keep]
    time_s = held.time_s[keep]
    return pictures.Clip(
        title="A recording not seen before",
        time_s=time_s,
        lines=[
            (pictures.TWIN, "twin", held.predicted[keep]),
            (pictures.CABLE, "recorded", held.truth[keep]),
        ],
        note=[f"{t:.1f} s   twin {1e3 * e:.0f} mm off" for t, e in zip(time_s, error)],
    )


def _run_section(outcome: Outcome) -> Section:
    run = outcome.run
    seen, twin = outcome.overlay[1]
    gap_mm = 1e3 * float(np.linalg.norm(seen - twin, axis=2).mean())
    names = {
        "plan_s": "wall time of the last plan [s]",
        "rollouts": "simulated motions per plan",
        "overruns": "plans that came late",
        "clamped": "commands changed by the safety filter",
        "passed": "commands passed unchanged",
        "blow_ups": "times the twin could not be simulated",
    }
    rows = [[text, run.figures[key]] for key, text in names.items() if key in run.figures]
    rows.append(["twin against cell along the whole run, open loop, mean [mm]", f"{gap_mm:.1f}"])
    late = run.time_s > run.time_s[-1] - 0.5
    first = int(np.argmax(run.time_s > 0.0))
    return Section(
        "Planned on the twin, run in the cell",
        [
            Text(
                "The goal was shown: the cell's own cable was moved there once and its shape "
                "noted down. Then model-predictive control on the twin drove the cell through "
                f"{run.how}. It counts as reached below {1e3 * SUCCESS_M:.0f} mm mean distance, "
                "held for half a second."
            ),
            Figure.from_plot(
                pictures.result_plot(run.nodes[first], outcome.goal, run.nodes[late].mean(axis=0)),
                "Start, goal, and what was reached.",
            ),
            Figure.from_plot(
                pictures.run_plot(
                    run.time_s,
                    run.distance_m(outcome.goal),
                    run.joint_time_s,
                    run.joint_speed,
                    bar_m=SUCCESS_M,
                ),
                "What the cell published while it was driven.",
            ),
            Table(["run", "value"], rows),
        ],
    )


def _held_section(held: list[Held], scores: Mapping[str, float]) -> Section:
    shortest = min(len(one.time_s) for one in held)
    mean = {
        name: np.nanmean([one.errors_m[name][2:shortest] for one in held], axis=0)
        for name in held[0].errors_m
    }
    header = ["method", "mean [mm]", *(one.name for one in held)]
    rows: list[list[str | float]] = [
        [
            name,
            1e3 * scores[name],
            *(1e3 * float(np.nanmean(one.errors_m[name][2:])) for one in held),
        ]
        for name in sorted(scores, key=lambda name: scores[name])
    ]
    return Section(
        "How far to trust the twin",
        [
            Text(
                "Each recording below was kept from the reconstruction. From its first two frames "
                "and the motion of the grippers alone, the whole rest is predicted; the error is "
                "the mean distance of the nodes between the grippers."
            ),
            Figure.from_plot(
                pictures.horizon_plot(held[0].time_s[2:shortest], mean),
                "Error over the horizon, mean over the recordings.",
            ),
            Table(header, rows, "Mean error of the free nodes by recording [mm]."),
        ],
    )


def _parameter_section(outcome: Outcome) -> Section:
    rows = []
    for name, value in sorted(outcome.twin.parameters.items()):
        if name.startswith("clamp_") or name == "gravity_m_per_s2":
            continue  # frames of reference, not properties of the cable
        sigma = outcome.twin.uncertainty.get(name)
        spread = "not given" if sigma is None else _number(np.asarray(sigma), mean=True)
        rows.append([name, _MEANING.get(name, ""), _number(np.asarray(value)), spread])
    return Section(
        "What the twin is made of",
        [
            Text(
                f"Method {outcome.twin.method}, dynamics {outcome.twin.dynamics}, "
                f"{outcome.twin.node_count} nodes, from {', '.join(outcome.train_names)}. "
                "SI units; the last part of a name is the unit. Where a parameter has one value "
                "per node, its range is shown."
            ),
            *_against_truth(outcome),
            Table(["parameter", "meaning", "value", "one standard deviation"], rows),
        ],
    )


def _against_truth(outcome: Outcome) -> list[Text]:
    """The one number that can be compared: only ratios to mass show in a motion."""
    parameters = outcome.twin.parameters
    named = ("bending_stiffness_nm2", "linear_density_kg_per_m")
    if outcome.own_source or not all(name in parameters for name in named):
        return []
    stiffness, density = (float(np.mean(parameters[name])) for name in named)
    cell = outcome.cell
    true = cell.bending_modulus_pa * np.pi * cell.radius_m**4 / 4 / (cell.mass_kg / cell.length_m)
    return [
        Text(
            "Only ratios to mass show in a motion. Bending stiffness over mass per length: "
            f"{stiffness / density:.4f} m^4/s^2 in the twin (mean over its nodes), {true:.4f} in "
            "the cell that it never saw the inside of."
        )
    ]


def _number(value: np.ndarray, *, mean: bool = False) -> str:
    if value.size == 1:
        return f"{float(value.ravel()[0]):.4g}"
    if mean:
        return f"{float(value.mean()):.3g} (mean)"
    return f"{float(value.min()):.4g} to {float(value.max()):.4g}"


def _honesty_section(outcome: Outcome, *, rendered: bool) -> Section:
    cell = outcome.cell
    if outcome.own_source:
        made = (
            "The recordings are your own. No robot was moved: the plan ran in the simulated cell, "
            f"which held a cable of the same length ({cell.length_m:.2f} m), with mass and "
            "stiffness taken from the twin and the stiffness then raised by a quarter, so that "
            "the twin is not exactly right. Its markers are spaced evenly, and its grippers do not "
            "turn."
        )
    else:
        made = (
            "Everything here was made in simulation: the recordings, the robot and the cable. "
            "The cell (MuJoCo, rigid segments with hinges) and the twin (another kind of model, "
            "another integrator) share no code, and the twin was made from markers alone."
        )
    shown = (
        "The pictures of the cell are rendered afterwards: a second cell moved its gantries as "
        "the first one published. The lines are what was published."
        if rendered
        else "There is no off-screen OpenGL on this machine, so the video shows lines only: they "
        "are what the cell published."
    )
    return Section(
        "What was simulated",
        [
            Text(outcome.story),
            Text(made),
            Text(shown),
        ],
    )
