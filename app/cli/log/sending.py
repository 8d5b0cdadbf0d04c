"""Batches of lines to the server, each exactly once, in order on each connection."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

from app.cli.client import ServerRefused, Unreachable
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.client import Client

_INDEX = re.compile(r"^record \d+: ")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_WAITING_BATCHES = 2


@dataclass(slots=True)
class LineBatch:
    """Lines of one request, and where in the input each stood, from 1."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, number: int, line: bytes) -> None:
        """Add a line."""
        self.lines.append(line)
        self.numbers.append(number)
        self.size_bytes += len(line) + 1


class SendReport:
    """What has been sent, by all connections."""

    def __init__(self, on_progress: Callable[[int, int], None]) -> None:
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self.records = 0
        self.requests = 0
        self.size_bytes = 0

    def add(self, batch: LineBatch) -> None:
        """Count a batch that the server has confirmed."""
        with self._lock:
            self.records += len(batch.lines)
            self.requests += 1
            self.size_bytes += batch.size_bytes
            self._on_progress(self.records, self.size_bytes)


class Connection:
    """Sends batches one after the other, from a thread of its own, and stops at the first that fails.

    Args:
        client: Of the server.
        path: To produce to.
        params: Of the query.
        retries: How often a batch is sent again while the server is away or busy.
        tally: Counts what is confirmed.
        on_failure: Called, in that thread, when it stops.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        params: dict[str, str | int | None],
        *,
        retries: int,
        tally: SendReport,
        on_failure: Callable[[], None],
    ) -> None:
        self._client = client
        self._path = path
        self._params = params
        self._retries = retries
        self._tally = tally
        self._on_failure = on_failure
        self._run = uuid.uuid4().hex
        self._queue: Queue[LineBatch | None] = Queue(_WAITING_BATCHES)
        self.failure: CommandFailed | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, batch: LineBatch) -> None:
        """Hand a batch over; waits while two are waiting."""
        self._queue.put(batch)

    def finish(self) -> None:
        """Wait until all batches are sent, or one has failed."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        number = 0
        while (batch := self._queue.get()) is not None:
            if self.failure is not None:
                continue
            try:
                self._send(batch, f"{self._run}-{number}")
            except CommandFailed as error:
                self.failure = _at_its_line(batch, error)
                self._on_failure()
            else:
                self._tally.add(batch)
            number += 1

    def _send(self, batch: LineBatch, key: str) -> None:
        """Send a batch, again with the same key while the server is away: it is appended once."""
        body = b"\n".join(batch.lines) + b"\n"
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key, "prefer": "return=minimal"}
        for attempt in range(self._retries + 1):
            try:
                self._client.send("POST", self._path, params=self._params, body=body, headers=headers)
                return
            except (ServerRefused, Unreachable) as error:
                if attempt == self._retries or (isinstance(error, ServerRefused) and not error.passing):
                    raise
                if attempt == 0:
                    tell(f"{error}; trying again")
                time.sleep(min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))


def _at_its_line(batch: LineBatch, error: CommandFailed) -> CommandFailed:
    """Return the failure, told by the lines of the input instead of the index in the request."""
    first, last = batch.numbers[0], batch.numbers[-1]
    request = f"line {first}" if first == last else f"lines {first} to {last}"
    if not isinstance(error, ServerRefused) or not error.nothing_done:
        return CommandFailed(f"{request}: not confirmed, and perhaps appended: {error}", error.exit_code)
    number = _number_at_fault(batch, error)
    if number is None:
        return CommandFailed(f"{request}: {error}; nothing of this request is sent", error.exit_code)
    reason = _INDEX.sub("", str(error), count=1)
    return CommandFailed(f"line {number}: {reason}; nothing of {request} is sent", error.exit_code)


def _number_at_fault(batch: LineBatch, error: ServerRefused) -> int | None:
    """Return which line the server refused, or the first that is no JSON."""
    faults = error.problem.get("errors")
    fault = faults[0] if isinstance(faults, list) and faults and isinstance(faults[0], dict) else {}
    index = fault.get("index")
    if isinstance(index, int) and 0 <= index < len(batch.numbers):
        return batch.numbers[index]
    if error.status != 400:
        return None
    for number, line in zip(batch.numbers, batch.lines, strict=True):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return number
    return None
