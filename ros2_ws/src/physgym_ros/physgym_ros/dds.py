"""The environment that a PhysGym process needs for DDS on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PROFILE", "child_environment"]

PROFILE = Path(__file__).resolve().parent / "config" / "fastdds.xml"
"""The Fast DDS profile: lease 3 s, announcements every 0.3 s, large shared-memory segment."""


def child_environment(domain_id: int | None = None) -> dict[str, str]:
    """A copy of this process's environment, made fit for starting a ROS 2 process.

    Args:
        domain_id: ROS_DOMAIN_ID, 0 to 232; None leaves what is set.

    Returns:
        The variables for `subprocess.Popen(env=...)`.

    Raises:
        ValueError: if the domain is out of range; rmw would refuse it at start.
    """
    environment = dict(os.environ)
    if domain_id is not None:
        # Fast DDS derives UDP ports from the domain; above 232 they leave the port range.
        if not 0 <= domain_id <= 232:
            raise ValueError(f"ROS_DOMAIN_ID {domain_id} is outside 0..232")
        environment["ROS_DOMAIN_ID"] = str(domain_id)
    environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(PROFILE)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment
