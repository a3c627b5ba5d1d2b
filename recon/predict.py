"""Open-loop prediction: what a twin says about a recording from its start and its driven points.

Shapes: T frames, N nodes, K driven points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from physgym.errors import DataError
from physgym.residual import apply_residual
from physgym.sim.build import build_solver
from physgym.twin import Twin
from recon.predict_mpm import predict_mpm
from recon.tracks import Tracks

__all__ = ["predict"]

_LENGTH_SHARE = 0.25


def predict(
    twin: Twin,
    recordings: list[Tracks],
    *,
    residual: bool = True,
    substeps_per_frame: int | None = None,
) -> list[np.ndarray]:
    """Simulate recordings from their first two frames and their driven points alone.

    Args:
        twin: the twin; of a continuum (``mpm``) see `recon.predict_mpm.predict_mpm`.
        recordings: tracks of the same object.
        residual: add the twin's learned residual where it has one.
        substeps_per_frame: override of the stability limit.

    Returns:
        For each recording [m], shape (T, N, 3); the first two frames as given (of a continuum, the
        first).

    Raises:
        DataError: if a recording does not fit the twin or a point is missing in its first frames.
        BlowUpError: if the simulation leaves the finite numbers.
    """
    if twin.dynamics == "mpm":
        return [predict_mpm(twin, tracks, adapted=residual)[0] for tracks in recordings]
    for tracks in recordings:
        _check_fits(twin, tracks)
    results: list[np.ndarray | None] = [None] * len(recordings)
    groups: dict[tuple[int, float], list[int]] = {}
    for i, tracks in enumerate(recordings):
        groups.setdefault((tracks.frame_count, tracks.dt_s), []).append(i)
    options: dict[str, Any] = (
        {} if substeps_per_frame is None else {"substeps_per_frame": substeps_per_frame}
    )
    for (_, dt_s), members in groups.items():
        start = np.stack([recordings[i].position[:2] for i in members]).astype(np.float64)
        driven = np.stack([recordings[i].driven for i in members])
        solver = build_solver(twin, worlds=len(members), **options)
        state = solver.initial_state(
            torch.from_numpy(start[:, 1]), torch.from_numpy((start[:, 1] - start[:, 0]) / dt_s)
        )
        rolled = solver.rollout(state, torch.from_numpy(driven[:, 1:]), dt_s).position.numpy()
        full = np.concatenate([start[:, :1].astype(np.float32), rolled], axis=1)
        if residual and twin.residual:
            full[:, 1:] = apply_residual(twin, full[:, 1:], dt_s)
        for i, one in zip(members, full):
            results[i] = one
    return [one for one in results if one is not None]


def _check_fits(twin: Twin, tracks: Tracks) -> None:
    if tracks.node_count != twin.node_count or not np.array_equal(
        tracks.driven_index, twin.driven_index
    ):
        raise DataError(
            f"{tracks.node_count} points, driven {list(tracks.driven_index)}",
            where=f"{tracks.name}, predicted by twin {twin.name}",
            expected=f"{twin.node_count} points, driven {list(twin.driven_index)}",
            fix="use a recording of the object that the twin was made from",
        )
    gravity = twin.parameters.get("gravity_m_per_s2")
    # Twins know gravity to all digits; an axis swapped or a sign lost is off by far more.
    if gravity is not None and not np.allclose(gravity, tracks.gravity, atol=0.05):
        raise DataError(
            f"gravity {tracks.gravity.tolist()} m/s^2",
            where=f"{tracks.name}, predicted by twin {twin.name}",
            expected=f"{np.asarray(gravity).tolist()} m/s^2, as when the twin was made",
            fix="bring the recording into the frame that the twin was made in",
        )
    _check_start(twin, tracks)


def _check_start(twin: Twin, tracks: Tracks) -> None:
    if tracks.frame_count < 3 or not tracks.visible[:2].all():
        raise DataError(
            "a point is missing in the first two frames, or there are no more than two",
            where=tracks.name,
            expected="a start from which the object can be simulated",
            fix="cut the recording so that it begins where every point was seen (Tracks.slice)",
        )
    if twin.dynamics != "rod":
        return
    rest_m = float(np.sum(twin.parameters["rest_length_m"]))
    edges = np.diff(tracks.position[0].astype(np.float64), axis=0)
    length_m = float(np.linalg.norm(edges, axis=-1).sum())
    # Markers off the centre line and mocap noise change a length by a few percent, never by this.
    if abs(length_m / rest_m - 1.0) > _LENGTH_SHARE:
        raise DataError(
            f"the object is {length_m:.3f} m long at the start",
            where=f"{tracks.name}, predicted by twin {twin.name}",
            expected=f"{rest_m:.3f} m within {_LENGTH_SHARE:.0%}",
            fix="use a recording of the object that the twin was made from, in metres, whose "
            "first frames are right",
        )
