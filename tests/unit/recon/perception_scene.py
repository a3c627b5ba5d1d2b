"""A ray caster with exact answers: textured, affinely deforming bodies on a table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from physgym.camera import PinholeCamera
from physgym.frames import T_from_parts, apply_T, inverse_T
from recon.perception.lift import View


def camera_at(
    position: list[float], target: list[float], *, width: int = 320, name: str = "camera"
) -> PinholeCamera:
    """A camera that looks at a target, world z up in its image, 55 degrees wide."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(forward, right), forward], axis=1)
    height = width * 3 // 4
    focal = 0.5 * width / np.tan(np.radians(55) / 2)
    K = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    return PinholeCamera(name, "", width, height, np.array(K), T_from_parts(turn, position))


@dataclass
class Body:
    """The unit ball or the cube [-1, 1]^3, deformed: world = linear @ body + centre."""

    linear: np.ndarray
    centre: np.ndarray
    tint: np.ndarray = field(default_factory=lambda: np.array([0.9, 0.45, 0.2]))
    shape: str = "ball"
    texture_seed: int = 1

    def world(self, body: np.ndarray) -> np.ndarray:
        return body @ np.asarray(self.linear).T + self.centre

    def body(self, world: np.ndarray) -> np.ndarray:
        return (world - self.centre) @ np.linalg.inv(self.linear).T

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Ray parameter of the first hit; inf for none. Affine maps keep it."""
        o, d = self.body(origin), rays @ np.linalg.inv(self.linear).T
        if self.shape == "ball":
            a, b, c = (d * d).sum(-1), d @ o, o @ o - 1.0
            root = b * b - a * c
            with np.errstate(invalid="ignore"):
                return np.where(root > 0, (-b - np.sqrt(root)) / a, np.inf)
        with np.errstate(divide="ignore"):
            one, two = (-1.0 - o) / d, (1.0 - o) / d
        near, far = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
        return np.where((near < far) & (near > 0), near, np.inf)


def texture(points: np.ndarray, seed: int, *, coarsest: float, finest: float) -> np.ndarray:
    """Smooth noise in [0, 1] from random plane waves."""
    rng = np.random.default_rng(seed)
    waves = 24
    direction = rng.normal(size=(waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(rng.uniform(np.log(finest), np.log(coarsest), waves))
    phase = points @ (2 * np.pi * direction / length[:, None]).T + rng.uniform(0, 6.28, waves)
    value = np.sin(phase).sum(-1) / np.sqrt(2 * waves)
    return np.clip(0.5 + 0.5 * value, 0.0, 1.0)


def render(
    camera: PinholeCamera, bodies: list[Body], *, table: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour (H, W, 3), depth [m] (H, W; 0 for nothing) and body index (H, W; -1 table or none)."""
    rays = (camera.pixel_rays() @ camera.T_world_cam[:3, :3].T).reshape(-1, 3)
    origin = camera.position
    with np.errstate(divide="ignore"):
        depth = np.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], np.inf)
    depth = depth if table else np.full(len(rays), np.inf)
    owner = np.full(len(rays), -1)
    for index, body in enumerate(bodies):
        near = body.hit(origin, rays)
        owner = np.where(near < depth, index, owner)
        depth = np.minimum(depth, near)
    seen = np.isfinite(depth)
    points = origin + rays * np.where(seen, depth, 0.0)[:, None]
    grain = texture(points, 9, coarsest=0.3, finest=0.03)
    rgb = np.array([0.35, 0.55, 0.75]) * (0.75 + 0.25 * grain[:, None])
    for index, body in enumerate(bodies):
        own = owner == index
        grain = texture(body.body(points[own]), body.texture_seed, coarsest=0.8, finest=0.15)
        rgb[own] = body.tint * (0.35 + 0.65 * grain[:, None])
    rgb[~seen] = 0.0
    size = (camera.height, camera.width)
    image = np.rint(255 * rgb).astype(np.uint8).reshape(*size, 3)
    depth = np.where(seen, depth, 0.0).astype(np.float32)
    return image, depth.reshape(size), owner.reshape(size)


def film(
    camera: PinholeCamera, frames: list[list[Body]], *, noise: bool = False
) -> tuple[View, list[np.ndarray]]:
    """A view and the body index of every pixel of every frame.

    Noise is a RealSense's: 1.5 mm z^2 per pixel, steps of 1 mm, nothing beside edges, 1 % holes.
    """
    rng = np.random.default_rng(3)
    rgb, depths, owners = [], [], []
    for bodies in frames:
        image, depth, owner = render(camera, bodies)
        if noise:
            depth = depth + 0.0015 * depth**2 * rng.normal(size=depth.shape).astype(np.float32)
            depth = np.round(depth * 1000) / 1000
            edge = np.zeros(owner.shape, bool)
            edge[:, 1:] |= owner[:, 1:] != owner[:, :-1]
            edge[1:] |= owner[1:] != owner[:-1]
            depth = np.where(edge | (rng.random(depth.shape) < 0.01), 0.0, depth)
        rgb.append(image)
        depths.append(depth.astype(np.float32))
        owners.append(owner)
    return View(camera, rgb, depths), owners


def lifted_ball(frames: int) -> list[list[Body]]:
    """A 100 mm ball that is stretched by 20 %, turned by 40 degrees and lifted by 80 mm."""
    scene = []
    for share in np.linspace(0.0, 1.0, frames):
        ease = 3 * share**2 - 2 * share**3
        turn = np.radians(40 * ease)
        spin = np.array(
            [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]]
        )
        stretch = np.diag([1.0 - 0.05 * ease, 1.0 - 0.05 * ease, 1.0 + 0.2 * ease])
        centre = np.array([0.04 * ease, 0.0, 0.05 * (1 + 0.2 * ease) + 0.08 * ease])
        scene.append([Body(0.05 * spin @ stretch, centre)])
    return scene


def truth_error(frames: list[list[Body]], position: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Distance [m] of seen points from where the material under them went, flat."""
    start = visible[0]
    material = frames[0][0].body(position[0, start])
    errors = []
    for t in range(1, len(frames)):
        seen = visible[t, start]
        truth = frames[t][0].world(material[seen])
        errors.append(np.linalg.norm(position[t, start][seen] - truth, axis=1))
    return np.concatenate(errors)


def in_camera(camera: PinholeCamera, points: np.ndarray) -> np.ndarray:
    return apply_T(inverse_T(camera.T_world_cam), points)
