"""Spring-Gaus on blocks with two stiffnesses, whose motion finite elements made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from uneven_cases import FPS, MASS_KG, SIZE_M, UnevenDrop, uneven_drop

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
    """Halves along y, thrown aslant; `physgym benchmark looks` has another block of halves."""
    made = uneven_drop(
        (0.0, 1.0, 0.0), soft_pa=1e4, ratio=3.0, height_m=0.05, velocity=(0.4, -0.2, -1.2)
    )
    many, one = (found(made, per_anchor=p) for p in (True, False))
    # The truth is ln 3 = 1.1; 0.9 was measured, and descent without the scan of ramps found 0.3.
    assert one.contrast == pytest.approx(0.0, abs=0.15)  # ranks of springs differ, stiffness not
    assert 0.6 < many.contrast < 1.4
    # 7 dB was measured; runs with other settings scatter by 1 dB.
    assert many.psnr_db > one.psnr_db + 3.0


@pytest.mark.slow
def test_an_even_block_is_found_to_be_even() -> None:
    """No ramp is taken, and E V = 8.2 N m comes out; frames that were not learned say so."""
    made = uneven_drop((0.0, 0.0, 1.0), soft_pa=1.7e4, ratio=1.0)
    video = made.video(TRAIN)
    config = SpringGausConfig(**{**vars(CONFIG), "dynamic_steps": 0})
    twin = identify_video(video, made.scene(video), config, name="even")
    assert twin.provenance["log_stiffness_spread"] == 0.0
    volume_m3 = float(np.prod(SIZE_M))
    # Images are 96 pixels wide and a network's Poisson ratio is only about the truth's 1/4.
    assert twin.provenance["young_times_volume_nm"] == pytest.approx(1.7e4 * volume_m3, rel=0.5)
