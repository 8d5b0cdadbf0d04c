"""Committed offsets: checked against group and log, stored, listed with their lag, reset with a plan first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.broker.groups.group_transactions import group_not_found, load_or_create, member_not_found
from app.broker.log.topics import StaleTopic, Topics, partition_id_of
from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group
from app.domain.groups.member import Member, check_commit
from app.domain.log.offset_spec import OffsetSpec
from app.domain.log.topic import TopicInfo
from app.errors.database import ServiceUnavailable
from app.errors.groups import CommitAboveLogEnd, NonEmptyGroup, OffsetConflict, StaleMemberEpoch
from app.errors.http import InvalidRequest
from app.errors.log import UnknownPartitionInRecord, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.groups import groups, members, offsets
from app.storage.groups.members import LastPoll
from app.storage.groups.offsets import Commit, Lag
from app.storage.log import clock_ticks, offset_lookup
from app.storage.log.pages import Bounds

_ATTEMPTS = 3
_MAX_EXPIRED = 500


class OffsetCommit(NamedTuple):
    """An offset to commit, with its topic by name; see `storage.groups.offsets.Commit`."""

    topic: str
    partition: int
    offset: int
    from_offset: int | None = None
    metadata: str = ""


class Committer(NamedTuple):
    """A member at an epoch; or, with `member_id` None, a client outside the group, while it has no members."""

    group: str
    member_id: str | None
    member_epoch: int = -1


class CommittingMember(NamedTuple):
    """A locked member, and the epoch at which its client commits."""

    member: Member
    member_epoch: int


class PlannedOffset(NamedTuple):
    """The offset of a partition before and after a reset."""

    partition: int
    committed_offset: int | None
    offset: int


class Offsets:
    """The offsets that groups have committed."""

    def __init__(self, storage: Storage, topics: Topics, max_groups: int) -> None:
        self._storage = storage
        self._topics = topics
        self._max_groups = max_groups

    async def commit(self, committer: Committer, commits: Sequence[OffsetCommit]) -> None:
        """Commit all offsets or none.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId, StaleMemberEpoch, NonEmptyGroup: The committer may
                not commit.
            OffsetConflict, CommitAboveLogEnd, UnknownPartitionInRecord: With the index.
        """
        for _ in range(_ATTEMPTS):
            found = await self.resolve(commits)
            try:
                await self._storage.write(_commit, committer, found, self._max_groups)
                return
            except StaleTopic:
                self.drop_topics(commits)
        raise topic_changes_too_often()

    async def resolve(self, commits: Sequence[OffsetCommit]) -> list[Commit]:
        """Return commits with the ids of their partitions from this node's cache.

        Raises:
            UnknownPartitionInRecord, InvalidRequest: With the index.
        """
        resolved: dict[tuple[str, int], Commit] = {}
        for index, one in enumerate(commits):
            info = await self._topic(index, one.topic)
            if one.partition >= info.partitions:
                info = await self._topics.refresh(one.topic)
            if one.partition >= info.partitions:
                raise _unknown(index, "partition", f"must be below {info.partitions}")
            if (one.topic, one.partition) in resolved:
                raise InvalidRequest.at(index, None, "names a partition twice", item="offset")
            resolved[one.topic, one.partition] = Commit(
                one.topic,
                info.topic_id,
                one.partition,
                partition_id_of(info, one.partition),
                one.offset,
                one.from_offset,
                one.metadata,
            )
        return list(resolved.values())

    def drop_topics(self, commits: Sequence[OffsetCommit]) -> None:
        """Drop the topics of commits from this node's cache."""
        self._topics.drop({one.topic for one in commits})

    async def lags(self, group: str) -> list[Lag]:
        """Return the lag of a group in all partitions that it subscribes to or has committed.

        Raises:
            GroupIdNotFound: There is no group of this name.
        """
        return await self._storage.read(_lags, group)

    async def reset(
        self, group: str, topic: str, partitions: Sequence[int] | None, to: OffsetSpec, *, dry_run: bool
    ) -> list[PlannedOffset]:
        """Plan the offsets at which a group goes on in a topic and, unless it is a dry run, commit them.

        Args:
            group: The group's name; the group is created when the plan is applied.
            topic: The topic's name.
            partitions: Numbers of partitions, or None for all.
            to: Where to go on; a time after the last record means the log end.
            dry_run: Whether to return the plan without committing it.

        Raises:
            NonEmptyGroup: It is not a dry run, and the group has members.
            UnknownTopicOrPartition, InvalidRequest
        """
        info = await self._topics.refresh(topic)
        numbers = range(info.partitions) if partitions is None else sorted(set(partitions))
        ids = [partition_id_of(info, number) for number in numbers]
        if dry_run:
            return await self._storage.read(_plan_only, group, ids, to)
        return await self._storage.write(_reset, group, info, ids, to, self._max_groups)

    async def expire(self) -> bool:
        """Delete some offsets of deleted topics, and some groups that were empty longer than offsets are retained.

        Returns:
            Whether there may be more to delete.
        """
        deleted = await self._storage.write(offsets.delete_of_deleted_topics, _MAX_EXPIRED)
        names = await self._storage.read(offsets.expired_groups, _MAX_EXPIRED)
        for name in names:
            await self._storage.write(_expire, name)
        return max(deleted, len(names)) == _MAX_EXPIRED

    async def _topic(self, index: int, name: str) -> TopicInfo:
        try:
            return await self._topics.get(name)
        except UnknownTopicOrPartition:
            raise _unknown(index, "topic", "is unknown") from None


