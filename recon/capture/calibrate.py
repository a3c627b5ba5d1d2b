"""Where all cameras are, from pictures of a ChArUco board, and whether that can be trusted.

World: z up, origin at the corner of the board that lies on the table (its first position), x and
y along its edges; or any frame whose relation to the board is given (`T_world_board`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import inverse_T
from recon.capture.board import Board, board_poses, detect_board
from recon.capture.board_bundle import Sighting, bundle, corner_errors, first_guess
from recon.capture.checklist import CheckLine, Status, graded, verdict
from recon.capture.hand_eye import solve_hand_eye
from recon.capture.surface_gap import surface_gap

__all__ = [
    "T_WORLD_BOARD_FLAT",
    "Bars",
    "CalibrationResult",
    "calibrate_cameras",
    "calibrate_on_gripper",
    "verify_cameras",
]

T_WORLD_BOARD_FLAT = np.diag([1.0, -1.0, -1.0, 1.0])
"""The board lies face up on the table: its z, which points into the board, points down."""

_MOST_GROUPS = 8  # of leave-one-out: enough to see an outlier, few enough to wait for
_HAND_EYE_ADVICE = "more poses with larger turns; check that the board sits fast"
_TOO_LATE = "show the board again, flat, sharp and well lit, to all cameras at once"


@dataclass(frozen=True)
class Bars:
    """From where on a calibration is doubtful (warn) and useless (fail).

    Attributes:
        error_px: root mean square reprojection error per camera [px].
        hand_eye_mm: median distance of the board from where the robot carried it [mm].
        gap_mm: median gap between the surfaces two cameras see [mm].
        spread_mm: change of a camera's position when some pictures are left out [mm].
        spread_deg: change of its direction when some pictures are left out [deg].

    Each is (warn, fail). PhysTwin repeats its calibration above a mean of 0.2 px; 5 mm is half of
    the distance within which perception fuses the clouds of several cameras.
    """

    error_px: tuple[float, float] = (0.4, 1.0)
    hand_eye_mm: tuple[float, float] = (3.0, 8.0)
    gap_mm: tuple[float, float] = (3.0, 6.0)
    spread_mm: tuple[float, float] = (1.5, 4.0)
    spread_deg: tuple[float, float] = (0.15, 0.5)


@dataclass(frozen=True)
class CalibrationResult:
    """Calibrated cameras and the lines that say how good they are.

    Attributes:
        cameras: by name, with ``T_world_cam``.
        T_world_boards: pose of the board by board index.
        errors: by camera: error_px, corners, frames, spread_mm, spread_deg.
        lines: the checks.
    """

    cameras: dict[str, PinholeCamera]
    T_world_boards: dict[int, np.ndarray]
    errors: dict[str, dict[str, float]]
    lines: tuple[CheckLine, ...]

    @property
    def status(self) -> Status:
        """The worst line's status."""
        return verdict(self.lines)


def calibrate_cameras(
    views: Sequence[Mapping[str, np.ndarray]],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    *,
    T_world_board: np.ndarray = T_WORLD_BOARD_FLAT,
    board_moves: bool = False,
    depths: Sequence[Mapping[str, np.ndarray]] = (),
    bars: Bars | None = None,
) -> CalibrationResult:
    """Find every camera from views of the board that all cameras took at the same instants.

    Args:
        views: per instant, rgb (H, W, 3) by camera; cameras may be missing from a view.
        cameras: intrinsics by name; where they are is ignored.
        board: which board.
        T_world_board: where the board is in the first view [m], shape (4, 4).
        board_moves: the board is at another place in every view: more work for who holds it,
            and a better calibration over the whole volume. Cameras need not all see the first
            view, only views in common.
        depths: aligned depth [m] by camera for some instants, to measure gaps between surfaces.
        bars: where PASS ends.

    Returns:
        The cameras that saw the board, with their verdicts; a camera that did not fails its line.

    Raises:
        DataError: if no camera saw the board in the first view.
    """
    bars = bars or Bars()
    sightings = _sightings(views, cameras, board, board_moves=board_moves)
    if not any(s.board == 0 for s in sightings):
        raise DataError(
            "no camera sees the board in the first view",
            where="calibrate_cameras",
            expected=f"{board.squares_x} x {board.squares_y} squares, {board.dictionary}",
            fix="check dictionary, number of squares and --legacy-pattern; " + _TOO_LATE,
        )
    T_cameras, T_boards = _solve(sightings, cameras, board, T_world_board)
    posed = _posed(sightings, T_cameras, T_boards)
    errors = _error_records(posed, cameras, board, T_cameras, T_boards)
    for name, (shift_m, turn_rad) in _leave_one_out(
        posed, cameras, board, T_cameras, T_boards
    ).items():
        errors[name]["spread_mm"] = shift_m * 1e3
        errors[name]["spread_deg"] = float(np.rad2deg(turn_rad))
    found = {name: replace(cameras[name], T_world_cam=T) for name, T in T_cameras.items()}
    lines = _lines(errors, cameras, bars) + _gap_lines(found, depths, bars)
    return CalibrationResult(found, T_boards, errors, tuple(lines))


