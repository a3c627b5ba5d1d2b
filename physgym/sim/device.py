"""Choice of the device: CUDA when there is one, else CPU."""

from __future__ import annotations

import threading

from physgym.errors import DeviceError

__all__ = ["resolve_device"]

_starting = threading.Lock()


def resolve_device(device: str = "auto") -> str:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` into a Warp device name.

    Args:
        device: the wish. ``"auto"`` takes the first CUDA device when there is one.

    Returns:
        A name that both Warp and torch accept.

    Raises:
        DeviceError: if a CUDA device was asked for and there is none.
    """
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING  # its banner would spoil --json on stdout
    # Warp starts at its first use, and forgets what other threads are just loading.
    with _starting:
        wp.init()
    if device == "cpu":
        return "cpu"
    if device == "auto":
        return "cuda:0" if wp.get_cuda_device_count() > 0 else "cpu"
    if device.startswith("cuda"):
        name = "cuda:0" if device == "cuda" else device
        index = name.partition(":")[2]
        if index.isdigit() and int(index) < wp.get_cuda_device_count():
            return name
        raise DeviceError(
            f"device {device!r} is not there",
            where="device",
            expected=f"one of {wp.get_cuda_device_count()} CUDA devices, or 'cpu'",
            fix="use device='auto' or 'cpu'; `physgym doctor` shows what is present",
        )
    raise DeviceError(
        f"unknown device {device!r}",
        where="device",
        expected="'auto', 'cpu', 'cuda' or 'cuda:<index>'",
        fix="use device='auto'",
    )
