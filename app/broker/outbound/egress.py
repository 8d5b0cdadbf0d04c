"""Whether this side reaches other servers at all."""

from __future__ import annotations

import logging
from collections.abc import Callable

_WINDOW_MS = 60_000
_MIN_HOSTS = 3
_LONGEST_MS = 86_400_000

_log = logging.getLogger(__name__)


class Egress:
    """Notes which hosts answered. If none did for a while, the fault is on this side, and no receiver is charged.

    Three receivers that are gone, and no other, look like a fault on this side. After a day without any answer they are
    charged: then the operator has had time to mend the network, and they end like other receivers that are gone.

    Args:
        clock_ms: Monotonic clock in milliseconds.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._silent: dict[str, int] = {}
        self._down_since_ms: int | None = None
        self._is_given_up = False

    @property
    def is_down(self) -> bool:
        """Whether at least three hosts, and no other, failed to answer within the last minute, for at most a day."""
        if self._down_since_ms is None:
            return False
        now_ms = self._clock_ms()
        self._forget(now_ms)
        return len(self._silent) >= _MIN_HOSTS and now_ms - self._down_since_ms < _LONGEST_MS

    def answered(self) -> None:
        """Note an HTTP answer, whatever its status."""
        if self._silent:
            self._silent.clear()
        if self._down_since_ms is not None:
            self._down_since_ms, self._is_given_up = None, False
            _log.warning("other servers answer again; deliveries go on")

    def failed(self, host: str) -> None:
        """Note an attempt without an HTTP answer."""
        now_ms = self._clock_ms()
        self._silent.pop(host, None)
        self._silent[host] = now_ms
        self._forget(now_ms)
        if len(self._silent) >= _MIN_HOSTS:
            self._note_down(now_ms)

    def _note_down(self, now_ms: int) -> None:
        if self._down_since_ms is None:
            self._down_since_ms = now_ms
            _log.error(
                "no other server answers (%d hosts within a minute): the fault seems to be on this side; deliveries "
                "wait, and no webhook is charged for a day",
                len(self._silent),
            )
        elif not self._is_given_up and now_ms - self._down_since_ms >= _LONGEST_MS:
            self._is_given_up = True
            _log.error("no other server has answered for a day; from now on their webhooks are charged")

    def _forget(self, now_ms: int) -> None:
        """Forget the hosts that failed more than a minute ago; the longest ago come first."""
        while self._silent and now_ms - next(iter(self._silent.values())) >= _WINDOW_MS:
            del self._silent[next(iter(self._silent))]
