"""Prompts: how a user points out an object in one image, and the mask that follows.

Shapes: N clicks, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from physgym.errors import DataError
from recon.perception.colour import (
    ColourModel,
    around,
    grown_by_colour,
    largest_part,
    parts_touched,
)

__all__ = ["Prompt", "mask_from_prompt"]

_LARGEST_OBJECT = 0.10  # of an image; a larger region that a click touches is not the object alone


@dataclass(frozen=True, eq=False)
class Prompt:
    """How a user points out an object in the first image; exactly one way is given.

    Attributes:
        mask: shape (H, W), bool.
        box: left, top, right, bottom [px]; the object is inside and touches no side.
        clicks: (u, v) on the object, shape (N, 2).
        rgb: the object's colour, 0 to 255, shape (3,).
        colour_distance: how far from ``rgb`` it may be, in CIE Lab units (2 is barely seen).
    """

    mask: np.ndarray | None = None
    box: tuple[int, int, int, int] | None = None
    clicks: np.ndarray | None = None
    rgb: tuple[int, int, int] | None = None
    colour_distance: float = 15.0

    def __post_init__(self) -> None:
        """Refuse none and several ways.

        Raises:
            DataError: with the ways that were given.
        """
        ways = ("mask", "box", "clicks", "rgb")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise DataError(f"{given or 'nothing'}", where="Prompt", expected=f"one of {ways}")


def mask_from_prompt(
    rgb: np.ndarray, prompt: Prompt, *, candidate: np.ndarray | None = None
) -> np.ndarray:
    """The object that a prompt points at.

    Args:
        rgb: uint8, shape (H, W, 3).
        prompt: mask, box, clicks or colour.
        candidate: where it can be (above the table, not the robot), shape (H, W), bool.

    Returns:
        Shape (H, W), bool.

    Raises:
        DataError: if nothing is found there.
    """
    allowed = np.ones(rgb.shape[:2], bool) if candidate is None else np.asarray(candidate, bool)
    if prompt.mask is not None:
        found = np.asarray(prompt.mask, bool)
    elif prompt.rgb is not None:
        found = _by_colour(rgb, prompt, allowed)
    else:
        found = _by_grabcut(rgb, prompt, allowed) & allowed
    if prompt.clicks is not None:
        found = parts_touched(found, _at_clicks(found.shape, prompt.clicks, 1))
    elif prompt.box is not None:
        found = largest_part(found)
    if not found.any():
        raise DataError(
            "the prompt found no pixels",
            where="mask_from_prompt",
            expected="an object that stands out from its background",
            fix="give another prompt, or a mask",
        )
    # A mask is taken as it is; the others miss the parts of other colours and the shaded rims.
    return found if prompt.mask is not None else grown_by_colour(rgb, found)


def _by_colour(rgb: np.ndarray, prompt: Prompt, allowed: np.ndarray) -> np.ndarray:
    lab = _lab(rgb)
    wanted = _lab(np.array(prompt.rgb, np.uint8).reshape(1, 1, 3))[0, 0]
    # Lightness changes with shading, so it counts half.
    away = np.linalg.norm((lab - wanted) * [0.5, 1.0, 1.0], axis=2)
    near = (away < prompt.colour_distance) & allowed
    # Whether a wider definition of the colour joins or fills what was found is left to odds.
    core = largest_part(
        cv2.morphologyEx(near.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))) > 0
    )
    if not core.any():
        return core
    odds = ColourModel(rgb, core, around_px=40).probability(rgb)
    wide = (cv2.GaussianBlur(odds, (0, 0), 1.0) > 0.5) & around(core, 12) & allowed
    return parts_touched(
        cv2.morphologyEx((wide | core).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5))) > 0, core
    )


def _by_grabcut(rgb: np.ndarray, prompt: Prompt, allowed: np.ndarray) -> np.ndarray:
    """GrabCut (Rother et al. 2004) inside a box, or outward from clicks, against what is near."""
    labels = np.full(rgb.shape[:2], cv2.GC_BGD, np.uint8)
    if prompt.box is not None:
        left, top, right, bottom = (max(0, side) for side in prompt.box)
        labels[top:bottom, left:right] = cv2.GC_PR_FGD
    else:
        sure = _at_clicks(rgb.shape[:2], np.asarray(prompt.clicks)) & allowed
        if not sure.any():
            return sure
        # Of what stands above the table, the part that is clicked is the object until colour says
        # no; where no such thing is known, what looks like the clicked spot is.
        guess = parts_touched(allowed, _at_clicks(allowed.shape, np.asarray(prompt.clicks), 0))
        sure &= guess
        if guess.mean() > _LARGEST_OBJECT:
            guess = _like(rgb, sure) & allowed
        labels[around(guess, 15)] = cv2.GC_PR_BGD
        labels[guess] = cv2.GC_PR_FGD
        labels[sure] = cv2.GC_FGD
    labels[~allowed] = cv2.GC_BGD
    probable = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not probable.any():
        return np.asarray(probable)
    # Far background may have the object's colour; it must not speak against it.
    margin = 20 + int(0.15 * np.sqrt(probable.sum()))
    left, top, width, height = cv2.boundingRect((labels != cv2.GC_BGD).astype(np.uint8))
    rows = slice(max(0, top - margin), top + height + margin)
    columns = slice(max(0, left - margin), left + width + margin)
    window = labels[rows, columns].copy()
    if (window != cv2.GC_BGD).all():
        return np.asarray(probable)
    cv2.setRNGSeed(0)  # GrabCut's k-means starts at random
    bgr = cv2.cvtColor(np.ascontiguousarray(rgb[rows, columns]), cv2.COLOR_RGB2BGR)
    back, front = np.zeros((1, 65)), np.zeros((1, 65))  # GrabCut's two mixtures, filled by it
    unused = (0, 0, 0, 0)
    cut = cv2.grabCut(bgr, window, unused, back, front, 4, cv2.GC_INIT_WITH_MASK)[0]
    found = np.zeros(rgb.shape[:2], bool)
    found[rows, columns] = np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found


def _like(rgb: np.ndarray, sure: np.ndarray) -> np.ndarray:
    lab = _lab(rgb)
    middle, spread = lab[sure].mean(axis=0), lab[sure].std(axis=0)
    # A spot on an edge has a wide spread; without a cap it would look like everything.
    away = np.linalg.norm((lab - middle) / (2.0 + spread.clip(max=4.0)) * [0.5, 1.0, 1.0], axis=2)
    return parts_touched(away < 2.5, sure)


def _lab(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab))


def _at_clicks(shape: tuple[int, ...], clicks: np.ndarray, reach_px: int = 4) -> np.ndarray:
    spot = np.zeros(shape, np.uint8)
    for u, v in np.rint(np.asarray(clicks)).astype(int).reshape(-1, 2):
        cv2.circle(spot, (int(u), int(v)), reach_px, 1, -1)
    return np.asarray(spot > 0)
