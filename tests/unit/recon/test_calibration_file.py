"""Calibration files: written, read, refused by field, applied to running cameras."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from board_cases import (
    CAMERAS,
)

from physgym.errors import DataError
from recon.capture.calibration_file import Calibration, load_calibration, save_calibration


def test_file_round_trip_is_readable_and_exact(tmp_path: Path) -> None:
    """1e-9: the file keeps ten digits after the point."""
    errors = {"left": {"error_px": 0.0512345, "spread_mm": float("inf")}}
    saved = Calibration(CAMERAS, errors, world="robot base", status="WARN")
    save_calibration(saved, tmp_path / "calibration.yaml")

    loaded = load_calibration(tmp_path / "calibration.yaml")
    for name, camera in CAMERAS.items():
        assert np.allclose(loaded.cameras[name].T_world_cam, camera.T_world_cam, atol=1e-9)
        assert np.allclose(loaded.cameras[name].K, camera.K, atol=1e-9)
        assert loaded.cameras[name].serial == camera.serial
    assert loaded.errors["left"] == {"error_px": 0.05123, "spread_mm": float("inf")}
    assert (loaded.world, loaded.status) == ("robot base", "WARN")
    text = (tmp_path / "calibration.yaml").read_text()
    assert "- [0.0, 0.0, 0.0, 1.0]" in text  # a matrix row on one line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 1", "version: 7", "version 7"),
        ("kind: physgym-calibration", "kind: rig", "no calibration"),
        ("status: UNCHECKED", "status: FINE", "FINE"),
        ("world:", "wrld:", "wrld"),
        ("- [0.0, 0.0, 0.0, 1.0]", "- [0.0, 0.0, 0.5, 1.0]", "T_world_cam"),
        ("width: 640", "width: wide", "left"),
        ("cameras:", "cameras: [", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_by_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    """The error says which field."""
    path = tmp_path / "calibration.yaml"
    save_calibration(Calibration({"left": CAMERAS["left"]}), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=re.escape(says)):
        load_calibration(path)


def test_calibration_finds_running_cameras_by_serial() -> None:
    """Names may change between calibrating and recording; serial numbers do not."""
    calibration = Calibration(CAMERAS)
    running = replace(CAMERAS["front"], name="cam0", T_world_cam=np.eye(4))

    placed = calibration.applied_to({"cam0": running})
    assert np.array_equal(placed["cam0"].T_world_cam, CAMERAS["front"].T_world_cam)
    with pytest.raises(DataError, match="not calibrated"):
        calibration.applied_to({"front": replace(running, name="front", serial="other")})
