"""How a recording is perceived."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from physgym.errors import DataError
from recon.perception.flow import TrackConfig
from recon.perception.fuse import FuseConfig
from recon.perception.lift import LiftConfig

__all__ = ["PerceiveConfig"]


@dataclass(frozen=True)
class PerceiveConfig:
    """How a recording is perceived.

    Attributes:
        kind: what the object is; ``auto`` guesses from the first frame, and says so.
        spacing_m: one point is kept per cube of this side [m], of a twelfth of the object where
            that is less; PhysTwin uses 5 mm.
        most_points: the spacing grows until no more points than this are left.
        hand_points: most points K that are kept of each hand; PhysTwin has 30 in all.
        whole: append the points that no camera saw.
        clouds: keep the fused cloud of every frame (for Chamfer distances).
        masks: keep the masks, where they take less than a gibibyte.
        gravity: [m/s^2]; also tells which way is up.
        robot_model: MJCF or URDF of the robot, its base at the world's origin: where it was by the
            recorded joint states is not the object. None when empty.
        track: of points.
        lift: of depth.
        fuse: of clouds.
    """

    kind: Literal["auto", "volume", "sheet", "rope"] = "auto"
    spacing_m: float = 0.008
    most_points: int = 3000
    hand_points: int = 30
    whole: bool = True
    clouds: bool = True
    masks: bool = True
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    robot_model: str = ""
    track: TrackConfig = field(default_factory=TrackConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    fuse: FuseConfig = field(default_factory=FuseConfig)

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            DataError: naming the values.
        """
        if self.spacing_m <= 0 or self.most_points < 10 or self.hand_points < 3:
            raise DataError(
                f"spacing {self.spacing_m}, {self.most_points} points, {self.hand_points} of hands",
                where="PerceiveConfig",
                expected="a spacing above zero, ten points or more, three of a hand or more",
            )
        if self.kind not in ("auto", "volume", "sheet", "rope") or not any(self.gravity):
            raise DataError(
                f"kind {self.kind!r}, gravity {self.gravity}",
                where="PerceiveConfig",
                expected="auto, volume, sheet or rope; and a gravity that points down",
            )
