"""Renewal of a worker's locks, in its own thread."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from app.cli.client import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.cli.client import Client

_RENEWALS_PER_LOCK = 3
"""A lock is renewed when a third of its remaining time has passed."""

_MIN_PAUSE_MS = 100.0
_RETRY_MS = 300.0


class LockRenewer:
    """Renews the locks of deliveries until they are removed.

    The remaining time of a lock comes only from the server's `locked_until_ms`, because the queue's
    `lock_duration_ms` may change. An acquire names its lock duration, so its answer shows how far the server's clock
    is ahead of this clock. The largest difference seen comes from the fastest answer, and is the most exact.

    Args:
        client: HTTP client, used from the renewer's thread.
        queue_path: Path of the queue.
    """

    def __init__(self, client: Client, queue_path: str) -> None:
        self._client = client
        self._path = f"{queue_path}/acknowledge"
        self._server_ahead_ms = float("-inf")
        self._renew_at_ms: dict[str, float] = {}
        self._held: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, locked_until_ms: Mapping[str, int], lock_duration_ms: int) -> None:
        """Renew the locks of deliveries that were just acquired.

        Args:
            locked_until_ms: End of the lock by delivery id, on the server's clock.
            lock_duration_ms: As named in the acquire.
        """
        now_ms = _now_ms()
        with self._changed:
            for delivery_id, until_ms in locked_until_ms.items():
                self._server_ahead_ms = max(self._server_ahead_ms, until_ms - lock_duration_ms - now_ms)
                self._renew_at_ms[delivery_id] = now_ms + lock_duration_ms / _RENEWALS_PER_LOCK
                self._held.add(delivery_id)
            self._changed.notify()

    def remove(self, delivery_ids: Iterable[str]) -> None:
        """Stop the renewal of some locks."""
        with self._changed:
            for delivery_id in delivery_ids:
                self._held.discard(delivery_id)
                self._renew_at_ms.pop(delivery_id, None)

    def held(self) -> list[str]:
        """Return the deliveries that were not removed, including those with an expired lock."""
        with self._changed:
            return sorted(self._held)

    def close(self) -> None:
        """Stop the renewal of all locks."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (pause_s := self._pause_s()) > 0:
                    self._changed.wait(pause_s)
                if self._closed:
                    return
                delivery_ids = set(self._renew_at_ms)
            self._renew(delivery_ids)

    def _pause_s(self) -> float:
        next_ms = min(self._renew_at_ms.values(), default=None)
        return threading.TIMEOUT_MAX if next_ms is None else (next_ms - _now_ms()) / 1000

    def _renew(self, delivery_ids: set[str]) -> None:
        document = {"acknowledgements": [{"delivery_id": each, "outcome": "renew"} for each in delivery_ids]}
        try:
            answer = self._client.send("POST", self._path, body=json.dumps(document).encode()).json()
            locked_until_ms = {result["delivery_id"]: result.get("locked_until_ms") for result in answer["results"]}
        except RequestFailed:
            locked_until_ms = None
        now_ms = _now_ms()
        with self._changed:
            for delivery_id in self._renew_at_ms.keys() & delivery_ids:
                if locked_until_ms is None:
                    self._renew_at_ms[delivery_id] = now_ms + _RETRY_MS
                elif (until_ms := locked_until_ms[delivery_id]) is None:  # the lock has expired
                    del self._renew_at_ms[delivery_id]
                else:
                    left_ms = until_ms - self._server_ahead_ms - now_ms
                    self._renew_at_ms[delivery_id] = now_ms + max(left_ms / _RENEWALS_PER_LOCK, _MIN_PAUSE_MS)


def _now_ms() -> float:
    return time.monotonic() * 1000
