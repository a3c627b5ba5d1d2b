"""The errors of PhysGym: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

__all__ = ["BlowUpError", "DataError", "DeviceError", "PhysGymError", "TwinError"]


class PhysGymError(Exception):
    """Root of every error that PhysGym raises on purpose.

    Args:
        what: what is wrong, with the offending value.
        where: file, field, frame or node.
        expected: what would have been right.
        fix: what the user can do now.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        parts = [what]
        if where:
            parts.append(f"  where:    {where}")
        if expected:
            parts.append(f"  expected: {expected}")
        if fix:
            parts.append(f"  to do:    {fix}")
        super().__init__("\n".join(parts))


class DataError(PhysGymError):
    """A recording, tracks file or array that cannot be used."""


class TwinError(PhysGymError):
    """A twin folder that is damaged, foreign or of another version."""


class DeviceError(PhysGymError):
    """A device was asked for that is not there."""


class BlowUpError(PhysGymError):
    """A simulation left the finite numbers.

    Attributes:
        world: index of the first world that blew up.
        node: index of the first node that blew up.
        substep: substep, counted from the start of the call, at which it was seen.
    """

    def __init__(self, what: str, *, world: int, node: int, substep: int, fix: str) -> None:
        self.world, self.node, self.substep = world, node, substep
        super().__init__(
            what,
            where=f"world {world}, node {node}, substep {substep}",
            expected="finite positions and velocities",
            fix=fix,
        )
