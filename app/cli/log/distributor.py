"""Distribution of lines over several senders, in order for each key."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from app.cli.log.batch_sender import LineBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cli.log.batch_sender import BatchSender
    from app.cli.terminal.failure import CommandFailed

_MAX_BATCH_BYTES = 4 * 1024 * 1024


class Distributor:
    """Collects lines into batches: lines of one key go to one sender, lines without a key to each sender in turn.

    Args:
        senders: Send the batches.
        batch_records: Most records in a batch.
        key_of: Returns what identifies the key of a line; None for a line without a key.
        record_of: Returns the line to send for each line; without it, blank lines are skipped.
    """

    def __init__(
        self,
        senders: list[BatchSender],
        batch_records: int,
        key_of: Callable[[bytes], str | None],
        record_of: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._senders = senders
        self._batch_records = batch_records
        self._key_of = key_of
        self._record_of = record_of
        self._batches = [LineBatch() for _ in senders]
        self._line_number = 0
        self._skipped_bytes = 0
        self._lines_without_key = 0

    @property
    def failure(self) -> CommandFailed | None:
        """The failure of the first sender that has stopped; None while all work."""
        return next((sender.failure for sender in self._senders if sender.failure is not None), None)

    def add_all(self, lines: list[bytes]) -> None:
        """Add lines; lines that are skipped are numbered."""
        for line in lines:
            self._line_number += 1
            if self._record_of is None and (not line or line.isspace()):
                self._skipped_bytes += len(line) + 1
                continue
            index = self._sender_index(line)
            batch = self._batches[index]
            record = line if self._record_of is None else self._record_of(line)
            batch.add(self._line_number, record, self._skipped_bytes + len(line) + 1)
            self._skipped_bytes = 0
            if len(batch.lines) >= self._batch_records or batch.size_bytes >= _MAX_BATCH_BYTES:
                self._send(index)

    def flush(self) -> None:
        """Send all incomplete batches."""
        for index, batch in enumerate(self._batches):
            if batch.lines:
                self._send(index)

    def finish(self) -> None:
        """Send all incomplete batches, and wait until the server has confirmed them."""
        self.flush()
        for sender in self._senders:
            sender.finish()

    def _sender_index(self, line: bytes) -> int:
        if len(self._senders) == 1:
            return 0
        key = self._key_of(line)
        if key is None:
            self._lines_without_key += 1
            return self._lines_without_key // self._batch_records % len(self._senders)
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(self._senders)

    def _send(self, index: int) -> None:
        self._senders[index].put(self._batches[index])
        self._batches[index] = LineBatch()
