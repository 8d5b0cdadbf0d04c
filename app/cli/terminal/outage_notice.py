"""One message for each outage of the server, whichever thread notices it first."""

from __future__ import annotations

import threading

from app.cli.terminal.output import print_message


class OutageNotice:
    """Whether the last request of any thread found the server unavailable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_unavailable = False

    def report(self, error: Exception) -> None:
        """Print why the server is unavailable, unless that was printed for this outage."""
        with self._lock:
            if not self._is_unavailable:
                self._is_unavailable = True
                print_message(f"{error}; trying again")

    def clear(self) -> None:
        """End the outage: the server has answered."""
        self._is_unavailable = False
