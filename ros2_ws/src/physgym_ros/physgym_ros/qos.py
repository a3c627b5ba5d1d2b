"""Quality of service of every topic, in one place, and what to say when it does not match."""

from __future__ import annotations

from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

__all__ = [
    "COMMAND",
    "IMAGES",
    "LATCHED",
    "MOTION",
    "SENSOR",
    "STATE",
    "STATIC",
    "as_offered",
    "publisher_events",
    "subscription_events",
]

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

IMAGES = QoSProfile(
    depth=30, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST
)
"""Publishers of images, reliable as realsense-ros's own default is (SYSTEM_DEFAULT).

Any subscriber matches: one that wants sensor data takes best effort and never holds the others up,
a recorder asks for reliable and gets every image again that shared memory was too full for. A
second of images is kept for it, in case this machine does something else meanwhile.
"""

MOTION = QoSProfile(
    depth=200, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST
)
"""A recorder's subscriptions to poses and joints: any publisher matches; 0.4 s at 500 Hz."""

STATIC = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
)
"""Subscriptions to ``/tf_static``, tf2's own choice: the last word of up to 100 publishers."""


def as_offered(node: Node, topic: str, *, depth: int) -> QoSProfile | None:
    """What a recorder asks for: the most that all publishers of a topic offer, as rosbag2 does.

    Args:
        node: who asks the graph.
        topic: the topic's name.
        depth: messages that wait for this node.

    Returns:
        Reliable when every publisher is, else best effort; None while nobody publishes.
    """
    found = node.get_publishers_info_by_topic(topic)
    if not found:
        return None
    reliable = all(one.qos_profile.reliability == ReliabilityPolicy.RELIABLE for one in found)
    kind = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=kind, history=HistoryPolicy.KEEP_LAST)


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
