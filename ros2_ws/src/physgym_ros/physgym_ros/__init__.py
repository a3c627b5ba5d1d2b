"""PhysGym on ROS 2: thin adapters between topics and the packages below, no algorithm."""
