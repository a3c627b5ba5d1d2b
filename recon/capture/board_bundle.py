"""Camera and board poses that explain every corner seen: one robust least squares over pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix, lil_matrix

from physgym.camera import PinholeCamera
from physgym.frames import inverse_T
from recon.capture.board import Board, Detection, board_poses

__all__ = ["Sighting", "bundle", "corner_errors", "first_guess"]

_KNEE_PX = 0.5  # corners further off are outliers (a hand over the board, motion blur), softly
_MAX_ROUNDS = 60


@dataclass(frozen=True)
class Sighting:
    """The board in one image.

    Attributes:
        camera: name of the camera.
        board: index of the board's pose; images with the board at one place share it.
        detection: the corners found.
        frame: index of the image in time.
    """

    camera: str
    board: int
    detection: Detection
    frame: int


def first_guess(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_world_board: np.ndarray,
    *,
    known: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Poses of cameras and boards, from one sighting to the next.

    Args:
        sightings: at least one of board pose 0 (unless cameras are known).
        cameras: intrinsics by name.
        board: which board.
        T_world_board: board pose 0; ignored where cameras are known.
        known: poses of cameras that are given, ``T_world_cam`` by name.

    Returns:
        ``T_world_cam`` by camera and ``T_world_board`` by board index, as far as sightings reach.
    """
    T_cameras = dict(known or {})
    T_boards = {} if known else {0: np.asarray(T_world_board, dtype=np.float64)}
    candidates = [board_poses(s.detection, board, cameras[s.camera]) for s in sightings]
    grown = True
    while grown:
        grown = False
        for sighting, poses in zip(sightings, candidates):
            has_camera, has_board = sighting.camera in T_cameras, sighting.board in T_boards
            if has_camera == has_board:
                continue
            grown = True
            if has_board:
                options = [T_boards[sighting.board] @ inverse_T(p.T_cam_board) for p in poses]
                trials = [{**T_cameras, sighting.camera: T} for T in options]
                costs = [_cost(sightings, cameras, board, trial, T_boards) for trial in trials]
                T_cameras = trials[int(np.argmin(costs))]
            else:
                options = [T_cameras[sighting.camera] @ p.T_cam_board for p in poses]
                worlds = [{**T_boards, sighting.board: T} for T in options]
                costs = [_cost(sightings, cameras, board, T_cameras, world) for world in worlds]
                T_boards = worlds[int(np.argmin(costs))]
    return T_cameras, T_boards