def verify_cameras(
    views: Sequence[Mapping[str, np.ndarray]],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    *,
    depths: Sequence[Mapping[str, np.ndarray]] = (),
    bars: Bars | None = None,
) -> CalibrationResult:
    """Check cameras as they are calibrated against new views: the board may be anywhere.

    Args:
        views: per instant, rgb (H, W, 3) by camera; at least two cameras must see the board.
        cameras: calibrated cameras.
        board: which board.
        depths: aligned depth [m] by camera for some instants.
        bars: where PASS ends.

    Returns:
        The same cameras, with verdicts.

    Raises:
        DataError: if no two cameras see the board at once.
    """
    bars = bars or Bars()
    sightings = _sightings(views, cameras, board, board_moves=True)
    frames = [s.frame for s in sightings]
    sightings = [s for s in sightings if frames.count(s.frame) > 1]
    if not sightings:
        raise DataError(
            "no two cameras see the board at once",
            where="verify_cameras",
            expected="views of the board that several cameras share",
            fix=_TOO_LATE,
        )
    known = {name: camera.T_world_cam for name, camera in cameras.items()}
    T_cameras, T_boards = first_guess(sightings, cameras, board, np.eye(4), known=known)
    T_cameras, T_boards = bundle(
        sightings,
        cameras,
        board,
        T_cameras,
        T_boards,
        free_cameras=(),
        free_boards=sorted(T_boards),
    )
    errors = _error_records(sightings, cameras, board, T_cameras, T_boards)
    lines = _lines(errors, cameras, bars) + _gap_lines(cameras, depths, bars)
    return CalibrationResult(dict(cameras), T_boards, errors, tuple(lines))


def calibrate_on_gripper(
    views: Sequence[Mapping[str, np.ndarray]],
    T_base_gripper: Sequence[np.ndarray],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    *,
    bars: Bars | None = None,
) -> CalibrationResult:
    """Find cameras in the robot's base frame while the gripper shows them the board.

    Args:
        views: per instant, rgb (H, W, 3) by camera.
        T_base_gripper: the gripper at these instants [m], (4, 4) each.
        cameras: intrinsics by name.
        board: which board; it must sit fast on the gripper.
        bars: where PASS ends.

    Returns:
        The cameras; the world is the robot's base.

    Raises:
        DataError: if a camera saw the board in too few poses, or the gripper hardly turned.
    """
    bars = bars or Bars()
    errors: dict[str, dict[str, float]] = {}
    placed: dict[str, PinholeCamera] = {}
    T_boards: dict[int, np.ndarray] = {}
    for name, camera in cameras.items():
        found = {i: detect_board(view[name], board) for i, view in enumerate(views) if name in view}
        seen = {i: d for i, d in found.items() if d is not None}
        T_cam_board = [board_poses(d, board, camera)[0].T_cam_board for d in seen.values()]
        solved = solve_hand_eye([T_base_gripper[i] for i in seen], T_cam_board, eye_in_hand=False)
        kept = np.setdiff1d(np.arange(len(seen)), solved.dropped)
        placed[name] = replace(camera, T_world_cam=solved.T_mount_cam)
        T_boards.update({i: T_base_gripper[i] @ solved.T_other_board for i in seen})
        sightings = [Sighting(name, i, d, i) for i, d in seen.items()]
        kept_sightings = [sightings[i] for i in kept]
        T_camera = {name: solved.T_mount_cam}
        record = _error_records(kept_sightings, cameras, board, T_camera, T_boards)[name]
        # pixels say nothing here: the robot's own error moves the board by millimetres
        record["robot_and_board_px"] = record.pop("error_px")
        record["hand_eye_mm"] = float(np.median(solved.residual_mm[kept]))
        record["poses_dropped"] = float(len(solved.dropped))
        record["spread_mm"], record["spread_deg"] = solved.spread_mm, solved.spread_deg
        errors[name] = record
    return CalibrationResult(placed, T_boards, errors, tuple(_lines(errors, cameras, bars)))


def _sightings(
    views: Sequence[Mapping[str, np.ndarray]],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    *,
    board_moves: bool,
) -> list[Sighting]:
    sightings = []
    for frame, view in enumerate(views):
        for name, rgb in view.items():
            found = detect_board(rgb, board) if name in cameras else None
            if found is not None:
                sightings.append(Sighting(name, frame if board_moves else 0, found, frame))
    return sightings


