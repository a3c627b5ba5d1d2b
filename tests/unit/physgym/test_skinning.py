"""Skinning: rigid motion is followed exactly, smooth bending nearly so."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physgym.errors import DataError
from physgym.skinning import bind, skin


def _block(rng):
    axis = np.linspace(-0.05, 0.05, 6)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def test_a_rigid_motion_carries_points_exactly():
    rng = np.random.default_rng(0)
    nodes = _block(rng)
    points = rng.uniform(-0.055, 0.055, (200, 3))
    turns = Rotation.from_rotvec(np.linspace(0, 3.0, 12)[:, None] * [0.3, -0.5, 0.8])
    shift = np.linspace(0, 1, 12)[:, None] * [0.2, 0.1, 0.4]
    moved = np.stack([t.apply(nodes) + s for t, s in zip(turns, shift)])
    truth = np.stack([t.apply(points) + s for t, s in zip(turns, shift)])
    # The pull towards the rotation one frame before is a thousandth of the neighbours' and right
    # to a quarter of a radian: about 1e-3 * 0.25 * 5 cm, in float32.
    assert np.abs(skin(bind(points, nodes), moved) - truth).max() < 2e-5


def test_a_bent_sheet_carries_the_points_between_its_nodes():
    """Pure bending to radius R: the error is that of a chord for an arc, spacing^2 / (8 R)."""
    spacing, radius = 0.01, 0.05
    u, v = np.meshgrid(np.arange(-0.1, 0.1001, spacing), np.arange(-0.05, 0.0501, spacing))

    def bent(x, y, height):
        angle = x / radius
        r = radius + height
        return np.stack([r * np.sin(angle), y, r * np.cos(angle) - radius], axis=-1)

    flat = np.stack([u.ravel(), v.ravel(), np.zeros(u.size)], -1)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-0.09, 0.09, 300), rng.uniform(-0.04, 0.04, 300)
    height = rng.choice([-0.002, 0.002], 300)
    points = np.stack([x, y, height], -1)
    made = skin(bind(points, flat), bent(flat[:, 0], flat[:, 1], 0.0)[None])[0]
    error = np.linalg.norm(made - bent(x, y, height), axis=1)
    # Weights reach two spacings, so up to four chords: 4 * spacing^2 / (8 R) = 1 mm.
    assert np.median(error) < 0.5e-3
    assert error.max() < 1.2e-3


def test_a_line_of_nodes_does_not_spin():
    """Nodes on a line tell no twist; the rotation before decides, so points stay on their side."""
    nodes = np.stack([np.linspace(0, 0.3, 31), np.zeros(31), np.zeros(31)], -1)
    points = nodes + np.array([0.0, 0.005, 0.0])
    swing = [Rotation.from_euler("y", a).apply(nodes) for a in np.linspace(0, 1.5, 30)]
    made = skin(bind(points, nodes), np.stack(swing))
    # A swing about y leaves y alone.
    assert np.abs(made[-1, :, 1] - 0.005).max() < 2e-4


def test_one_node_carries_by_translation():
    made = skin(bind([[0.1, 0, 0]], [[0.0, 0, 0]]), np.array([[[0.0, 0, 0]], [[1.0, 2, 3]]]))
    assert made[1, 0] == pytest.approx([1.1, 2, 3])


def test_no_node_is_refused():
    with pytest.raises(DataError, match="no node"):
        bind(np.zeros((1, 3)), np.zeros((0, 3)))
