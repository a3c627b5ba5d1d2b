"""/tf_static as it is on a robot: latched, a chain of frames, and who joins late still hears it."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# Read when a message class is first imported, here and in the child processes.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
harness = pytest.importorskip("physgym_ros.harness", reason="physgym_ros is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "recon"))
import tf2_msgs_build
from episode_cases import DT, camera, color, depth, write_episode
from ros_capture_client import Client, ForeignCamera

from physgym.frames import inverse_T
from physgym_ros import conversions_capture, qos
from recon.episode import Episode

pytestmark = [pytest.mark.ros, pytest.mark.slow]
PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """Folder with tf2_msgs, or empty where it is installed."""
    if find_spec("tf2_msgs") is not None:
        return ""
    if tf2_msgs_build.missing():
        pytest.skip(f"tf2_msgs is not installed and cannot be built: {tf2_msgs_build.missing()}")
    return str(tf2_msgs_build.build(tmp_path_factory.mktemp("tf2_msgs")))


@pytest.fixture(autouse=True)
def _tf2_msgs(site, monkeypatch):
    if site:
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", site)


def test_a_recorder_that_joins_late_knows_the_chain_to_the_camera(tmp_path):
    domain, own = harness.fresh_domain(), camera("theirs", 2)
    link = np.eye(4)
    link[:3, 3] = [0.0, 0.015, 0.0]
    with Client(domain) as client:
        driver = ForeignCamera(client, own, root="/lab/theirs")
        make = conversions_capture
        chain = [
            make.transform_message(
                own.T_world_cam @ inverse_T(link), parent="world", child="link", stamp_s=1.0
            ),
            make.transform_message(link, parent="link", child=driver.frame, stamp_s=1.0),
        ]
        kind = make.static_message_type()
        said = client.node.create_publisher(kind, "/tf_static", qos.LATCHED)
        said.publish(make.transforms_message(chain))
        log = tmp_path / "recorder.log"
        parameters = {"out": str(tmp_path / "out")}
        with harness.NodeProcess("recorder", parameters, domain_id=domain, log=log) as recorder:
            assert client.wait(driver.heard, timeout_s=PATIENCE_S, alive=[recorder])
            assert client.call("/recorder/start").success
            millimetres = (depth(0) * 1000).round().astype(np.uint16)
            for number in range(3):
                pixels = (color(number), "rgb8"), (millimetres, "16UC1")
                driver.send(50.0 + number * DT, *pixels)
            assert client.wait(lambda: client.frames("theirs") == 3, alive=[recorder])
            answer = client.call("/recorder/stop")
    assert answer.success, answer.message
    with Episode.open(json.loads(answer.message)["episode"]) as found:
        # 1e-12: the rotations pass through quaternions in doubles.
        np.testing.assert_allclose(found.cameras["theirs"].T_world_cam, own.T_world_cam, atol=1e-12)


def test_the_camera_node_says_where_its_cameras_are_to_who_joins_late(tmp_path):
    episode = write_episode(tmp_path / "episode", frames=3)
    domain, log = harness.fresh_domain(), tmp_path / "camera.log"
    parameters = {"source": str(episode), "loop": True}
    with harness.NodeProcess("camera", parameters, domain_id=domain, log=log) as node:
        with Client(domain) as client:
            seen = client.wait(
                lambda: int(client.value("camera", "frames.cam1") or 0) > 3,
                timeout_s=PATIENCE_S,
                alive=[node],
            )
            assert seen, node.tail()
            heard: list = []  # it has spoken long ago
            kind = conversions_capture.static_message_type()
            client.node.create_subscription(kind, "/tf_static", heard.append, qos.STATIC)
            assert client.wait(lambda: heard), node.tail()
        found = [conversions_capture.transform(one) for one in heard[0].transforms]
    names = [(one.frame_id, one.child_frame_id) for one in found]
    assert names == [("world", f"cam{k}_color_optical_frame") for k in (0, 1)]
    np.testing.assert_array_equal(found[1].position, camera("cam1", 1).T_world_cam[:3, 3])
