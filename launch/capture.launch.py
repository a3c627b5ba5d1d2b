"""Record cameras: `ros2 launch launch/capture.launch.py source:=realsense calibration:=FILE.yaml`.

Starts the camera node (unless ``source:=topics``: then drivers that run already are recorded, such
as realsense-ros with ``align_depth.enable:=true``) and the recorder. Start and stop a recording
with `ros2 service call /recorder/start std_srvs/srv/Trigger`, or give ``record:=true`` to record
from the start. When the camera node ends, so does the recorder, and its episode is closed; Ctrl-C
does the same. A recorder that ends ends everything.

What to start is plain data (`describe_nodes`), so it can be checked where `launch` is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from physgym_ros.launching import is_true, launch_description

PACKAGE = "physgym_ros"
CONFIG = Path(__file__).resolve().parent / "config" / "capture.yaml"

# Name, default, description.
ARGUMENTS = (
    (
        "source",
        "realsense",
        "realsense, simulated, an episode's folder, or topics: no camera node.",
    ),
    ("calibration", "", "File of `physgym calibrate`: where the cameras are."),
    ("out", "episodes", "Folder that episodes go into."),
    ("name", "episode", "Episodes are called NAME_DATE-TIME."),
    ("record", "false", "Record from the start; else call the service /recorder/start."),
    ("allow_uncalibrated", "false", "Record cameras whose place is unknown (to calibrate them)."),
    ("namespace", "", "Namespace of both nodes; the cameras' topics are not in it."),
    ("params_file", str(CONFIG), "YAML file with the parameters of both nodes."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)


def describe_nodes(values: dict[str, str]) -> list[dict[str, Any]]:
    """What to start, as keyword arguments of `launch_ros.actions.Node`.

    Args:
        values: one text per entry of `ARGUMENTS`.

    Returns:
        One dictionary per node, the recorder last.

    Raises:
        ValueError: if ``source`` is missing or a truth value is none.
    """
    if not values["source"]:
        raise ValueError("source:=... is missing: realsense, simulated, a folder, or topics")
    common = {
        "package": PACKAGE,
        "namespace": values["namespace"],
        "output": "screen",
        "emulate_tty": True,
        "arguments": ["--ros-args", "--log-level", values["log_level"]],
        # The recorder writes what waits in memory before it ends, on a slow disk for seconds.
        "sigterm_timeout": "30",
    }
    nodes = []
    if values["source"] != "topics":
        shown = {"source": values["source"], "calibration": values["calibration"]}
        nodes.append(
            common
            | {
                "executable": "camera",
                "name": "camera",
                "parameters": [values["params_file"], shown],
            }
        )
    kept = {
        "out": values["out"],
        "name": values["name"],
        "calibration": values["calibration"],
        "autostart": is_true(values, "record"),
        "allow_uncalibrated": is_true(values, "allow_uncalibrated"),
    }
    nodes.append(
        common
        | {
            "executable": "recorder",
            "name": "recorder",
            "parameters": [values["params_file"], kept],
        }
    )
    return nodes


def generate_launch_description() -> Any:
    """Entry point of `ros2 launch`."""
    return launch_description(ARGUMENTS, describe_nodes)
