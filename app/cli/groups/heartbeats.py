"""Heartbeats beside the writing, so that a slow reader of the output does not cost the membership."""

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

_LONGEST_PAUSE_S = 1.0


class HeartbeatSource(Protocol):
    """Who beats."""

    @property
    def owes(self) -> bool:
        """Whether it is to beat again as soon as something more is written."""

    def beat(self) -> None:
        """Beat."""

    def recovers(self, error: ServerRefused) -> bool:
        """Draw the conclusion from a refusal; False if there is none."""


class Heartbeats:
    """Beats from a thread of its own while the member writes; a poll is a beat itself.

    Args:
        membership: Of the member.
        member: Who beats.
    """

    def __init__(self, membership: Membership, member: HeartbeatSource) -> None:
        self._membership = membership
        self._member = member
        self._changed = threading.Condition()
        self._writing = False
        self._owes = False
        self._closed = False
        self._not_before_s = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.failure: CommandFailed | None = None

    def start(self) -> None:
        """Be ready to beat."""
        self._thread.start()

    def close(self, patience_s: float) -> None:
        """Beat no more; wait so long for the answer to the last beat."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat within."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def written(self) -> None:
        """Take note that something is written: a partition that waited for that can be given up."""
        if self._owes:
            with self._changed:
                self._owes = False
                self._not_before_s = self._membership.answered_at_s = 0.0
                self._changed.notify()

    def _work(self) -> None:
        while self._wait():
            with self._membership.turn:
                if self._writing and not self._closed:
                    self._beat()

    def _wait(self) -> bool:
        """Wait until a beat is due. Return False at the end."""
        with self._changed:
            while not self._closed:
                due_in_s = self._due_at_s() - time.monotonic()
                if due_in_s <= 0 and self._writing:
                    return True
                self._changed.wait(max(due_in_s, self._membership.heartbeat_interval_s / 4))
            return False

    def _due_at_s(self) -> float:
        return max(self._membership.answered_at_s + self._membership.heartbeat_interval_s, self._not_before_s)

    def _beat(self) -> None:
        try:
            self._member.beat()
        except ServerRefused as error:
            self._draw(error)
        except Unreachable:
            pass
        self._owes = self._member.owes
        self._not_before_s = time.monotonic() + min(self._membership.heartbeat_interval_s, _LONGEST_PAUSE_S)

    def _draw(self, error: ServerRefused) -> None:
        try:
            if not self._member.recovers(error) and not error.passing:
                self.failure = error
        except CommandFailed:
            pass  # of the beat that looks how things stand; the next one tells
