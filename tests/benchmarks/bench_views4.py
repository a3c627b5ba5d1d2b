"""Static Gaussians of a real object: three of four views are fitted, the fourth is drawn.

    python -m tests.benchmarks.bench_views4 --data FOLDER --json OUT [--pictures FOLDER] [--quick]

FOLDER has the layout of `recon.importers.views4` (a rope on a table, four RealSense views, one
instant). Rows: the start without a fit, one fixed radius, fitted balls, fitted ellipsoids, those
with a gain per camera, and ellipsoids fitted to all four views, which nothing held out can beat by
much. Points of the start are the visual hull of the three views, or the cloud that came with the
data, which saw the fourth camera's depth too. ``gain`` is PSNR after the best gain per colour in
the held-out view: what is above it is geometry and texture, the rest exposure. ``one colour`` is
the object's pixels in the mean colour of the fitted views: who does not beat it shows no texture.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from physgym.splats import GaussianCloud, rasterize
from recon.clouds import MultiView
from recon.importers import views4
from recon.splats.posed_images import PosedImages, posed_images
from recon.splats.static import (
    StaticConfig,
    fit_static,
    held_out_scores,
    initial_cloud,
    seen_colours,
)
from recon.splats.visual_hull import visual_hull

RADIUS_M = 0.003  # Spring-Gaus's
SPACING_M = 0.003
MARGIN_M = 0.02


def starting_points(scene: MultiView, views: PosedImages, start: str, seed: int) -> np.ndarray:
    """Where the Gaussians begin, (G, 3)."""
    if start == "cloud":
        return np.asarray(scene.points, float)
    low, high = scene.points.min(axis=0), scene.points.max(axis=0)
    hull = visual_hull(views, low - MARGIN_M, high + MARGIN_M, spacing_m=SPACING_M)
    draw = np.random.default_rng(seed)
    most = 6000
    return hull if len(hull) <= most else hull[draw.choice(len(hull), most, replace=False)]


def configs(iterations: int) -> dict[str, StaticConfig]:
    """Ways to fit by name of the row."""
    return {
        "fixed radius": StaticConfig(iterations, radius_m=RADIUS_M),
        "isotropic": StaticConfig(iterations),
        "anisotropic": StaticConfig(iterations, isotropic=False),
        "isotropic, gains": StaticConfig(iterations, gains=True),
    }


def started(points: np.ndarray, views: PosedImages, config: StaticConfig) -> GaussianCloud:
    """The cloud before the fit."""
    return initial_cloud(
        points,
        seen_colours(views, points),
        isotropic=config.isotropic,
        sh_degree=config.sh_degree,
        radius_m=config.radius_m,
    )


def scores(cloud: GaussianCloud, held: PosedImages) -> dict[str, float]:
    """Of a held-out view, and PSNR on the object after the best gain per colour."""
    found = held_out_scores(cloud, held)
    with torch.no_grad():
        rgb = rasterize(cloud, held.cameras).rgb.clamp(0.0, 1.0)
    mask = (held.mask > 0.5) & (held.known > 0.5)
    drawn, seen = rgb[mask], held.rgb[mask]
    gain = (drawn * seen).sum(0) / drawn.square().sum(0).clamp(min=1e-9)
    error = (drawn * gain - seen).square().mean()
    found["psnr_object_gain_db"] = float(-10.0 * torch.log10(error))
    found |= {f"gain_{name}": float(g) for name, g in zip("rgb", gain)}
    return found


def one_colour(fitted: PosedImages, held: PosedImages) -> float:
    """PSNR of a held-out object in the mean colour that it has in the fitted views."""
    mean = fitted.rgb[fitted.mask > 0.5].mean(dim=0)
    error = (held.rgb[held.mask > 0.5] - mean).square().mean()
    return float(-10.0 * torch.log10(error))


def photo_agreement(scene: MultiView) -> list[dict[str, Any]]:
    """How far photos agree on points of the depth cloud that both see: PSNR and correlation.

    Of the highest points around, the ridge of the rope, which no other part hides from a camera.
    """
    points = np.asarray(scene.points, float)
    around = cKDTree(points[:, :2]).query_ball_point(points[:, :2], 0.012)
    height = points[:, 2]
    top = points[[height[i] >= np.percentile(height[near], 85) for i, near in enumerate(around)]]
    seen = []
    for camera, image, mask in zip(scene.cameras, scene.images, scene.masks):
        u, v = camera.project(top)[0].astype(np.float32).T
        rgb = cv2.remap(image.astype(np.float32) / 255, u[None], v[None], cv2.INTER_LINEAR)[0]
        on = cv2.remap(mask.astype(np.float32), u[None], v[None], cv2.INTER_LINEAR)[0] > 0.99
        seen.append((rgb, on))
    found = []
    for one, other in itertools.combinations(range(len(seen)), 2):
        both = seen[one][1] & seen[other][1]
        a, b = seen[one][0][both], seen[other][0][both]
        alike = float(np.mean([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(3)]))
        psnr_db = float(-10 * np.log10(np.mean((a - b) ** 2)))
        found.append({"views": [one, other], "psnr_db": psnr_db, "correlation": alike})
        print(f"photos {one} and {other}: {psnr_db:.1f} dB, correlation {alike:.2f}")
    return found


def picture(cloud: GaussianCloud, held: PosedImages, path: Path) -> None:
    """Photo, drawing and their difference side by side."""
    with torch.no_grad():
        drawn = rasterize(cloud, held.cameras).rgb[0].clamp(0.0, 1.0)
    rows = torch.cat([held.rgb[0], drawn, (drawn - held.rgb[0]).abs()], dim=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.rint(255 * rows.numpy()[..., ::-1]).astype(np.uint8))


def main() -> None:
    """Fit, score, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the views")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for PNGs")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--held", type=int, nargs="*", help="views to hold out; all when left out")
    parser.add_argument("--start", choices=("hull", "cloud"), default="hull")
    parser.add_argument("--quick", action="store_true", help="one held-out view, 60 steps")
    options = parser.parse_args()
    if options.data is None or not views4.matches(options.data):
        skipped = f"--data {options.data} holds no cameras.json and pcd.ply of four views"
        print(f"skipped: {skipped}")
        _write(options.json, {"skipped": skipped})
        return
    torch.set_num_threads(1)
    scene = views4.read(options.data)
    every = posed_images(scene.images, scene.masks, scene.cameras)
    photos = photo_agreement(scene)
    rows: list[dict[str, Any]] = []
    iterations = 60 if options.quick else options.iterations
    wanted = range(len(every)) if options.held is None else options.held
    for held in wanted[:1] if options.quick else wanted:
        train = every[[v for v in range(len(every)) if v != held]]
        points = starting_points(scene, train, options.start, seed=0)
        for name, config in configs(iterations).items():
            begun = time.perf_counter()
            start = started(points, train, config)
            cloud = fit_static(start, train, config)
            rows.append(_row(name, held, cloud, every, begun))
            if name == "isotropic":
                rows.append(_row("start, no fit", held, start, every, time.perf_counter()))
            if options.pictures is not None:
                file = f"view{held}_{name.replace(',', '').replace(' ', '_')}.png"
                picture(cloud, every[[held]], options.pictures / file)
    if not (options.quick or options.held):
        rows += _all_views(scene, every, options.start, configs(iterations)["anisotropic"])
    _table(rows)
    settings = {"iterations": iterations, "start": options.start, "cpu": platform.processor()}
    _write(options.json, {**settings, "photos": photos, "rows": rows})


