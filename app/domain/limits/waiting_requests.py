"""The requests of each principal that wait: long polls, acquires and streams."""

from __future__ import annotations


class WaitingRequests:
    """Counts the waiting requests by principal.

    Args:
        most: The maximum for each principal; 0 for no limit. Also an attribute.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._of: dict[str, int] = {}

    def has_room(self, principal: str) -> bool:
        """Return whether a further request of a principal may wait."""
        return not self.most or self._of.get(principal, 0) < self.most

    def enter(self, principal: str) -> None:
        """Count a request that begins to wait."""
        self._of[principal] = self._of.get(principal, 0) + 1

    def leave(self, principal: str) -> None:
        """Count a request that has ended its wait."""
        left = self._of[principal] - 1
        if left:
            self._of[principal] = left
        else:
            del self._of[principal]
