"""The page of a poll: records of a member's assigned partitions, read on one snapshot with the membership."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.broker.groups.group_transactions import Heartbeat, member_not_found
from app.broker.groups.offsets import commits_of_last_poll
from app.broker.log.page_reader import PageSize, shares_of
from app.domain.groups.assignor import Partition
from app.domain.groups.member import Member, check_epoch
from app.domain.log.record import StoredRecord
from app.errors.groups import NoOffsetForPartition
from app.storage.db.transaction import Tx
from app.storage.groups import members, offsets
from app.storage.groups.members import MemberSnapshot
from app.storage.groups.offsets import PartitionProgress

FindPartition = Callable[[int, int], tuple[str, int] | None]
"""Returns a partition's topic name and storage id by topic id and number, or None if this node does not have them."""


class NamedPartition(NamedTuple):
    """A partition with the name of its topic."""

    topic: str
    id: Partition


class PolledRange(NamedTuple):
    """What a poll returns of a partition: the committed offset, and the offset to commit next."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class PollResult(NamedTuple):
    """The answer to a poll.

    Attributes:
        member: The member in the snapshot that the page was read from.
        records: Each with its topic and partition, in order within each partition.
        ranges: Each partition with records, or with offsets that retention has removed.
        skipped: Offsets that retention has removed: from the committed offset to the one at which the group goes on.
        log_end_offsets: Log end of each partition, by the storage's id.
        commits: Offsets of the last poll that are not committed yet; the page begins after them.
    """

    member: MemberSnapshot
    records: list[tuple[str, int, StoredRecord]]
    ranges: dict[Partition, PolledRange]
    skipped: list[PolledRange]
    log_end_offsets: dict[int, int]
    commits: dict[Partition, int]


def checked(find_partition: FindPartition, check_topic: Callable[[str], None] | None) -> FindPartition:
    """Return a look-up of partitions that raises the error of `check_topic` for a topic that must not be read."""
    if check_topic is None:
        return find_partition

    def find(topic_id: int, partition: int) -> tuple[str, int] | None:
        found = find_partition(topic_id, partition)
        if found is not None:
            check_topic(found[0])
        return found

    return find


def named_partitions(member: Member, find_partition: FindPartition) -> dict[int, NamedPartition]:
    """Return the assigned partitions by the storage's ids; those that this node does not have are left out."""
    named: dict[int, NamedPartition] = {}
    for partition in member.assigned:
        if (found := find_partition(*partition)) is not None:
            topic, partition_id = found
            named[partition_id] = NamedPartition(topic, partition)
    return named


def read(tx: Tx, heartbeat: Heartbeat, partitions: Mapping[int, NamedPartition], size: PageSize) -> PollResult:
    """Read a page for a member.

    Args:
        tx: A transaction.
        heartbeat: The heartbeat of the member.
        partitions: Partitions to read, by the storage's ids; those that are not assigned now are left out.
        size: Bounds of the page.

    Raises:
        UnknownMemberId, FencedInstanceId, FencedMemberEpoch: The member has left the group or joined again.
        NoOffsetForPartition: auto_offset_reset is none, and a partition has no valid committed offset.
    """
    found = members.find(tx, heartbeat.group, heartbeat.member_id)
    if found is None:
        raise member_not_found(tx, heartbeat.group, heartbeat.member_id)
    check_epoch(found.member, -1 if heartbeat.member_epoch is None else heartbeat.member_epoch, None)
    assigned = {key: partition for key, partition in partitions.items() if partition.id in found.member.assigned}
    return read_for(tx, found, assigned, size, commits_last_poll=False)


