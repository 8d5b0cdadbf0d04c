"""The page that a member is writing: its unwritten lines, and the offsets that are written but not committed."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from app.cli.groups.membership import OffsetRange
from app.cli.terminal.stdout_writer import ATOMIC_WRITE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from app.cli.groups.membership import Page
    from app.cli.groups.partitions import Partition


class _RecordOffset(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class _Line(NamedTuple):
    partition: Partition
    offset: int
    data: bytes


_offset_decoder = msgspec.json.Decoder(_RecordOffset)


class PageInProgress:
    """Gives the lines of a page to the writing thread, while the heartbeat thread revokes partitions and commits.

    Args:
        render: Returns the line of a record.

    Attributes:
        records: How many records were written.
    """

    def __init__(self, render: Callable[[bytes], bytes]) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._unwritten: deque[_Line] = deque()
        self._being_written: list[_Line] = []
        self._assignment: Collection[Partition] = frozenset()
        self._committed: dict[Partition, int] = {}
        self._written: dict[Partition, int] = {}
        self.records = 0

    def start(self, page: Page, assignment: Collection[Partition]) -> None:
        """Replace the page. In partitions without a record in it, the page's next offset counts as written."""
        lines = deque(map(self._line, page.records))
        partitions_with_records = {line.partition for line in lines}
        with self._lock:
            self._unwritten = lines
            self._assignment = assignment
            self._committed = {(entry.topic, entry.partition): entry.from_offset for entry in page.next_offsets}
            self._written = {
                partition: entry.offset
                for entry in page.next_offsets
                if (partition := (entry.topic, entry.partition)) not in partitions_with_records
            }

    @property
    def has_unwritten(self) -> bool:
        """Whether lines remain to be written."""
        return bool(self._unwritten)

    def take_lines(self) -> bytes:
        """Return the next lines: as many as one atomic write takes, at least one; nothing at the end of the page."""
        with self._lock:
            size_bytes = 0
            while self._unwritten:
                size_bytes += len(self._unwritten[0].data)
                if self._being_written and size_bytes > ATOMIC_WRITE_BYTES:
                    break
                self._being_written.append(self._unwritten.popleft())
            return b"".join(line.data for line in self._being_written)

    def mark_written(self) -> None:
        """Record that all lines taken are written."""
        with self._lock:
            for line in self._being_written:
                if line.partition in self._committed:
                    self._written[line.partition] = line.offset + 1
            self.records += len(self._being_written)
            self._being_written = []

    def update_assignment(self, assignment: Collection[Partition]) -> bool:
        """Drop the unwritten lines of revoked partitions. Return whether a partition was revoked."""
        with self._lock:
            has_revoked = any(partition not in assignment for partition in self._assignment)
            self._assignment = assignment
            if has_revoked:
                self._unwritten = deque(line for line in self._unwritten if line.partition in assignment)
            return has_revoked

    def owned(self) -> set[Partition]:
        """Return the partitions that the member owns: the assigned ones, and those of the lines being written."""
        with self._lock:
            return {*self._assignment, *(line.partition for line in self._being_written)}

    def uncommitted(self) -> dict[Partition, OffsetRange]:
        """Return the offsets that are written and not committed."""
        with self._lock:
            return {
                partition: OffsetRange(self._committed[partition], offset)
                for partition, offset in self._written.items()
            }

    def mark_committed(self, offsets: Mapping[Partition, OffsetRange]) -> None:
        """Record that offsets of `uncommitted` are committed."""
        for partition, (_, offset) in offsets.items():
            self.set_committed_offset(partition, offset)

    def set_committed_offset(self, partition: Partition, offset: int) -> None:
        """Record the committed offset of a partition."""
        with self._lock:
            self._committed[partition] = offset
            if self._written.get(partition, -1) <= offset:
                self._written.pop(partition, None)

    def discard_offsets(self, partitions: Iterable[Partition]) -> None:
        """Never commit the offsets of partitions in this page."""
        with self._lock:
            for partition in partitions:
                self._committed.pop(partition, None)
                self._written.pop(partition, None)

    def discard(self) -> bool:
        """Drop the page: write and commit no more of it. Return whether written records stay uncommitted."""
        with self._lock:
            has_uncommitted = bool(self._written) or bool(self._being_written)
            self._unwritten.clear()
            self._assignment = frozenset()
            self._committed, self._written = {}, {}
            return has_uncommitted

    def _line(self, record: msgspec.Raw) -> _Line:
        at = _offset_decoder.decode(record)
        line = bytes(record).replace(b"\n", b" ").replace(b"\r", b" ")  # between tokens; JSON strings have none
        return _Line((at.topic, at.partition), at.offset, self._render(line + b"\n"))
