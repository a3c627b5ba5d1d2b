"""What the stages of MoSA have found so far, and how a checkpoint keeps it.

Shapes: D coordinates of the prior, E of the linear stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.run_folder import Checkpoint, RunFolder

__all__ = ["Found", "JointState"]

_JOINT_ARRAYS = ("best", "now", "first", "second")
_JOINT_NUMBERS = ("step", "best_loss", "since")


@dataclass
class JointState:
    """Where the descent stands, all that a checkpoint needs.

    Attributes:
        step: steps done.
        best: flat weights at the best held-out loss so far; None while that is the start.
        best_loss: held-out loss there, relative to the isotropic backbone.
        since: looks since then.
        now: flat weights.
        first: Adam's mean of gradients.
        second: Adam's mean of squared gradients.
        report: what the stage found, for the twin's provenance.
    """

    step: int = 0
    best: np.ndarray | None = None
    best_loss: float = 1.0
    since: int = 0
    now: np.ndarray | None = None
    first: np.ndarray | None = None
    second: np.ndarray | None = None
    report: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Found:
    """All that a checkpoint keeps.

    Attributes:
        done: stages that are: 1 search and 2 refinement of the prior, 3 the linear one.
        theta: coordinates of the prior, shape (D,).
        linear: coordinates of the linear stage, shape (E,); empty before it.
        covariance: of theta, shape (D, D); empty before the refinement.
        cost: of the search.
        history: cost after each stage, and what the take-over cost.
        joint: where the descent of the networks stands.
    """

    done: int = 0
    theta: np.ndarray = field(default_factory=lambda: np.zeros(0))
    linear: np.ndarray = field(default_factory=lambda: np.zeros(0))
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    cost: float = float("inf")
    history: dict[str, float] = field(default_factory=dict)
    joint: JointState = field(default_factory=JointState)

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint.

        Args:
            run: where.
        """
        joint = self.joint
        arrays = {"theta": self.theta, "covariance": self.covariance, "linear": self.linear}
        for key in _JOINT_ARRAYS:
            value = getattr(joint, key)
            if value is not None:
                arrays[f"joint.{key}"] = value
        meta = {
            "done": self.done,
            "history": self.history,
            "joint": {key: getattr(joint, key) for key in _JOINT_NUMBERS},
        }
        run.save_checkpoint(self.done + joint.step, arrays, meta)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Found:
        """The inverse of `save`.

        Args:
            checkpoint: as it was read.

        Returns:
            What had been found.
        """
        arrays, meta = checkpoint.arrays, checkpoint.meta
        kept: dict[str, Any] = {key: arrays.get(f"joint.{key}") for key in _JOINT_ARRAYS}
        return cls(
            done=int(meta["done"]),
            theta=arrays["theta"],
            linear=arrays["linear"],
            covariance=arrays["covariance"],
            history=dict(meta["history"]),
            joint=JointState(**meta["joint"], **kept),
        )
