"""Perception: from calibrated RGB-D video to masks, 3D point tracks, clouds and whole shapes."""
