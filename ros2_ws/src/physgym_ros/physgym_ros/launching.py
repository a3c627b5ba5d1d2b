"""What the launch files share: nodes that are plain data become a launch description.

`launch` and `launch_ros` come with a ROS distribution only, so they are imported when used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from physgym_ros.dds import PROFILE

__all__ = ["describe_environment", "is_true", "launch_description"]

Arguments = Sequence[tuple[str, str, str]]
DescribeNodes = Callable[[dict[str, str]], list[dict[str, Any]]]


def is_true(values: dict[str, str], name: str) -> bool:
    """A truth value among launch arguments.

    Args:
        values: one text per argument.
        name: of the argument.

    Raises:
        ValueError: if it is neither ``true`` nor ``false``.
    """
    if values[name].lower() not in ("true", "false"):
        raise ValueError(f"{name}:={values[name]} is neither true nor false")
    return values[name].lower() == "true"


def describe_environment() -> dict[str, str]:
    """Environment that every node needs.

    Returns:
        Variables by name: the Fast DDS profile of this package, without which shared memory is too
        small for images and half of them are lost. Give it to a driver of your own as well.
    """
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE)}


def launch_description(arguments: Arguments, describe_nodes: DescribeNodes) -> Any:
    """A description of nodes of which the first that ends ends all.

    Args:
        arguments: name, default and description of each launch argument.
        describe_nodes: from one text per argument to keyword arguments of
            `launch_ros.actions.Node`, one dictionary per node.

    Returns:
        A `launch.LaunchDescription`.
    """
    # Without ROS, mypy takes this repository's folder of launch files for the package.
    from launch import LaunchDescription  # type: ignore[attr-defined]
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
    from launch.substitutions import LaunchConfiguration

    def start(context: Any) -> list[Any]:
        values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in arguments}
        return _actions(describe_nodes(values))

    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in arguments
    ]
    environment = [
        SetEnvironmentVariable(name, value) for name, value in describe_environment().items()
    ]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=start)])


def _actions(nodes: list[dict[str, Any]]) -> list[Any]:
    from launch.actions import EmitEvent, LogInfo, RegisterEventHandler
    from launch.event_handlers import OnProcessExit
    from launch.events import Shutdown
    from launch_ros.actions import Node

    actions: list[Any] = []
    for keywords in nodes:
        node, name = Node(**keywords), keywords["name"]
        ended = [
            LogInfo(msg=f"{name} has ended: shutting down"),
            EmitEvent(event=Shutdown(reason=f"{name} has ended")),
        ]
        actions += [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended)), node]
    return actions
