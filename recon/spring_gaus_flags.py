"""Flags of `physgym reconstruct` that only Spring-Gaus has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.errors import DataError

__all__ = ["SpringGausFlags"]


@dataclass(frozen=True, kw_only=True)
class SpringGausFlags:
    """What `SpringGausConfig` has besides the settings of all methods."""

    per_anchor: bool = True
    """Of spring-gaus: a stiffness for each anchor; --no-per-anchor finds one for all."""
    scan: Path | None = None
    """Of spring-gaus: a static scan of the object (a 3DGS PLY in units and axes of its own), which
    is found in the first frame; when not given the Gaussians are made from that frame."""

    def settings(self, method: str) -> dict[str, Any]:
        """Fields of `SpringGausConfig` that these flags set.

        Args:
            method: of the command.

        Returns:
            By name; none for another method.

        Raises:
            DataError: if a flag is given to another method, or there is no such scan.
        """
        if method != "spring-gaus":
            if self.scan is not None or not self.per_anchor:
                raise DataError(
                    f"--scan or --no-per-anchor with --method {method}",
                    where="reconstruct",
                    expected="them with --method spring-gaus only",
                    fix="leave them out",
                )
            return {}
        if self.scan is None:
            return {"per_anchor": self.per_anchor}
        from recon.identify.register_scan import load_scan

        load_scan(self.scan)  # refused before the recording is perceived, not after
        return {"per_anchor": self.per_anchor, "scan": str(self.scan)}
