"""The browser viewer: a twin under hands, and recordings beside its predictions."""

from __future__ import annotations

from physgym.viewer.session import Hand, Session
from physgym.viewer.settings import Settings

__all__ = ["Hand", "Session", "Settings"]
