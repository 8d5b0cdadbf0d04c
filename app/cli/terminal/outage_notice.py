"""The server is away: told once, by whichever thread notices first."""

from __future__ import annotations

import threading

from app.cli.terminal.output import tell


class OutageNotice:
    """Whether the server is away, as the last answer to any thread showed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away = False

    def begin(self, error: Exception) -> None:
        """Say why the server is away, unless that is said."""
        with self._lock:
            if not self._away:
                self._away = True
                tell(f"{error}; trying again")

    def end(self) -> None:
        """Take note that it has answered."""
        self._away = False