def topic_changes_too_often() -> ServiceUnavailable:
    """Return the error for a request whose topics were replaced during each attempt."""
    return ServiceUnavailable("the topic changes too often; try again")


def commit_offsets(
    tx: Tx, group_id: int, committing: CommittingMember | None, commits: Sequence[Commit], *, repeats: bool = True
) -> None:
    """Check offsets against the member, the log and `from_offset`, and store them.

    Args:
        tx: A transaction that has locked the member, or the group.
        group_id: The group.
        committing: The member, or None if the group has no members.
        commits: At most one per partition.
        repeats: Whether `from_offset` is also satisfied if `offset` is already the committed offset.

    Raises:
        FencedMemberEpoch, StaleMemberEpoch: The member may not commit these partitions.
        CommitAboveLogEnd, OffsetConflict: With the index.
        StaleTopic: A partition does not exist. Checked first, since the ids may be those of a deleted topic.
    """
    progress = offsets.progress(tx, group_id, [one.partition_id for one in commits])
    if len(progress) < len(commits):
        raise StaleTopic
    if committing is not None:
        _check_member(committing, commits)
    if not commits:
        return
    for index, (one, found) in enumerate(zip(commits, progress, strict=True)):
        _check_offset(index, one, found.committed_offset, found.bounds.log_end_offset, repeats=repeats)
    offsets.commit(tx, group_id, commits, clock.read(tx))


def commits_of_last_poll(
    member: Member, last_poll: LastPoll | None, committed: Mapping[Partition, int]
) -> dict[Partition, int]:
    """Return the end offsets of the last poll, in the partitions in which the member may commit them.

    A partition is left out if the member has lost it since, or if another offset has been committed since.

    Args:
        member: The member.
        last_poll: What its last poll returned.
        committed: Committed offsets of the partitions of the last poll.
    """
    if last_poll is None or last_poll.member_epoch > member.member_epoch:
        return {}
    lost = set(check_commit(member, last_poll.member_epoch, last_poll.ranges))
    return {
        partition: end
        for partition, (start, end) in last_poll.ranges.items()
        if partition not in lost and committed.get(partition, start) == start
    }


def commit_last_poll(tx: Tx, group_id: int, member: Member, last_poll: LastPoll | None) -> dict[Partition, int]:
    """Commit what the last poll of a locked member returned. Return the new committed offsets."""
    if last_poll is None or not last_poll.ranges:
        return {}
    committed = offsets.committed(tx, group_id, last_poll.ranges)
    ends = commits_of_last_poll(member, last_poll, committed)
    if ends:
        commits = [Commit("", topic_id, number, 0, end) for (topic_id, number), end in ends.items()]
        offsets.commit(tx, group_id, commits, clock.read(tx))
    return ends


