"""Tests marked gpu or ros are skipped, with the reason, on a machine that lacks these."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest

from physgym.probes import cuda_devices

# Two test workers share two cores: torch's own threads would only fight over them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A runner that was started in the background hands down an ignored SIGINT, and so would every
# process that a test starts and stops with Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LACKS = {
    "gpu": None if cuda_devices() else "no CUDA device (make gpu-check runs these where one is)",
    "ros": None if find_spec("rclpy") else "rclpy is not installed (make setup, or source ROS 2)",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, reason in _LACKS.items():
        if reason and item.get_closest_marker(marker):
            pytest.skip(reason)
