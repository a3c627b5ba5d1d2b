"""Quality of service of every topic, in one place, and what to say when it does not match."""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

__all__ = ["COMMAND", "LATCHED", "SENSOR", "STATE", "publisher_events", "subscription_events"]

SENSOR = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST
)
"""Subscriptions to joint states and point clouds: matches reliable and best-effort publishers."""

STATE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
"""Publishers of joint states, point clouds and status: any subscriber matches."""

COMMAND = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST
)
"""Trajectories: only the newest counts, and it must arrive."""

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
)
"""Goals and results: who joins late still gets the last one."""


def publisher_events(node: Node, topic: str) -> PublisherEventCallbacks:
    """Event callbacks that turn a mismatch into a sentence in the log.

    Args:
        node: whose logger speaks.
        topic: the topic's name.

    Returns:
        For `create_publisher(event_callbacks=...)`.
    """

    def mismatch(event: Any) -> None:
        node.get_logger().warning(
            f"a subscriber on {topic} asks for a QoS that this node does not offer "
            f"({_policy(event)}): it will get no data"
        )

    return PublisherEventCallbacks(incompatible_qos=mismatch)


def subscription_events(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """Event callbacks that turn a mismatch into a sentence in the log.

    Args:
        node: whose logger speaks.
        topic: the topic's name.

    Returns:
        For `create_subscription(event_callbacks=...)`.
    """

    def mismatch(event: Any) -> None:
        node.get_logger().warning(
            f"a publisher on {topic} offers a QoS that does not meet this node's request "
            f"({_policy(event)}): no data will arrive from it"
        )

    return SubscriptionEventCallbacks(incompatible_qos=mismatch)


def _policy(event: Any) -> str:
    from rclpy.qos import qos_policy_name_from_kind

    return str(qos_policy_name_from_kind(event.last_policy_kind))
