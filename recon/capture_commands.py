"""The commands of capture: calibrate the cameras, check a recording."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.frames import T_from_parts, matrix_from_quat_wxyz
from recon.capture.board import Board

if TYPE_CHECKING:
    from recon.capture.calibrate import CalibrationResult

__all__ = ["Calibrate", "Check"]

_PIXELS_PER_SQUARE = 500

View = dict[str, "tuple[np.ndarray, np.ndarray | None]"]
"""Colour and depth by camera."""


@dataclass(frozen=True)
class Check:
    """Check a recording before time is spent on fitting: sync, calibration, depth, motion, light.

    Every line is PASS, WARN or FAIL with its number, its bar and what to do.
    """

    episode: Annotated[Path, tyro.conf.Positional]
    """The recording: a rosbag2 folder or file."""
    calibration: Path | None = None
    """Cameras from this file instead of those in the recording."""
    sets: int = 24
    """Instants that are looked at, spread over the recording."""
    slop: float = 0.017
    """Largest difference of stamps that still count as one instant [s]."""
    mask: str = "object"
    """Label of the masks that show the object, where there are any."""
    json: bool = False
    """Print the lines for a machine."""

    def run(self) -> int:
        """Check and print.

        Returns:
            0 for PASS and WARN, 1 for FAIL.
        """
        from recon.capture.checklist import CheckLine, checklist_plain, print_checklist, verdict
        from recon.capture.doctor import check_recording
        from recon.episode import Episode

        with Episode.open(self.episode, calibration=self.calibration) as episode:
            matched = episode.synchronized(self.slop)
            chosen = np.unique(np.linspace(0, len(matched) - 1, self.sets).astype(int))
            chosen = chosen[chosen >= 0]
            totals = {name: episode.frame_count(name) for name in episode.cameras}
            columns = {name: i for i, name in enumerate(matched.cameras)}
            has_masks = any(self.mask in episode.mask_labels(name) for name in episode.cameras)

            def mask_of(camera: str, number: int) -> np.ndarray | None:
                frame = int(matched.index[chosen[number], columns[camera]])
                return episode.mask(camera, frame, self.mask)

            lines = check_recording(
                (matched.at(int(number)) for number in chosen),
                episode.cameras,
                stamps_s=matched.stamp_s,
                skews_s=matched.skew_s,
                unmatched={n: (matched.dropped.get(n, 0), total) for n, total in totals.items()},
                masks=mask_of if has_masks else None,
            )
            lines += [
                CheckLine("recording whole", "WARN", None, "", 0.0, "", loss)
                for loss in episode.losses
            ]
        if self.json:
            print(json.dumps({"episode": str(self.episode), **checklist_plain(lines)}))
        else:
            print_checklist(lines, title=str(self.episode))
        return int(verdict(lines) == "FAIL")


@dataclass(frozen=True)
class Calibrate:
    """Find where the cameras are from views of a ChArUco board, and say whether to trust it.

    Writes the calibration (YAML with T_world_cam) and beside it a picture of the board as the
    calibration sees it. World: z up, at the board's corner in the first view, or the robot's base.
    """

    source: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Nothing: the connected cameras. Else recordings of librealsense (.db3), or one episode."""
    out: Path = Path("calibration.yaml")
    """Where the calibration goes."""
    board: Board = field(default_factory=Board)
    """The printed board."""
    views: int = 15
    """Instants that are used."""
    pause: float = 0.5
    """Time between two of them [s]."""
    board_moves: bool = False
    """The board is shown at many places; else it lies still."""
    board_on_gripper: bool = False
    """Hand-eye: the gripper carries the board (an episode with the gripper's poses); the world is
    then that of these poses, the robot's base."""
    verify: Path | None = None
    """Check this calibration against the views instead of making a new one."""
    print_board: Path | None = None
    """Only write the board in true size (.pdf, .png): print it at 100 %, measure a square."""
    json: bool = False
    """Print the lines for a machine."""

    def run(self) -> int:
        """Calibrate, draw, save and print.

        Returns:
            0 for PASS and WARN, 1 for FAIL (the file is written, and says FAIL).
        """
        from recon.capture.calibrate import calibrate_cameras, verify_cameras
        from recon.capture.calibration_file import load_calibration
        from recon.capture.checklist import checklist_plain, print_checklist

        if self.print_board is not None:
            return self._print_board(self.print_board)
        cameras, stamps, taken = self._views()
        views = [{name: rgb for name, (rgb, _) in view.items()} for view in taken]
        depths = [
            {name: depth for name, (_, depth) in view.items() if depth is not None}
            for view in taken[:5]
        ]
        if self.verify is not None:
            cameras = load_calibration(self.verify).applied_to(cameras)
            result = verify_cameras(views, cameras, self.board, depths=depths)
        elif self.board_on_gripper:
            result = self._hand_eye(cameras, views, stamps)
        else:
            result = calibrate_cameras(
                views, cameras, self.board, board_moves=self.board_moves, depths=depths
            )
        self._save(result, views)
        if self.json:
            print(json.dumps({"out": str(self.out), **checklist_plain(result.lines)}))
        else:
            print_checklist(result.lines, title="calibration")
            if self.verify is None:
                print(f"calibration: {self.out}")
        return int(result.status == "FAIL")

    def _print_board(self, path: Path) -> int:
        from PIL import Image

        if path.suffix not in (".pdf", ".png"):
            raise DataError(str(path), where="--print-board", expected="a name in .pdf or .png")
        per_inch = _PIXELS_PER_SQUARE * 0.0254 / self.board.square_m
        picture = Image.fromarray(self.board.image(_PIXELS_PER_SQUARE))
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, dpi=(per_inch, per_inch), resolution=per_inch)
        print(
            f"board: {path}; print at 100 %, glue it to a flat plate, and measure a square: "
            f"{1e3 * self.board.square_m:g} mm, or say --board.square-m"
        )
        return 0

    def _save(self, result: CalibrationResult, views: Sequence[Mapping[str, np.ndarray]]) -> None:
        import cv2

        from physgym.files import write_atomically
        from recon.capture.calibration_file import Calibration, save_calibration
        from recon.capture.overlay import draw_overlay

        index = min(result.T_world_boards)  # a board that moves: its pose number is its view's
        view = views[index]
        if result.cameras:
            picture = draw_overlay(view, result, self.board, board_index=index)
            _, packed = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            write_atomically(self.out.with_suffix(".png"), packed.tobytes())
        if self.verify is None and result.cameras:
            world = "robot base" if self.board_on_gripper else "z up, corner of the board"
            calibration = Calibration(result.cameras, result.errors, world, result.status)
            save_calibration(calibration, self.out)

    def _views(self) -> tuple[dict[str, PinholeCamera], list[float], list[View]]:
        """Cameras, and stamps and pictures of the instants that are used."""
        is_episode = len(self.source) == 1 and self.source[0].suffix != ".db3"
        cameras, stamps, taken = self._from_episode() if is_episode else self._from_rig()
        if not taken:
            raise DataError(
                "no instant shows all cameras",
                where=", ".join(map(str, self.source)) or "connected cameras",
                expected="frames of all cameras on one clock",
                fix="`physgym check` on a recording shows stamps and losses",
            )
        return cameras, stamps, taken

    def _from_rig(self) -> tuple[dict[str, PinholeCamera], list[float], list[View]]:
        from recon.capture.realsense import RealSenseRig

        stamps: list[float] = []
        taken: list[View] = []
        with RealSenseRig(files=self.source) as rig:
            for matched in rig.framesets():
                if not stamps or matched.stamp_s - stamps[-1] >= self.pause:
                    stamps.append(matched.stamp_s)
                    taken.append({n: (f.rgb, f.depth_m) for n, f in matched.frames.items()})
                if len(taken) == self.views:
                    break
            return dict(rig.cameras), stamps, taken

    def _from_episode(self) -> tuple[dict[str, PinholeCamera], list[float], list[View]]:
        from recon.episode import Episode

        stamps: list[float] = []
        taken: list[View] = []
        with Episode.open(self.source[0], allow_uncalibrated=True) as episode:
            matched = episode.synchronized()
            for i, stamp_s in enumerate(matched.stamp_s):
                if len(taken) < self.views and (not stamps or stamp_s - stamps[-1] >= self.pause):
                    stamps.append(float(stamp_s))
                    frames = matched.at(i).frames.items()
                    taken.append({n: (f.rgb, f.depth_m) for n, f in frames})
            return dict(episode.cameras), stamps, taken

    def _hand_eye(
        self,
        cameras: Mapping[str, PinholeCamera],
        views: Sequence[Mapping[str, np.ndarray]],
        stamps_s: Sequence[float],
    ) -> CalibrationResult:
        from recon.capture.calibrate import calibrate_on_gripper
        from recon.episode import Episode

        if len(self.source) != 1 or self.source[0].suffix == ".db3":
            raise DataError(
                "the gripper's poses are not known",
                where="physgym calibrate --board-on-gripper",
                expected="one episode with /gripper0/pose",
                fix="record one while the robot shows the board to the cameras",
            )
        with Episode.open(self.source[0], allow_uncalibrated=True) as episode:
            track = episode.gripper_pose(episode.grippers[0] if episode.grippers else 0)
        poses = track.at(np.asarray(stamps_s))
        T_base_gripper = T_from_parts(matrix_from_quat_wxyz(poses.quat_wxyz), poses.position)
        return calibrate_on_gripper(views, list(T_base_gripper), cameras, self.board)