def _all_views(
    scene: MultiView, every: PosedImages, start: str, config: StaticConfig
) -> list[dict[str, Any]]:
    """What no held-out view can beat by much: it is fitted, too."""
    begun = time.perf_counter()
    points = starting_points(scene, every, start, seed=0)
    cloud = fit_static(started(points, every, config), every, config)
    name = "anisotropic, all four views"
    return [_row(name, held, cloud, every, begun) for held in range(len(every))]


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"benchmark": "views4", **found}, indent=1))


def _row(
    name: str, held: int, cloud: GaussianCloud, every: PosedImages, begun: float
) -> dict[str, Any]:
    row = {"row": name, "held_out": held, "gaussians": len(cloud)}
    row |= {"seconds": time.perf_counter() - begun, **scores(cloud, every[[held]])}
    rest = every[[v for v in range(len(every)) if v != held]]
    row["one_colour_db"] = one_colour(rest, every[[held]])
    row["train_psnr_object_db"] = held_out_scores(cloud, rest)["psnr_object_db"]
    print(
        f"view {held}  {name:28s} {len(cloud):6d} G  {row['seconds']:5.1f} s  "
        f"PSNR {row['psnr_db']:.2f}  object {row['psnr_object_db']:.2f} "
        f"(gain {row['psnr_object_gain_db']:.2f}; fitted views {row['train_psnr_object_db']:.2f}; "
        f"one colour {row['one_colour_db']:.2f})  "
        f"SSIM {row['ssim']:.3f}  IoU {row['iou']:.3f}",
        flush=True,
    )
    return row


def _table(rows: list[dict[str, Any]]) -> None:
    """Means over the held-out views."""
    print("| | PSNR | on the object | after a gain | one colour | fitted views | SSIM | IoU |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]
        keys = ("psnr_db", "psnr_object_db", "psnr_object_gain_db", "one_colour_db")
        keys = (*keys, "train_psnr_object_db")
        mean = {key: np.mean([row[key] for row in own]) for key in (*keys, "ssim", "iou")}
        figures = " | ".join(f"{mean[key]:.1f}" for key in keys)
        print(f"| {name} | {figures} | {mean['ssim']:.3f} | {mean['iou']:.3f} |")


if __name__ == "__main__":
    main()
