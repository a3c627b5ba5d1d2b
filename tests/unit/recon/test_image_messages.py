"""Image messages of other drivers: encodings, byte order, padding, compression."""

import struct

import cv2
import numpy as np
import pytest
from episode_cases import H, W, color, depth

from physgym.errors import DataError
from recon.cdr import CompressedMsg, ImageMsg
from recon.images import (
    color_image,
    compressed_color,
    compressed_depth,
    depth_image,
    image_defect,
)

MILLIMETRES = np.round(depth(0) * 1e3).astype(np.uint16)


def message(
    encoding: str, pixels: np.ndarray, *, padding: int = 0, big_endian: bool = False
) -> ImageMsg:
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xEE)
    data = memoryview(rows.tobytes())
    return ImageMsg(1, "o", *pixels.shape[:2], encoding, big_endian, rows.shape[1], len(data), data)


def packed(form: str, data: bytes) -> CompressedMsg:
    return CompressedMsg(1, "o", form, len(data), memoryview(data))


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


@pytest.mark.parametrize("padding", [0, 5, 64])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("8UC3", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]),
     ("bgra8", [2, 1, 0, 1])],
)  # fmt: skip
def test_colour_encodings_and_padded_rows(encoding: str, order: list[int], padding: int) -> None:
    found = message(encoding, color(0)[..., order], padding=padding)
    assert image_defect(found, depth=False) == ""
    assert np.array_equal(color_image(found), color(0))


@pytest.mark.parametrize(
    ("encoding", "luma"), [("yuv422_yuy2", 0), ("yuyv", 0), ("yuv422", 1), ("uyvy", 1)]
)
def test_yuv_encodings(encoding: str, luma: int) -> None:
    pixels = np.full((H, W, 2), 128, np.uint8)  # grey: no colour to be mixed
    pixels[..., luma] = np.linspace(16, 235, W).astype(np.uint8)
    rgb = color_image(message(encoding, pixels))
    # BT.601 studio range: 16 to 235 becomes 0 to 255; rounding of fixed-point arithmetic
    expected = (pixels[..., luma].astype(float) - 16) * 255 / 219
    assert np.abs(rgb - expected[..., None]).max() <= 2
    odd = message(encoding, pixels[:, :-1])
    assert "in pairs" in image_defect(odd, depth=False)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_depth_encodings_in_both_byte_orders(encoding: str, big_endian: bool) -> None:
    kind = "f4" if encoding == "32FC1" else "u2"
    values = depth(0) if encoding == "32FC1" else MILLIMETRES
    found = message(
        encoding, values.astype((">" if big_endian else "<") + kind), padding=6,
        big_endian=big_endian,
    )  # fmt: skip
    assert image_defect(found, depth=True) == ""
    # whole millimetres in float32
    assert np.abs(depth_image(found) - depth(0)).max() < 1e-6
    assert image_defect(found, depth=False) != ""


def test_a_depth_that_is_no_number_is_0() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.5]], np.float32)
    assert depth_image(message("32FC1", values)).tolist() == [[0, 0, 0, 0, 0.5]]


def test_compressed_depth_of_either_transport() -> None:
    for form, head in (
        ("16UC1; compressedDepth png", bytes(12)),
        ("16UC1; compressedDepth", bytes(12)),  # Foxy and before
        ("16UC1; png compressed ", b""),  # the plain plug-in
    ):
        found = compressed_depth(packed(form, head + png(MILLIMETRES)), "test")
        assert np.abs(found - depth(0)).max() < 1e-6, form
    for form, data in (
        ("16UC1; compressedDepth rvl", bytes(12) + png(MILLIMETRES)),
        ("16UC1; jpeg compressed ", bytes(cv2.imencode(".jpg", color(0))[1].tobytes())),
        ("16UC1; compressedDepth png", b"short"),
    ):
        with pytest.raises(DataError, match="cannot be read"):
            compressed_depth(packed(form, data), "test")


def test_quantised_depth_in_metres() -> None:
    # compressed_depth_image_transport: inverse depth, a / z + b, a = q (q + 1), b = 1 - a / max
    step, furthest = 100.0, 10.0
    a, b = step * (step + 1), 1 - step * (step + 1) / furthest
    metres = depth(0)
    inverse = np.where(metres > 0, a / np.where(metres > 0, metres, 1) + b, 0).astype(np.uint16)
    head = struct.pack("<iff", 0, a, b)
    found = compressed_depth(packed("32FC1; compressedDepth png", head + png(inverse)), "test")
    assert np.array_equal(found == 0, metres == 0)
    # One step of the inverse, which is cut off and not rounded, is z^2 / a.
    assert (np.abs(found - metres) <= 1.1 * metres**2 / a + 1e-6).all()


def test_compressed_colour() -> None:
    form = "rgb8; png compressed bgr8"
    found = compressed_color(packed(form, png(color(0)[..., ::-1])), "test")
    assert np.array_equal(found, color(0))
    grey = compressed_color(packed("mono8; png compressed ", png(color(0)[..., 0])), "test")
    assert np.array_equal(grey, np.repeat(color(0)[..., :1], 3, axis=2))
    with pytest.raises(DataError, match="does not decode"):
        compressed_color(packed(form, png(color(0))[:40]), "test")


def test_what_does_not_fit_is_named() -> None:
    good = message("rgb8", color(0))
    for change, text in (
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8'"),
        ({"height": 0}, "no pixels"),
        ({"step": W}, "rows of 64 bytes for 64 pixels"),
        ({"height": H + 1}, "bytes for 49 rows"),
    ):
        bad = ImageMsg(**{**vars(good), **change})  # type: ignore[arg-type]
        assert text in image_defect(bad, depth=False)
