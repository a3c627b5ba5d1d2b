"""A block of springs that a gripper lifts off a table, perceived as cameras would."""

import numpy as np

from physgym.grip import simulate_gripped
from physgym.sim.spring_mass import rest_lengths
from physgym.twin import Twin
from recon.identify.even_clock import even_clock
from recon.identify.handling import handling_of
from recon.identify.network_topology import network_springs
from recon.perception.driven import GripperTrack
from recon.perception.result import Perception
from recon.perception.table import Plane
from recon.tracks import Tracks

SPACING_M = 0.02
FPS = 30.0


def block(*sides, height=0.0):
    """Nodes of a grid, its lowest at ``height``; surface nodes first. Returns nodes and surface."""
    axes = [np.arange(n) * SPACING_M for n in sides]
    cell = np.stack(np.meshgrid(*[np.arange(n) for n in sides], indexing="ij"), -1).reshape(-1, 3)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    nodes[:, 2] += height
    outside = ((cell == 0) | (cell == np.array(sides) - 1)).any(axis=1)
    order = np.argsort(~outside, kind="stable")
    return nodes[order], int(outside.sum())


def true_twin(nodes, *, stiffness_n=4.0, drag_per_s=2.0, dashpot=0.02):
    """What the search is to find again."""
    reach = 1.8 * SPACING_M
    edges = network_springs(
        nodes,
        np.zeros(0, int),
        radius_m=reach,
        neighbours=20,
        driven_radius_m=reach,
        driven_neighbours=1,
        shortest_m=1e-3,
    )
    length = rest_lengths(nodes, edges)
    values = {
        "stiffness_n": stiffness_n,
        "dashpot_ns_per_m": dashpot,
        "drag_per_s": drag_per_s,
        "restitution": 0.1,
        "friction": 0.5,
        "ground_offset_m": 0.0,
        "mass_kg": 0.1,
        "spacing_m": SPACING_M,
        "length_exponent": 0.0,
        "grip_radius_m": 1.6 * SPACING_M,
        "grip_stiffness_ratio": 1.0,
    }
    parameters = {key: np.array(float(value)) for key, value in values.items()} | {
        "springs": edges,
        "spring_rest_length_m": length,
        "log_stiffness_ratio": np.zeros(len(edges)),
        "gravity_m_per_s2": np.array([0.0, 0.0, -9.81]),
        "ground_normal": np.array([0.0, 0.0, 1.0]),
        "grip_neighbours": np.array(14, np.int32),
        "surface_position_m": nodes.astype(np.float32),
    }
    return Twin("true", "volume", "spring_mass", "phystwin", nodes, np.zeros(0, int), parameters)


def lifting_gripper(nodes, frames, *, closes=5, opens=None, rise_m=0.12):
    """Jaws around one end of the block that close, rise and sway."""
    end = nodes[nodes[:, 0] > nodes[:, 0].max() - 1.5 * SPACING_M]
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, :3, 3] = end.mean(axis=0)
    share = np.clip((np.arange(frames) - closes) / (frames - closes - 1), 0.0, 1.0)
    ease = share**2 * (3 - 2 * share)
    pose[:, 2, 3] += rise_m * ease
    pose[:, 1, 3] += 0.03 * np.sin(6 * share)
    closed = np.arange(frames) >= closes
    if opens is not None:
        closed &= np.arange(frames) < opens
    half = tuple(np.ptp(end, axis=0) / 2 + 1e-3)
    return GripperTrack(pose, closed, half)


def settled(twin):
    """Nodes of a twin after it has stood on its table for two seconds, shape (N, 3)."""
    return simulate_gripped(twin, [], 1 / FPS, frames=60)[-1].astype(float)


def perceived(twin, gripper, *, surface, seed=0, noise_m=5e-4, drop_frames=(), sha="a" * 64):
    """What cameras would make of the true motion: part of the surface tracked, noisy clouds.

    It starts where the object has settled, as recordings do.

    Returns:
        The perception and the true motion (T, N, 3) of its frames.
    """
    rng = np.random.default_rng(seed)
    frames = len(gripper.closed)
    time_s = np.arange(frames) / FPS
    nodes = settled(twin)
    empty = Perception(
        Tracks(
            time_s,
            np.tile(nodes, (frames, 1, 1)),
            np.ones((frames, len(nodes)), bool),
            np.zeros(0, int),
            "lift",
            rest_position=nodes,
        ),
        surface,
        surface,
        "volume",
        grippers=(gripper,),
    )
    grips, pushers, _ = handling_of(empty, even_clock(time_s), nodes)
    moved = simulate_gripped(twin, grips, 1 / FPS, frames=frames, pushers=pushers, position=nodes)
    keep = np.setdiff1d(np.arange(frames), drop_frames)
    seen = np.zeros((frames, len(nodes)), bool)
    seen[:, : surface // 2] = rng.uniform(size=(frames, surface // 2)) < 0.9
    seen[0, : surface // 2] = True
    noisy = moved + rng.normal(0, noise_m, moved.shape)
    noisy[0] = moved[0]
    clouds = [
        (noisy[t, :surface] + rng.normal(0, noise_m, (surface, 3))).astype(np.float32)
        for t in range(frames)
    ]
    tracks = Tracks(
        time_s[keep],
        np.where(seen[..., None], noisy, np.nan)[keep],
        seen[keep],
        np.zeros(0, int),
        "lift",
        rest_position=nodes,
        source_sha256=sha,
    )
    cut = GripperTrack(gripper.T_world_gripper[keep], gripper.closed[keep], gripper.jaw_half_m)
    found = Perception(
        tracks,
        surface // 2,
        surface,
        "volume",
        clouds=tuple(clouds[t] for t in keep),
        grippers=(cut,),
        table=Plane(np.array([0.0, 0.0, 1.0]), 0.0),
    )
    return found, moved[keep]
