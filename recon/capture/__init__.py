"""Cameras: librealsense, calibration, and checks of a recording rig."""
