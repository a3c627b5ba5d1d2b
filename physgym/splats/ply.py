"""3DGS PLY files: what the reference code of Kerbl et al. writes and SuperSplat and viser open.

Binary little-endian, one vertex per Gaussian, float properties
``x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3``: logits, logarithms, ``quat_wxyz``
that need not be unit, harmonics beyond degree 0 channel by channel. Normals are zero and not read.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import torch

from physgym.errors import DataError
from physgym.files import write_atomically
from physgym.splats.cloud import GaussianCloud
from physgym.splats.harmonics import BASIS_COUNTS

__all__ = ["decode_ply", "encode_ply", "load_ply", "save_ply"]

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2",
    "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4",
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8",
}  # fmt: skip
_POSITION, _NORMAL, _DC = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_SCALES = ("scale_0", "scale_1", "scale_2")
_LONGEST_HEADER = 1 << 16
_COUNT = re.compile("[0-9]{1,18}")  # str.isdigit() knows digits that int() does not


def save_ply(path: str | Path, cloud: GaussianCloud) -> None:
    """Write a cloud; nobody ever reads half of it.

    Isotropic Gaussians get three equal scales, because viewers want three.

    Args:
        path: the file; its folder must exist.
        cloud: what to write.

    Raises:
        DataError: if a number is not finite.
    """
    write_atomically(Path(path), encode_ply(cloud, str(path)))


def encode_ply(cloud: GaussianCloud, where: str = "encode_ply") -> bytes:
    """The content of a file.

    Args:
        cloud: what to write.
        where: named in errors.

    Returns:
        The bytes; isotropic Gaussians get three equal scales.

    Raises:
        DataError: if a number is not finite.
    """
    plain = cloud.detach().to("cpu")
    count, basis = len(plain), plain.sh.shape[1]
    rest = 3 * (basis - 1)
    names = [*_POSITION, *_NORMAL, *_DC, *(f"f_rest_{k}" for k in range(rest)), "opacity"]
    names += [*_SCALES, *_ROTATION]
    columns = [
        plain.mean,
        torch.zeros(count, 3),
        plain.sh[:, 0],
        plain.sh[:, 1:].transpose(1, 2).reshape(count, rest),
        plain.opacity_logit[:, None],
        plain.log_scale.expand(count, 3),
        plain.quat_wxyz,
    ]
    table = torch.cat(columns, dim=1).numpy().astype("<f4")
    _refuse_not_finite(table, where)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names]
    return "\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes()


def load_ply(
    path: str | Path, *, isotropic: bool = False, drop_not_finite: bool = False
) -> GaussianCloud:
    """Read a cloud.

    Properties may stand in any order and have any number type; normals may be missing. Properties
    that 3DGS does not have are left out with a warning. A single scale (``scale_0`` or ``scale``)
    means isotropic Gaussians; their rotation may be missing.

    Args:
        path: the file.
        isotropic: read three equal scales as one.
        drop_not_finite: leave out Gaussians with NaN or infinite numbers, with a warning, instead
            of refusing the file.

    Returns:
        The cloud, on the CPU.

    Raises:
        DataError: if the file cannot be read, is no such PLY, is cut off, lacks properties, or has
            numbers that are not finite, or rotations by a quaternion of zeros.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise _no_splats(str(path), f"cannot be read: {error.strerror or error}") from error
    return decode_ply(content, str(path), isotropic=isotropic, drop_not_finite=drop_not_finite)


def decode_ply(
    content: bytes, where: str, *, isotropic: bool = False, drop_not_finite: bool = False
) -> GaussianCloud:
    """Read the content of a file; see `load_ply`.

    Args:
        content: the bytes.
        where: named in errors and warnings.
        isotropic: as in `load_ply`.
        drop_not_finite: likewise.

    Returns:
        The cloud, on the CPU.

    Raises:
        DataError: as `load_ply`.
    """
    fields = _read_table(content, where)
    single = "scale" in fields or not {"scale_1", "scale_2"} & set(fields)
    scales = ("scale",) if "scale" in fields else _SCALES[: 1 if single else 3]
    rest_count = sum(re.fullmatch(r"f_rest_\d+", name) is not None for name in fields)
    rest, there = tuple(f"f_rest_{k}" for k in range(rest_count)), ", ".join(fields) or "none"
    needed = (*_POSITION, *_DC, *rest, "opacity", *scales, *_ROTATION)
    if single and "rot_0" not in fields:  # a ball has no axes
        count = len(next(iter(fields.values()), ()))
        fields |= {name: np.full(count, float(k == 0)) for k, name in enumerate(_ROTATION)}
    missing = [name for name in needed if name not in fields]
    if missing or 1 + rest_count / 3 not in BASIS_COUNTS:
        raise DataError(
            f"properties {there}"
            + (f" without {missing}" if missing else f" with {rest_count} of f_rest_*"),
            where=where,
            expected="x y z f_dc_0..2 (0, 9, 24 or 45 of f_rest_*) opacity scale_0..2 rot_0..3",
            fix="export it as an uncompressed 3DGS PLY, such as from SuperSplat",
        )
    unknown = sorted(set(fields) - set(needed) - set(_NORMAL))
    if unknown:
        warnings.warn(f"{where}: properties {unknown} are not read", stacklevel=3)
    with np.errstate(over="ignore"):  # a double beyond float32 is infinite, and refused as such
        table = np.stack([fields[name].astype(np.float32) for name in needed], axis=1)
    if drop_not_finite:
        fine = np.isfinite(table).all(axis=1)
        if not fine.all():
            warnings.warn(f"{where}: {(~fine).sum()} Gaussians left out, not finite", stacklevel=3)
        table = table[fine]
    _refuse_not_finite(table, where)
    _turn_balls(table, len(scales), where)
    return _cloud(torch.from_numpy(table), rest_count, len(scales), isotropic, where)


