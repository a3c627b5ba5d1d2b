"""Learned modules as named float32 arrays, and back with checks: what twins store of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import numpy as np
import torch

from physgym.errors import DataError

__all__ = ["read_config", "read_weights", "write_config"]

_CONFIG = "config."
Config = TypeVar("Config")


def write_config(numbers: Mapping[str, float | int | bool | None], prefix: str) -> dict[str, Any]:
    """Numbers and switches as 0-d float32 arrays; None is stored as 0.

    Args:
        numbers: by field name.
        prefix: of the arrays' names.

    Returns:
        Arrays by name.
    """
    return {
        f"{prefix}{_CONFIG}{name}": np.array(0 if value is None else value, np.float32)
        for name, value in numbers.items()
    }


def read_config(kind: type[Config], arrays: Mapping[str, np.ndarray], prefix: str) -> Config:
    """A configuration from `write_config`'s arrays.

    Args:
        kind: frozen dataclass of numbers and switches; a field that may be None has 0 for it.
        arrays: arrays by name.
        prefix: of the arrays' names.

    Returns:
        The configuration.

    Raises:
        DataError: if a number is missing, unknown or not one finite number.
    """
    values: dict[str, Any] = {}
    names = {f"{prefix}{_CONFIG}{entry.name}" for entry in fields(kind)}  # type: ignore[arg-type]
    for name in arrays:
        if name.startswith(prefix + _CONFIG) and name not in names:
            raise _broken(name, np.asarray(arrays[name]), "no such array")
    for entry in fields(kind):  # type: ignore[arg-type]
        assert entry.default is not MISSING
        number = _number(arrays, f"{prefix}{_CONFIG}{entry.name}")
        if isinstance(entry.default, bool):
            values[entry.name] = number != 0.0
        elif "None" in str(entry.type):
            values[entry.name] = int(number) if number else None
        elif isinstance(entry.default, int):
            values[entry.name] = int(number)
        else:
            # The shortest decimal number that is this float32: 0.1 comes back as 0.1.
            values[entry.name] = float(str(np.float32(number)))
    return kind(**values)


def read_weights(module: torch.nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Fill a module with stored weights.

    Args:
        module: made from the stored configuration.
        arrays: arrays by name.
        prefix: of the arrays' names.

    Raises:
        DataError: if one is missing, misshapen, unknown or not finite.
    """
    wanted = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    given = {
        name: np.asarray(value)
        for name, value in arrays.items()
        if name.startswith(prefix) and not name.startswith(prefix + _CONFIG)
    }
    for name in sorted(wanted.keys() | given.keys()):
        shape = tuple(wanted[name].shape) if name in wanted else None
        found = given.get(name)
        if found is None or shape != found.shape or not np.isfinite(found).all():
            raise _broken(name, found, "no such array" if shape is None else f"finite, {shape}")
    state = {
        name.removeprefix(prefix): torch.tensor(value, dtype=torch.float32)
        for name, value in given.items()
    }
    module.load_state_dict(state)


def _number(arrays: Mapping[str, np.ndarray], name: str) -> float:
    found = None if name not in arrays else np.asarray(arrays[name])
    if found is None or found.shape != () or not math.isfinite(float(found)):
        raise _broken(name, found, "one finite number")
    return float(found)


def _broken(name: str, found: np.ndarray | None, expected: str) -> DataError:
    what = "is missing" if found is None else f"of shape {found.shape} cannot be used"
    return DataError(
        f"{name} {what}",
        where=name,
        expected=expected,
        fix="read arrays that `to_arrays` of this version wrote, unchanged",
    )
