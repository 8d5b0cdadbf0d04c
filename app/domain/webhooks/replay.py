"""Replays: ranges of records that are sent again to one webhook. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

Only = Literal["all", "failed"]
ReplayStatus = Literal["running", "done", "cancelled"]


class ReplayRange(msgspec.Struct, frozen=True, array_like=True):
    """Records of a partition, from an offset to another, which is exclusive."""

    partition: int
    partition_id: int
    from_offset: int
    to_offset: int


class ReplayPlan(msgspec.Struct, frozen=True, array_like=True):
    """What a replay sends, resolved once.

    Attributes:
        queue: With dead letters: the name of the queue whose letters are sent; else empty.
        records: How many records it has at most.
        unfiltered: Whether records are sent that the filter of the webhook refuses.
    """

    topic_id: int
    topic: str
    ranges: tuple[ReplayRange, ...]
    only: Only
    queue: str
    records: int
    unfiltered: bool = False


class ReplayProgress(msgspec.Struct, frozen=True, array_like=True):
    """How far a replay is.

    Attributes:
        number: Index of the range that is being sent.
        offset: The next record in it.
        attempts: Charged attempts of that record.
        retry_at_ms: When it is attempted again.
    """

    number: int = 0
    offset: int = 0
    attempts: int = 0
    retry_at_ms: int = 0
    delivered: int = 0
    filtered: int = 0
    failed: int = 0


class ReplayInfo(NamedTuple):
    """A replay."""

    replay_id: int
    webhook_id: int
    plan: ReplayPlan
    progress: ReplayProgress
    status: ReplayStatus
    created_at_ms: int
    ended_at_ms: int | None


def start(plan: ReplayPlan) -> ReplayProgress:
    """Return the progress of a replay that has not begun."""
    return ReplayProgress(0, plan.ranges[0].from_offset if plan.ranges else 0)


def place(plan: ReplayPlan, progress: ReplayProgress) -> tuple[ReplayRange, int] | None:
    """Return the range and the offset of the next record, or None at the end."""
    number, offset = progress.number, progress.offset
    while number < len(plan.ranges):
        part = plan.ranges[number]
        if offset < part.to_offset:
            return part, max(offset, part.from_offset)
        number += 1
        offset = plan.ranges[number].from_offset if number < len(plan.ranges) else 0
    return None


def passed(
    plan: ReplayPlan,
    progress: ReplayProgress,
    offset: int,
    *,
    delivered: int = 0,
    filtered: int = 0,
    failed: int = 0,
) -> ReplayProgress:
    """Return the progress after the record at an offset of the present range, or after a gap that ends there."""
    found = place(plan, progress)
    number = progress.number if found is None else plan.ranges.index(found[0])
    return ReplayProgress(
        number,
        offset + 1,
        0,
        0,
        progress.delivered + delivered,
        progress.filtered + filtered,
        progress.failed + failed,
    )


def postponed(progress: ReplayProgress, attempts: int, retry_at_ms: int) -> ReplayProgress:
    """Return the progress after an attempt that is repeated."""
    return msgspec.structs.replace(progress, attempts=attempts, retry_at_ms=retry_at_ms)
