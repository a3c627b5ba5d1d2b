"""What `physgym doctor` looks at on the ground floor; each probe imports what it probes, late.

A probe that only imported a library would say too much: these compile a kernel, step a model,
draw a frame, open a node, start the encoder.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from physgym.doctor import Probe
from physgym.errors import DeviceError

__all__ = ["PROBES", "cuda_devices"]

_SETUP = "make setup"
_SIMD = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "asimd", "sve")
_RENDERERS = ("egl", "osmesa", "glfw")
_DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size=".3"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 64) as renderer:
    renderer.update_scene(data)
    frame = renderer.render()
    from OpenGL import GL
    # One flat colour would mean that nothing was drawn.
    print(GL.glGetString(GL.GL_RENDERER).decode() if frame.std() > 1 else "")
"""


def cuda_devices() -> list[str]:
    """Names of the CUDA devices, asked of the driver itself, so that no package is needed.

    Returns:
        One name per device; empty when there is no driver or no device.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for index in range(count.value):
        handle, name = ctypes.c_int(0), ctypes.create_string_buffer(128)
        driver.cuDeviceGet(ctypes.byref(handle), index)
        driver.cuDeviceGetName(name, len(name), handle)
        names.append(name.value.decode(errors="replace"))
    return names


def _python() -> str:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise DeviceError(f"Python {platform.python_version()}")
    return f"{platform.python_version()} ({platform.python_implementation()})"


def _cpu() -> str:
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        threads = os.cpu_count() or 1
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                flags = set(line.partition(":")[2].split())
                break
    simd = [flag for flag in _SIMD if flag in flags] or ["SIMD unknown"]
    return f"{platform.machine()}, {threads} thread(s), {' '.join(simd)}"


def _cuda() -> str:
    names = cuda_devices()
    if not names:
        raise DeviceError("no CUDA device (device='auto' takes the CPU)")
    return ", ".join(names)


def _warp() -> str:
    import numpy as np
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING
    names = []
    for device in wp.get_devices():
        values = wp.array([1.0, 2.0], dtype=float, device=device)
        squares = wp.map(wp.mul, values, values)
        if not np.array_equal(squares.numpy(), [1.0, 4.0]):
            raise RuntimeError(f"a kernel on {device} returned {squares.numpy()}")
        names.append(str(device))
    if cuda_devices() and len(names) == 1:
        raise RuntimeError(f"{version('warp-lang')} does not see the CUDA device")
    return f"{version('warp-lang')}, kernels compile and run on {', '.join(names)}"


def _torch() -> str:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    if cuda_devices() and not torch.cuda.is_available():
        raise RuntimeError(f"{torch.__version__} ({build}) does not see the CUDA device")
    return f"{torch.__version__}, {build}, {torch.get_num_threads()} thread(s)"


def _gsplat() -> str:
    if find_spec("gsplat") is None:
        raise ModuleNotFoundError("gsplat is not installed")
    found = version("gsplat")
    if not cuda_devices():
        raise DeviceError(f"{found} is installed, but it draws on a CUDA device only")
    if find_spec("gsplat.csrc") is not None:
        return f"{found}, its wheel carries the CUDA kernels"
    if shutil.which("nvcc") is None:
        raise DeviceError(f"{found} has to compile its CUDA kernels, and there is no nvcc")
    return f"{found}, compiles its CUDA kernels with nvcc at the first use"


def _mujoco() -> str:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    if not data.qvel[2] < 0:
        raise RuntimeError("a free body does not fall")
    return str(mujoco.__version__)


def _rendering() -> str:
    if find_spec("mujoco") is None:
        raise ModuleNotFoundError("mujoco is not installed")
    # MuJoCo reads MUJOCO_GL when it is imported, and a bad driver may crash: one process each.
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", _DRAW],
            env={**os.environ, "MUJOCO_GL": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in _RENDERERS
    }
    drew = {}
    for name, process in running.items():
        answer = process.communicate()[0].strip()
        if process.returncode == 0 and answer:
            drew[name] = answer.splitlines()[-1]
    if not drew:
        raise DeviceError(f"none of {', '.join(_RENDERERS)} draws a frame")
    works = ", ".join(f"{name} draws ({by})" for name, by in drew.items())
    rest = [name for name in _RENDERERS if name not in drew]
    return works + (f"; {', '.join(rest)} cannot" if rest else "")


def _rclpy() -> str:
    spec = find_spec("rclpy")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("rclpy is not importable, and no ROS distribution is sourced")
    folder = Path(spec.origin).resolve().parent.parent
    try:
        wheel = version("ros-jazzy-rclpy")
    except PackageNotFoundError:
        wheel = ""
    prefixes = [Path(path) for path in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    sourced = os.environ.get("ROS_DISTRO", "")
    in_system = any(path.name and path.resolve() in folder.parents for path in prefixes)
    if sourced and (in_system or not wheel):
        source = f"system ROS {sourced} in {folder}"
    else:
        source = f"wheel ros-jazzy-rclpy {wheel}" if wheel else str(folder)
    return f"{source}, {_open_node()}"


def _open_node() -> str:
    """Open a node on loopback; a string, since no library file of ours imports ROS."""
    program = (
        "import rclpy, sensor_msgs.msg, trajectory_msgs.msg\n"
        "rclpy.init()\n"
        "rclpy.create_node('physgym_doctor').destroy_node()\n"
        "print(rclpy.get_rmw_implementation_identifier())\n"
        "rclpy.try_shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **os.environ},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        raise RuntimeError(f"a node does not open: {lines[-1]}")
    return f"a node opens over {done.stdout.split()[-1]}"


def _ffmpeg() -> str:
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with code {done.returncode}")
    if "libx264" not in done.stdout:
        raise RuntimeError("it has no H.264 encoder (libx264)")
    return f"{imageio_ffmpeg.get_ffmpeg_version()} with H.264, from imageio-ffmpeg"


def _tensorboard() -> str:
    if find_spec("tensorboard") is None:
        raise ModuleNotFoundError("tensorboard is not installed")
    return version("tensorboard")


PROBES: tuple[Probe, ...] = (
    Probe("python", _python, "physgym at all", "use Python 3.10, 3.11 or 3.12", core=True),
    Probe("cpu", _cpu, "simulation on the CPU", "report this machine", core=True),
    Probe(
        "cuda",
        _cuda,
        "speed-up by a GPU (every job also runs on the CPU)",
        "nothing needed; for more speed an NVIDIA card with its driver",
    ),
    Probe("warp", _warp, "simulation", _SETUP, core=True),
    Probe("torch", _torch, "reconstruction and planning", _SETUP, core=True),
    Probe(
        "gsplat",
        _gsplat,
        "drawing of splats by gsplat's CUDA kernels",
        "nothing needed; for more speed a CUDA device and pip install 'physgym[splats]'",
    ),
    Probe("mujoco", _mujoco, "simulated robot cells", _SETUP, core=True),
    Probe(
        "rendering",
        _rendering,
        "camera images from MuJoCo",
        "install libegl1 (or libosmesa6), then set MUJOCO_GL=egl (or osmesa)",
    ),
    Probe(
        "rclpy",
        _rclpy,
        "robots over ROS 2",
        "source a ROS 2 distribution for this Python, or on Linux x86-64: make setup",
    ),
    Probe("ffmpeg", _ffmpeg, "videos in reports", "pip install imageio-ffmpeg"),
    Probe("tensorboard", _tensorboard, "training curves", "pip install 'physgym[train]'"),
)