def bundle(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
    *,
    free_cameras: Sequence[str],
    free_boards: Sequence[int],
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """Refine poses so that the corners fall where they were seen (soft L1 over pixels).

    Args:
        sightings: of posed cameras and boards only.
        cameras: intrinsics by name.
        board: which board.
        T_cameras: ``T_world_cam`` to start from.
        T_boards: ``T_world_board`` to start from.
        free_cameras: cameras to move; the others stay.
        free_boards: board poses to move; at least one camera or board must stay.

    Returns:
        ``T_world_cam`` by camera and ``T_world_board`` by board index.
    """
    unknowns = _Unknowns(
        T_cameras,
        T_boards,
        camera_slots={name: i for i, name in enumerate(free_cameras)},
        board_slots={index: len(free_cameras) + i for i, index in enumerate(free_boards)},
    )
    start = unknowns.start()
    if not len(start):
        return dict(T_cameras), dict(T_boards)

    def off(values: np.ndarray) -> np.ndarray:
        parts = []
        for s in sightings:
            T_cam_board = unknowns.cam_world(s.camera, values) @ unknowns.board(s.board, values)
            parts.append(_corner_offsets(s, cameras, board, T_cam_board).ravel())
        return np.concatenate(parts)

    found = least_squares(
        off,
        start,
        jac_sparsity=_sparsity(sightings, unknowns),
        loss="soft_l1",
        f_scale=_KNEE_PX,
        x_scale="jac",
        max_nfev=_MAX_ROUNDS,
    ).x
    moved = {name: inverse_T(unknowns.cam_world(name, found)) for name in T_cameras}
    return moved, {index: unknowns.board(index, found) for index in T_boards}


@dataclass(frozen=True)
class _Unknowns:
    """Which poses move, and where each one's six numbers stand."""

    T_cameras: Mapping[str, np.ndarray]
    T_boards: Mapping[int, np.ndarray]
    camera_slots: Mapping[str, int]
    board_slots: Mapping[int, int]

    def start(self) -> np.ndarray:
        values = np.zeros(6 * (len(self.camera_slots) + len(self.board_slots)))
        for name, slot in self.camera_slots.items():
            values[6 * slot : 6 * slot + 6] = _vector(inverse_T(self.T_cameras[name]))
        for index, slot in self.board_slots.items():
            values[6 * slot : 6 * slot + 6] = _vector(self.T_boards[index])
        return values

    def cam_world(self, name: str, values: np.ndarray) -> np.ndarray:
        slot = self.camera_slots.get(name)
        if slot is None:
            return inverse_T(self.T_cameras[name])
        return _matrix(values[6 * slot : 6 * slot + 6])

    def board(self, index: int, values: np.ndarray) -> np.ndarray:
        slot = self.board_slots.get(index)
        return self.T_boards[index] if slot is None else _matrix(values[6 * slot : 6 * slot + 6])


def corner_errors(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> dict[str, np.ndarray]:
    """How far corners were seen from where the poses put them.

    Args:
        sightings: of posed cameras and boards only.
        cameras: intrinsics by name.
        board: which board.
        T_cameras: ``T_world_cam`` by camera.
        T_boards: ``T_world_board`` by index.

    Returns:
        Distances [px] of all corners by camera, each (N,).
    """
    errors: dict[str, list[np.ndarray]] = {}
    for s in sightings:
        T_cam_board = inverse_T(T_cameras[s.camera]) @ T_boards[s.board]
        offsets = _corner_offsets(s, cameras, board, T_cam_board)
        errors.setdefault(s.camera, []).append(np.linalg.norm(offsets, axis=1))
    return {name: np.concatenate(parts) for name, parts in errors.items()}


def _cost(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> float:
    posed = [s for s in sightings if s.camera in T_cameras and s.board in T_boards]
    errors = corner_errors(posed, cameras, board, T_cameras, T_boards)
    # the median per camera: one mirrored pose must not outvote the rest
    return float(sum(np.median(values) for values in errors.values()))


def _corner_offsets(
    sighting: Sighting,
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cam_board: np.ndarray,
) -> np.ndarray:
    camera = cameras[sighting.camera]
    points = np.ascontiguousarray(board.corners[sighting.detection.ids])
    turn = cv2.Rodrigues(np.ascontiguousarray(T_cam_board[:3, :3]))[0]
    seen, _ = cv2.projectPoints(points, turn, T_cam_board[:3, 3], camera.K, camera.distortion)
    return np.asarray(seen.reshape(-1, 2) - sighting.detection.pixels)


def _sparsity(sightings: Sequence[Sighting], unknowns: _Unknowns) -> csr_matrix:
    """Which residuals depend on which unknowns: finite differences then take few evaluations."""
    rows = sum(2 * len(s.detection.ids) for s in sightings)
    pattern, row = lil_matrix((rows, len(unknowns.start())), dtype=int), 0
    for s in sightings:
        below = row + 2 * len(s.detection.ids)
        for slot in (unknowns.camera_slots.get(s.camera), unknowns.board_slots.get(s.board)):
            if slot is not None:
                pattern[row:below, 6 * slot : 6 * slot + 6] = 1
        row = below
    return csr_matrix(pattern)


def _vector(T: np.ndarray) -> np.ndarray:
    turn = cv2.Rodrigues(np.ascontiguousarray(T[:3, :3]))[0]
    return np.concatenate([turn.ravel(), T[:3, 3]])


def _matrix(values: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(values[:3])[0]
    T[:3, 3] = values[3:]
    return T
