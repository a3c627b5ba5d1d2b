"""The doctor passes a good recording and names what is wrong with each bad one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts
from recon.capture.calibration_file import Calibration, save_calibration
from recon.capture.checklist import CheckLine, graded, verdict
from recon.capture.doctor import check_recording
from recon.capture.texture_shift import texture_shift
from recon.capture_commands import Check
from recon.episode import EpisodeWriter

WIDTH, HEIGHT = 320, 240
RADIUS_M = 0.06
TEXTURE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8), (0, 0), 3
)
TEXTURE = np.clip((TEXTURE.astype(float) - 128) * 4 + 128, 10, 245).astype(np.uint8)


@dataclass(frozen=True)
class Picture:
    stamp_s: float
    rgb: np.ndarray
    depth_m: np.ndarray | None


@dataclass(frozen=True)
class Pictures:
    stamp_s: float
    skew_s: float
    frames: dict[str, Picture]


def _camera(name: str, eye: tuple[float, float, float]) -> PinholeCamera:
    forward = -np.array(eye) / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(forward, right), forward], axis=1)
    K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])
    return PinholeCamera(name, "", WIDTH, HEIGHT, K, T_from_parts(turn, np.array(eye)))


CAMERAS = {c.name: c for c in (_camera("a", (0.45, 0.2, 0.6)), _camera("b", (0.2, -0.5, 0.6)))}


def _look(camera: PinholeCamera, ball: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour, depth and the ball's mask: a textured table z = 0 and a textured ball over it."""
    rays = camera.pixel_rays() @ camera.T_world_cam[:3, :3].T
    origin = camera.position
    table = -origin[2] / rays[..., 2]
    away = origin - ball
    a, b = (rays**2).sum(-1), rays @ away
    root = b**2 - a * (away @ away - RADIUS_M**2)
    near = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    depth = np.minimum(table, near)
    points = origin + rays * depth[..., None]
    on_ball = near < table
    where = np.where(on_ball[..., None], points - ball + 0.4, points)
    u, v = (np.mod(where[..., :2] * 500, 400)).astype(np.float32).transpose(2, 0, 1)
    rgb = cv2.remap(TEXTURE, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return rgb, depth.astype(np.float32), on_ball


def _recording(lift_m: float = 0.08, sets: int = 6) -> tuple[list[Pictures], list[dict]]:
    """A ball that is lifted, with a millimetre of depth noise."""
    rng = np.random.default_rng(1)
    recorded, masks = [], []
    for i in range(sets):
        ball = np.array([0.02, 0.0, RADIUS_M + lift_m * i / (sets - 1)])
        frames, mask = {}, {}
        for name, camera in CAMERAS.items():
            rgb, depth, on_ball = _look(camera, ball)
            noisy = depth + rng.normal(0, 1e-3, depth.shape).astype(np.float32)
            frames[name], mask[name] = Picture(i / 30, rgb, noisy), on_ball
        recorded.append(Pictures(i / 30, 0.002, frames))
        masks.append(mask)
    return recorded, masks


@pytest.fixture(scope="module")
def good() -> tuple[list[Pictures], list[dict]]:
    return _recording()


def _with(sets: list[Pictures], camera: str, **change: object) -> list[Pictures]:
    return [
        replace(s, frames={**s.frames, camera: replace(s.frames[camera], **change)}) for s in sets
    ]


def _failed(lines: list[CheckLine]) -> set[tuple[str, str]]:
    return {(line.name, line.where) for line in lines if line.status == "FAIL"}


def test_good_recording_passes_every_line(good: tuple[list[Pictures], list[dict]]) -> None:
    sets, masks = good
    lines = check_recording(
        sets, CAMERAS, masks=lambda name, i: masks[i][name], unmatched={"a": (0, 6), "b": (0, 6)}
    )

    assert [line for line in lines if line.status != "PASS"] == []
    assert {line.name for line in lines} == {
        "sync skew (95 %)",
        "frames without partner",
        "longest pause",
        "calibration: surface gap",
        "calibration: texture shift",
        "depth holes",
        "mask leak",
        "exposure: clipped",
        "exposure: pumping",
        "object in view",
        "motion",
    }
    assert all(not line.advice for line in lines)


@pytest.mark.parametrize("shift", [(0.03, 0.0, 0.0), (0.0, 0.03, 0.0), (0.0, 0.0, 0.03)])
def test_moved_camera_fails(
    good: tuple[list[Pictures], list[dict]], shift: tuple[float, float, float]
) -> None:
    """3 cm in any direction, also along the table, where depth alone sees nothing."""
    T = CAMERAS["b"].T_world_cam.copy()
    T[:3, 3] += shift
    cameras = {**CAMERAS, "b": replace(CAMERAS["b"], T_world_cam=T)}

    failed = _failed(check_recording(good[0], cameras))
    assert failed
    assert all(name.startswith("calibration") and where == "a - b" for name, where in failed)


def test_turned_camera_fails(good: tuple[list[Pictures], list[dict]]) -> None:
    """3 degrees about its own axis of view: some 3 cm at the rim of the scene."""
    turn = T_from_parts(cv2.Rodrigues(np.array([0.0, 0.0, np.deg2rad(3)]))[0], np.zeros(3))
    moved = replace(CAMERAS["b"], T_world_cam=CAMERAS["b"].T_world_cam @ turn)
    lines = check_recording(good[0], {**CAMERAS, "b": moved})
    found = next(line for line in lines if line.name == "calibration: texture shift")
    assert found.status != "PASS"


def test_texture_shift_is_the_shift(good: tuple[list[Pictures], list[dict]]) -> None:
    """10 mm aside; 3 mm: flow over a ball and its shadowless rim is smooth, not exact."""
    a, b = (good[0][0].frames[name] for name in "ab")
    T = CAMERAS["b"].T_world_cam.copy()
    T[:3, 3] += 0.010 * T[:3, 0]  # across its own view
    moved = replace(CAMERAS["b"], T_world_cam=T)

    right = texture_shift(CAMERAS["a"], a.rgb, a.depth_m, CAMERAS["b"], b.rgb, b.depth_m)
    wrong = texture_shift(CAMERAS["a"], a.rgb, a.depth_m, moved, b.rgb, b.depth_m)
    assert right.median_mm < 2.0
    assert wrong.median_mm == pytest.approx(10.0, abs=3.0)


def test_depth_all_zero_fails_its_camera(good: tuple[list[Pictures], list[dict]]) -> None:
    dark = _with(good[0], "a", depth_m=np.zeros((HEIGHT, WIDTH), np.float32))
    lines = check_recording(dark, CAMERAS)
    assert _failed(lines) == {("depth holes", "a")}
    assert any(line.status == "WARN" and line.value is None for line in lines)  # nothing in common


def test_camera_without_depth_fails(good: tuple[list[Pictures], list[dict]]) -> None:
    assert ("depth holes", "b") in _failed(
        check_recording(_with(good[0], "b", depth_m=None), CAMERAS)
    )


def test_still_object_fails_motion() -> None:
    sets, _ = _recording(lift_m=0.0, sets=4)
    assert _failed(check_recording(sets, CAMERAS)) == {("motion", "")}


def test_skew_and_pause_and_losses_are_told(good: tuple[list[Pictures], list[dict]]) -> None:
    """20 ms of skew, half a second of pause, a quarter of one camera's frames alone."""
    stamps = np.arange(60) / 30
    stamps[30:] += 0.5
    lines = check_recording(
        good[0],
        CAMERAS,
        stamps_s=stamps,
        skews_s=np.full(60, 0.020),
        unmatched={"a": (0, 60), "b": (20, 80)},
    )
    assert _failed(lines) == {
        ("sync skew (95 %)", ""),
        ("frames without partner", "b"),
        ("longest pause", "at 0.97 s"),
    }
    pause = next(line for line in lines if line.name == "longest pause")
    assert pause.value == pytest.approx(16.0)  # 0.5 s + one period, in periods of 1/30 s


def test_overexposed_and_pumping_images_fail(good: tuple[list[Pictures], list[dict]]) -> None:
    white = _with(good[0], "a", rgb=np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    assert ("exposure: clipped", "a") in _failed(check_recording(white, CAMERAS))

    sets = list(good[0])
    sets[3] = _with([sets[3]], "a", rgb=(sets[3].frames["a"].rgb * 0.5).astype(np.uint8))[0]
    assert ("exposure: pumping", "a") in _failed(check_recording(sets, CAMERAS))


def test_masks_that_leak_fail(good: tuple[list[Pictures], list[dict]]) -> None:
    """Masks 8 px wider than the ball: the rim lies on the table behind it."""
    sets, masks = good
    wide = np.ones((17, 17), np.uint8)

    def leaking(name: str, i: int) -> np.ndarray:
        return cv2.dilate(masks[i][name].astype(np.uint8), wide) > 0

    lines = check_recording(sets, CAMERAS, masks=leaking)
    assert {line.where for line in lines if line.name == "mask leak" and line.advice} == {"a", "b"}


def test_object_that_leaves_the_view_fails(good: tuple[list[Pictures], list[dict]]) -> None:
    """Masks empty in the last half of the sets."""
    sets, masks = good

    def masks_of(name: str, i: int) -> np.ndarray:
        return masks[i][name] if i < 3 else np.zeros((HEIGHT, WIDTH), bool)

    lines = check_recording(sets, CAMERAS, masks=masks_of)
    line = next(line for line in lines if line.name == "object in view")
    assert (line.status, line.value, line.where) == ("FAIL", 50.0, "from 0.10 s")


def test_nothing_to_check_fails() -> None:
    assert verdict(check_recording([], CAMERAS)) == "FAIL"


def test_camera_that_never_appears_fails(good: tuple[list[Pictures], list[dict]]) -> None:
    alone = [replace(s, frames={"a": s.frames["a"]}) for s in good[0]]
    assert ("frames", "b") in _failed(check_recording(alone, CAMERAS))


def test_check_command_on_an_episode(
    good: tuple[list[Pictures], list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording with masks passes; the same with a moved camera fails by exit code and JSON."""
    sets, masks = good
    with EpisodeWriter(tmp_path / "episode", list(CAMERAS.values())) as writer:
        for recorded, mask in zip(sets, masks):
            for name, picture in recorded.frames.items():
                stamp_s = 1.7e9 + picture.stamp_s
                writer.write_frame(name, stamp_s, picture.rgb, picture.depth_m)
                writer.write_mask(name, stamp_s, "object", mask[name])
    T = CAMERAS["b"].T_world_cam.copy()
    T[:3, 3] += [0.03, 0.0, 0.0]
    wrong = {**CAMERAS, "b": replace(CAMERAS["b"], T_world_cam=T)}
    save_calibration(Calibration(wrong), tmp_path / "wrong.yaml")

    assert Check(tmp_path / "episode").run() == 0
    assert "mask leak" in capsys.readouterr().out
    assert Check(tmp_path / "episode", calibration=tmp_path / "wrong.yaml", json=True).run() == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "FAIL"
    assert {line["where"] for line in printed["lines"] if line["status"] == "FAIL"} == {"a - b"}


@pytest.mark.parametrize(
    ("value", "warn", "fail", "status"),
    [
        (1.0, 1.0, 2.0, "PASS"),
        (1.5, 1.0, 2.0, "WARN"),
        (2.5, 1.0, 2.0, "FAIL"),
        (9.0, 8.0, 5.0, "PASS"),
        (6.0, 8.0, 5.0, "WARN"),
        (4.0, 8.0, 5.0, "FAIL"),
        (float("nan"), 1.0, 2.0, "FAIL"),
    ],
)
def test_grades_in_both_directions(value: float, warn: float, fail: float, status: str) -> None:
    assert graded("x", value, "", warn=warn, fail=fail).status == status
