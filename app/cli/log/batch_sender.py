"""Requests of `millrace produce`: each batch is appended exactly once, and each sender keeps its batches in order."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

from app.cli.client import RequestFailed, ServerRefused
from app.cli.terminal.failure import CommandFailed
from app.cli.terminal.output import print_message, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.client import Client

_INDEX = re.compile(r"^record \d+(?:, line \d+)?: ")
_RETRY_BACKOFF_S = 0.2
_RETRY_BACKOFF_MAX_S = 5.0
_QUEUED_BATCHES = 2
_MOST_WARNINGS = 10


@dataclass(slots=True)
class LineBatch:
    """The lines of one request, their line numbers in the input, from 1, and the bytes that they had there."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    size_bytes: int = 0
    input_bytes: int = 0

    def add(self, number: int, line: bytes, input_bytes: int) -> None:
        """Add a line."""
        self.lines.append(line)
        self.numbers.append(number)
        self.size_bytes += len(line) + 1
        self.input_bytes += input_bytes


class SendReport:
    """Totals of the confirmed batches, over all senders.

    Args:
        on_progress: Called with the records, and the bytes of their lines in the input, so far.
    """

    def __init__(self, on_progress: Callable[[int, int], None]) -> None:
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self.records = 0
        self.requests = 0
        self.size_bytes = 0
        self._input_bytes = 0
        self._warnings = 0

    def add(self, batch: LineBatch, answer: bytes) -> None:
        """Count a batch that the server has confirmed, and print the first warnings of the answer."""
        warnings = _warnings(batch, answer) if b'"warnings":' in answer else []
        with self._lock:
            for warning in warnings[: max(0, _MOST_WARNINGS - self._warnings)]:
                print_message(f"warning: {warning}")
            if self._warnings < _MOST_WARNINGS <= self._warnings + len(warnings):
                print_message("further warnings are not shown")
            self._warnings += len(warnings)
            self.records += len(batch.lines)
            self.requests += 1
            self.size_bytes += batch.size_bytes
            self._input_bytes += batch.input_bytes
            self._on_progress(self.records, self._input_bytes)


class BatchSender:
    """Sends batches one after the other in its own thread; stops at the first failure.

    Args:
        client: HTTP client.
        path: Of the records to append to.
        params: Query parameters.
        retries: How often to repeat a request while the server is unavailable.
        report: Counts the confirmed batches.
        on_failure: Called in the sender's thread when it stops.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        params: dict[str, str | int | None],
        *,
        retries: int,
        report: SendReport,
        on_failure: Callable[[], None],
    ) -> None:
        self._client = client
        self._path = path
        self._params = params
        self._retries = retries
        self._report = report
        self._on_failure = on_failure
        self._producer_id = uuid.uuid4().hex
        self._queue: Queue[LineBatch | None] = Queue(_QUEUED_BATCHES)
        self.failure: CommandFailed | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, batch: LineBatch) -> None:
        """Queue a batch; blocks while two batches are queued."""
        self._queue.put(batch)

    def finish(self) -> None:
        """Wait until all batches are sent, or one has failed."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        sequence = 0
        while (batch := self._queue.get()) is not None:
            if self.failure is not None:
                continue
            try:
                answer = self._send(batch, f"{self._producer_id}-{sequence}")
            except CommandFailed as error:
                self.failure = _with_line_numbers(batch, error)
                self._on_failure()
            else:
                self._report.add(batch, answer)
            sequence += 1

    def _send(self, batch: LineBatch, idempotency_key: str) -> bytes:
        """Send a batch and return the answer; retries have the same idempotency key, so that it is appended once."""
        body = b"\n".join(batch.lines) + b"\n"
        headers = {
            "content-type": "application/x-ndjson",
            "idempotency-key": idempotency_key,
            "prefer": "return=minimal",
        }
        attempt = 0
        while True:
            try:
                return self._client.send("POST", self._path, params=self._params, body=body, headers=headers).content
            except RequestFailed as error:
                if attempt == self._retries or not error.is_retriable:
                    raise
                if attempt == 0:
                    print_message(f"{error}; trying again")
                time.sleep(min(_RETRY_BACKOFF_S * 2**attempt, _RETRY_BACKOFF_MAX_S))
                attempt += 1


def _warnings(batch: LineBatch, answer: bytes) -> list[str]:
    """Return the warnings of an answer with line numbers of the input."""
    try:
        warnings = json.loads(answer)["warnings"]
        return [f"line {batch.numbers[each['index']]}: {printable(each['detail'])}" for each in warnings]
    except (ValueError, LookupError, TypeError):
        return []


def _with_line_numbers(batch: LineBatch, error: CommandFailed) -> CommandFailed:
    """Return the failure with line numbers of the input instead of the record's index in the request."""
    first, last = batch.numbers[0], batch.numbers[-1]
    lines = f"line {first}" if first == last else f"lines {first} to {last}"
    if not isinstance(error, ServerRefused) or not error.changed_nothing:
        return CommandFailed(f"{lines}: not confirmed, may have been appended: {error}", error.exit_code)
    number = _refused_line_number(batch, error)
    if number is None:
        return CommandFailed(f"{lines}: {error}; the request was not appended", error.exit_code)
    reason = _INDEX.sub("", str(error), count=1)
    return CommandFailed(f"line {number}: {reason}; the request with {lines} was not appended", error.exit_code)


def _refused_line_number(batch: LineBatch, error: ServerRefused) -> int | None:
    """Return the number of the line that the server refused; on 400, of the first line that is not JSON."""
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
