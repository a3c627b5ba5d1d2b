"""Scores of images as tables: for people in a terminal, and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physgym.report import Block, Section, Table, Text
from recon.image_metrics import IMAGE_MEASURES
from recon.render_episode import IMAGE_DEFINITIONS
from recon.score_episode import rows_of
from recon.score_report import PAPER_ROW

__all__ = ["IMAGE_COLUMNS", "PAPER_IMAGES", "image_columns", "image_rows", "image_section"]

IMAGE_COLUMNS = {
    "psnr_db": "PSNR [dB]",
    "ssim": "SSIM",
    "iou": "IoU [%]",
    "psnr_crop_db": "PSNR crop [dB]",
    "ssim_crop": "SSIM crop",
    "lpips": "LPIPS",
}
"""Titles of the measures, in their order."""

PAPER_IMAGES: dict[str, dict[str, float]] = {
    "train": {"psnr_db": 28.214, "ssim": 0.945, "lpips": 0.034, "iou": 0.844},
    "future": {"psnr_db": 25.617, "ssim": 0.941, "lpips": 0.055, "iou": 0.725},
    "unseen": {"psnr_db": 26.199, "ssim": 0.938, "lpips": 0.047, "iou": 0.7218},
}
"""Jiang et al. 2025, its centre view, other objects and cameras: for orientation only."""


def image_columns(images: Mapping[str, Any]) -> list[str]:
    """The measures that there are.

    Args:
        images: of `recon.render_episode.render_episode`.

    Returns:
        Keys of `IMAGE_COLUMNS`.
    """
    parts = images["parts"].values()
    return [k for k in IMAGE_MEASURES if any(part["twin"][k] is not None for part in parts)]


def image_rows(images: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """Scores as rows of text.

    Args:
        images: of `recon.render_episode.render_episode`.
        columns: measures.

    Returns:
        For every part a row of the twin, the baselines and PhysTwin's paper: part, who, figures,
        frames.
    """
    rows = []
    for part, entry in images["parts"].items():
        for who in rows_of(images):
            figures = [_text(key, entry[who][key]) for key in columns]
            rows.append([part, who, *figures, str(entry["stop"] - entry["start"])])
        paper = [_text(key, PAPER_IMAGES[part].get(key)) for key in columns]
        rows.append([part, PAPER_ROW, *paper, ""])
    return rows


def image_section(images: Mapping[str, Any], title: str, pictures: Sequence[Block]) -> Section:
    """A section of the report.

    Args:
        images: of `recon.render_episode.render_episode`.
        title: its heading.
        pictures: what is shown first.

    Returns:
        The section.
    """
    columns = image_columns(images)
    header = ["part", "who", *(IMAGE_COLUMNS[key] for key in columns), "frames"]
    meaning = [[key, text] for key, text in IMAGE_DEFINITIONS.items()]
    return Section(
        title,
        [
            *pictures,
            Table(header, image_rows(images, columns)),
            Text(f"{images['gaussians']} Gaussians. LPIPS: {images['lpips']}."),
            Table(["name", "meaning"], meaning),
        ],
    )


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "iou":
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if key.endswith("_db") else f"{value:.3f}"