def read_for(
    tx: Tx, found: MemberSnapshot, partitions: Mapping[int, NamedPartition], size: PageSize, *, commits_last_poll: bool
) -> PollResult:
    """Read a page for a member found in the same snapshot.

    Args:
        tx: A transaction.
        found: The member.
        partitions: Its assigned partitions, by the storage's ids.
        size: Bounds of the page.
        commits_last_poll: Whether the last poll is to be committed before the page is returned.

    Raises:
        NoOffsetForPartition: auto_offset_reset is none, and a partition has no valid committed offset.
    """
    member = found.member
    progress = offsets.progress(tx, found.group_id, sorted(partitions))
    commits: dict[Partition, int] = {}
    if commits_last_poll:
        commits = commits_of_last_poll(member, found.last_poll, _committed(progress))
        progress = [_after_commit(one, commits, found.now_ms) for one in progress]
    starts = [_start(one, member, partitions[one.bounds.partition_id]) for one in progress]
    ranges: dict[Partition, PolledRange] = {}
    for one, start in zip(progress, starts, strict=True):
        if one.committed_offset is not None and start != one.committed_offset:
            topic, partition = partitions[one.bounds.partition_id]
            ranges[partition] = PolledRange(topic, partition[1], one.committed_offset, start)
    skipped = list(ranges.values())
    records: list[tuple[str, int, StoredRecord]] = []
    for index, share in _shares(tx, progress, starts, size).items():
        topic, partition = partitions[progress[index].bounds.partition_id]
        records += [(topic, partition[1], record) for record in share]
        committed = progress[index].committed_offset
        from_offset = starts[index] if committed is None else committed
        ranges[partition] = PolledRange(topic, partition[1], from_offset, share[-1].offset + 1)
    log_end_offsets = {one.bounds.partition_id: one.bounds.log_end_offset for one in progress}
    return PollResult(found, records, ranges, skipped, log_end_offsets, commits)


def _committed(progress: Sequence[PartitionProgress]) -> Mapping[Partition, int]:
    return {one.partition: one.committed_offset for one in progress if one.committed_offset is not None}


def _after_commit(one: PartitionProgress, commits: Mapping[Partition, int], now_ms: int) -> PartitionProgress:
    """Return the progress in a partition as it is once the last poll is committed."""
    if (offset := commits.get(one.partition)) is None:
        return one
    return one._replace(committed_offset=offset, committed_at_ms=now_ms)


def _shares(
    tx: Tx, progress: Sequence[PartitionProgress], starts: Sequence[int], size: PageSize
) -> dict[int, list[StoredRecord]]:
    """Read each partition's share of the page, within its bounds.

    The partition whose offset was committed longest ago comes first, so that no partition is starved by large records
    in others.
    """
    unread = [index for index, one in enumerate(progress) if starts[index] < one.bounds.log_end_offset]
    unread.sort(key=lambda index: progress[index].committed_at_ms or 0)
    chosen = unread[: size.max_records]
    read = shares_of(tx, [progress[n].bounds for n in chosen], [starts[n] for n in chosen], size, in_order=True)
    left_records, left_bytes = size.max_records, size.max_bytes
    shares: dict[int, list[StoredRecord]] = {}
    for index, records in read.items():
        if share := _within(records, left_records, left_bytes, first=not shares):
            shares[chosen[index]] = share
            left_records -= len(share)
            left_bytes -= sum(record.size_bytes for record in share)
    return shares


def _start(one: PartitionProgress, member: Member, named: NamedPartition) -> int:
    """Return the offset to read from: the committed offset, or the log start if that is higher."""
    committed, first = one.committed_offset, one.bounds.log_start_offset
    if committed is not None and committed >= first:
        return committed
    if member.join_request.auto_offset_reset == "none":
        where = f"partition {named.id[1]} of {named.topic}"
        raise NoOffsetForPartition(
            f"there is no committed offset in {where}"
            if committed is None
            else f"retention has removed the records of {where} from the committed offset, {committed}, to {first}",
            topic=named.topic,
            partition=named.id[1],
            committed_offset=committed,
            log_start_offset=first,
        )
    return first


def _within(records: Sequence[StoredRecord], max_records: int, max_bytes: int, *, first: bool) -> list[StoredRecord]:
    """Return the records that fit into the rest of a page; the first record of a page always fits."""
    share: list[StoredRecord] = []
    for record in records[: max(max_records, 0)]:
        max_bytes -= record.size_bytes
        if max_bytes < 0 and not (first and not share):
            break
        share.append(record)
    return share
