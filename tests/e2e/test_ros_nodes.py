"""The nodes as processes over DDS: rejection, watchdog, the whole loop, and a planner that dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

# Read when a message class is first imported, here and in the child processes.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
pytest.importorskip("rclpy", reason="rclpy is not installed")
harness = pytest.importorskip("physgym_ros.harness", reason="physgym_ros is not installed")
from physgym_ros import conversions
from physgym_ros.setpoints import JointPath

from physgym.cell import CellConfig

pytestmark = [pytest.mark.ros, pytest.mark.slow]

NAMES = ("left_x", "left_y", "left_z", "right_x", "right_y", "right_z")
TIMEOUT_S = 0.3
RAMP_S = 0.25
CELL = {"command_timeout_s": TIMEOUT_S, "ramp_s": RAMP_S, "seed": 1}
# Import of MuJoCo, settling of the cable and discovery take 2-3 s; a loaded machine ten times that.
PATIENCE_S = 30.0


def _cell(tmp_path: Path, domain: int):
    return harness.NodeProcess("sim_cell", CELL, domain_id=domain, log=tmp_path / "cell.log")


def _ready(watcher, cell) -> None:
    seen = watcher.wait(
        lambda log: log.points and log.joint_position and log.status and watcher.listeners() > 0,
        timeout_s=PATIENCE_S,
        alive=[cell],
    )
    assert seen, cell.tail()


def _value(log, key: str) -> str:
    return log.latest_status().values[key] if log.status else ""


def _glide(watcher, *, seconds: float = 3.0, speed: float = 0.05) -> None:
    """A slow trajectory of both grippers, from where they are, that stays in motion throughout."""
    start = watcher.log.joint_position[-1]
    time_s = np.linspace(0.1, seconds, 20)
    velocity = np.zeros((20, 6))
    velocity[:, [2, 5]] = speed
    position = start + velocity * time_s[:, None]
    watcher.send(JointPath(NAMES, time_s, position, velocity))


def test_wrong_commands_are_refused_and_the_cell_lives_on(tmp_path):
    domain = harness.fresh_domain()
    with _cell(tmp_path, domain) as cell, harness.CellWatcher(NAMES, domain_id=domain) as watcher:
        _ready(watcher, cell)
        home = watcher.log.joint_position[-1]
        good = conversions.joint_trajectory_message(
            JointPath(NAMES, np.array([0.5]), home[None], np.zeros((1, 6)))
        )
        wrong = []
        for text, change in (
            ("unknown joints: elbow", lambda m: setattr(m, "joint_names", ["elbow", *NAMES[1:]])),
            ("hold nan for joint 'left_y'", lambda m: _set_position(m, 1, float("nan"))),
            ("'left_z' is sent to 9.0", lambda m: _set_position(m, 2, 9.0)),
            ("5 positions for 6 joints", lambda m: m.points[0].positions.pop()),
        ):
            message = conversions.joint_trajectory_message(
                JointPath(NAMES, np.array([0.5]), home[None], np.zeros((1, 6)))
            )
            change(message)
            wrong.append((text, message))
        for count, (text, message) in enumerate(wrong, start=1):
            watcher.send_message(message)
            assert watcher.wait(
                lambda log, n=count: _value(log, "rejected") == str(n), timeout_s=10.0, alive=[cell]
            ), cell.tail()
            assert text in _value(watcher.log, "last_rejection")
            assert text in cell.log.read_text()
        assert _value(watcher.log, "accepted") == "0"
        # 2 mm: the gantry holds its place; a followed wrong command would move it by centimetres.
        np.testing.assert_allclose(watcher.log.joint_position[-1], home, atol=2e-3)
        watcher.send_message(good)
        assert watcher.wait(lambda log: _value(log, "accepted") == "1", timeout_s=10.0)
        assert cell.interrupt() == 0


def _set_position(message, joint: int, value: float) -> None:
    message.points[0].positions[joint] = value


def test_the_cell_stops_when_the_stream_goes_quiet(tmp_path):
    domain = harness.fresh_domain()
    with _cell(tmp_path, domain) as cell, harness.CellWatcher(NAMES, domain_id=domain) as watcher:
        _ready(watcher, cell)
        _glide(watcher)
        sent_s = time.monotonic()
        assert watcher.wait(lambda log: _value(log, "mode") == "track", timeout_s=5.0)
        assert watcher.wait(
            lambda log: _value(log, "mode") == "hold" and _value(log, "accepted") == "1",
            timeout_s=10.0,
            alive=[cell],
        ), cell.tail()
        _assert_at_rest_in_time(watcher.log, sent_s)
        status = watcher.log.latest_status()
        assert status.level == 1
        assert status.text.startswith("watchdog: no command for ")
        assert cell.process.poll() is None
        assert cell.interrupt() == 0


def _assert_at_rest_in_time(log, last_command_s: float) -> None:
    """The grippers moved, and were at rest within time-out + ramp of the last command."""
    time_s = np.array(log.joint_time_s)
    speed = np.abs(np.array(log.joint_velocity)[: len(time_s)]).max(axis=1)
    assert speed[time_s < last_command_s + TIMEOUT_S].max() > 0.03
    # 0.5 s besides: the gantry's own lag is 10 ms, the rest is for a busy machine.
    late = speed[time_s > last_command_s + TIMEOUT_S + RAMP_S + 0.5]
    # 5 mm/s: the cable goes on swinging and shakes the grippers a little.
    assert late.size == 0 or late.max() < 5e-3


def test_two_cells_in_two_domains_do_not_hear_each_other(tmp_path):
    here, there = harness.fresh_domain(), harness.fresh_domain()
    with (
        _cell(tmp_path, here) as cell,
        harness.CellWatcher(NAMES, domain_id=here) as near,
        harness.CellWatcher(NAMES, domain_id=there) as far,
    ):
        _ready(near, cell)
        assert not far.log.joint_position


def test_sigterm_ends_the_cell_cleanly(tmp_path):
    domain = harness.fresh_domain()
    with _cell(tmp_path, domain) as cell, harness.CellWatcher(NAMES, domain_id=domain) as watcher:
        _ready(watcher, cell)
        cell.process.send_signal(signal.SIGTERM)
        assert cell.process.wait(timeout=10.0) == 0
        assert watcher.wait(lambda log: _value(log, "mode") == "stopped", timeout_s=5.0)


def test_a_parameter_out_of_range_is_refused_at_start(tmp_path):
    domain = harness.fresh_domain()
    parameters = {"cell.length_m": -1.0}
    log = tmp_path / "cell.log"
    with harness.NodeProcess("sim_cell", parameters, domain_id=domain, log=log) as cell:
        assert cell.process.wait(timeout=PATIENCE_S) == 2
        assert "CellConfig.length_m" in cell.tail()


def test_config_defaults_are_the_cells_own():
    from physgym_ros.parameters import defaults

    assert defaults(CellConfig, prefix="cell.")["cell.length_m"] == CellConfig().length_m
