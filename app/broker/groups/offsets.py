"""Committed offsets: checked against group and log, stored, listed with their lag, reset with a plan first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.broker.groups.coordinator import load_or_create, not_found, refuse
from app.broker.log.topics import StaleTopic, Topics, partition_id_of
from app.domain.groups import group as rules
from app.domain.groups.group import Group, Member
from app.domain.log.offset_spec import OffsetSpec
from app.domain.log.topic import TopicInfo
from app.errors.database import ServiceUnavailable
from app.errors.groups import CommitAboveLogEnd, NonEmptyGroup, OffsetConflict, StaleMemberEpoch
from app.errors.http import InvalidRequest
from app.errors.log import UnknownPartitionInRecord, UnknownTopicOrPartition
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.groups import groups, members, offsets
from app.storage.groups.offsets import Commit, Lag
from app.storage.log import offset_lookup
from app.storage.log.pages import Bounds

_ATTEMPTS = 3
_EXPIRED_AT_ONCE = 500


class OffsetCommit(NamedTuple):
    """An offset to commit, with its topic by name; see `storage.offsets.Commit`."""

    topic: str
    partition: int
    offset: int
    from_offset: int | None = None
    metadata: str = ""


class Committer(NamedTuple):
    """Who commits: a member at an epoch, or nobody, which is allowed while the group has no members."""

    group: str
    member_id: str | None
    member_epoch: int = -1


class Holder(NamedTuple):
    """A member that commits, as it stands under its lock, and the epoch that it knows."""

    member: Member
    member_epoch: int


class PlannedOffset(NamedTuple):
    """Where a reset moves a group in a partition."""

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
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId, StaleMemberEpoch, NonEmptyGroup: By its committer.
            OffsetConflict, CommitAboveLogEnd, UnknownPartitionInRecord: With the index.
        """
        for _ in range(_ATTEMPTS):
            found = await self.resolve(commits)
            try:
                await self._storage.write(_commit, committer, found, self._max_groups)
                return
            except StaleTopic:
                self.look_again(commits)
        raise topics_change()

    async def resolve(self, commits: Sequence[OffsetCommit]) -> list[Commit]:
        """Return commits with the ids of their partitions, as this node knows them.

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

    def look_again(self, commits: Sequence[OffsetCommit]) -> None:
        """Forget what this node knows of the topics of commits."""
        self._topics.drop({one.topic for one in commits})

    async def lags(self, group: str) -> list[Lag]:
        """Return where a group stands in all partitions that it subscribes to or has committed.

        Raises:
            GroupIdNotFound: There is none of this name.
        """
        return await self._storage.read(_lags, group)

    async def reset(
        self, group: str, topic: str, partitions: Sequence[int] | None, to: OffsetSpec, *, dry_run: bool
    ) -> list[PlannedOffset]:
        """Plan where a group without members is to go on in a topic and, unless it is a dry run, commit that.

        Args:
            group: Its name; one that does not exist is created when the plan is applied.
            topic: Its name.
            partitions: Their numbers, or None for all.
            to: A position; a time after the last record is the log's end.
            dry_run: Whether to return the plan alone.

        Raises:
            NonEmptyGroup: It is no dry run, and the group has members.
            UnknownTopicOrPartition, InvalidRequest
        """
        info = await self._topics.refresh(topic)
        numbers = range(info.partitions) if partitions is None else sorted(set(partitions))
        ids = [partition_id_of(info, number) for number in numbers]
        if dry_run:
            return await self._storage.read(_plan_only, group, ids, to)
        return await self._storage.write(_reset, group, info, ids, to, self._max_groups)

    async def expire(self) -> bool:
        """Delete some offsets of deleted topics, and groups that had no members for the retention of offsets."""
        gone = await self._storage.write(offsets.forget_deleted_topics, _EXPIRED_AT_ONCE)
        names = await self._storage.read(offsets.expired_groups, _EXPIRED_AT_ONCE)
        for name in names:
            await self._storage.write(_expire, name)
        return max(gone, len(names)) == _EXPIRED_AT_ONCE

    async def _topic(self, index: int, name: str) -> TopicInfo:
        try:
            return await self._topics.get(name)
        except UnknownTopicOrPartition:
            raise _unknown(index, "topic", "is unknown") from None


def topics_change() -> ServiceUnavailable:
    """Return the refusal of a request whose topics are replaced faster than it runs."""
    return ServiceUnavailable("the topic changes too often; try again")


def store(tx: Tx, group_id: int, holder: Holder | None, commits: Sequence[Commit], *, repeats: bool = True) -> None:
    """Check offsets against who commits them, the log and `from_offset`, and store them.

    Args:
        tx: Has locked the member, or the group.
        group_id: Whose they are.
        holder: Who commits, or None where the group has no members.
        commits: No partition twice.
        repeats: Whether a `from_offset` is satisfied when `offset` is committed already.

    Raises:
        FencedMemberEpoch, StaleMemberEpoch: The holder may not.
        CommitAboveLogEnd, OffsetConflict: With the index.
        StaleTopic: A partition is not there; first of all, since the ids may be those of another topic.
    """
    standing = offsets.progress(tx, group_id, [one.partition_id for one in commits])
    if len(standing) < len(commits):
        raise StaleTopic
    if holder is not None:
        _check_holder(holder, commits)
    if not commits:
        return
    for index, (one, found) in enumerate(zip(commits, standing, strict=True)):
        _check(index, one, found.committed_offset, found.bounds.log_end_offset, repeats=repeats)
    offsets.commit(tx, group_id, commits, clock.read(tx))


def _check_holder(holder: Holder, commits: Sequence[Commit]) -> None:
    """Refuse commits of partitions that a member does not hold at an epoch, naming them."""
    member, member_epoch = holder
    stale = set(rules.check_commit(member, member_epoch, [(one.topic_id, one.partition) for one in commits]))
    if stale:
        named = [one for one in commits if (one.topic_id, one.partition) in stale]
        raise StaleMemberEpoch(
            "the member does not hold all these partitions at this epoch; heartbeat, and commit those it still has",
            member_epoch=member.member_epoch,
            partitions=[{"topic": one.topic, "partition": one.partition} for one in named[:10]],
        )


def refuse_members(group: Group) -> None:
    """Refuse to set offsets of a group from outside while it has members.

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
        store(tx, group.group_id, None, commits)
        return
    found = members.load(tx, committer.group, committer.member_id)
    if found is None:
        raise refuse(tx, committer.group, committer.member_id)
    store(tx, found.group_id, Holder(found.member, committer.member_epoch), commits)


def _check(index: int, one: Commit, committed: int | None, end: int, *, repeats: bool) -> None:
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
        raise not_found()
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
    if group is not None and offsets.is_expired(group, clock.read(tx)):
        groups.delete_(tx, group)


def _unknown(index: int, field: str, detail: str) -> UnknownPartitionInRecord:
    return UnknownPartitionInRecord.at(index, field, detail, item="offset")
