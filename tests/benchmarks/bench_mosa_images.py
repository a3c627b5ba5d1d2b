"""MoSA from images alone: what is found, what it predicts, and what each loss is worth.

    python -m tests.benchmarks.bench_mosa_images --json OUT [--quick] [--variant NAME ...]

A textured box of known material is dropped by finite elements and drawn into four RGB cameras by a
z-buffer of its triangles: neither motion nor pictures come from the twin's code. A fit sees the
first frames, images and masks alone. Variants: ``clean``; ``noise``: normal noise of 5 of 255 on
every pixel, one camera a tenth too bright and one a tenth too dark; ``tumble``: it spins at first;
``roll``: a longer box spins around another axis.
Every loss of the last stage is left out once (``clean``); all rows of a variant share the stages
before. ``exact tracks`` is the prior fitted to the true motion of every node, with the true shape:
what the images cost. Scores are against the truth without noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from physgym.camera import PinholeCamera
from physgym.cell.fem_bodies import TetBody, box
from physgym.cell.fem_material import FemMaterial
from physgym.cell.fem_recording import MotionRecording
from physgym.cell.fem_scenes import drop
from physgym.cell.finite_elements import FiniteElements, Plane
from physgym.frames import T_from_parts
from physgym.run_folder import RunFolder
from physgym.sim.contact import GroundPlane
from physgym.sim.mpm.gripped import simulate_mpm
from physgym.sim.mpm.ride import carry, mount
from physgym.splats.cloud import GaussianCloud, Gaussians
from physgym.splats.follower import Follower
from physgym.twin import Twin
from recon.identify.mosa import identify_motion
from recon.identify.mosa_config import MosaConfig
from recon.identify.mosa_video import VideoConfig, identify_film
from recon.identify.motion import Motion
from recon.identify.motion_losses import MotionWeights
from recon.identify.progress import Progress
from recon.identify.start_velocity import StartVelocity, fit_start_velocity
from recon.identify.video_scene import VideoScene
from recon.splats.dynamic import DynamicConfig
from recon.splats.static import held_out_scores
from recon.splats.video import PosedVideo, make_video
from recon.start import Start

FPS, FRAMES, LEARNED = 60.0, 26, 17
HEIGHT_M, VELOCITY, FRICTION = 0.06, (0.15, 0.0, -0.8), 0.3
YOUNG_PA, POISSON, DENSITY = 2e4, 0.3, 500.0
SIZE_M = {"clean": (0.10, 0.08, 0.06), "roll": (0.12, 0.06, 0.08)}  # "clean": of all others
SPIN = {"tumble": (3.0, 4.0, 0.0), "roll": (-3.0, 1.0, 2.0)}  # rad/s; none of all others
STILL = (0.0, 0.0, 0.0)
NOISE_LEVELS, GAINS = 5.0, (0.9, 1.1, 1.0, 1.0)
VARIANTS = ("clean", "noise", "tumble", "roll")
LOSSES = ("tracks", "velocity", "chamfer", "scale", "rotation", "image", "mask", "flow")
LIGHT = np.array([0.3, 0.2, 0.93])


@dataclass(frozen=True)
class Size:
    """How much work a run is."""

    width: int = 192
    particles: int = 1500
    seeing: VideoConfig = dataclasses.field(default_factory=VideoConfig)


FULL = Size()
QUICK = Size(
    96, 500,
    VideoConfig(gaussians=600, static_steps=60, dynamic=DynamicConfig(iterations=120)),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Filmed:
    """What really happens, how it looks, and what a fit is given.

    Attributes:
        recording: true motion.
        points: on the surface [m], shape (T, N, 3).
        truth: without noise.
        given: what is learned from, all frames of it.
    """

    recording: MotionRecording
    points: np.ndarray
    truth: PosedVideo
    given: PosedVideo

    @property
    def scene(self) -> VideoScene:
        return VideoScene.plain(self.given, ground=GroundPlane())


def thrown(body: TetBody, spin_rad_per_s: tuple[float, float, float]) -> MotionRecording:
    """The drop; `drop` knows no spin, so velocities are set after it has placed the body."""
    material = FemMaterial(YOUNG_PA, POISSON, DENSITY)
    still = drop(
        body, material, height_m=HEIGHT_M, velocity_m_per_s=VELOCITY,
        frames=FRAMES if not any(spin_rad_per_s) else 2, fps=FPS, friction=FRICTION,
    )  # fmt: skip
    if not any(spin_rad_per_s):
        return still
    solver = FiniteElements(body.nodes, body.tets, material, planes=(Plane(friction=FRICTION),))
    solver.position = still.points[0].copy()
    centre = np.average(solver.position, axis=0, weights=solver.mass_kg)
    solver.velocity = np.array(VELOCITY) + np.cross(spin_rad_per_s, solver.position - centre)
    points = [solver.position.copy()]
    for _ in range(FRAMES - 1):
        solver.advance(1.0 / FPS)
        points.append(solver.position.copy())
    return dataclasses.replace(still, points=np.array(points), time_s=np.arange(FRAMES) / FPS)


def cameras(width: int) -> list[PinholeCamera]:
    """Four around the place of the fall, all above it, 55 degrees wide."""
    made, target = [], np.array([0.0, 0.0, 0.06])
    for i in range(4):
        a = 0.5 * np.pi * i + 0.3
        at = np.array([0.38 * np.cos(a), 0.38 * np.sin(a), 0.12 + 0.12 * i])
        forward = (target - at) / np.linalg.norm(target - at)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        turn = np.stack([right, np.cross(forward, right), forward], axis=1)
        height = width * 3 // 4
        focal = 0.5 * width / np.tan(np.radians(55) / 2)
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        made.append(PinholeCamera(f"cam{i}", "", width, height, K, T_from_parts(turn, at)))
    return made


def texture(rest: np.ndarray) -> np.ndarray:
    """Colour of matter, 0 to 1, shape (..., 3): waves of 2 to 5 cm."""
    rng = np.random.default_rng(7)
    way = rng.normal(size=(8, 3))
    way *= (2 * np.pi / rng.uniform(0.02, 0.05, 8) / np.linalg.norm(way, axis=1))[:, None]
    wave = np.sin(rest @ way.T + rng.uniform(0, 2 * np.pi, 8))
    return np.asarray(0.5 + 0.4 * np.tanh(wave @ rng.normal(size=(8, 3)) * 0.6))


def picture(
    camera: PinholeCamera, corners: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Image (uint8) and share of the object of triangles (M, 3, 3), lit by one lamp far away."""
    big = camera.scaled(2.0)
    pixels, depth = big.project(corners.reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 3, 2), depth.reshape(-1, 3)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    shade = 0.55 + 0.45 * np.clip(across @ LIGHT / np.linalg.norm(across, axis=1), 0.0, 1.0)
    nearest = np.zeros((big.height, big.width))  # 1 / z
    rgb = np.full((big.height, big.width, 3), 0.4)
    for k in np.flatnonzero(((camera.position - corners[:, 0]) * across).sum(axis=1) > 0.0):
        low = np.maximum(np.floor(pixels[k].min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(pixels[k].max(axis=0)).astype(int) + 1, (big.width, big.height))
        if (high <= low).any():
            continue
        u, v = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high)))
        system = np.concatenate([pixels[k].T, np.ones((1, 3))])
        share = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(system).T
        near = share / depth[k]
        now = near.sum(axis=-1)
        block = (slice(low[1], high[1]), slice(low[0], high[0]))
        front = (share >= -1e-9).all(axis=-1) & (now > nearest[block])
        matter = (near[front] / now[front, None]) @ rest[k]
        nearest[block][front] = now[front]
        rgb[block][front] = shade[k] * texture(matter)
    solid = (nearest > 0.0).astype(float)
    whole = (camera.height, 2, camera.width, 2)
    image = rgb.reshape(*whole, 3).mean(axis=(1, 3))
    return np.rint(255 * image).astype(np.uint8), solid.reshape(whole).mean(axis=(1, 3))


