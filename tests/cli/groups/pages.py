"""Pages of records, as a poll returns them."""

from __future__ import annotations

import msgspec

from app.cli.groups.membership import NextOffset, Page, TopicPartitions
from app.cli.groups.page_in_progress import PageInProgress

ONE, TWO = ("t", 1), ("t", 2)
BOTH = frozenset({ONE, TWO})


def page(*records: tuple[int, int], padding: int = 0, skipped: tuple[NextOffset, ...] = ()) -> Page:
    """Return a page of records, given by partition and offset; the first offset of each partition is committed."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for partition, offset in records:
        starts.setdefault(partition, offset)
        ends[partition] = offset + 1
    return Page(
        member_epoch=1,
        assignment=[TopicPartitions("t", [1, 2])],
        heartbeat_interval_ms=1_000,
        records=[
            msgspec.Raw(b'{"topic":"t","partition":%d,"offset":%d,"value":"%b"}' % (*record, b"x" * padding))
            for record in records
        ],
        next_offsets=[*skipped, *(NextOffset("t", number, starts[number], ends[number]) for number in starts)],
    )


def in_progress(found: Page) -> PageInProgress:
    """Return a page in progress of which nothing is written."""
    page_in_progress = PageInProgress(bytes)
    page_in_progress.start(found, BOTH)
    return page_in_progress