def _cloud(
    table: torch.Tensor, rest_count: int, scales: int, isotropic: bool, where: str
) -> GaussianCloud:
    """Columns as the parts of a cloud."""
    mean, dc, rest, opacity, scale, quat = table.split([3, 3, rest_count, 1, scales, 4], dim=1)
    if isotropic:
        if (scale != scale[:, :1]).any():
            raise DataError(
                "three different scales",
                where=where,
                expected="equal scales, because isotropic=True",
                fix="load with isotropic=False",
            )
        scale = scale[:, :1]
    sh = torch.cat([dc[:, None], rest.unflatten(1, (3, rest_count // 3)).transpose(1, 2)], dim=1)
    parts = (mean, scale, quat, opacity[:, 0], sh)
    return GaussianCloud(*(part.contiguous() for part in parts))


def _read_table(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Columns of the vertex element by name."""
    end = content.find(b"\nend_header", 0, _LONGEST_HEADER)
    if not content.startswith(b"ply") or end < 0:
        raise _no_splats(where, "no PLY header")
    start = content.find(b"\n", end + 1) + 1 or len(content)
    # Not splitlines(): in latin-1 a letter of UTF-8 in a comment may look like the end of a line.
    lines = [line.split() for line in content[:end].decode("latin-1").split("\n")]
    formats = [line[1] for line in lines if line[:1] == ["format"] and len(line) > 1]
    if formats != ["binary_little_endian"]:
        raise _no_splats(where, f"format {' '.join(formats) or 'missing'}")
    for name, count, properties in _elements(lines, where):
        kind = np.dtype(properties)
        if name == "vertex":
            if len(content) < start + count * kind.itemsize:
                there = max(len(content) - start, 0) // kind.itemsize
                raise _no_splats(where, f"cut off after {there} of {count} Gaussians")
            table = np.frombuffer(content, kind, count, start)
            return {field: table[field] for field in kind.names or ()}
        start += count * kind.itemsize
    raise _no_splats(where, "no element vertex")


def _elements(lines: list[list[str]], where: str) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Elements up to the vertices: name, count and properties."""
    found: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        if line[:1] == ["element"]:
            if found and found[-1][0] == "vertex":
                break
            if len(line) != 3 or not _COUNT.fullmatch(line[2]):
                raise _no_splats(where, f"header line {' '.join(line)[:80]!r}")
            found.append((line[1], int(line[2]), []))
        elif line[:1] == ["property"]:
            if not found or len(line) != 3 or line[1] not in _TYPES:
                raise _no_splats(where, f"header line {' '.join(line)[:80]!r}")
            if line[2] in dict(found[-1][2]):
                raise _no_splats(where, f"property {line[2]!r} twice")
            found[-1][2].append((line[2], _TYPES[line[1]]))
    return found


def _no_splats(where: str, what: str) -> DataError:
    return DataError(
        what,
        where=where,
        expected="a binary little-endian PLY with one vertex per Gaussian",
        fix="export it as an uncompressed 3DGS PLY, such as from SuperSplat",
    )


def _refuse_not_finite(table: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} Gaussians with NaN or infinite numbers, first Gaussian {bad[0]}",
            where=where,
            expected="finite numbers",
            fix="leave them out: load_ply(path, drop_not_finite=True), or cloud[mask]",
        )


def _turn_balls(table: np.ndarray, scales: int, where: str) -> None:
    """Rotations by a quaternion of zeros: of balls, which have no axes, they are made unit."""
    scale, none = table[:, -4 - scales : -4], ~table[:, -4:].any(axis=1)
    bad = np.flatnonzero(none & (scale != scale[:, :1]).any(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} Gaussians rotated by a quaternion of zeros, first Gaussian {bad[0]}",
            where=where,
            expected="rot_0..3 of any length but 0",
            fix="write 1 0 0 0 where nothing is rotated",
        )
    table[none, -4] = 1.0