def filmed(variant: str, size: Size) -> Filmed:
    """A variant of the drop, and its video."""
    body = box(SIZE_M.get(variant, SIZE_M["clean"]), 0.02)
    made = thrown(body, SPIN.get(variant, STILL))
    rig, corner = cameras(size.width), made.rest[made.faces]
    shots = [[picture(c, p[made.faces], corner) for p in made.points] for c in rig]
    clean = [[image for image, _ in one] for one in shots]
    masks = [[share > 0.5 for _, share in one] for one in shots]
    truth = make_video(clean, masks, rig, made.time_s, name=variant)
    given = truth
    if variant == "noise":
        rng = np.random.default_rng(3)
        spoilt = [
            [
                np.rint(gain * i + rng.normal(0, NOISE_LEVELS, i.shape)).clip(0, 255)
                .astype(np.uint8) for i in one
            ]
            for gain, one in zip(GAINS, clean)
        ]  # fmt: skip
        given = make_video(spoilt, masks, rig, made.time_s, name=variant)
    rng = np.random.default_rng(2)
    which = rng.integers(len(made.faces), size=600)
    weight = rng.dirichlet([1.0, 1.0, 1.0], size=600)
    points = np.einsum("nk,tnki->tni", weight, made.points[:, made.faces[which]])
    return Filmed(made, points, truth, given)