def _solve(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_world_board: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    T_cameras, T_boards = first_guess(sightings, cameras, board, T_world_board)
    return _refine(_posed(sightings, T_cameras, T_boards), cameras, board, T_cameras, T_boards)


def _refine(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    seen_cameras, seen_boards = {s.camera for s in sightings}, {s.board for s in sightings}
    return bundle(
        sightings,
        cameras,
        board,
        T_cameras,
        T_boards,
        free_cameras=sorted(seen_cameras & set(T_cameras)),
        free_boards=sorted(seen_boards & set(T_boards) - {0}),
    )


def _posed(
    sightings: Sequence[Sighting],
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> list[Sighting]:
    return [s for s in sightings if s.camera in T_cameras and s.board in T_boards]


def _error_records(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> dict[str, dict[str, float]]:
    return {
        name: {
            "error_px": float(np.sqrt(np.mean(values**2))),
            "corners": float(len(values)),
            "frames": float(len({s.frame for s in sightings if s.camera == name})),
        }
        for name, values in corner_errors(sightings, cameras, board, T_cameras, T_boards).items()
    }


def _leave_one_out(
    sightings: Sequence[Sighting],
    cameras: Mapping[str, PinholeCamera],
    board: Board,
    T_cameras: Mapping[str, np.ndarray],
    T_boards: Mapping[int, np.ndarray],
) -> dict[str, tuple[float, float]]:
    """Largest change of each camera [m, rad] when a part of the pictures, or corners, is left out.

    Parts are frames; of a board that stands still, corners, because all its frames say the same.
    """
    still = len({s.board for s in sightings}) == 1
    frames = sorted({s.frame for s in sightings if still or s.board != 0})
    groups = min(_MOST_GROUPS, len(board.corners) if still else len(frames))
    change = dict.fromkeys(T_cameras, (0.0, 0.0))
    for group in range(groups):
        if still:
            kept = [_without_corners(s, group, groups) for s in sightings]
        else:
            gone = set(frames[group::groups])
            kept = [s for s in sightings if s.frame not in gone]
        if {s.camera for s in kept} != set(T_cameras):
            return dict.fromkeys(T_cameras, (float("inf"), float("inf")))
        moved, _ = _refine(kept, cameras, board, T_cameras, T_boards)
        for name, T in moved.items():
            step = inverse_T(T_cameras[name]) @ T
            turn_rad = float(Rotation.from_matrix(step[:3, :3]).magnitude())
            shift_m = float(np.linalg.norm(step[:3, 3]))
            change[name] = (max(change[name][0], shift_m), max(change[name][1], turn_rad))
    return change


def _without_corners(sighting: Sighting, group: int, groups: int) -> Sighting:
    keep = sighting.detection.ids % groups != group
    found = replace(
        sighting.detection,
        ids=sighting.detection.ids[keep],
        pixels=sighting.detection.pixels[keep],
    )
    return replace(sighting, detection=found)


def _lines(
    errors: Mapping[str, Mapping[str, float]], cameras: Mapping[str, PinholeCamera], bars: Bars
) -> list[CheckLine]:
    lines = []
    for name in cameras:
        record = errors.get(name)
        if record is None:
            missing = "not calibrated: this camera and one that is share no view of the board"
            lines.append(
                CheckLine("board seen", "FAIL", 0.0, "frames", 1.0, name, f"{missing}; {_TOO_LATE}")
            )
            continue
        for key, title, unit, (warn, fail), advice in (
            ("error_px", "reprojection error", "px", bars.error_px, _TOO_LATE),
            ("hand_eye_mm", "hand-eye residual", "mm", bars.hand_eye_mm, _HAND_EYE_ADVICE),
            ("spread_mm", "leave-one-out, position", "mm", bars.spread_mm, "add views"),
            ("spread_deg", "leave-one-out, direction", "deg", bars.spread_deg, "add views"),
        ):
            if key in record:
                lines.append(
                    graded(
                        title, record[key], unit, warn=warn, fail=fail, where=name, advice=advice
                    )
                )
    return lines


def _gap_lines(
    cameras: Mapping[str, PinholeCamera],
    depths: Sequence[Mapping[str, np.ndarray]],
    bars: Bars,
) -> list[CheckLine]:
    lines = []
    warn, fail = bars.gap_mm
    advice = "calibrate again; if it stays, check the depth scale and on-chip calibration"
    for first, second in itertools.combinations(cameras, 2):
        gaps = [
            surface_gap(cameras[first], view[first], cameras[second], view[second])
            for view in depths
            if first in view and second in view
        ]
        medians = [gap.median_mm for gap in gaps if gap.points]
        where = f"{first} - {second}"
        if medians:
            value = float(np.median(medians))
            lines.append(
                graded("surface gap", value, "mm", warn=warn, fail=fail, where=where, advice=advice)
            )
        elif gaps:
            text = "the two cameras see no surface in common"
            lines.append(CheckLine("surface gap", "WARN", None, "mm", warn, where, text))
    return lines
