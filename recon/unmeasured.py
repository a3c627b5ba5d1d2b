"""Why a table lacks a measure: a gap that is not explained looks like a fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recon.perceive_video import is_video
from recon.perception.result import Perception

__all__ = ["blank_parts", "reasons", "sentences"]

_CLOUDS = ("chamfer_m", "chamfer_l1_m", "cd2_m2", "emd_m", "track_m")
_TRUTH = ("true_chamfer_m", "true_chamfer_l1_m", "true_track_m")


def reasons(
    perception: Perception, measures: Sequence[str], *, truth: bool, appearance: bool
) -> dict[str, str]:
    """Why measures are missing.

    Args:
        perception: of the recording.
        measures: the missing ones, names as in `recon.score_episode` and `recon.compare.table`.
        truth: whether the recording knows the true motion.
        appearance: whether any twin could be drawn.

    Returns:
        By measure the reason.
    """
    from recon.splats.perceptual import LPIPS_VARIABLE

    made = {}
    for key in measures:
        if key in _CLOUDS:
            made[key] = "the recording has no depth" if is_video(perception) else "none was seen"
        elif key in _TRUTH:
            made[key] = (
                "no true point lies on the surface that was perceived"
                if truth
                else "the recording does not know the true motion"
            )
        elif perception.masks is None or not perception.cameras:
            made[key] = "the recording has no masks, or no cameras with poses"
        elif key.startswith("image_") and not appearance:
            made[key] = "no twin has an appearance"
        elif key == "image_lpips":
            made[key] = f"no weights (name a TorchScript file in {LPIPS_VARIABLE})"
        else:
            made[key] = "nothing was seen to compare with"
    return made


def sentences(why: Mapping[str, str], titles: Mapping[str, str]) -> list[str]:
    """The reasons for people.

    Args:
        why: of `reasons`.
        titles: of measures, with or without units.

    Returns:
        A sentence for each reason.
    """
    by_reason: dict[str, list[str]] = {}
    for key, reason in why.items():
        by_reason.setdefault(reason, []).append(titles[key].split(" [")[0])
    return [f"not measured: {', '.join(keys)}: {reason}" for reason, keys in by_reason.items()]


def blank_parts(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Parts in which nothing at all was measured, such as after the object left every image.

    Args:
        parts: by name, each with ``twin``: its values by measure, None where there is none.

    Returns:
        A sentence for each.
    """
    return [
        f"{name}: nothing was measured: the object is not seen in these frames"
        for name, part in parts.items()
        if not any(isinstance(value, (int, float)) for value in part["twin"].values())
    ]