class Fits:
    """Fits of one variant that differ in the last stage alone."""

    def __init__(self, film: Filmed, size: Size, folder: Path) -> None:
        scene = dataclasses.replace(film.scene, recorded_frames=FRAMES)
        self.scene = dataclasses.replace(scene, tick=scene.tick[:LEARNED])
        self.film, self.size, self.folder = film, size, folder
        self.config = MosaConfig(
            particles=size.particles, train_share=LEARNED / FRAMES, density_kg_per_m3=DENSITY
        )

    def fit(self, name: str, **changes: Any) -> Twin:
        """One fit; the first one's stages before the networks are used again."""
        path, config = self.folder / name, dataclasses.replace(self.config, **changes)
        with RunFolder(path, config) as run:
            before = self.folder / "start"
            if path != before:
                shutil.copytree(before / "checkpoints", path / "checkpoints", dirs_exist_ok=True)
                for kept in before.glob("*.npz"):
                    shutil.copy(kept, path)
            video = self.film.given.first(LEARNED)
            return identify_film(
                video, self.scene, config, self.size.seeing, name=name, progress=Talk(), run=run
            )


def from_exact_tracks(film: Filmed, config: MosaConfig, looks: Twin) -> Twin:
    """The prior of the true motion and shape, with the Gaussians of another twin to be drawn."""
    motion = Motion.from_recording(film.recording)
    motion = dataclasses.replace(motion, recorded_frames=FRAMES)
    middle = np.average(motion.rest, axis=0, weights=film.recording.node_volume_m3)
    known = StartVelocity(
        np.array(VELOCITY), np.array(SPIN.get(film.given.name, STILL)),
        motion.start_pose().apply(middle),
        fit_start_velocity(motion).contact_frame,
    )  # fmt: skip
    config = dataclasses.replace(config, stages=("velocity", "prior"))
    return identify_motion(motion, config, starts=[known]).replace(splats=looks.splats)


class Talk(Progress):
    """Says where a fit is."""

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        print(f"    {text}", flush=True)


def predicted(twin: Twin, film: Filmed) -> tuple[list[GaussianCloud | Gaussians], np.ndarray]:
    """What a twin shows, and where it takes the true points of frame 0 [m], shape (T, N, 3)."""
    velocity, spin = Start().or_as_recorded(twin)
    made = simulate_mpm(
        twin, [], 1.0 / FPS, frames=FRAMES, velocity_m_per_s=velocity, spin_rad_per_s=spin
    )
    follower = Follower(twin)
    ride = mount(film.points[0], np.asarray(twin.rest_position, np.float64))
    places = carry(ride, torch.tensor(made.position), torch.tensor(made.deformation))
    return [follower.at(x) for x in made.position], places.double().numpy()


def baseline(twin: Twin, film: Filmed, name: str) -> tuple[list[GaussianCloud], np.ndarray]:
    """``frozen`` as in frame 0; ``rigid`` flies without turning, ``falling`` turns, too; both stay
    where a particle first touches the ground. Velocity and spin are the twin's."""
    velocity, spin = Start().or_as_recorded(twin)
    body = np.asarray(twin.rest_position, np.float64)
    cloud, centre = twin.splats, body.mean(axis=0)
    assert cloud is not None
    rate = spin if name == "falling" else np.zeros(3)

    def at(points: np.ndarray, s: float) -> np.ndarray:
        turn = Rotation.from_rotvec(rate * s).as_matrix()
        shift = s * velocity + 0.5 * s * s * np.array([0.0, 0.0, -9.81])
        return (points - centre) @ turn.T + centre + shift

    times = np.linspace(0.0, FRAMES / FPS, 500)
    low = np.array([at(body, s)[:, 2].min() for s in times])
    touch = 0.0 if name == "frozen" else float(times[np.argmax(low < 0.0)])
    stamps = np.minimum(np.arange(FRAMES) / FPS, touch)
    gaussians = cloud.mean.double().numpy()
    clouds = [cloud.replace(mean=torch.tensor(at(gaussians, s)).float()) for s in stamps]
    return clouds, np.stack([at(film.points[0], s) for s in stamps])


