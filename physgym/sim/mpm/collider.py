"""Boundaries: planes, boxes, spheres, capsules and meshes, still or moving rigidly.

A grid node inside a boundary (signed distance <= 0) gets its velocity changed: *sticky* takes the
boundary's velocity, *slip* loses the normal part, *separate* loses only the part that goes in and
pays Coulomb friction for it. That holds a layer of matter as thick as a cell, which then neither
rolls nor shears, and loses its speed. *Penalty* acts on particles instead: a spring as stiff as a
cell of the particle's own matter pushes out what is nearer than half a particle, and friction
pulls at most mu times as much. Shapes: K boundaries, B worlds, n substeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
import warp as wp

from physgym.errors import DataError

__all__ = [
    "Box",
    "Capsule",
    "Collider",
    "ColliderTable",
    "Condition",
    "MeshDistance",
    "Plane",
    "Sphere",
    "box_walls",
    "collider_table",
]

RECORD = 25  # floats of a boundary in one substep; the layout is in `collider_table`


class Condition(Enum):
    """What a boundary does: to nodes inside it, and `PENALTY` to particles (planes only)."""

    STICKY = 0
    SLIP = 1
    SEPARATE = 2
    PENALTY = 3


@dataclass(frozen=True)
class Plane:
    """The half space below z = 0 of its own frame is solid."""


@dataclass(frozen=True)
class Sphere:
    """Solid ball around the origin of its own frame.

    Attributes:
        radius_m: [m].
    """

    radius_m: float


@dataclass(frozen=True)
class Box:
    """Solid box around the origin of its own frame.

    Attributes:
        half_size_m: half the edges [m].
    """

    half_size_m: tuple[float, float, float]


@dataclass(frozen=True)
class Capsule:
    """Solid capsule along z of its own frame, around the origin.

    Attributes:
        radius_m: [m].
        half_length_m: half the length of its straight part [m].
    """

    radius_m: float
    half_length_m: float


@dataclass(frozen=True)
class MeshDistance:
    """A closed mesh, as samples of its signed distance on a lattice; outside it nothing is solid.

    Attributes:
        samples_m: signed distance, negative inside [m], shape (X, Y, Z).
        origin_m: place of sample [0, 0, 0] in the mesh's frame [m].
        spacing_m: distance between samples [m].
    """

    samples_m: np.ndarray
    origin_m: tuple[float, float, float]
    spacing_m: float

    @staticmethod
    def from_mesh(
        vertices_m: np.ndarray, faces: np.ndarray, *, spacing_m: float, margin: int = 2
    ) -> MeshDistance:
        """Sample the distance to a closed triangle mesh; the sign is that of the winding number.

        Args:
            vertices_m: [m], shape (V, 3).
            faces: shape (F, 3).
            spacing_m: distance between samples [m].
            margin: samples around the mesh's bounds.

        Returns:
            The samples.

        Raises:
            DataError: if the lattice would have more than 16 million samples.
        """
        vertices = np.asarray(vertices_m, np.float32)
        low = vertices.min(axis=0) - margin * spacing_m
        size = np.ceil((vertices.max(axis=0) - low) / spacing_m).astype(int) + margin + 1
        if size.prod() > 16_000_000:
            raise DataError(
                f"{size.prod()} samples",
                where="MeshDistance.from_mesh: spacing_m",
                expected="at most 16 million",
                fix="use a coarser spacing; the grid's spacing is fine enough",
            )
        mesh = wp.Mesh(
            points=wp.array(vertices, dtype=wp.vec3, device="cpu"),
            indices=wp.array(np.asarray(faces, np.int32).ravel(), dtype=int, device="cpu"),
            support_winding_number=True,
        )
        out = wp.zeros(tuple(int(n) for n in size), dtype=float, device="cpu")
        reach = float(np.linalg.norm(size) * spacing_m)
        wp.launch(
            _sample_mesh,
            out.shape,
            [mesh.id, wp.vec3(*low.tolist()), spacing_m, reach],
            [out],
            device="cpu",
        )
        x, y, z = (float(c) for c in low)
        return MeshDistance(out.numpy(), (x, y, z), spacing_m)


Shape = Plane | Sphere | Box | Capsule | MeshDistance
_KINDS: dict[type, int] = {Plane: 0, Sphere: 1, Box: 2, Capsule: 3, MeshDistance: 4}


@dataclass(frozen=True)
class Collider:
    """A boundary with its pose at rest.

    Attributes:
        shape: geometry in its own frame.
        condition: what it does to nodes inside.
        position_m: origin of its frame in the world [m].
        quat_wxyz: rotation of its frame.
        name: shown in messages.
    """

    shape: Shape
    condition: Condition = Condition.SEPARATE
    position_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quat_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    name: str = ""

    def __post_init__(self) -> None:
        sizes = [
            s
            for key, value in vars(self.shape).items()
            if key in ("radius_m", "half_size_m", "spacing_m")
            for s in (value if isinstance(value, tuple) else (value,))
        ]
        sizes.append(getattr(self.shape, "half_length_m", 0.0) + 1e-12)
        norm = math.sqrt(sum(c * c for c in self.quat_wxyz))
        numbers = (*self.position_m, *sizes)
        if not (all(map(math.isfinite, numbers)) and min(sizes) > 0.0 and abs(norm - 1.0) < 1e-4):
            raise DataError(
                f"shape {self.shape if not isinstance(self.shape, MeshDistance) else 'mesh'}, "
                f"position {self.position_m}, quaternion {self.quat_wxyz}",
                where=f"Collider {self.name!r}",
                expected="positive sizes, a finite position, a unit quaternion",
                fix="divide the quaternion by its length",
            )
        if self.condition is Condition.PENALTY and not isinstance(self.shape, Plane):
            raise DataError(
                f"the condition {self.condition.name} of a {type(self.shape).__name__}",
                where=f"Collider {self.name!r}",
                expected="a Plane: the springs of a penalty know no edges and no curvature",
                fix="use Condition.SEPARATE",
            )

    @staticmethod
    def ground(
        offset_m: float = 0.0,
        *,
        normal: tuple[float, float, float] = (0.0, 0.0, 1.0),
        condition: Condition = Condition.SEPARATE,
        name: str = "ground",
    ) -> Collider:
        """A fixed plane; the solid is where ``normal . x <= offset_m``.

        Args:
            offset_m: distance of the plane from the origin along the normal [m].
            normal: unit vector out of the solid.
            condition: what it does to what touches it.
            name: shown in messages.

        Returns:
            The boundary.
        """
        n = np.asarray(normal, float)
        if not abs(np.linalg.norm(n) - 1.0) < 1e-5:
            raise DataError(
                f"normal {normal} has length {np.linalg.norm(n):.6g}",
                where=f"Collider.ground {name!r}",
                expected="a unit normal",
                fix="divide the normal by its length",
            )
        # The quaternion that turns z into n: (1 + z.n, z x n), normalised; x turns where n = -z.
        quat = np.array([1.0 + n[2], -n[1], n[0], 0.0])
        quat = np.array([0.0, 1.0, 0.0, 0.0]) if quat[0] < 1e-9 else quat / np.linalg.norm(quat)
        x, y, z = (float(c) for c in offset_m * n)
        w, i, j, k = (float(c) for c in quat)
        return Collider(Plane(), condition, (x, y, z), (w, i, j, k), name)


def box_walls(
    low_m: tuple[float, float, float],
    high_m: tuple[float, float, float],
    *,
    condition: Condition = Condition.SEPARATE,
) -> tuple[Collider, ...]:
    """Six planes that keep everything inside a box.

    Args:
        low_m: lower corner [m].
        high_m: upper corner [m].
        condition: what they do to nodes beyond them.

    Returns:
        The walls: -x, +x, -y, +y, -z, +z.
    """
    walls = []
    for axis, name in enumerate("xyz"):
        for side, offset in ((1.0, low_m[axis]), (-1.0, -high_m[axis])):
            normal = [0.0, 0.0, 0.0]
            normal[axis] = side
            label = f"wall {'-' if side > 0 else '+'}{name}"
            n = (normal[0], normal[1], normal[2])
            walls.append(Collider.ground(offset, normal=n, condition=condition, name=label))
    return tuple(walls)


class ColliderTable(NamedTuple):
    """What kernels read.

    Attributes:
        records: pose and motion of every boundary at every substep, shape (B or 1, n, K, 25).
        samples: signed distances of all meshes, one after the other.
    """

    records: np.ndarray
    samples: np.ndarray


def _matrix(quat: np.ndarray) -> np.ndarray:
    """Rotation matrices of quaternions (..., 4), w first."""
    w, x, y, z = np.moveaxis(quat, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product of quaternions (..., 4), w first."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w, v], -1)


def _turn(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Rotation vector [rad] from one quaternion to another, the short way."""
    delta = _product(stop, start * np.array([1.0, -1.0, -1.0, -1.0]))
    delta = delta * np.where(delta[..., :1] < 0.0, -1.0, 1.0)
    length = np.linalg.norm(delta[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(length, delta[..., :1])
    return delta[..., 1:] / np.maximum(length, 1e-30) * np.where(length > 1e-12, angle, 0.0)


def rest_poses(colliders: tuple[Collider, ...]) -> np.ndarray:
    """Poses at rest.

    Args:
        colliders: K boundaries.

    Returns:
        Position [m] and quaternion (w first), shape (K, 7).
    """
    return np.array([[*c.position_m, *c.quat_wxyz] for c in colliders], float).reshape(-1, 7)


def collider_table(
    colliders: tuple[Collider, ...],
    start: np.ndarray,
    stop: np.ndarray,
    substeps: int,
    frame_dt_s: float,
) -> ColliderTable:
    """Poses and velocities during one frame; rigid motion at constant rate between two poses.

    Args:
        colliders: K boundaries.
        start: poses at the frame's start, shape (B or 1, K, 7).
        stop: poses at its end, same shape.
        substeps: n.
        frame_dt_s: length of the frame [s].

    Returns:
        The table; velocities of a substep are those between its start and its end.
    """
    batch, count = start.shape[:2]
    records = np.zeros((batch, substeps, count, RECORD), np.float32)
    samples = [c.shape.samples_m.ravel() for c in colliders if isinstance(c.shape, MeshDistance)]
    first_sample = 0
    linear = (stop[..., :3] - start[..., :3]) / frame_dt_s
    turn = _turn(start[..., 3:], stop[..., 3:])
    # Where a boundary is when each substep ends, and how far it has turned until then.
    part = ((np.arange(substeps) + 1.0) / substeps)[:, None, None]
    half = 0.5 * part * turn[:, None]
    angle = np.linalg.norm(half, axis=-1, keepdims=True)
    spin = np.concatenate([np.cos(angle), np.sinc(angle / np.pi) * half], -1)
    for k, collider in enumerate(colliders):
        shape = collider.shape
        head = [_KINDS[type(shape)], collider.condition.value]
        numbers = [0.0] * 4
        if isinstance(shape, Sphere):
            numbers[0] = shape.radius_m
        elif isinstance(shape, Box):
            numbers[:3] = shape.half_size_m
        elif isinstance(shape, Capsule):
            numbers[:2] = [shape.radius_m, shape.half_length_m]
        elif isinstance(shape, MeshDistance):
            numbers = [*shape.origin_m, shape.spacing_m]
        records[:, :, k, 0:6] = head + numbers
        records[:, :, k, 6:15] = _matrix(_product(spin[:, :, k], start[:, None, k, 3:])).reshape(
            batch, -1, 9
        )
        records[:, :, k, 15:18] = (
            start[:, None, k, :3] + part[:, 0] * (stop - start)[:, None, k, :3]
        )
        records[:, :, k, 18:21] = linear[:, None, k]
        records[:, :, k, 21:24] = turn[:, None, k] / frame_dt_s
        if isinstance(shape, MeshDistance):
            # Four numbers for the lattice do not fit: its size goes in front of its samples.
            size = np.array(shape.samples_m.shape, np.float32)
            samples[first_sample] = np.concatenate([size, samples[first_sample]])
            records[:, :, k, 24] = sum(len(s) for s in samples[:first_sample])
            first_sample += 1
    flat = np.concatenate(samples) if samples else np.zeros(1)
    return ColliderTable(records, flat.astype(np.float32))


@wp.kernel(enable_backward=False)
def _sample_mesh(
    mesh: wp.uint64, low: wp.vec3, spacing: float, reach: float, out: wp.array3d(dtype=float)
) -> None:
    i, j, k = wp.tid()
    p = low + spacing * wp.vec3(float(i), float(j), float(k))
    query = wp.mesh_query_point_sign_winding_number(mesh, p, reach)
    if query.result:
        nearest = wp.mesh_eval_position(mesh, query.face, query.u, query.v)
        out[i, j, k] = query.sign * wp.length(p - nearest)
    else:
        out[i, j, k] = reach
