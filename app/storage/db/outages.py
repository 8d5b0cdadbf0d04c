"""Outages of the database: one line in the log when one begins, and one when it has ended."""

from __future__ import annotations

import logging
import math
import threading
import time

from app.storage.db.faults import ERRORS, Fault

LOGGED = frozenset(ERRORS) - {Fault.CONFLICT, Fault.BUSY}
"""Conflicts and locks are of single requests."""

PAUSE_S = 10.0
"""How long after a line about an outage another one of the same cause is not logged."""

_log = logging.getLogger(__name__)


class Outages:
    """Whether reads and writes fail because of the database, noted by the threads that run them.

    An outage ends when what failed has succeeded again. So a server that is read-only for a while is one outage, during
    which reads succeed. If only some statements fail, such as those on one table without a right, outages begin and end
    with each request; those of one cause are logged once in `PAUSE_S`.

    Attributes:
        open: Whether reads or writes fail.
    """

    def __init__(self) -> None:
        self.open = False
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._began_s = 0.0
        self._is_logged = False
        self._logged_s: dict[str, float] = {}

    def begin(self, kind: str, detail: str, error: BaseException) -> None:
        """Note a failure of `kind`, reads or writes; the first one is logged."""
        now_s = time.monotonic()
        with self._lock:
            self._failing.add(kind)
            if not self.open:
                self.open, self._began_s = True, now_s
            if self._is_logged or now_s - self._logged_s.get(detail, -math.inf) < PAUSE_S:
                return
            self._is_logged = True
            self._logged_s[detail] = now_s
        _log.error("%s%s", detail.removesuffix("; try again"), _first_line(error))

    def end(self, kind: str) -> None:
        """Note a success of `kind`, reads or writes; the one that ends a logged outage is logged."""
        with self._lock:
            self._failing.discard(kind)
            if self._failing or not self.open:
                return
            self.open = False
            was_logged, self._is_logged = self._is_logged, False
            lasted_s = time.monotonic() - self._began_s
        if was_logged:
            _log.warning("the database answers again after %.1f s", lasted_s)


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return f": {lines[0].strip()}" if lines else ""