def scores(
    clouds: list[GaussianCloud | Gaussians], places: np.ndarray, film: Filmed
) -> dict[str, float]:
    """Means over the frames that were not learned from."""
    each = [
        held_out_scores(c, views)
        for c, views in zip(clouds[LEARNED:], film.truth.frames[LEARNED:], strict=True)
    ]
    apart = np.linalg.norm(places - film.points, axis=-1).mean(axis=1)
    return {
        "iou": float(np.mean([e["iou"] for e in each])),
        "psnr_object_db": float(np.mean([e["psnr_object_db"] for e in each])),
        "track_m": float(apart[LEARNED:].mean()),
        "learned_track_m": float(apart[1:LEARNED].mean()),
    }


def row_of(name: str, twin: Twin, film: Filmed, seconds: float) -> dict[str, Any]:
    """What was found, and how it predicts."""
    velocity, spin = Start().or_as_recorded(twin)
    wanted = np.array(SPIN.get(film.given.name, STILL))
    return {
        "row": name,
        "young_ratio": float(twin.parameters["young_pa"]) / YOUNG_PA,
        "poisson_ratio": float(twin.parameters["poisson_ratio"]),
        "kept": [p for p in ("adapter", "heterogeneity") if twin.provenance[p]],
        "velocity_error_m_per_s": float(np.linalg.norm(velocity - np.array(VELOCITY))),
        "spin_error_rad_per_s": float(np.linalg.norm(spin - wanted)),
        "held_out_loss": twin.provenance["held_out_loss"],
        "seconds": seconds,
        **scores(*predicted(twin, film), film),
    }


def measured(variant: str, size: Size, folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """All rows of a variant."""
    film = filmed(variant, size)
    fits, rows = Fits(film, size, folder / variant), []

    def fit(name: str, **changes: Any) -> Twin:
        started = time.process_time()
        twin = fits.fit(name, **changes)
        rows.append(row_of(name, twin, film, time.process_time() - started))
        show(variant, rows[-1])
        return twin

    weights = MotionWeights()
    every = [*LOSSES]
    start = fit("start", stages=("velocity", "prior", "linear"))
    fit("prior", stages=("velocity", "prior"))
    fit("all losses")
    fit("images only", weights=weights.only(("image", "mask")))
    if variant == "clean" and not quick:
        for loss in LOSSES:
            fit(f"without {loss}", weights=weights.only([n for n in every if n != loss]))
    started = time.process_time()
    exact = from_exact_tracks(film, fits.config, start)
    rows.append(row_of("exact tracks", exact, film, time.process_time() - started))
    show(variant, rows[-1])
    for name in ("frozen", "rigid", "falling"):
        rows.append({"row": name, **scores(*baseline(start, film, name), film)})
        show(variant, rows[-1])
    return [{"variant": variant, **row} for row in rows]


def show(variant: str, row: dict[str, Any]) -> None:
    """One line of the table."""
    found = ""
    if "young_ratio" in row:
        found = (
            f"E {row['young_ratio']:.2f} nu {row['poisson_ratio']:.2f} "
            f"v {row['velocity_error_m_per_s']:.3f} w {row['spin_error_rad_per_s']:.2f} "
            f"{'+'.join(row['kept']) or 'prior'} {row['seconds']:.0f} s"
        )
    print(
        f"| {variant} | {row['row']} | {row['iou']:.3f} | {row['psnr_object_db']:.1f} | "
        f"{1e3 * row['track_m']:.1f} | {1e3 * row['learned_track_m']:.1f} | {found} |",
        flush=True,
    )


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one small variant, few rows")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS)
    words = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if words.quick else FULL
    variants = words.variant or (["clean"] if words.quick else [*VARIANTS])
    started, rows = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            rows += measured(variant, size, Path(folder), quick=words.quick)
    found = {"quick": words.quick, "cpu_s": time.process_time() - started, "rows": rows}
    print(f"{found['cpu_s']:.0f} s of CPU")
    if words.json:
        words.json.parent.mkdir(parents=True, exist_ok=True)
        words.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
