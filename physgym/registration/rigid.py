"""Where a known object lies in a partial cloud: a search over turns, then robust ICP.

Cameras see one side. So every cloud point must lie on the object, but not every part of the object
in the cloud: only what faces the same way as parts that were seen is expected there, mildly,
because something may stand before it. Nodes are discs (`physgym.registration.surface.Surface`):
sliding a disc within its own spacing costs nothing, so coarse nodes match a fine cloud.
Shapes: N nodes, P outer nodes, M cloud points, B starts, D direction bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.registration.surface import (
    Cloud,
    Surface,
    beyond,
    checked_points,
    even_cloud,
    fibonacci_directions,
    find_surface,
)

__all__ = ["RigidFit", "best_rigid", "fit_rigid", "noise_gap_m", "register_rigid", "turn_angle_rad"]

_COARSE_CLOUD = 250
_COARSE_NODES = 400
_COARSE_ROUNDS = (6, 12)  # of all starts, then of the better third
_FINE_ROUNDS = 40
_KEPT = 0.85  # share of the cloud, nearest first, that coarse rounds listen to
_REFINED_UPRIGHT, _REFINED_GENERAL = 5, 8  # starts that are refined
_BINS = 42
_COVERAGE = 0.3  # weight of a node that should have been seen against one cloud point
_DISTINCT_RAD = np.deg2rad(20.0)
_GENERAL_STARTS = 256


@dataclass(frozen=True, eq=False)
class RigidFit:
    """A pose, and the best pose that is another one.

    Attributes:
        T_world_object: maps the given points to the cloud's frame, shape (4, 4).
        cost_m: mean distance from the cloud to the discs, capped, plus the penalty for parts that
            should have been seen.
        gap_m: median distance from the cloud to the discs.
        tail_m: distance that nine tenths of the cloud are within.
        second_T_world_object: the best pose turned by over 20 degrees against it, shape (4, 4).
        second_cost_m: its cost; near ``cost_m`` the object looks alike from both, or nearly so.
        second_turn_rad: angle between the two.
    """

    T_world_object: np.ndarray
    cost_m: float
    gap_m: float
    tail_m: float
    second_T_world_object: np.ndarray
    second_cost_m: float
    second_turn_rad: float

    @property
    def ambiguous(self) -> bool:
        """Whether the second pose explains the cloud nearly as well (within a quarter)."""
        return self.second_cost_m < 1.25 * self.cost_m


def turn_angle_rad(first: np.ndarray, second: np.ndarray) -> float:
    """Angle between two poses' rotations.

    Args:
        first: shape (4, 4) or (3, 3).
        second: the same.

    Returns:
        From 0 to pi.
    """
    return float(Rotation.from_matrix(first[:3, :3].T @ second[:3, :3]).magnitude())


def register_rigid(
    points: np.ndarray,
    cloud: np.ndarray,
    *,
    up: np.ndarray | None = None,
    starts: int = 24,
    noise_m: float = 0.003,
    surface_mask: np.ndarray | None = None,
    kind: str = "volume",
) -> RigidFit:
    """Find the pose of an object in a partial cloud.

    With ``up``, turns about it are tried first; if the best of them leaves a gap, and always
    without ``up``, turns of all kinds are. Deterministic.

    Args:
        points: nodes of the object [m], shape (N, 3); inner ones are found and left out.
        cloud: what cameras saw of it [m], shape (M, 3).
        up: the vertical, for an object that lies on a table as it did before; shape (3,).
        starts: turns about ``up`` that are tried.
        noise_m: of the cloud (`noise_gap_m`).
        surface_mask: which nodes are outside, shape (N,); None finds out.
        kind: ``"rope"``, ``"sheet"`` or ``"volume"``.

    Returns:
        The pose, and the second best.

    Raises:
        DataError: if points or cloud are no points, or too few.
    """
    points = checked_points(points, "points", least=4)
    cloud = checked_points(cloud, "cloud", least=20)
    surface = find_surface(points, kind=kind, mask=surface_mask)
    thin = even_cloud(cloud, max(0.5 * surface.spacing_m, 1e-4))
    return fit_rigid(surface, thin, up=up, starts=starts, noise_m=noise_m)


def fit_rigid(
    surface: Surface,
    cloud: Cloud,
    *,
    up: np.ndarray | None = None,
    starts: int = 24,
    noise_m: float = 0.003,
    topple: bool = True,
) -> RigidFit:
    """`register_rigid` of an object and a cloud that are prepared.

    Args:
        surface: the object's outer nodes.
        cloud: the cloud.
        up: the vertical, shape (3,), or None.
        starts: turns about ``up`` that are tried.
        noise_m: of the cloud.
        topple: whether turns of all kinds are tried where those about ``up`` leave a gap.

    Returns:
        The pose, and the second best.

    Raises:
        DataError: if ``up`` is no direction or there are no starts.
    """
    if starts < 1:
        raise DataError(f"{starts} starts", where="starts", expected="at least one")
    search = _Search(surface, cloud)
    poses: list[_Pose] = []
    if up is not None:
        up = np.asarray(up, dtype=np.float64)
        if up.shape != (3,) or not np.isfinite(up).all() or not np.linalg.norm(up) > 0:
            raise DataError(f"up is {up}", where="up", expected="a direction such as (0, 0, 1)")
        angle = 2.0 * np.pi * np.arange(starts) / starts
        axis = up / np.linalg.norm(up)
        turns = Rotation.from_rotvec(angle[:, None] * axis).as_matrix()
        poses = search.run(turns, _REFINED_UPRIGHT)
    if not poses or (topple and poses[0].gap_m > noise_gap_m(surface, noise_m)):
        poses = poses + search.run(_general_rotations(_GENERAL_STARTS), _REFINED_GENERAL)
        poses.sort(key=lambda pose: pose.cost_m)
    best = poses[0]
    others = [p for p in poses if turn_angle_rad(best.rotation, p.rotation) > _DISTINCT_RAD]
    second = others[0] if others else best
    return RigidFit(
        search.pose_of(best),
        best.cost_m,
        best.gap_m,
        best.tail_m,
        search.pose_of(second),
        second.cost_m if others else float("inf"),
        turn_angle_rad(best.rotation, second.rotation),
    )


def noise_gap_m(surface: Surface, noise_m: float) -> float:
    """Largest median distance to the discs that noise and the discs' flatness explain.

    Half of all normal errors are below 0.67 of their standard deviation, and averaging over cells
    makes them smaller; a disc of one spacing on an object ten spacings wide is flat to a tenth.

    Args:
        surface: the object's outer nodes.
        noise_m: standard deviation of the cloud.

    Returns:
        [m].
    """
    return 0.5 * noise_m + 0.1 * surface.spacing_m


@dataclass(frozen=True, eq=False)
class _Pose:
    """A pose of the object about its own centre."""

    rotation: np.ndarray
    shift: np.ndarray
    cost_m: float
    gap_m: float
    tail_m: float


class _Search:
    """One object and one cloud, with everything that all starts share."""

    def __init__(self, surface: Surface, cloud: Cloud) -> None:
        self.centre = surface.points.mean(axis=0)
        self.points = surface.points - self.centre
        self.normals = surface.normals
        self.spacing = surface.spacing_m
        self.cloud = cloud
        self.size = float(np.linalg.norm(np.ptp(self.points, axis=0)))
        self.cap = max(0.1 * self.size, 2.0 * self.spacing)
        self.tree, self.cloud_tree = cKDTree(self.points), cKDTree(cloud.points)
        bins = fibonacci_directions(_BINS)
        self.bin = np.argmax(self.normals @ bins.T, axis=1)
        # Bins of directions that are within about 30 degrees of each other count together.
        self.bin_mates = (bins @ bins.T > 0.85).astype(np.float64)
        self.few = cloud.points[:: max(1, len(cloud.points) // _COARSE_CLOUD)]
        self.some = np.arange(0, len(self.points), max(1, len(self.points) // _COARSE_NODES))

    def pose_of(self, pose: _Pose) -> np.ndarray:
        """As a transform of the points that were given, shape (4, 4)."""
        transform = np.eye(4)
        transform[:3, :3] = pose.rotation
        transform[:3, 3] = pose.shift - pose.rotation @ self.centre
        return transform

    def run(self, rotations: np.ndarray, refined_count: int) -> list[_Pose]:
        """From turns to refined poses, the best first."""
        placed = np.einsum("bij,pj->bpi", rotations, self.points)
        middle = 0.5 * (placed.min(axis=1) + placed.max(axis=1))
        shifts = 0.5 * (self.few.min(axis=0) + self.few.max(axis=0)) - middle
        keep = max(24, len(rotations) // 3)
        rough: list[_Pose] = []
        for rounds in _COARSE_ROUNDS:
            rotations, shifts = self._coarse(rotations, shifts, rounds)
            rough = [self._judge(r, s, self.few, self.some) for r, s in zip(rotations, shifts)]
            rough = sorted(rough, key=lambda pose: pose.cost_m)[:keep]
            rotations = np.stack([pose.rotation for pose in rough])
            shifts = np.stack([pose.shift for pose in rough])
        chosen: list[_Pose] = []
        for pose in rough:
            if all(turn_angle_rad(pose.rotation, c.rotation) > 0.2 for c in chosen):
                chosen.append(pose)
        refined = []
        for pose in chosen[:refined_count]:
            r, s = self._refine(pose.rotation, pose.shift)
            refined.append(self._judge(r, s, self.cloud.points, np.arange(len(self.points))))
        return sorted(refined, key=lambda pose: pose.cost_m)

    def _coarse(
        self, rotation: np.ndarray, shift: np.ndarray, rounds: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trimmed ICP (Chetverikov et al. 2002) of all starts at once, on few points."""
        for _ in range(rounds):
            seen = np.einsum("bij,bmi->bmj", rotation, self.few - shift[:, None])
            distance, nearest = self.tree.query(seen)
            weight = distance <= np.quantile(distance, _KEPT, axis=1, keepdims=True)
            rotation, shift = best_rigid(self.points[nearest], self.few, weight)
        return rotation, shift

    def _judge(
        self, rotation: np.ndarray, shift: np.ndarray, seen: np.ndarray, nodes: np.ndarray
    ) -> _Pose:
        """Cost of a pose: what the cloud misses, and what is missing in the cloud."""
        local = (seen - shift) @ rotation
        _, nearest = self.tree.query(local)
        along, beside = self._disc(local, nearest, self.normals[nearest])
        miss = np.sqrt(along**2 + (beside**2).sum(axis=1))
        excess, weight, _ = self._missing(rotation, shift, nodes)
        length = np.minimum(np.linalg.norm(excess, axis=1), self.cap)
        penalty = float((weight * length).sum() / max(weight.sum(), 1.0))
        cost = float(np.minimum(miss, self.cap).mean()) + _COVERAGE * penalty
        return _Pose(rotation, shift, cost, *np.quantile(miss, (0.5, 0.9)).tolist())

    def _disc(
        self, local: np.ndarray, nearest: np.ndarray, normals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Offsets from discs: along the normal, shape (M,), and beyond the rim, shape (M, 3)."""
        offset = local - self.points[nearest]
        along = (offset * normals).sum(axis=1)
        return along, beyond(offset - along[:, None] * normals, self.spacing)

    def _missing(
        self, rotation: np.ndarray, shift: np.ndarray, nodes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far nodes are from the cloud and how far that matters, in the object's frame.

        A node was to be seen if most nodes that face as it does were.
        """
        world = self.points[nodes] @ rotation.T + shift
        reach = 1.5 * self.spacing + self.cloud.cell_m
        distance, nearest = self.cloud_tree.query(world)
        own = self.bin[nodes]
        seen = self.bin_mates @ np.bincount(own, distance < reach, _BINS)
        share = seen / np.maximum(self.bin_mates @ np.bincount(own, minlength=_BINS), 1.0)
        offset = (self.cloud.points[nearest] - world) @ rotation
        return beyond(offset, reach), share[own] ** 2, nearest

    def _refine(self, rotation: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Robust ICP by Gauss-Newton with the symmetric objective (Rusinkiewicz 2019)."""
        gate = 4.0 * self.spacing + 0.03 * self.size
        floor = 1.5 * self.spacing
        for _ in range(_FINE_ROUNDS):
            step = self._gauss_newton(rotation, shift, gate)
            shift = shift + rotation @ step[3:]
            rotation = rotation @ Rotation.from_rotvec(step[:3]).as_matrix()
            moved = np.linalg.norm(step[:3]) * 0.5 * self.size + np.linalg.norm(step[3:])
            if gate <= floor and moved < 1e-3 * self.spacing:
                break
            gate = max(0.8 * gate, floor)
        return rotation, shift

    def _gauss_newton(self, rotation: np.ndarray, shift: np.ndarray, gate: float) -> np.ndarray:
        """One step: turn [rad] and shift [m] in the object's frame, shape (6,)."""
        local = (self.cloud.points - shift) @ rotation
        distance, nearest = self.tree.query(local)
        own = self.normals[nearest]
        other = self.cloud.normals @ rotation
        cosine = (own * other).sum(axis=1)
        both = own + other * np.where(cosine < 0, -1.0, 1.0)[:, None]
        normals = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
        normals *= (own != 0).any(axis=1)[:, None]
        along, beside = self._disc(local, nearest, normals)
        # Geman and McClure's weight: from 1 near to a quarter at the gate.
        weight = 1.0 / (1.0 + (distance / gate) ** 2) ** 2
        facing = np.where((own != 0).any(axis=1), np.abs(cosine), 1.0)
        at = self.points[nearest]
        hessian, gradient = _normal_equations(at, normals, along, weight * facing)
        excess, share, _ = self._missing(rotation, shift, self.some)
        far = np.linalg.norm(excess, axis=1)
        share = share / (1.0 + (far / gate) ** 2) ** 2
        share *= _COVERAGE * len(local) / max(len(self.some), 1)
        outside = np.concatenate([beside, excess])
        both_weights = np.concatenate([weight, share * (far > 0)])
        places = np.concatenate([at, self.points[self.some]])
        for axis in np.eye(3):
            used = both_weights * ((outside != 0).any(axis=1))
            h, g = _normal_equations(
                places, np.broadcast_to(axis, places.shape), outside @ axis, used
            )
            hessian, gradient = hessian + h, gradient + g
        # Turns are scaled to lengths, so that one damping fits both; a ball turns no further.
        scale = np.concatenate([np.full(3, 2.0 / self.size), np.ones(3)])
        scaled = hessian * scale[:, None] * scale
        scaled += 1e-3 * max(np.trace(scaled) / 6.0, 1e-12) * np.eye(6)
        return np.asarray(scale * np.linalg.solve(scaled, scale * gradient))


def _normal_equations(
    at: np.ndarray, direction: np.ndarray, residual: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    jacobian = np.concatenate([np.cross(at, direction), direction], axis=1)
    weighted = jacobian * weight[:, None]
    return weighted.T @ jacobian, weighted.T @ residual


def best_rigid(
    start: np.ndarray, end: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and shifts that bring ``start`` nearest to ``end`` (Kabsch 1976).

    Args:
        start: shape (B, M, 3).
        end: shape (M, 3) or (B, M, 3).
        weight: shape (B, M).

    Returns:
        Shapes (B, 3, 3) and (B, 3).
    """
    share = weight / weight.sum(axis=1, keepdims=True)
    end = np.broadcast_to(end, start.shape)
    a, b = (np.einsum("bm,bmi->bi", share, x) for x in (start, end))
    covariance = np.einsum("bm,bmi,bmj->bij", share, end - b[:, None], start - a[:, None])
    u, _, vt = np.linalg.svd(covariance)
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    rotation = u @ vt
    return rotation, b - np.einsum("bij,bj->bi", rotation, a)


def _general_rotations(count: int) -> np.ndarray:
    """Rotations spread evenly (super-Fibonacci spirals: Alexa, CVPR 2022), shape (count, 3, 3)."""
    s = np.arange(count) + 0.5
    radius, rest = np.sqrt(s / count), np.sqrt(1.0 - s / count)
    alpha, beta = 2 * np.pi * s / np.sqrt(2.0), 2 * np.pi * s / 1.533751168755204288118041413
    quat = np.stack(
        [radius * np.sin(alpha), radius * np.cos(alpha), rest * np.sin(beta), rest * np.cos(beta)],
        axis=1,
    )
    return Rotation.from_quat(quat).as_matrix()
