"""Check the records of one partition in the order of their offsets. Pure.

Records are appended without gaps; retention removes a prefix, and compaction removes records below `cleaned_offset`.
What it removes stays visible in `start_bytes`, which does not change: the jumps over the gaps are the bytes of the
removed records, and their sum is `compacted_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

from app.storage.verification.report import Report


class CheckedPartition(NamedTuple):
    """The row of a partition, with what compaction and retention have stored about it.

    Attributes:
        cleaned_offset: Below it, compaction may have removed records; 0 without compaction.
        purged_before: Below it, rows are about to be deleted; 0 if there is no such row.
    """

    partition_id: int
    topic_id: int
    topic: str
    partition: int
    log_start_offset: int
    start_bytes: int
    compacted_bytes: int
    cleaned_offset: int
    purged_before: int

    @property
    def subject(self) -> str:
        """How a report names it."""
        return f"{self.topic}/{self.partition}"


class PartitionScan:
    """The state of a scan.

    Attributes:
        next_offset: The offset that the next record has if nothing was removed; at the end, the log end offset.
        below_cleaned: Records of the log below `cleaned_offset`.
    """

    def __init__(self, partition: CheckedPartition, report: Report) -> None:
        self._of = partition
        self._report = report
        self._size = partition.start_bytes
        self._latest_ms: int | None = None
        self._removed_bytes = 0
        self._kept = False
        self.next_offset = partition.log_start_offset
        self.below_cleaned = 0

    def feed(self, offset: int, timestamp_ms: int, size_bytes: int, start_bytes: int, max_timestamp_ms: int) -> None:
        """Check the next record."""
        of = self._of
        if offset < of.log_start_offset:
            if offset >= of.purged_before and not self._kept:
                self._kept = True
                self._report.add(
                    "DELETED", of.subject, f"offset {offset} is before log_start_offset {of.log_start_offset} and stays"
                )
            return
        if offset < of.purged_before:
            self._report.add("DELETED", of.subject, f"offset {offset} of the log is about to be deleted")
        if offset == self.next_offset:
            if start_bytes != self._size:
                self._wrong_size(offset, start_bytes)
            latest_ms = timestamp_ms if self._latest_ms is None else max(timestamp_ms, self._latest_ms)
            if max_timestamp_ms != latest_ms and (self._latest_ms is not None or max_timestamp_ms < latest_ms):
                self._wrong_time(offset, max_timestamp_ms, latest_ms)
        else:
            self._check_gap(offset, timestamp_ms, start_bytes, max_timestamp_ms)
        self._size = start_bytes + size_bytes
        self._latest_ms = max_timestamp_ms
        self.next_offset = offset + 1
        self.below_cleaned += offset < of.cleaned_offset

    def finish(self) -> None:
        """Check the totals after the last record."""
        of = self._of
        if of.purged_before > self.next_offset:
            self._report.add("DELETED", of.subject, f"all offsets below {of.purged_before} are about to be deleted")
        if of.cleaned_offset > self.next_offset:
            detail = f"cleaned_offset is {of.cleaned_offset} and log_end_offset {self.next_offset}"
            self._report.add("ABOVE_END", of.subject, detail)
        if self._removed_bytes != of.compacted_bytes:
            self._report.add(
                "SIZES",
                of.subject,
                f"compacted_bytes is {of.compacted_bytes}, and {self._removed_bytes} bytes of records are missing",
            )

    def _check_gap(self, offset: int, timestamp_ms: int, start_bytes: int, max_timestamp_ms: int) -> None:
        missing = (
            f"offset {self.next_offset} is"
            if offset == self.next_offset + 1
            else f"offsets {self.next_offset} to {offset - 1} are"
        )
        if offset > self._of.cleaned_offset:
            detail = f"{missing} missing, and compaction has deleted nothing from {self._of.cleaned_offset} on"
            self._report.add("OFFSETS", self._of.subject, detail)
        if start_bytes < self._size:
            self._wrong_size(offset, start_bytes)
        else:
            self._removed_bytes += start_bytes - self._size
        least_ms = max(timestamp_ms, self._latest_ms or 0)
        if max_timestamp_ms < least_ms:
            self._wrong_time(offset, max_timestamp_ms, least_ms)

    def _wrong_size(self, offset: int, start_bytes: int) -> None:
        detail = f"start_bytes of offset {offset} is {start_bytes}, and the records before it have {self._size} bytes"
        self._report.add("SIZES", self._of.subject, detail)

    def _wrong_time(self, offset: int, max_timestamp_ms: int, latest_ms: int) -> None:
        detail = f"max_timestamp_ms of offset {offset} is {max_timestamp_ms}, and the largest so far is {latest_ms}"
        self._report.add("TIMES", self._of.subject, detail)
