"""Launch files: what they start exists, takes these parameters, and is where ROS looks for it.

`launch` itself is no Python wheel, so a launch file's content is plain data; where ROS is
installed, the last test builds the real description.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

pytest.importorskip("physgym_ros", reason="physgym_ros is not installed")

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = ROOT / "launch"
PACKAGE = ROOT / "ros2_ws" / "src" / "physgym_ros"
FILES = sorted(LAUNCH.glob("*.launch.py"))


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cable():
    return _load(LAUNCH / "cable.launch.py")


def _values(module, **changes) -> dict[str, str]:
    return {name: default for name, default, _ in module.ARGUMENTS} | changes


def _declared() -> dict[str, dict[str, object]]:
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from physgym.cell import CellConfig
    from physgym_ros.camera import CameraParameters
    from physgym_ros.parameters import defaults
    from physgym_ros.policy import PolicyParameters
    from physgym_ros.recorder import RecorderParameters
    from physgym_ros.sim_cell import SimCellParameters
    from policies.execution.steering import SteeringConfig

    return {
        "sim_cell": defaults(SimCellParameters) | defaults(CellConfig, prefix="cell."),
        "policy": defaults(PolicyParameters) | defaults(SteeringConfig, prefix="plan."),
        "camera": defaults(CameraParameters),
        "recorder": defaults(RecorderParameters),
    }


# Sections of each parameter file: the nodes that its launch file starts.
SECTIONS = {"cable.yaml": ("sim_cell", "policy"), "capture.yaml": ("camera", "recorder")}


def test_the_launch_folder_does_not_shadow_the_launch_package():
    assert FILES
    assert not list(LAUNCH.rglob("__init__.py"))


def test_simulated_starts_cell_then_policy(cable):
    nodes = cable.describe_nodes(_values(cable, twin="some/twin", goal="g.npz", namespace="lab"))
    assert [node["executable"] for node in nodes] == ["sim_cell", "policy"]
    assert {node["namespace"] for node in nodes} == {"lab"}
    given = nodes[1]["parameters"]
    assert given[0] == str(LAUNCH / "config" / "cable.yaml")
    assert given[1] == {"controller": "cable_controller", "twin": "some/twin", "goal": "g.npz"}


def test_a_real_cell_gets_the_policy_alone_on_its_topics(cable):
    values = _values(
        cable, twin="t", simulated="false", controller="arm_jtc", joint_states="/robot/joint_states"
    )
    (node,) = cable.describe_nodes(values)
    assert node["executable"] == "policy"
    assert node["parameters"][1]["controller"] == "arm_jtc"
    assert ("joint_states", "/robot/joint_states") in node["remappings"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({}, "twin:=FOLDER is missing"), ({"twin": "t", "simulated": "yes"}, "simulated:=yes")],
)
def test_wrong_arguments_are_named(cable, changes, message):
    with pytest.raises(ValueError, match=message):
        cable.describe_nodes(_values(cable, **changes))


def test_every_executable_is_a_console_script_of_the_package(cable):
    scripts = {
        entry.name: entry
        for entry in distribution("physgym_ros").entry_points
        if entry.group == "console_scripts"
    }
    for node in cable.describe_nodes(_values(cable, twin="t")):
        assert node["package"] == "physgym_ros"
        pytest.importorskip("rclpy", reason="rclpy is not installed")
        assert callable(scripts[node["executable"]].load())


def test_the_environment_names_a_profile_that_is_there():
    from physgym_ros.launching import describe_environment

    (path,) = describe_environment().values()
    profile = Path(path).read_text()
    assert "<sec>3</sec>" in profile
    assert "<segment_size>33554432</segment_size>" in profile


@pytest.mark.parametrize("path", sorted((LAUNCH / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_every_parameter_in_yaml_is_declared_and_of_its_type(path):
    declared = _declared()
    content = yaml.safe_load(path.read_text())
    assert set(content) == {f"/**/{node}" for node in SECTIONS[path.name]}
    for key, section in content.items():
        known = declared[key.rpartition("/")[2]]
        for name, value in section["ros__parameters"].items():
            assert name in known, f"{key}: no parameter {name}"
            wanted = list if isinstance(known[name], tuple) else type(known[name])
            assert type(value) is wanted, f"{key}: {name} is {value!r}"


def test_rcl_reads_the_yaml_for_a_node_in_a_namespace():
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    from rclpy.context import Context
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from physgym_ros.parameters import declare
    from physgym_ros.policy import PolicyParameters
    from policies.execution.steering import SteeringConfig

    context = Context()
    config = LAUNCH / "config" / "cable.yaml"
    arguments = ["--ros-args", "--params-file", str(config), "-p", "plan.samples:=17"]
    rclpy.init(
        args=arguments,
        context=context,
        domain_id=99,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    try:
        node = Node("policy", namespace="lab", context=context, enable_rosout=False)
        assert declare(node, PolicyParameters).success_hold_s == 0.5
        plan = declare(node, SteeringConfig, prefix="plan.")
        assert (plan.samples, plan.knots) == (17, 4)  # the command line wins, the file is read
        from rclpy.exceptions import InvalidParameterValueException
        from rclpy.parameter import Parameter

        other = Node(
            "other",
            context=context,
            enable_rosout=False,
            parameter_overrides=[Parameter("samples", value=2)],
        )
        with pytest.raises(InvalidParameterValueException):
            declare(other, SteeringConfig)
        other.destroy_node()
        node.destroy_node()
    finally:
        context.try_shutdown()


def _colcon() -> str:
    beside = Path(sys.executable).with_name("colcon")
    found = str(beside) if beside.exists() else shutil.which("colcon")
    if found is None:
        pytest.skip("colcon is not installed")
    return found


def test_colcon_sees_an_ament_python_package(tmp_path):
    """A fault in package.xml does not fail: the package silently becomes a plain Python one."""
    words = [_colcon(), "--log-base", str(tmp_path), "list", "--base-paths", str(PACKAGE)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "physgym_ros" in output
    assert output.strip().endswith("(ros.ament_python)")


@pytest.mark.slow
def test_colcon_installs_what_ros2_run_and_ros2_launch_look_for(tmp_path):
    words = [_colcon(), "--log-base", str(tmp_path / "log"), "build", "--base-paths", str(PACKAGE)]
    words += ["--build-base", str(tmp_path / "build"), "--install-base", str(tmp_path / "install")]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    prefix = tmp_path / "install" / "physgym_ros"
    share = prefix / "share" / "physgym_ros"
    assert (prefix / "share/ament_index/resource_index/packages/physgym_ros").is_file()
    assert (share / "package.xml").is_file()
    assert (share / "config" / "fastdds.xml").is_file()
    for file in FILES:
        assert (share / "launch" / file.name).read_text() == file.read_text()
    for name in SECTIONS:
        assert (share / "launch" / "config" / name).is_file()
    for script in ("camera", "policy", "reconstruct", "recorder", "sim_cell"):
        assert os.access(prefix / "lib" / "physgym_ros" / script, os.X_OK)
    installed = _load(share / "launch" / "cable.launch.py")
    assert Path(installed.CONFIG).is_file()


def test_the_real_launch_system_takes_the_description(cable):
    pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS distribution")
    description = cable.generate_launch_description()
    assert len(description.entities) == len(cable.ARGUMENTS) + 2
