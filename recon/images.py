"""Image messages <-> arrays: RGB as uint8, depth as float32 metres."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import cv2
import numpy as np

from physgym.errors import DataError
from recon.cdr import CompressedMsg, ImageMsg

__all__ = [
    "color_file",
    "color_image",
    "compressed_color",
    "compressed_depth",
    "depth_image",
    "depth_mm",
    "image_defect",
]

_COLOR_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3}
_YUV_BYTES = {"yuv422_yuy2": 2, "yuv422": 2, "yuyv": 2, "uyvy": 2}
_DEPTH_BYTES = {"16UC1": 2, "mono16": 2, "32FC1": 4}
_MM = np.float32(1e-3)
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_DEPTH_HEADER = 12  # bytes of compressed_depth_image_transport's ConfigHeader before the PNG


def image_defect(message: ImageMsg, *, depth: bool) -> str:
    """What keeps an image from being used; cheap, no pixel is touched.

    Args:
        message: the image.
        depth: whether it should be a depth image.

    Returns:
        A phrase; empty when it can be used.
    """
    known = _DEPTH_BYTES if depth else {**_COLOR_BYTES, **_YUV_BYTES}
    if message.encoding not in known:
        return f"encoding {message.encoding!r}, not one of {', '.join(known)}"
    if message.height == 0 or message.width == 0:
        return "no pixels"
    if message.encoding in _YUV_BYTES and message.width % 2:
        return f"{message.width} pixels in a row, which YUV stores in pairs"
    if message.step < message.width * known[message.encoding]:
        return f"rows of {message.step} bytes for {message.width} pixels"
    if message.size < message.step * message.height:
        return f"{message.size} bytes for {message.height} rows of {message.step}"
    return ""


def color_image(message: ImageMsg) -> np.ndarray:
    """RGB pixels of a colour image without defects.

    Args:
        message: `image_defect` found nothing wrong with it.

    Returns:
        Shape (H, W, 3), uint8, writable.
    """
    if message.encoding in _YUV_BYTES:
        code = cv2.COLOR_YUV2RGB_YUY2
        if message.encoding in ("yuv422", "uyvy"):  # two names of one
            code = cv2.COLOR_YUV2RGB_UYVY
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(_rows(message, 2)), code))
    pixels = _rows(message, _COLOR_BYTES[message.encoding])
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    order = [2, 1, 0] if message.encoding.startswith(("bgr", "8UC3")) else [0, 1, 2]
    if order == [0, 1, 2]:
        return np.array(pixels[..., :3])
    return np.ascontiguousarray(pixels[..., order])


def depth_image(message: ImageMsg) -> np.ndarray:
    """Depth of a depth image without defects.

    Args:
        message: `image_defect` found nothing wrong with it.

    Returns:
        [m], shape (H, W), float32; 0 where nothing was measured.
    """
    if message.encoding == "32FC1":
        values = _swapped(_rows(message, 4), message).view(np.float32)[..., 0]
        return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))
    return _swapped(_rows(message, 2), message).view(np.uint16)[..., 0] * _MM


def color_file(path: Path) -> np.ndarray:
    """RGB pixels of an image file.

    Args:
        path: a PNG or JPEG.

    Returns:
        Shape (H, W, 3), uint8.

    Raises:
        DataError: if it does not decode.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError("no image", where=str(path), expected="PNG or JPEG")
    return np.ascontiguousarray(bgr[..., ::-1])


def compressed_color(message: CompressedMsg, where: str) -> np.ndarray:
    """RGB pixels of a JPEG or PNG.

    Args:
        message: of a ``.../image_raw/compressed`` topic.
        where: topic and frame, for the message.

    Returns:
        Shape (H, W, 3), uint8.

    Raises:
        DataError: if it does not decode.
    """
    pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(
            f"a compressed image of format {message.format!r} does not decode",
            where=where,
            expected="JPEG or PNG",
            fix="record image_raw, or image_raw/compressed with the jpeg or png plug-in",
        )
    return np.ascontiguousarray(pixels[..., ::-1])


def compressed_depth(message: CompressedMsg, where: str) -> np.ndarray:
    """Depth of a 16-bit PNG of compressed_depth_image_transport, millimetres or quantised metres.

    Args:
        message: of a ``.../compressedDepth`` topic.
        where: topic and frame, for the message.

    Returns:
        [m], shape (H, W), float32.

    Raises:
        DataError: if it is RVL or does not decode.
    """
    pixels = None
    if "rvl" not in message.format.lower():
        # image_transport's plain "compressed" plug-in puts no header before a 16-bit PNG.
        begin = 0 if bytes(message.data[:8]) == _PNG_MAGIC else _DEPTH_HEADER
        packed = np.frombuffer(message.data[begin:], np.uint8)
        pixels = cv2.imdecode(packed, cv2.IMREAD_UNCHANGED) if len(packed) else None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise DataError(
            f"compressed depth of format {message.format!r} cannot be read",
            where=where,
            expected="16UC1 or 32FC1; compressedDepth png",
            fix="record aligned_depth_to_color/image_raw, or compressedDepth with format png",
        )
    if not message.format.startswith("32FC1"):
        return np.asarray(pixels * _MM)
    # Inverse depth in steps (compressed_depth_image_transport, codec.cpp): a / depth + b
    a, b = struct.unpack_from("<ff", message.data, 4)
    known = pixels > 0
    metres = np.float32(a) / np.where(known, pixels - np.float32(b), np.float32(1))
    return np.where(known & np.isfinite(metres) & (metres > 0), metres, np.float32(0))


def depth_mm(depth: np.ndarray) -> np.ndarray:
    """Depth as topics and files carry it.

    Args:
        depth: float [m] or uint16 [mm], any shape.

    Returns:
        [mm], uint16, the same shape; 0 where the depth is not finite, not positive or too far.
    """
    if depth.dtype == np.uint16:
        return depth
    # Adding a half and cutting off rounds, and is several times as fast as np.round.
    scaled = depth * np.float32(1e3) + np.float32(0.5)
    with np.errstate(invalid="ignore"):
        return np.where((scaled > 0) & (scaled < 65536), scaled, 0).astype(np.uint16)


def _rows(message: ImageMsg, pixel_bytes: int) -> np.ndarray:
    """View of the pixels without the padding of rows, shape (H, W, pixel_bytes), uint8."""
    size = message.step * message.height
    flat = np.frombuffer(message.data, np.uint8, count=size)
    rows = flat.reshape(message.height, message.step)[:, : message.width * pixel_bytes]
    return rows.reshape(message.height, message.width, pixel_bytes)


def _swapped(pixels: np.ndarray, message: ImageMsg) -> np.ndarray:
    """Bytes in this machine's order."""
    if message.big_endian == (sys.byteorder == "big"):
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[..., ::-1])
