"""Shape a cable to a goal: `ros2 launch launch/cable.launch.py twin:=FOLDER goal:=GOAL.npz`.

Starts the simulated cell (unless ``simulated:=false``: then the topics of a real one are used, see
the remap arguments) and the policy that plans on the twin. When the policy ends, everything ends;
when the cell ends, so does the policy. Ctrl-C lets the policy send its last command.

What to start is plain data (`describe_nodes`), so it can be checked where `launch` is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from physgym_ros.launching import is_true, launch_description

PACKAGE = "physgym_ros"
CONFIG = Path(__file__).resolve().parent / "config" / "cable.yaml"

# Name, default, description.
ARGUMENTS = (
    ("twin", "", "Folder of the twin to plan on."),
    ("goal", "", "File .npz with the goal shape under the key `points`; empty: goal/points topic."),
    ("simulated", "true", "Start the simulated cell; false: a real cell is there."),
    ("namespace", "", "Namespace of both nodes and of their topics."),
    ("controller", "cable_controller", "Name of the joint trajectory controller."),
    ("joint_states", "joint_states", "Topic of the joint states."),
    ("points", "object/points", "Topic of the object's points."),
    ("params_file", str(CONFIG), "YAML file with the parameters of both nodes."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)


def describe_nodes(values: dict[str, str]) -> list[dict[str, Any]]:
    """What to start, as keyword arguments of `launch_ros.actions.Node`.

    Args:
        values: one text per entry of `ARGUMENTS`.

    Returns:
        One dictionary per node, the cell before the policy.

    Raises:
        ValueError: if ``twin`` is missing or ``simulated`` is no truth value.
    """
    if not values["twin"]:
        raise ValueError("twin:=FOLDER is missing: the folder that `physgym reconstruct` wrote")
    common = {
        "package": PACKAGE,
        "namespace": values["namespace"],
        "output": "screen",
        "emulate_tty": True,
        "remappings": [
            ("joint_states", values["joint_states"]),
            ("object/points", values["points"]),
        ],
        "arguments": ["--ros-args", "--log-level", values["log_level"]],
        # The policy plans its way to rest before it ends: it needs longer than the usual 5 s
        # only on a machine under load.
        "sigterm_timeout": "10",
    }
    shared = {"controller": values["controller"]}
    nodes = []
    if is_true(values, "simulated"):
        nodes.append(
            common
            | {
                "executable": "sim_cell",
                "name": "sim_cell",
                "parameters": [values["params_file"], shared],
            }
        )
    task = shared | {"twin": values["twin"], "goal": values["goal"]}
    nodes.append(
        common
        | {
            "executable": "policy",
            "name": "policy",
            "parameters": [values["params_file"], task],
        }
    )
    return nodes


def generate_launch_description() -> Any:
    """Entry point of `ros2 launch`."""
    return launch_description(ARGUMENTS, describe_nodes)
