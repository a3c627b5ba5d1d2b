"""A node's parameters as one frozen dataclass: declared, described, checked."""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from rclpy.node import Node

__all__ = ["Range", "declare", "defaults", "parameter"]

Config = TypeVar("Config")
Value = bool | int | float | str | tuple[str, ...]


class Range(NamedTuple):
    """Lowest and highest value that a parameter may take."""

    low: float
    high: float


def parameter(default: Value, description: str, *, span: Range | None = None) -> Any:
    """A dataclass field that is a ROS parameter.

    Args:
        default: its value when nobody sets it; its type is the parameter's type.
        description: what it means, with its unit.
        span: the range that `ros2 param set` and a YAML file must keep.

    Returns:
        The field.
    """
    return field(default=default, metadata={"description": description, "span": span})


def defaults(config: type, *, prefix: str = "") -> dict[str, Value]:
    """Name and default of every parameter of a node.

    Args:
        config: a dataclass whose fields all have defaults.
        prefix: put before every name, such as ``"cell."``.

    Returns:
        Defaults by name.
    """
    return {prefix + item.name: item.default for item in fields(config)}  # type: ignore[misc]


def declare(node: Node, config: type[Config], *, prefix: str = "") -> Config:
    """Declare every field on the node and read it back.

    Args:
        node: the node; overrides from the command line or YAML win over the defaults.
        config: a dataclass whose fields all have defaults, made with `parameter`, with metadata
            of the same keys, or plain.
        prefix: put before every name, such as ``"cell."``.

    Returns:
        The configuration as it was resolved.

    Raises:
        rclpy.exceptions.ParameterException: if an override has the wrong type or is out of range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    values: dict[str, Any] = {}
    for item in fields(config):  # type: ignore[arg-type]
        text = item.metadata.get("description", f"{config.__name__}.{item.name}")
        descriptor = ParameterDescriptor(description=text, read_only=True)
        # A `Range`, or the plain (low, high) of a dataclass that knows no ROS.
        span = item.metadata.get("span")
        if span is not None and isinstance(item.default, float):
            low, high = map(float, span)
            limits = FloatingPointRange(from_value=low, to_value=high)
            descriptor.floating_point_range = [limits]
        elif span is not None:
            first, last = map(int, span)
            whole = IntegerRange(from_value=first, to_value=last, step=1)
            descriptor.integer_range = [whole]
        name = prefix + item.name
        if isinstance(item.default, tuple):
            found = node.declare_parameter(name, list(item.default), descriptor).value
            values[item.name] = tuple(found)
        else:
            values[item.name] = node.declare_parameter(name, item.default, descriptor).value
    return config(**values)
