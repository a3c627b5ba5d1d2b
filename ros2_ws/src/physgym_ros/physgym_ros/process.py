"""Start and stop of a node's process: own signal handlers, so a last command can be sent."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from physgym.errors import PhysGymError

__all__ = ["Runnable", "run_node"]


class Runnable(Protocol):
    """What `run_node` runs: a node with a thread of its own beside the executor."""

    @property
    def node(self) -> Node:
        """The node that the executor serves."""
        ...

    @property
    def exit_code(self) -> int:
        """What the process ends with: 0 unless its thread failed."""
        ...

    def start(self) -> None:
        """Start the thread."""
        ...

    def stop(self) -> None:
        """Stop the thread and send what must be sent last; the context is still valid."""
        ...


def run_node(make: Callable[[threading.Event], Runnable], argv: list[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM, or until it sets its own stop flag.

    rclpy's handlers invalidate the context before user code sees the signal, so a node that relies
    on them cannot publish a last command; here the handlers only set a flag.

    Args:
        make: builds the node; receives the stop flag, which it may set itself.
        argv: command line with ROS arguments; None takes the process's own.

    Returns:
        The exit code: 0 after a clean stop, 2 when a parameter or file was wrong.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        runnable = make(stop)
    except (PhysGymError, ParameterException) as error:
        print(f"physgym: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(runnable.node)
    runnable.start()
    try:
        # The time-out bounds how long a signal that comes between two messages goes unseen.
        while not stop.is_set() and rclpy.ok():
            executor.spin_once(timeout_sec=0.05)
    except ExternalShutdownException:
        pass
    finally:
        runnable.stop()
        executor.remove_node(runnable.node)
        runnable.node.destroy_node()
        rclpy.try_shutdown()
    return runnable.exit_code
