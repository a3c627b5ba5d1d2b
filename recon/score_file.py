"""The file of a twin's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from physgym.errors import DataError
from physgym.files import write_atomically
from recon.score_episode import DEFINITIONS, PHYSTWIN_PAPER

__all__ = ["FORMAT", "FORMAT_VERSION", "write_scores"]

FORMAT, FORMAT_VERSION = "physgym-episode-score", 1


def write_scores(path: Path, scores: list[dict[str, Any]], *, twin: str, about: Any = None) -> Path:
    """Write scores of one twin as JSON, under a temporary name and renamed.

    Args:
        path: the file; its folder is made.
        scores: of each episode, as `recon.score_episode.score_prediction` returns them.
        twin: which twin.
        about: the twin's provenance, or other JSON values.

    Returns:
        The path. Keys: ``format``, ``version``, ``twin``, ``about``, ``definitions``,
        ``phystwin_paper`` and ``episodes``, a list of what `score_prediction`
        describes.

    Raises:
        DataError: if the path is a folder.
    """
    if path.is_dir():
        raise DataError("a folder", where=f"--json {path}", expected="the name of a file")
    body = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "twin": twin,
        "about": about,
        "definitions": DEFINITIONS,
        "phystwin_paper": PHYSTWIN_PAPER,
        "episodes": scores,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(body, indent=1, allow_nan=False).encode())
    return path
