"""Heartbeats from a second thread, so that the session does not end while standard output blocks."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from app.cli.client import ServerRefused, Unreachable
from app.cli.terminal.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.cli.groups.membership import Membership

_RETRY_BACKOFF_MAX_S = 1.0


class HeartbeatSource(Protocol):
    """The member that heartbeats are sent for."""

    @property
    def is_revoking(self) -> bool:
        """Whether a further heartbeat is due as soon as more lines are written."""

    def heartbeat(self) -> None:
        """Send a heartbeat."""

    def recover(self, error: ServerRefused) -> bool:
        """Handle an error of the server. Return whether to repeat the request."""


class Heartbeats:
    """Sends heartbeats from its own thread while the member writes; outside of that, polls are heartbeats.

    Args:
        membership: Membership of the member.
        member: Sends a heartbeat.

    Attributes:
        failure: The error that ends the membership; None until then.
    """

    def __init__(self, membership: Membership, member: HeartbeatSource) -> None:
        self._membership = membership
        self._member = member
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_revoking = False
        self._closed = False
        self._not_before_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: CommandFailed | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop the thread; wait at most `timeout_s` for the answer to its last heartbeat."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @contextmanager
    def while_writing(self) -> Iterator[None]:
        """Send heartbeats inside this context."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False

    def lines_written(self) -> None:
        """Send the heartbeat that releases a revoked partition, if one waits for written lines."""
        if self._is_revoking:
            with self._changed:
                self._is_revoking = False
                self._not_before_s = 0.0
                self._membership.request_heartbeat()
                self._changed.notify()

    def _run(self) -> None:
        while self._wait_until_due():
            with self._membership.lock:
                if self._is_writing and not self._closed:
                    self._send()

    def _wait_until_due(self) -> bool:
        """Wait until a heartbeat is due. Return False once closed."""
        with self._changed:
            while not self._closed:
                due_in_s = self._due_at_s() - time.monotonic()
                if due_in_s <= 0 and self._is_writing:
                    return True
                self._changed.wait(max(due_in_s, self._membership.heartbeat_interval_s / 4))
            return False

    def _due_at_s(self) -> float:
        return max(self._membership.last_heartbeat_s + self._membership.heartbeat_interval_s, self._not_before_s)

    def _send(self) -> None:
        try:
            self._member.heartbeat()
        except ServerRefused as error:
            self._handle_error(error)
        except Unreachable:
            pass  # the next heartbeat tries again
        self._is_revoking = self._member.is_revoking
        self._not_before_s = time.monotonic() + min(self._membership.heartbeat_interval_s, _RETRY_BACKOFF_MAX_S)

    def _handle_error(self, error: ServerRefused) -> None:
        try:
            if not self._member.recover(error) and not error.is_retriable:
                self.failure = error
        except CommandFailed:
            pass  # a request of the recovery failed; the next heartbeat tries again
