"""launch/capture.launch.py: what it starts, with which parameters; the files' own rules are in
test_launch_files.py."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytest.importorskip("physgym_ros", reason="physgym_ros is not installed")
LAUNCH = Path(__file__).resolve().parents[3] / "launch"


@pytest.fixture
def capture():
    spec = importlib.util.spec_from_file_location("capture_launch", LAUNCH / "capture.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _values(module, **changes) -> dict[str, str]:
    return {name: default for name, default, _ in module.ARGUMENTS} | changes


def test_cameras_then_recorder(capture):
    values = _values(capture, source="simulated", namespace="lab", record="true")
    camera, recorder = capture.describe_nodes(values)
    assert [camera["executable"], recorder["executable"]] == ["camera", "recorder"]
    assert {camera["namespace"], recorder["namespace"]} == {"lab"}
    yaml = str(LAUNCH / "config" / "capture.yaml")
    assert camera["parameters"] == [yaml, {"source": "simulated", "calibration": ""}]
    assert recorder["parameters"][0] == yaml
    assert recorder["parameters"][1]["autostart"] is True
    assert recorder["parameters"][1]["allow_uncalibrated"] is False


def test_drivers_that_run_already_are_only_recorded(capture):
    values = _values(capture, source="topics", calibration="c.yaml", out="there", name="lift")
    (recorder,) = capture.describe_nodes(values)
    given = recorder["parameters"][1]
    assert recorder["executable"] == "recorder"
    assert (given["calibration"], given["out"], given["name"]) == ("c.yaml", "there", "lift")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"source": ""}, "source:=... is missing"), ({"record": "yes"}, "record:=yes is neither")],
)
def test_wrong_arguments_are_named(capture, changes, message):
    with pytest.raises(ValueError, match=message):
        capture.describe_nodes(_values(capture, **changes))


def test_what_it_starts_exists_and_knows_its_parameters(capture):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from physgym_ros.camera import CameraParameters
    from physgym_ros.recorder import RecorderParameters

    known = {"camera": CameraParameters, "recorder": RecorderParameters}
    scripts = {entry.name: entry for entry in distribution("physgym_ros").entry_points}
    for node in capture.describe_nodes(_values(capture)):
        assert node["package"] == "physgym_ros"
        assert callable(scripts[node["executable"]].load())
        types = {item.name: type(item.default) for item in fields(known[node["executable"]])}
        for name, value in node["parameters"][1].items():
            assert type(value) is types[name], name


def test_the_real_launch_system_takes_the_description(capture):
    pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS distribution")
    description = capture.generate_launch_description()
    assert len(description.entities) == len(capture.ARGUMENTS) + 2
