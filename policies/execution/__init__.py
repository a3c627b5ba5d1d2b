"""From plans to motion, without ROS: what runs between a cell's sensors and its set points."""
