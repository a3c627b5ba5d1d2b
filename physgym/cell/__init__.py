"""SimulatedCell: two grippers, a cable and cameras in MuJoCo, the stand-in for hardware."""

from physgym.cell.config import CellConfig
from physgym.cell.motion import Motion, exciting_motion, hold_motion
from physgym.cell.simulated import SimulatedCell

__all__ = ["CellConfig", "Motion", "SimulatedCell", "exciting_motion", "hold_motion"]
