"""Whether this side reaches other servers at all."""

from __future__ import annotations

import logging
from collections.abc import Callable

_WINDOW_MS = 60_000
_MIN_HOSTS = 3

_log = logging.getLogger(__name__)


class Egress:
    """Notes which hosts answered. If none did for a while, the fault is on this side, and no receiver is charged.

    Args:
        clock_ms: Monotonic clock in milliseconds.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._silent: dict[str, int] = {}
        self._down = False

    @property
    def is_down(self) -> bool:
        """Whether at least three hosts, and no other, failed to answer within the last minute."""
        return self._down

    def answered(self) -> None:
        """Note an HTTP answer, whatever its status."""
        if self._silent:
            self._silent.clear()
        if self._down:
            self._down = False
            _log.warning("other servers answer again; deliveries go on")

    def failed(self, host: str) -> None:
        """Note an attempt without an HTTP answer."""
        now_ms = self._clock_ms()
        self._silent = {name: at_ms for name, at_ms in self._silent.items() if now_ms - at_ms < _WINDOW_MS}
        self._silent[host] = now_ms
        if not self._down and len(self._silent) >= _MIN_HOSTS:
            self._down = True
            _log.error(
                "no other server answers (%d hosts within a minute): the fault seems to be on this side; deliveries "
                "wait, and no webhook is charged",
                len(self._silent),
            )
