"""The textured surface that the cameras see: it follows the vertices of the physics exactly."""

from __future__ import annotations

import io
import itertools

import numpy as np
from PIL import Image

from physgym.cell.soft_body import SoftBody

__all__ = ["RopeSurface", "SheetSurface", "body_texture", "build_surface", "table_texture"]

_TILE_M = 0.25  # the texture repeats after this length
_TEXELS = 512  # so a texel is 0.5 mm, half a pixel at half a metre
_RING = 12  # vertices around a rope
# Base colours, RGB: apart from the table's grey and the grippers' blue.
_COLOURS = {
    "block": (0.80, 0.35, 0.20),
    "toy": (0.75, 0.50, 0.22),
    "rope": (0.85, 0.65, 0.15),
    "cloth": (0.30, 0.62, 0.30),
}


class SheetSurface:
    """Surface of a solid, or both sides of a shell.

    A vertex is drawn once for each of the six directions that its faces look to, with its rest
    position, seen along that direction, as texture coordinates: the texture is stretched by less
    than sqrt(3) anywhere and moves with the material.

    Args:
        body: the body at rest, 2D or 3D.
        creased: shade each direction apart, for bodies with sharp edges.

    Attributes:
        vertex_index: vertex of the physics under each drawn one, shape (V,).
        faces: triangles of drawn vertices, counter-clockwise from outside, shape (F, 3).
        texcoord: shape (V, 2).
    """

    def __init__(self, body: SoftBody, *, creased: bool) -> None:
        triangles, side = body.faces, np.zeros(len(body.faces))
        if body.dim == 2:
            triangles = np.concatenate([triangles, triangles[:, ::-1]])
            side = np.repeat([1.0, -1.0], len(body.faces))
        corners = body.vertices[triangles]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        axis = np.abs(normal).argmax(axis=1)
        chart = 2 * axis + (np.take_along_axis(normal, axis[:, None], 1)[:, 0] < 0)
        key = triangles * 6 + chart[:, None]
        used, first, drawn = np.unique(key, return_index=True, return_inverse=True)
        self.vertex_index = used // 6
        self.faces = drawn.reshape(-1, 3)
        self._offset_m = body.radius_m * np.repeat(side, 3)[first]
        self._creased = creased or body.dim == 2
        rest, chart_of = body.vertices[self.vertex_index], used % 6
        across = np.array([[1, 2], [0, 2], [0, 1]])[chart_of // 2]
        flat = np.take_along_axis(rest, across, axis=1)
        self.texcoord = flat / _TILE_M + np.array([0.37, 0.61]) * chart_of[:, None]

    def restart(self, vertices: np.ndarray) -> None:
        """Begin anew from a configuration.

        Args:
            vertices: shape (N, 3) [m].
        """

    def advance(self, vertices: np.ndarray) -> None:
        """Follow one step of the physics.

        Args:
            vertices: shape (N, 3) [m].
        """

    def mesh(self, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the surface is.

        Args:
            vertices: of the physics, shape (N, 3) [m].

        Returns:
            Drawn vertices [m], shape (V, 3), and their unit normals, shape (V, 3).
        """
        base = vertices[self.vertex_index]
        corners = base[self.faces]
        face_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        group = np.arange(len(base)) if self._creased else self.vertex_index
        total = np.zeros((group.max() + 1, 3))
        for corner in range(3):
            np.add.at(total, group[self.faces[:, corner]], face_normal)
        normal = total[group]
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        # The normal of a sheet's lower side looks down already, so both sides move outwards.
        return base + np.abs(self._offset_m)[:, None] * normal, normal


class RopeSurface:
    """A tube around a rod.

    The director of the first edge is transported in time, the others follow from it along the rod
    without twist; a rope that is rolled about its own axis is therefore drawn without rolling.

    Args:
        body: the body at rest, 1D.

    Attributes:
        vertex_index: vertex of the rod at the middle of each drawn one's ring, shape (V,).
        faces: triangles of drawn vertices, counter-clockwise from outside, shape (F, 3).
        texcoord: shape (V, 2).
    """

    def __init__(self, body: SoftBody) -> None:
        count = len(body.vertices)
        self._radius_m = body.radius_m
        self._angle = np.linspace(0, 2 * np.pi, _RING + 1)  # the seam is drawn twice
        ring = np.arange(_RING + 1)
        self.vertex_index = np.concatenate([np.repeat(np.arange(count), _RING + 1), [0, count - 1]])
        arc = np.concatenate(
            [[0.0], np.cumsum(np.linalg.norm(np.diff(body.vertices, axis=0), axis=1))]
        )
        around = ring * (2 * np.pi * body.radius_m / _RING)
        grid = np.stack(np.meshgrid(arc, around, indexing="ij"), axis=-1).reshape(-1, 2)
        ends = np.array([[-body.radius_m, 0.0], [arc[-1] + body.radius_m, 0.0]])
        self.texcoord = np.concatenate([grid, ends]) / _TILE_M
        i, j = (
            a.ravel() for a in np.meshgrid(np.arange(count - 1), np.arange(_RING), indexing="ij")
        )
        a, b = i * (_RING + 1) + j, (i + 1) * (_RING + 1) + j
        side = np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)])
        first, last = count * (_RING + 1), count * (_RING + 1) + 1
        turn, end = np.arange(_RING), (count - 1) * (_RING + 1) + np.arange(_RING)
        caps = [
            np.stack([np.full(_RING, first), turn, turn + 1], 1),
            np.stack([np.full(_RING, last), end + 1, end], 1),
        ]
        self.faces = np.concatenate([side[:, ::-1], *[cap[:, ::-1] for cap in caps]])
        self.restart(body.vertices)

    def restart(self, vertices: np.ndarray) -> None:
        """Begin anew from a configuration.

        Args:
            vertices: shape (N, 3) [m].
        """
        tangent = _tangents(vertices)[0]
        self._tangent = tangent
        self._director = _perpendicular(np.array([0.0, 0.0, 1.0]), tangent)

    def advance(self, vertices: np.ndarray) -> None:
        """Follow one step of the physics.

        Args:
            vertices: shape (N, 3) [m].
        """
        tangent = _tangents(vertices)[0]
        self._director = _perpendicular(_transport(self._director, self._tangent, tangent), tangent)
        self._tangent = tangent

    def mesh(self, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the surface is.

        Args:
            vertices: of the physics, shape (N, 3) [m].

        Returns:
            Drawn vertices [m], shape (V, 3), and their unit normals, shape (V, 3).
        """
        tangent = _tangents(vertices)
        first = _transport(self._director, self._tangent, tangent[0])
        directors = [_perpendicular(first, tangent[0])]
        for before, after in itertools.pairwise(tangent):
            directors.append(_perpendicular(_transport(directors[-1], before, after), after))
        along = np.stack([tangent[0], *(tangent[:-1] + tangent[1:]), tangent[-1]])
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        edge = np.array(directors)
        up = np.stack([edge[0], *(edge[:-1] + edge[1:]), edge[-1]])
        up -= (up * along).sum(axis=1, keepdims=True) * along
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        left = np.cross(along, up)
        normal = (
            np.cos(self._angle)[None, :, None] * up[:, None]
            + np.sin(self._angle)[None, :, None] * left[:, None]
        )
        tube = vertices[:, None] + self._radius_m * normal
        # The capsules of the physics end in half spheres; the drawn ends are cones as long.
        ends = np.stack(
            [vertices[0] - self._radius_m * along[0], vertices[-1] + self._radius_m * along[-1]]
        )
        points = np.concatenate([tube.reshape(-1, 3), ends])
        return points, np.concatenate([normal.reshape(-1, 3), [-along[0], along[-1]]])


def build_surface(body: SoftBody, kind: str) -> SheetSurface | RopeSurface:
    """The surface of a body.

    Args:
        body: the body at rest.
        kind: one of `physgym.cell.soft_config.KINDS`.

    Returns:
        Its surface.
    """
    return RopeSurface(body) if body.dim == 1 else SheetSurface(body, creased=kind == "block")


def body_texture(kind: str, seed: int) -> bytes:
    """Blotches of colour from 3 to 25 mm, which optical flow can hold on to.

    Args:
        kind: decides the base colour.
        seed: the same seed gives the same bits.

    Returns:
        A PNG of 512 x 512 pixels that tiles.
    """
    rng = np.random.default_rng([seed, 1])
    image = np.tile(np.array(_COLOURS[kind], dtype=np.float32), (_TEXELS, _TEXELS, 1))
    texel_m = _TILE_M / _TEXELS
    for width_m, light, hue in ((0.003, 0.10, 0.02), (0.007, 0.14, 0.06), (0.02, 0.06, 0.05)):
        image += light * _noise(rng, width_m / texel_m)[..., None]
        image += hue * np.stack([_noise(rng, width_m / texel_m) for _ in range(3)], axis=-1)
    return _png(image)


def table_texture(seed: int) -> bytes:
    """A grey table top with a faint grain.

    Args:
        seed: the same seed gives the same bits.

    Returns:
        A PNG of 512 x 512 pixels that tiles.
    """
    rng = np.random.default_rng([seed, 2])
    image = np.full((_TEXELS, _TEXELS, 3), 0.58, dtype=np.float32)
    for width, light in ((6.0, 0.03), (24.0, 0.03)):
        image += light * _noise(rng, width)[..., None]
    return _png(image)


def _noise(rng: np.random.Generator, width_px: float) -> np.ndarray:
    """Smooth noise of unit variance that tiles, float32."""
    white = rng.standard_normal((_TEXELS, _TEXELS), dtype=np.float32)
    frequency = np.fft.fftfreq(_TEXELS)
    decay = np.exp(-0.5 * (np.pi * width_px * frequency) ** 2)  # a Gaussian of half that width
    spectrum = np.fft.rfft2(white) * decay[:, None] * decay[None, : _TEXELS // 2 + 1]
    smooth = np.fft.irfft2(spectrum, s=white.shape)
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _tangents(vertices: np.ndarray) -> np.ndarray:
    edges = np.diff(vertices, axis=0)
    return np.asarray(edges / np.linalg.norm(edges, axis=1, keepdims=True))


def _transport(vector: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Turn by the least rotation from one tangent to another (Bergou 2008, section 4.2)."""
    axis, cosine = np.cross(before, after), float(before @ after)
    if cosine < -0.999:  # a reversal within one edge has no least rotation
        return vector
    turned = vector * cosine + np.cross(axis, vector) + axis * (axis @ vector) / (1 + cosine)
    return np.asarray(turned)


def _perpendicular(vector: np.ndarray, tangent: np.ndarray) -> np.ndarray:
    """The part across a tangent, unit; another direction where there is none."""
    across = vector - (vector @ tangent) * tangent
    norm = np.linalg.norm(across)
    if norm < 1e-6:
        return _perpendicular(np.roll(np.abs(tangent), 1) + np.array([0.1, 0.2, 0.3]), tangent)
    return np.asarray(across / norm)
