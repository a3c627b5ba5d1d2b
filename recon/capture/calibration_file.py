"""The calibration of a rig on disk: YAML that a person can read, compare and correct.

`T_world_cam` maps camera (optical frame: x right, y down, z forward) to world coordinates in
metres; it is never the other way round and never unnamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from physgym.camera import PinholeCamera
from physgym.errors import DataError
from physgym.files import write_atomically

__all__ = ["Calibration", "load_calibration", "save_calibration"]

_KIND, _VERSION = "physgym-calibration", 1
_HEAD = """\
# Cameras of a rig, as PhysGym calibrated them.
# T_world_cam maps camera coordinates (optical frame: x right, y down, z forward) to world
# coordinates; metres. K and distortion (k1, k2, p1, p2, k3) are OpenCV's, pixels.
"""
_KEYS = {"kind", "version", "created", "world", "status", "cameras"}
_CAMERA_KEYS = {"serial", "width", "height", "K", "distortion", "T_world_cam", "errors"}

CalibrationStatus = Literal["PASS", "WARN", "FAIL", "UNCHECKED"]


@dataclass(frozen=True)
class Calibration:
    """Cameras of a rig and how well they are known.

    Attributes:
        cameras: by name.
        errors: figures by camera, such as error_px and spread_mm.
        world: the world frame in words.
        status: verdict of the calibration; UNCHECKED when it was given, not measured.
        created: time in ISO 8601, UTC; now when empty.
    """

    cameras: Mapping[str, PinholeCamera]
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    world: str = "z up, metres"
    status: CalibrationStatus = "UNCHECKED"
    created: str = ""

    def __post_init__(self) -> None:
        """Refuse a calibration without cameras, or whose names disagree.

        Raises:
            DataError: naming what does not fit.
        """
        names = {name: camera.name for name, camera in self.cameras.items()}
        if not names or any(key != name for key, name in names.items()):
            raise _bad(f"cameras {names}", "Calibration.cameras", "at least one, by its own name")
        unknown = set(self.errors) - set(names)
        if unknown:
            raise _bad(f"errors of {sorted(unknown)}", "Calibration.errors", "cameras of the rig")
        if self.status not in get_args(CalibrationStatus):
            known = ", ".join(get_args(CalibrationStatus))
            raise _bad(f"status {self.status!r}", "Calibration.status", known)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        object.__setattr__(self, "created", self.created or now)

    def applied_to(self, cameras: Mapping[str, PinholeCamera]) -> dict[str, PinholeCamera]:
        """Put cameras that run now where this calibration says they are.

        Cameras are recognised by serial number, or by name where one side has no serial number.

        Args:
            cameras: as the driver describes them.

        Returns:
            The same cameras with ``T_world_cam`` (their own intrinsics, which belong to the
            running resolution).

        Raises:
            DataError: if a camera is not in the calibration.
        """
        by_serial = {c.serial: c for c in self.cameras.values() if c.serial}
        placed = {}
        for name, camera in cameras.items():
            known = by_serial.get(camera.serial)
            if known is None and name in self.cameras:
                same_name = self.cameras[name]
                known = same_name if not (same_name.serial and camera.serial) else None
            if known is None:
                raise DataError(
                    f"camera {name} (serial {camera.serial or 'unknown'}) is not calibrated",
                    where="Calibration.applied_to",
                    expected=f"one of {[(c.name, c.serial) for c in self.cameras.values()]}",
                    fix="`physgym calibrate` with all cameras connected",
                )
            placed[name] = replace(camera, T_world_cam=known.T_world_cam)
        return placed


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration; a reader never sees half of it.

    Args:
        calibration: what to write.
        path: the file, ``calibration.yaml`` by habit.
    """
    content = {
        "kind": _KIND,
        "version": _VERSION,
        "created": calibration.created,
        "world": calibration.world,
        "status": calibration.status,
        "cameras": {
            name: {
                **{k: v for k, v in camera.to_plain().items() if k != "name"},
                "errors": {k: _short(v) for k, v in calibration.errors.get(name, {}).items()},
            }
            for name, camera in calibration.cameras.items()
        },
    }
    text = yaml.dump(content, Dumper=_RowDumper, sort_keys=False, width=120)
    write_atomically(path, (_HEAD + text).encode())


def load_calibration(path: Path) -> Calibration:
    """Read a calibration, every key checked.

    Args:
        path: a file that `save_calibration` wrote, or a person in the same form.

    Returns:
        The calibration.

    Raises:
        DataError: if the file is not there, is something else, or a value does not fit.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _bad(f"cannot be read: {error}", str(path), "a YAML file") from error
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise _bad("this is no calibration", str(path), f"kind: {_KIND}")
    if content.get("version") != _VERSION:
        found = content.get("version")
        raise _bad(f"version {found!r}", f"{path}, version", f"version {_VERSION}")
    _only(content, _KEYS, str(path))
    cameras = content.get("cameras")
    if not isinstance(cameras, dict):
        raise _bad("no cameras", f"{path}, cameras", "cameras by name")
    read = {str(name): _camera(str(name), plain, path) for name, plain in cameras.items()}
    try:
        return Calibration(
            cameras={name: camera for name, (camera, _) in read.items()},
            errors={name: errors for name, (_, errors) in read.items()},
            world=str(content.get("world", "")),
            status=content.get("status", "UNCHECKED"),
            created=str(content.get("created", "")),
        )
    except DataError as error:
        raise _bad(error.what, f"{path}, {error.where}", error.expected) from error


def _camera(name: str, plain: Any, path: Path) -> tuple[PinholeCamera, dict[str, float]]:
    where = f"{path}, camera {name!r}"
    if not isinstance(plain, dict):
        raise _bad(f"{plain!r}", where, "fields of a camera")
    _only(plain, _CAMERA_KEYS, where)
    errors = plain.get("errors") or {}
    fields = {key: value for key, value in plain.items() if key != "errors"}
    try:
        camera = PinholeCamera.from_plain({"name": name, "serial": "", **fields})
        return camera, {str(key): float(value) for key, value in errors.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _bad(f"errors: {error}", where, "numbers by name") from error
    except DataError as error:
        raise _bad(error.what, f"{where}: {error.where}", error.expected) from error


def _only(content: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = set(map(str, content)) - known
    if unknown:
        raise _bad(f"unknown keys {sorted(unknown)}", where, ", ".join(sorted(known)))


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _bad(what: str, where: str, expected: str) -> DataError:
    fix = "compare with a file that `physgym calibrate` wrote"
    return DataError(what, where=where, expected=expected, fix=fix)


class _RowDumper(yaml.SafeDumper):
    """Numbers of a row on one line: a matrix then looks like a matrix."""


def _row(dumper: _RowDumper, values: list[Any]) -> yaml.Node:
    is_row = all(isinstance(value, (int, float)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_row)


def _number(dumper: _RowDumper, value: float) -> yaml.Node:
    # 10 digits: a tenth of a nanometre, and 0.0 instead of -2.3e-17
    rounded = round(value, 10) + 0.0
    if rounded != rounded or rounded in (float("inf"), float("-inf")):
        return dumper.represent_float(value)
    text = np.format_float_positional(rounded, trim="0")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_RowDumper.add_representer(list, _row)
_RowDumper.add_representer(float, _number)
