"""Messages to arrays and back: the only file that touches message fields.

Shapes: N points, P points of a trajectory, J joints.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import JointState, PointCloud2, PointField
from std_msgs.msg import Bool, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from physgym.errors import DataError
from policies.execution.setpoints import JointPath

__all__ = [
    "JointReading",
    "Report",
    "joint_path",
    "joint_reading",
    "joint_state_message",
    "joint_trajectory_message",
    "point_cloud_message",
    "points",
    "report",
    "stamp_s",
    "status_message",
    "success_message",
    "time_message",
]

_NS = 1_000_000_000
_FLOATS = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}


@dataclass(frozen=True)
class JointReading:
    """What a JointState says of the joints that were asked for, in that order.

    Attributes:
        stamp_s: when it was measured [s].
        position: [m] or [rad], shape (J,).
        velocity: [m/s] or [rad/s], shape (J,); zeros when the message carries none.
    """

    stamp_s: float
    position: np.ndarray
    velocity: np.ndarray


@dataclass(frozen=True)
class Report:
    """A component's word on itself.

    Attributes:
        stamp_s: when it was said [s].
        name: the component.
        level: 0 fine, 1 warning, 2 error, 3 stale.
        text: one sentence.
        values: figures by name.
    """

    stamp_s: float
    name: str
    level: int
    text: str
    values: Mapping[str, str]


def time_message(stamp_s: float) -> Time:
    """A time as messages hold it.

    Args:
        stamp_s: [s].

    Returns:
        The message.
    """
    nanoseconds = round(stamp_s * _NS)
    return Time(sec=nanoseconds // _NS, nanosec=nanoseconds % _NS)


def stamp_s(header: Header) -> float:
    """Seconds of a header's stamp; 0.0 where it was left empty.

    Args:
        header: of any message.

    Returns:
        The stamp [s]; a double keeps it to about 0.2 us.
    """
    return float(header.stamp.sec) + 1e-9 * float(header.stamp.nanosec)


def _order(found: Sequence[str], wanted: Sequence[str], *, where: str, exact: bool) -> np.ndarray:
    """Where each wanted joint stands in ``found``."""
    if len(set(found)) != len(found):
        twice = sorted({name for name in found if list(found).count(name) > 1})
        raise DataError(f"joint named twice: {', '.join(twice)}", where=where)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted] if exact else []
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"joints missing: {', '.join(missing)}")
        if unknown:
            parts.append(f"unknown joints: {', '.join(unknown)}")
        raise DataError(
            "; ".join(parts), where=where, expected=f"the joints {', '.join(wanted)}, in any order"
        )
    position = {name: index for index, name in enumerate(found)}
    return np.array([position[name] for name in wanted], dtype=np.intp)


def joint_state_message(
    names: Sequence[str],
    position: np.ndarray,
    velocity: np.ndarray,
    *,
    stamp_s: float,
    frame_id: str = "",
) -> JointState:
    """A JointState with every array filled.

    Args:
        names: J joint names.
        position: [m] or [rad], shape (J,).
        velocity: [m/s] or [rad/s], shape (J,).
        stamp_s: when it was measured [s].
        frame_id: may stay empty.

    Returns:
        The message; effort is zero, since an empty array makes some bag readers fail.
    """
    return JointState(
        header=Header(stamp=time_message(stamp_s), frame_id=frame_id),
        name=list(names),
        position=np.asarray(position, np.float64).tolist(),
        velocity=np.asarray(velocity, np.float64).tolist(),
        effort=[0.0] * len(names),
    )


def joint_reading(message: JointState, names: Sequence[str]) -> JointReading:
    """The joints asked for, matched by name; others are ignored.

    Args:
        message: a JointState, joints in any order.
        names: J joint names.

    Returns:
        Positions and velocities in the order of ``names``.

    Raises:
        DataError: if a joint is missing or named twice, or a number is missing or not finite.
    """
    where = "JointState.name"
    order = _order(message.name, names, where=where, exact=False)
    position = np.asarray(message.position, dtype=np.float64)
    velocity = np.asarray(message.velocity, dtype=np.float64)
    if len(position) != len(message.name):
        raise DataError(
            f"{len(position)} positions for {len(message.name)} joints",
            where="JointState.position",
            expected="one position per name",
        )
    if velocity.size == 0:  # legal in ROS: a joint_state_publisher sends none
        velocity = np.zeros(len(position))
    if len(velocity) != len(position):
        raise DataError(
            f"{len(velocity)} velocities for {len(message.name)} joints",
            where="JointState.velocity",
            expected="one velocity per name, or none at all",
        )
    chosen = np.stack([position[order], velocity[order]])
    if not np.isfinite(chosen).all():
        joint = int(np.argwhere(~np.isfinite(chosen))[0, 1])
        raise DataError(
            f"joint {names[joint]!r} is not a finite number",
            where="JointState.position, JointState.velocity",
        )
    return JointReading(stamp_s(message.header), chosen[0], chosen[1])


def point_cloud_message(xyz: np.ndarray, *, stamp_s: float, frame_id: str = "world") -> PointCloud2:
    """An unorganised cloud of x, y, z as float32.

    Args:
        xyz: [m], shape (N, 3), rows kept in order; a point that was not seen is a row of NaN.
        stamp_s: when it was measured [s].
        frame_id: frame of the points.

    Returns:
        The message.

    Raises:
        DataError: if the shape is not (N, 3).
    """
    cloud = np.ascontiguousarray(xyz, dtype="<f4")
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise DataError(f"points have shape {cloud.shape}", where="xyz", expected="(N, 3)")
    data = array.array("B")
    # A tenth of the time of tobytes(): nothing is copied on the way.
    data.frombytes(cloud.reshape(-1).view(np.uint8).data)
    fields = [
        PointField(name=name, offset=4 * axis, datatype=PointField.FLOAT32, count=1)
        for axis, name in enumerate("xyz")
    ]
    return PointCloud2(
        header=Header(stamp=time_message(stamp_s), frame_id=frame_id),
        height=1,
        width=len(cloud),
        fields=fields,
        is_bigendian=False,
        point_step=12,
        row_step=12 * len(cloud),
        data=data,
        is_dense=bool(np.isfinite(cloud).all()),
    )


def points(message: PointCloud2) -> np.ndarray:
    """x, y and z of any PointCloud2, whatever other fields it carries.

    Args:
        message: organised or not, float32 or float64, either byte order, padded rows allowed.

    Returns:
        [m], shape (N, 3), float32, rows in order, NaN kept. A view of the message where its layout
        allows (12 bytes per point, this machine's byte order), else a copy.

    Raises:
        DataError: if a coordinate is missing or of another type, or the data are too short.
    """
    fields = {field.name: field for field in message.fields}
    for name in "xyz":
        if name not in fields or fields[name].datatype not in _FLOATS:
            raise DataError(
                f"no floating-point field {name!r}",
                where="PointCloud2.fields",
                expected="x, y and z as FLOAT32 or FLOAT64",
            )
    height, width, step = message.height, message.width, message.point_step
    row_step = message.row_step or step * width
    if len(message.data) < row_step * height or row_step < step * width:
        raise DataError(
            f"{len(message.data)} bytes for {height} x {width} points of {step} bytes",
            where="PointCloud2.data",
            expected=f"{max(row_step, step * width) * height} bytes",
        )
    order = ">" if message.is_bigendian else "<"
    layout = [(fields[name].offset, fields[name].datatype) for name in "xyz"]
    plain = layout == [(0, 7), (4, 7), (8, 7)] and step == 12 and row_step == 12 * width
    if plain and message.is_bigendian == (sys.byteorder == "big"):
        return np.frombuffer(message.data, np.float32, count=3 * width * height).reshape(-1, 3)
    kind = np.dtype(
        {
            "names": list("xyz"),
            "formats": [order + _FLOATS[datatype] for _, datatype in layout],
            "offsets": [offset for offset, _ in layout],
            "itemsize": step,
        }
    )
    raw = np.frombuffer(message.data, np.uint8, count=row_step * height).reshape(height, row_step)
    cells = np.ascontiguousarray(raw[:, : step * width]).view(kind)
    return np.stack([cells[name].reshape(-1) for name in "xyz"], axis=1).astype(np.float32)


def joint_trajectory_message(path: JointPath, *, stamp_s: float = 0.0) -> JointTrajectory:
    """A JointTrajectory for a joint trajectory controller.

    Args:
        path: at least one point; velocities make the controller interpolate with cubics.
        stamp_s: when time zero of the path is [s]; 0 means now.

    Returns:
        The message.
    """
    rows = []
    for index, time_s in enumerate(path.time_s):
        nanoseconds = round(float(time_s) * _NS)
        row = JointTrajectoryPoint(
            positions=path.position[index].astype(np.float64).tolist(),
            time_from_start=Duration(sec=nanoseconds // _NS, nanosec=nanoseconds % _NS),
        )
        if path.velocity is not None:
            row.velocities = path.velocity[index].astype(np.float64).tolist()
        rows.append(row)
    header = Header(stamp=time_message(stamp_s))
    return JointTrajectory(header=header, joint_names=list(path.names), points=rows)


def joint_path(message: JointTrajectory, names: Sequence[str]) -> JointPath:
    """A checked path with the joints in the order of ``names``.

    Args:
        message: must name exactly these joints, in any order.
        names: J joint names.

    Returns:
        The path. Velocities are kept when every point carries them.

    Raises:
        DataError: if names, dimensions, times or numbers are wrong.
    """
    order = _order(message.joint_names, names, where="JointTrajectory.joint_names", exact=True)
    with_velocity = bool(message.points) and all(len(row.velocities) > 0 for row in message.points)
    for index, row in enumerate(message.points):
        for field, numbers in (("positions", row.positions), ("velocities", row.velocities)):
            wanted = field == "positions" or with_velocity
            if wanted and len(numbers) != len(names):
                raise DataError(
                    f"{len(numbers)} {field} for {len(names)} joints",
                    where=f"points[{index}].{field}",
                    expected="one number per joint",
                )
    time_s = np.array(
        [row.time_from_start.sec + 1e-9 * row.time_from_start.nanosec for row in message.points]
    )
    shape = (len(message.points), len(names))
    position = np.array([row.positions for row in message.points], np.float64).reshape(shape)
    velocity = None
    if with_velocity:
        velocity = np.array([row.velocities for row in message.points], np.float64)[:, order]
    return JointPath(tuple(names), time_s, position[:, order], velocity)


def status_message(word: Report) -> DiagnosticArray:
    """A DiagnosticArray of one status.

    Args:
        word: what to say.

    Returns:
        The message.
    """
    status = DiagnosticStatus(
        level=bytes([word.level]),
        name=word.name,
        message=word.text,
        hardware_id="physgym",
        values=[KeyValue(key=key, value=value) for key, value in word.values.items()],
    )
    return DiagnosticArray(header=Header(stamp=time_message(word.stamp_s)), status=[status])


def report(message: DiagnosticArray) -> Report:
    """The first status of a DiagnosticArray.

    Args:
        message: with at least one status.

    Returns:
        Its name, level, text and values.

    Raises:
        DataError: if it holds no status.
    """
    if not message.status:
        raise DataError("no status", where="DiagnosticArray.status", expected="at least one")
    first = message.status[0]
    values = {pair.key: pair.value for pair in first.values}
    level = first.level[0] if isinstance(first.level, bytes) else int(first.level)
    return Report(stamp_s(message.header), first.name, level, first.message, values)


def success_message(reached: bool) -> Bool:
    """Whether the goal is reached.

    Args:
        reached: the answer.

    Returns:
        The message.
    """
    return Bool(data=reached)