def _check_member(committing: CommittingMember, commits: Sequence[Commit]) -> None:
    """Refuse commits of partitions that a member does not hold at its epoch, and name the partitions."""
    member, member_epoch = committing
    stale = set(check_commit(member, member_epoch, [(one.topic_id, one.partition) for one in commits]))
    if stale:
        named = [one for one in commits if (one.topic_id, one.partition) in stale]
        raise StaleMemberEpoch(
            "the member does not hold all these partitions at this epoch; heartbeat, and commit those it still has",
            member_epoch=member.member_epoch,
            partitions=[{"topic": one.topic, "partition": one.partition} for one in named[:10]],
        )


def refuse_members(group: Group) -> None:
    """Refuse a commit from outside the group while the group has members.

    Raises:
        NonEmptyGroup
    """
    if group.members:
        raise NonEmptyGroup(
            f"the group has members, {len(group.members)}: only they may commit; stop them to set offsets from outside",
            members=len(group.members),
        )


def _commit(tx: Tx, committer: Committer, commits: Sequence[Commit], max_groups: int) -> None:
    if committer.member_id is None:
        group = load_or_create(tx, committer.group, max_groups)
        refuse_members(group)
        groups.touch(tx, group, clock.read(tx))
        commit_offsets(tx, group.group_id, None, commits)
        return
    found = members.load(tx, committer.group, committer.member_id)
    if found is None:
        raise member_not_found(tx, committer.group, committer.member_id)
    commit_offsets(tx, found.group_id, CommittingMember(found.member, committer.member_epoch), commits)


def _check_offset(index: int, one: Commit, committed: int | None, end: int, *, repeats: bool) -> None:
    if one.offset > end:
        detail = f"must be at most log_end_offset, {end}"
        message = f"offset {index} {detail}"
        raise CommitAboveLogEnd.at(index, "offset", detail, message=message, log_end_offset=end)
    if one.from_offset is None or committed == one.from_offset or (repeats and committed == one.offset):
        return
    detail = "nothing is committed yet" if committed is None else f"the committed offset is {committed}"
    message = f"offset {index}: {detail}, not {one.from_offset}"
    raise OffsetConflict.at(index, "from_offset", detail, message=message, committed_offset=committed)


def _lags(tx: Tx, name: str) -> list[Lag]:
    group = groups.find(tx, name)
    if group is None:
        raise group_not_found()
    return offsets.lags(tx, group.group_id, group.topics)


def _plan_only(tx: Tx, name: str, ids: Sequence[int], to: OffsetSpec) -> list[PlannedOffset]:
    group = groups.find(tx, name)
    return _plan(tx, 0 if group is None else group.group_id, ids, to)


def _plan(tx: Tx, group_id: int, ids: Sequence[int], to: OffsetSpec) -> list[PlannedOffset]:
    found = offsets.progress(tx, group_id, ids)
    if len(found) < len(ids):
        raise UnknownTopicOrPartition("the topic was deleted")
    return [
        PlannedOffset(one.bounds.partition, one.committed_offset, _planned_offset(tx, one.bounds, to)) for one in found
    ]


def _planned_offset(tx: Tx, bounds: Bounds, to: OffsetSpec) -> int:
    first, end = bounds.log_start_offset, bounds.log_end_offset
    offset = offset_lookup.resolve(tx, bounds, to)
    if not first <= offset <= end:
        detail = f"must be from {first} to {end} in partition {bounds.partition}"
        raise InvalidRequest.at(None, "to", detail)
    return offset


def _reset(
    tx: Tx, name: str, info: TopicInfo, ids: Sequence[int], to: OffsetSpec, max_groups: int
) -> list[PlannedOffset]:
    group = load_or_create(tx, name, max_groups)
    refuse_members(group)
    plan = _plan(tx, group.group_id, ids, to)
    at_ms = clock.read(tx)
    moved = [Commit(info.name, info.topic_id, one.partition, 0, one.offset) for one in plan]
    offsets.commit(tx, group.group_id, moved, at_ms)
    groups.touch(tx, group, at_ms)
    return plan


def _expire(tx: Tx, name: str) -> None:
    group = groups.load(tx, name)
    if group is not None and offsets.is_expired(group, clock_ticks.expiry_ms(tx, clock.read(tx))):
        groups.delete_(tx, group)


def _unknown(index: int, field: str, detail: str) -> UnknownPartitionInRecord:
    return UnknownPartitionInRecord.at(index, field, detail, item="offset")
