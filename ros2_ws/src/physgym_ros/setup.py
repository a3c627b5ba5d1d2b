"""Build of the ament_python package: works with plain pip and with `colcon build`."""

import os
from glob import glob

from setuptools import setup

PACKAGE = "physgym_ros"
SHARE = f"share/{PACKAGE}"
# Launch files live at the top of the repository; setup.py is always run from its own folder.
LAUNCH = os.path.join("..", "..", "..", "launch")

setup(
    name=PACKAGE,
    version="0.1.0",
    description=(
        "PhysGym on ROS 2: cameras and their recorder, a simulated cell, "
        "and the policy that runs a cell on a twin."
    ),
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=[PACKAGE],
    package_data={PACKAGE: ["py.typed", "config/*.xml"]},
    install_requires=["physgym"],
    zip_safe=False,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/config", sorted(glob(f"{PACKAGE}/config/*.xml"))),
        (f"{SHARE}/launch", sorted(glob(os.path.join(LAUNCH, "*.launch.py")))),
        (f"{SHARE}/launch/config", sorted(glob(os.path.join(LAUNCH, "config", "*.yaml")))),
    ],
    entry_points={
        # `ros2 run physgym_ros sim_cell`
        "console_scripts": [
            "camera = physgym_ros.camera:main",
            "policy = physgym_ros.policy:main",
            "reconstruct = physgym_ros.reconstruct:main",
            "recorder = physgym_ros.recorder:main",
            "sim_cell = physgym_ros.sim_cell:main",
        ],
        "physgym.commands": ["demo = physgym_ros.demo:Demo"],
    },
)
