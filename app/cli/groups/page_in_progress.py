"""The page that a member has in work: what of it may be written, is being written, is written, is committed."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from app.cli.groups.membership import OffsetRange
from app.cli.terminal.stdout_writer import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from app.cli.groups.membership import Page
    from app.cli.groups.partitions import Partition


class _Head(msgspec.Struct):
    topic: str
    partition: int
    offset: int


class _Line(NamedTuple):
    partition: Partition
    offset: int
    data: bytes


_head = msgspec.json.Decoder(_Head)


class PageInProgress:
    """Hands out the lines of a page to one thread, while another may take partitions away and commit.

    Args:
        render: Returns the line of a record.
    """

    def __init__(self, render: Callable[[bytes], bytes]) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._lines: deque[_Line] = deque()
        self._in_hand: list[_Line] = []
        self._assigned: Collection[Partition] = frozenset()
        self._stands: dict[Partition, int] = {}
        self._written: dict[Partition, int] = {}
        self.records = 0

    def begin(self, page: Page, assignment: Collection[Partition]) -> None:
        """Take a page into work. Of what it passes over without a record, the offset counts as written."""
        lines = deque(map(self._line, page.records))
        filled = {line.partition for line in lines}
        with self._lock:
            self._lines = lines
            self._assigned = assignment
            self._stands = {(one.topic, one.partition): one.from_offset for one in page.next_offsets}
            self._written = {
                partition: one.offset
                for one in page.next_offsets
                if (partition := (one.topic, one.partition)) not in filled
            }

    @property
    def waiting(self) -> bool:
        """Whether there are lines to be written."""
        return bool(self._lines)

    def take(self) -> bytes:
        """Return the next lines: as many as a pipe takes at once, or one that is longer; nothing at the end."""
        with self._lock:
            size_bytes = 0
            while self._lines:
                size_bytes += len(self._lines[0].data)
                if self._in_hand and size_bytes > PIECE_BYTES:
                    break
                self._in_hand.append(self._lines.popleft())
            return b"".join(line.data for line in self._in_hand)

    def done(self) -> None:
        """Take note that the lines taken are written, all of them."""
        with self._lock:
            for line in self._in_hand:
                if line.partition in self._stands:
                    self._written[line.partition] = line.offset + 1
            self.records += len(self._in_hand)
            self._in_hand = []

    def keep(self, assignment: Collection[Partition]) -> bool:
        """Write no more of other partitions. Return whether there were any."""
        with self._lock:
            lost = any(partition not in assignment for partition in self._assigned)
            self._assigned = assignment
            if lost:
                self._lines = deque(line for line in self._lines if line.partition in assignment)
            return lost

    def owned(self) -> set[Partition]:
        """Return the partitions that are in work: the assigned ones, and those of the lines in hand."""
        with self._lock:
            return {*self._assigned, *(line.partition for line in self._in_hand)}

    def spans(self) -> dict[Partition, OffsetRange]:
        """Return what is written and not committed."""
        with self._lock:
            return {
                partition: OffsetRange(self._stands[partition], offset) for partition, offset in self._written.items()
            }

    def committed(self, spans: Mapping[Partition, OffsetRange]) -> None:
        """Take note of what was committed."""
        for partition, span in spans.items():
            self.stands(partition, span.offset)

    def stands(self, partition: Partition, offset: int) -> None:
        """Take note of where the group stands in a partition."""
        with self._lock:
            self._stands[partition] = offset
            if self._written.get(partition, -1) <= offset:
                self._written.pop(partition, None)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Commit nothing of some partitions."""
        with self._lock:
            for partition in partitions:
                self._stands.pop(partition, None)
                self._written.pop(partition, None)

    def forget_all(self) -> bool:
        """Write and commit no more of anything. Return whether something was written and not committed."""
        with self._lock:
            uncommitted = bool(self._written) or bool(self._in_hand)
            self._lines.clear()
            self._assigned = frozenset()
            self._stands, self._written = {}, {}
            return uncommitted

    def _line(self, record: msgspec.Raw) -> _Line:
        head = _head.decode(record)
        line = bytes(record).replace(b"\n", b" ").replace(b"\r", b" ")  # between tokens: a string has none
        return _Line((head.topic, head.partition), head.offset, self._render(line + b"\n"))
