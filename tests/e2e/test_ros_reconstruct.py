"""The node `reconstruct` on a small recording: progress, cancelling, the result for latecomers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

# Read when a message class is first imported, here and in the child processes.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
harness = pytest.importorskip("physgym_ros.harness", reason="physgym_ros is not installed")
from diagnostic_msgs.msg import DiagnosticStatus
from ros_capture_client import Client

from physgym.cell.soft_config import SoftCellConfig
from physgym.twin import Twin
from physgym_ros import conversions_capture, qos
from recon.capture.record import record
from recon.capture.simulated import SimSource, SimulatedRecording

pytestmark = [pytest.mark.ros, pytest.mark.slow]

# Seconds on an idle machine; ten times that and more on a loaded one.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> Path:
    """A block that is lifted, 1 s at 15 Hz, small pictures."""
    small = {"camera_count": 3, "camera_width": 160, "camera_height": 120}
    cell = SoftCellConfig(kind="block", **small)
    played = SimulatedRecording(cell, interaction="lift", duration_s=1.0, fps=15)
    path = tmp_path_factory.mktemp("lift") / "lifted"
    record(SimSource(played), path)
    return path


def _node(tmp_path: Path, domain: int, **parameters):
    options = {"out": str(tmp_path / "twin"), "nodes": 60, "kind": "volume"} | parameters
    log = tmp_path / "reconstruct.log"
    return harness.NodeProcess("reconstruct", options, domain_id=domain, log=log)


def _listen(client: Client, topic: str, profile) -> list:
    heard: list = []

    def hear(message: DiagnosticStatus) -> None:
        heard.append(conversions_capture.status_report(message))

    client.node.create_subscription(DiagnosticStatus, f"/reconstruct/{topic}", hear, profile)
    return heard


def test_a_search_that_is_cancelled_leaves_the_best_so_far(tmp_path, episode):
    domain = harness.fresh_domain()
    with _node(tmp_path, domain, episode=str(episode)) as node:
        with Client(domain) as client:
            progress = _listen(client, "progress", qos.STATE)
            assert not client.call("/reconstruct/cancel").success
            started = client.call("/reconstruct/start")
            assert started.success
            assert started.message == str(tmp_path / "twin")
            assert not client.call("/reconstruct/start").success  # one job at a time
            searching = client.wait(
                lambda: any("step 3" in word.text for word in progress),
                timeout_s=PATIENCE_S,
                alive=[node],
            )
            assert searching, node.tail()
            assert client.call("/reconstruct/cancel").success
            done = client.wait(
                lambda: "the best so far" in node.log.read_text(), timeout_s=PATIENCE_S
            )
            assert done, node.tail()
        with Client(domain) as latecomer:
            result = _listen(latecomer, "result", qos.LATCHED)
            assert latecomer.wait(lambda: result, timeout_s=PATIENCE_S, alive=[node]), node.tail()
        assert node.interrupt() == 0
    stages = [word.values["stage"] for word in progress]
    assert stages[0] == "open"
    assert "perceive" in stages
    fractions = {stage: [] for stage in stages}
    for word in progress:
        fractions[word.values["stage"]].append(float(word.values["fraction"]))
    for rising in fractions.values():
        assert rising == sorted(rising)
        assert rising[0] >= 0.0
        assert rising[-1] <= 1.0
    assert fractions["perceive"][-1] == 1.0
    (word,) = result
    assert (word.level, word.text) == (1, "cancelled: the best so far was kept")
    twin = Twin.load(word.values["twin"])
    assert twin.provenance["stopped_early"]
    assert word.values["kind"] == twin.kind == "volume"
    assert json.loads(word.values["metrics"]).keys() == twin.metrics.keys()


def test_what_cannot_be_reconstructed_is_said(tmp_path):
    domain = harness.fresh_domain()
    with _node(tmp_path, domain, episode=str(tmp_path / "none")) as node, Client(domain) as client:
        refused = client.call("/reconstruct/start")
        assert not refused.success
        assert "no episode" in refused.message
        assert node.interrupt() == 0
    (tmp_path / "empty").mkdir()
    domain = harness.fresh_domain()
    with _node(tmp_path, domain, episode=str(tmp_path / "empty")) as node, Client(domain) as client:
        result = _listen(client, "result", qos.LATCHED)
        assert client.call("/reconstruct/start").success
        assert client.wait(lambda: result, timeout_s=PATIENCE_S, alive=[node]), node.tail()
        assert result[0].level == 2
        assert "no rosbag2 recording" in result[0].text
        # A job that failed ends neither the node nor what it can do next.
        assert client.call("/reconstruct/start").success
        assert client.wait(lambda: len(result) == 2, timeout_s=PATIENCE_S, alive=[node])
        assert node.interrupt() == 0
