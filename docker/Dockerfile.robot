# On a robot with ROS 2: docker build -f docker/Dockerfile.robot -t physgym:robot .
# docker run --net host --ipc host physgym:robot   (DDS needs the host's network and shared memory)
# ROS_DISTRO is set in this image, so `make setup` takes rclpy from it and installs no ROS wheel.
FROM ros:jazzy-ros-base
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv make git libegl1 libgl1 libusb-1.0-0 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home physgym
USER physgym
WORKDIR /home/physgym/app
COPY --chown=physgym . .
ARG PIP_FLAGS=""
RUN make setup PIP_FLAGS="${PIP_FLAGS}"
ENV MUJOCO_GL=egl
# The image's entry point sources ROS before this.
CMD ["make", "demo"]
