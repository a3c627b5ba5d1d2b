"""Spring-Gaus on blocks with two stiffnesses, whose motion finite elements made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from uneven_cases import FPS, MASS_KG, UnevenDrop, uneven_drop

from physgym.splats.rasterize import rasterize
from physgym.twin import Twin
from recon.identify.spring_gaus import identify_video
from recon.identify.spring_gaus_config import SpringGausConfig
from recon.predict_free import predict_free

TRAIN, FUTURE = 12, 12  # frames: the first rebound, and what comes after
CONFIG = SpringGausConfig(
    gaussians=900, anchors=300, neighbours=32, certain=8, mass_kg=MASS_KG, static_steps=80,
    dynamic_steps=100,
)  # fmt: skip


@dataclass
class Found:
    """What a twin is worth."""

    contrast: float  # mean log stiffness of the stiff half over that of the soft half
    psnr_db: float  # of later frames, where the block is seen or drawn


def found(made: UnevenDrop, *, per_anchor: bool) -> Found:
    video = made.video(TRAIN)
    config = SpringGausConfig(**{**vars(CONFIG), "per_anchor": per_anchor})
    twin = identify_video(video, made.scene(video), config, name="uneven")
    return Found(contrast_of(twin, made), psnr_of(twin, made))


def contrast_of(twin: Twin, made: UnevenDrop) -> float:
    """From the springs that lie in one half; those of the soft vector's tail say nothing."""
    at = twin.rest_position[twin.parameters["springs"]]
    log_ratio = twin.parameters["log_stiffness_ratio"]
    soft = made.in_soft(at.reshape(-1, 3)).reshape(-1, 2)
    strong = log_ratio > np.median(log_ratio) - 3.0
    return float(
        log_ratio[strong & ~soft.any(axis=1)].mean() - log_ratio[strong & soft.all(axis=1)].mean()
    )


def psnr_of(twin: Twin, made: UnevenDrop) -> float:
    motion = predict_free(twin, duration_s=(TRAIN + FUTURE - 1) / FPS, fps=FPS)
    squares = []
    for t in range(TRAIN, TRAIN + FUTURE):
        mean = torch.as_tensor(motion.points[t, motion.visible_surface], dtype=torch.float32)
        assert twin.splats is not None
        with torch.no_grad():
            drawn = rasterize(twin.splats.replace(mean=mean), made.cameras)
        for c in range(len(made.cameras)):
            near = (drawn.alpha[c] > 0.05) | torch.as_tensor(made.masks[c][t])
            beside = drawn.rgb[c].clamp(0, 1) - torch.as_tensor(made.images[c][t]) / 255.0
            squares.append(float(beside.square()[near].mean()))
    return float(np.mean(-10.0 * np.log10(squares)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_soft_half_is_found_and_helps_to_predict() -> None:
    """Soft below; `physgym benchmark looks` has a block whose halves lie side by side."""
    made = uneven_drop((0.0, 0.0, 1.0))
    many, one = (found(made, per_anchor=p) for p in (True, False))
    # The truth is ln 8 = 2.1. Images of one rebound tell a part of it (1.5 was measured); descent
    # without the scan of ramps ends between 0 and 0.9.
    assert one.contrast == pytest.approx(0.0, abs=0.15)  # ranks of springs differ, stiffness not
    assert many.contrast > 1.0
    # 6.9 dB was measured; runs with other settings scatter by 1 dB.
    assert many.psnr_db > one.psnr_db + 2.0
