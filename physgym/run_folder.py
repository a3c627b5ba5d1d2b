"""The folder that a long job writes: configuration, checkpoints, scalars; made to be resumed.

    runs/fit-rope/
      config.yaml           the resolved configuration; a run is resumed only with the same one
      run.json              version, commit, command line and start of every (re)start
      checkpoints/          step_00000120.safetensors, written to a temporary name and renamed
      tensorboard/          scalars, where TensorBoard is installed

No pickle is written or read: a checkpoint is named arrays and a JSON dictionary.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import yaml

from physgym import __version__
from physgym.config import config_from_plain, config_to_plain
from physgym.errors import DataError
from physgym.files import check_writable, write_atomically

__all__ = ["Checkpoint", "RunFolder", "load_config"]

C = TypeVar("C")
_META = "physgym"


@dataclass(frozen=True)
class Checkpoint:
    """Where a job stood.

    Attributes:
        step: how far it was.
        arrays: named arrays, shapes and meaning as the job defines them.
        meta: what JSON can hold.
    """

    step: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class RunFolder:
    """Opens a run folder: a new one, or with ``resume`` the one that is there.

    Args:
        path: the folder.
        config: the job's resolved configuration, a dataclass.
        resume: go on with what is there. A folder without a run is then simply begun.
        keep: how many checkpoints stay; older ones are removed.

    Raises:
        DataError: if the folder holds something else, or a run and ``resume`` is not set, or a
            run whose configuration differs from this one; or if nothing can be written there.
    """

    def __init__(self, path: Path | str, config: Any, *, resume: bool = False, keep: int = 2):
        if keep < 1:
            raise DataError(
                f"keep is {keep}", where="RunFolder", expected="1 or more", fix="keep=2"
            )
        self.path = Path(path)
        self._keep = keep
        self._writer: Any = None
        config_file = self.path / "config.yaml"
        if config_file.is_file():
            if not resume:
                raise DataError(
                    "the folder already holds a run",
                    where=str(self.path),
                    expected="a new or empty folder",
                    fix="add --resume to go on with it, or choose another --out",
                )
            self._refuse_other_config(config_file, config)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise DataError(
                "the folder is not empty and holds no run",
                where=str(self.path),
                expected="a new or empty folder, or one with config.yaml",
                fix="choose another --out",
            )
        check_writable(self.path, str(self.path))
        self._checkpoints = self.path / "checkpoints"
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        if not config_file.is_file():
            text = yaml.safe_dump(config_to_plain(config), sort_keys=False, allow_unicode=True)
            write_atomically(config_file, text.encode())
        self._note_start()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close the scalars; checkpoints are safe without it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def records_scalars(self) -> bool:
        """Whether TensorBoard is there; without it scalars are dropped."""
        return find_spec("tensorboard") is not None

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number for TensorBoard; does nothing where that is not installed.

        Args:
            tag: name of the curve, as "train/loss_m".
            value: the number, in SI units.
            step: its place on the curve.
        """
        if not self.records_scalars:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path / "tensorboard"))
        self._writer.add_scalar(tag, float(value), step)

    def save_checkpoint(
        self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any] | None = None
    ) -> Path:
        """Write where the job stands; Ctrl-C or a crash meanwhile leaves the one before.

        Args:
            step: how far the job is, 0 or more.
            arrays: named NumPy arrays or CPU tensors.
            meta: anything that JSON can hold.

        Returns:
            The file.
        """
        from safetensors.numpy import save

        header = {_META: json.dumps({"step": int(step), "meta": dict(meta or {})})}
        packed = {name: np.asarray(value).copy(order="C") for name, value in arrays.items()}
        path = self._checkpoints / f"step_{int(step):08d}.safetensors"
        write_atomically(path, save(packed, metadata=header))
        for old in self._files()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint.

        Returns:
            Where the job stood, or None when it has not saved yet.

        Raises:
            DataError: if the file is damaged.
        """
        files = self._files()
        return _read_checkpoint(files[-1]) if files else None

    def _files(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step_*.safetensors"))

    def _refuse_other_config(self, file: Path, config: Any) -> None:
        saved = config_to_plain(load_config(file, type(config)))
        wanted = config_to_plain(config)
        differing = [key for key in wanted if saved[key] != wanted[key]]
        if differing:
            lines = [f"{key}: {saved[key]!r} in the run, {wanted[key]!r} now" for key in differing]
            raise DataError(
                "the run was begun with another configuration: " + "; ".join(lines),
                where=str(file),
                expected="the same values when a run is resumed",
                fix="repeat the flags of the first call, or choose another --out",
            )

    def _note_start(self) -> None:
        file = self.path / "run.json"
        starts = []
        if file.is_file():
            with suppress(json.JSONDecodeError):  # a note for people: never a reason to stop
                starts = json.loads(file.read_text(encoding="utf-8")).get("starts", [])
        starts.append(
            {
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "physgym": __version__,
                "commit": _commit(),
                "python": platform.python_version(),
                "command": sys.argv,
            }
        )
        write_atomically(file, json.dumps({"starts": starts}, indent=2).encode())


def load_config(file: Path, kind: type[C]) -> C:
    """Read a run's ``config.yaml`` back.

    Args:
        file: the YAML file.
        kind: the dataclass that it was written from.

    Returns:
        An instance of ``kind``, validated by its own ``__post_init__``.

    Raises:
        DataError: if the file is no YAML, or holds unknown, missing or wrongly typed keys.
    """
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"no YAML: {str(error).splitlines()[0]}",
            where=str(file),
            expected="the configuration that the run wrote",
            fix="begin a new run in another folder",
        ) from error
    return config_from_plain(kind, plain, where=str(file))


def _read_checkpoint(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_META])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(int(header["step"]), arrays, dict(header["meta"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"the checkpoint cannot be read ({error})",
            where=str(path),
            expected="a safetensors file that this run wrote",
            fix="remove this file: the one before it is used then",
        ) from error


def _commit() -> str:
    """Commit of the checkout that this package runs from; empty where it is installed otherwise."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
