"""A job's configuration, a frozen dataclass, to plain YAML types and back, every key checked."""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from physgym.errors import DataError

__all__ = ["config_from_plain", "config_to_plain"]

C = TypeVar("C")


def config_to_plain(config: Any) -> Any:
    """Turn a configuration into what YAML and JSON hold.

    Args:
        config: a dataclass, or a value of one: None, numbers, text, paths, enums, sequences,
            mappings, dataclasses.

    Returns:
        The same in dictionaries, lists and scalars. Paths become text, enums their name.

    Raises:
        DataError: if a value has no plain form.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            field.name: config_to_plain(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if field.init
        }
    if config is None or isinstance(config, (bool, int, float, str)):
        return config.name if isinstance(config, enum.Enum) else config
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, Mapping):
        return {str(key): config_to_plain(value) for key, value in config.items()}
    if isinstance(config, Sequence):
        return [config_to_plain(value) for value in config]
    raise DataError(
        f"a {type(config).__name__} cannot stand in a configuration",
        expected="numbers, text, paths, enums, sequences, mappings or dataclasses",
        fix="keep arrays in files and their path in the configuration",
    )


def config_from_plain(kind: type[C], plain: Any, *, where: str = "configuration") -> C:
    """Build a configuration from plain values; nothing unknown is passed over.

    Args:
        kind: a dataclass.
        plain: a mapping as `config_to_plain` returns it. Fields with a default may be absent.
        where: what to name in errors.

    Returns:
        An instance of ``kind``, checked by its own ``__post_init__``.

    Raises:
        DataError: if keys are unknown or missing, or a value has another type.
    """
    return _dataclass(kind, plain, where)


def _dataclass(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise _mismatch(plain, "a mapping of names to values", where)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(str(key) for key in plain if key not in fields)
    if unknown:
        raise DataError(
            f"unknown key(s): {', '.join(unknown)}",
            where=where,
            expected=", ".join(fields),
            fix="remove or rename them; a key that nobody reads would be silently without effect",
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in plain
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise DataError(
            f"missing key(s): {', '.join(missing)}",
            where=where,
            expected=", ".join(fields),
            fix="add them",
        )
    hints = get_type_hints(kind)
    values = {
        name: _value(hints[name], value, f"{where}, key {name!r}") for name, value in plain.items()
    }
    return kind(**values)


def _value(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return plain
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), plain, where)
    if origin is Literal:
        if plain in get_args(kind):
            return plain
        raise _mismatch(plain, "one of " + ", ".join(map(repr, get_args(kind))), where)
    if origin in (tuple, list, Sequence):
        return _sequence(origin, get_args(kind), plain, where)
    if origin in (dict, Mapping):
        if not isinstance(plain, Mapping):
            raise _mismatch(plain, "a mapping", where)
        inner = get_args(kind)[1]
        return {key: _value(inner, value, f"{where}[{key!r}]") for key, value in plain.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, plain, where)
    return _scalar(kind, plain, where)


def _union(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    reasons = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _value(kind, plain, where)
        except DataError as error:
            reasons.append(error.expected)
    raise _mismatch(plain, " or ".join(reasons), where)


def _sequence(origin: Any, inner: tuple[Any, ...], plain: Any, where: str) -> Any:
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise _mismatch(plain, "a list", where)
    if origin is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        if len(plain) != len(inner):
            raise _mismatch(plain, f"a list of {len(inner)}", where)
        kinds = list(inner)
    else:
        kinds = [inner[0]] * len(plain)
    items = [
        _value(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, plain))
    ]
    return tuple(items) if origin is not list else items


def _scalar(kind: Any, plain: Any, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if isinstance(plain, str) and plain in kind.__members__:
            return kind[plain]
        raise _mismatch(plain, "one of " + ", ".join(kind.__members__), where)
    if isinstance(kind, type) and issubclass(kind, Path):
        if isinstance(plain, str):
            return Path(plain)
        raise _mismatch(plain, "a path", where)
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)  # YAML writes 1 for 1.0 when a person edits it
    if kind is int and isinstance(plain, bool):
        raise _mismatch(plain, "a whole number", where)
    if isinstance(kind, type) and isinstance(plain, kind):
        return plain
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise _mismatch(plain, names.get(kind, str(getattr(kind, "__name__", kind))), where)


def _mismatch(plain: Any, expected: str, where: str) -> DataError:
    return DataError(
        f"{plain!r} does not fit", where=where, expected=expected, fix="correct the value"
    )
