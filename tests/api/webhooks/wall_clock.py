"""A wall clock for tests of behaviour that takes hours."""

from __future__ import annotations

START_MS = 1_700_000_000_000


class WallClock:
    """A wall clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms
