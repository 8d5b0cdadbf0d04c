"""The locks that a worker holds, renewed in time by a thread of its own."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from app.cli.client import ServerRefused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.cli.client import Client

_SHARE = 3
"""A lock is renewed when a third of it has passed."""

_LEAST_PAUSE_MS = 100.0
_RETRY_MS = 300.0


class Locks:
    """Renews what is held, each time when a part of what is left of the locks has passed.

    What is left is told by the server's `locked_until_ms` alone, as somebody may change the queue's
    `lock_duration_ms`. An acquire that named the duration of its locks tells how far the server's clock is ahead of
    the one here: at least by what the quickest answer shows.

    Args:
        client: Of the server, used from a thread of its own.
        path: Of the queue.
    """

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._ahead_ms = float("-inf")
        self._due_ms: dict[str, float] = {}
        self._held: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._renew_in_time, daemon=True).start()

    def hold(self, locked_until_ms: Mapping[str, int], lock_duration_ms: int) -> None:
        """Take note of deliveries, just acquired under locks of so long."""
        now_ms = _now_ms()
        with self._changed:
            for delivery_id, until_ms in locked_until_ms.items():
                self._ahead_ms = max(self._ahead_ms, until_ms - lock_duration_ms - now_ms)
                self._due_ms[delivery_id] = now_ms + lock_duration_ms / _SHARE
                self._held.add(delivery_id)
            self._changed.notify()

    def let_go(self, delivery_ids: Iterable[str]) -> None:
        """Renew some no more."""
        with self._changed:
            for delivery_id in delivery_ids:
                self._held.discard(delivery_id)
                self._due_ms.pop(delivery_id, None)

    def held(self) -> list[str]:
        """Return the deliveries that were not let go, also those whose lock has passed."""
        with self._changed:
            return sorted(self._held)

    def close(self) -> None:
        """Renew nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _renew_in_time(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (pause_s := self._pause_s()) > 0:
                    self._changed.wait(pause_s)
                if self._closed:
                    return
                delivery_ids = set(self._due_ms)
            self._renew(delivery_ids)

    def _pause_s(self) -> float:
        due_ms = min(self._due_ms.values(), default=None)
        return threading.TIMEOUT_MAX if due_ms is None else (due_ms - _now_ms()) / 1000

    def _renew(self, delivery_ids: set[str]) -> None:
        body = {"acknowledgements": [{"delivery_id": each, "outcome": "renew"} for each in delivery_ids]}
        try:
            answer = self._client.send("POST", f"{self._path}/acknowledge", body=json.dumps(body).encode()).json()
            results = {each["delivery_id"]: each.get("locked_until_ms") for each in answer["results"]}
        except (ServerRefused, Unreachable):
            results = None
        now_ms = _now_ms()
        with self._changed:
            for delivery_id in self._due_ms.keys() & delivery_ids:
                if results is None:
                    self._due_ms[delivery_id] = now_ms + _RETRY_MS
                elif (until_ms := results[delivery_id]) is None:  # too late
                    del self._due_ms[delivery_id]
                else:
                    left_ms = until_ms - self._ahead_ms - now_ms
                    self._due_ms[delivery_id] = now_ms + max(left_ms / _SHARE, _LEAST_PAUSE_MS)


def _now_ms() -> float:
    return time.monotonic() * 1000
