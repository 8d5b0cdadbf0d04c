"""Poll: the whole loop of a consumer in one call. Commits, beats, and reads from the partitions that are assigned.

A poll is a fetch from the committed offsets, on a snapshot in which the membership is checked again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from app.broker.groups.coordinator import Before, Coordinator, Gone, Heartbeat, refuse, refuse_gone, watch_id
from app.broker.groups.offsets import Holder, OffsetCommit, Offsets, store, topics_change
from app.broker.log.page_reader import PageSize, shares_of
from app.broker.log.topics import StaleTopic, Topics
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from app.domain.groups import group as rules
from app.domain.groups.assignor import Partition
from app.domain.groups.group import JoinRequest, Member
from app.domain.log.record import StoredRecord
from app.errors.groups import NoOffsetForPartition
from app.errors.log import ConcurrentRequest
from app.storage.db import clock
from app.storage.db.engine import Storage, Tx
from app.storage.groups import members, offsets
from app.storage.groups.members import LastPoll, MemberSnapshot
from app.storage.groups.offsets import Commit, PartitionProgress

_ATTEMPTS = 5


class PollRequest(NamedTuple):
    """One poll of a consumer.

    Attributes:
        heartbeat: Its heartbeat.
        join_request: What to join with if the member is not in the group; None if it is to be refused then.
        commits: Offsets to commit first.
        auto_commit: Commit first what this membership's previous poll returned.
    """

    heartbeat: Heartbeat
    join_request: JoinRequest | None
    commits: Sequence[OffsetCommit]
    auto_commit: bool
    size: PageSize


class OffsetRange(NamedTuple):
    """What a poll returns of a partition: where the group stood, and where it stands once that is committed."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class PollResult(NamedTuple):
    """The answer to a poll.

    Attributes:
        records: Each with its topic and partition, in order within each partition.
        spans: What was read or passed over.
        skipped: What retention had removed: from where the group stood to where it goes on.
        ends: The log end of each partition, by the storage's id.
    """

    standing: MemberSnapshot
    records: list[tuple[str, int, StoredRecord]]
    spans: dict[Partition, OffsetRange]
    skipped: list[OffsetRange]
    ends: dict[int, int]


class _NamedPartition(NamedTuple):
    """A partition of a topic by name."""

    topic: str
    id: Partition


class Poller:
    """Runs polls, waiting for records where asked."""

    def __init__(
        self, storage: Storage, topics: Topics, signals: Signals, consumer_groups: Coordinator, commits: Offsets
    ) -> None:
        self._storage = storage
        self._topics = topics
        self._signals = signals
        self._groups = consumer_groups
        self._offsets = commits

    async def poll(self, request: PollRequest, deadline: Deadline) -> PollResult:
        """Commit, beat and read; wait for records or another assignment until the deadline is over.

        The deadline is cut to the member's heartbeat interval. A member that had nothing to read waits for a
        partition, and then for records in it.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId, StaleMemberEpoch: Nothing was changed.
            NoOffsetForPartition: auto_offset_reset is none, and there is nowhere to go on from.
        """
        standing, had, poll_epoch = await self._begin(request, deadline.check_disconnected)
        deadline.shorten_to(standing.member.heartbeat_interval_ms)
        beaten = standing.assignment_epoch
        while True:
            heartbeat = request.heartbeat._replace(member_epoch=standing.member.member_epoch)
            if not standing.settled and standing.assignment_epoch != beaten:
                standing = await self._groups.step(heartbeat, standing, gone=deadline.check_disconnected)
                beaten = standing.assignment_epoch
                continue
            page = await self._read_or_wait(request, heartbeat, standing, had, poll_epoch, deadline)
            if page.spans or deadline.expired or self._signals.closed or _changed(page, had):
                return page
            standing = page.standing

    async def _read_or_wait(
        self,
        request: PollRequest,
        heartbeat: Heartbeat,
        known: MemberSnapshot,
        had: Collection[Partition],
        poll_epoch: int | None,
        deadline: Deadline,
    ) -> PollResult:
        """Read what a member is assigned; wait until there are records, it stands differently, or deadline is over."""
        await self._topics.learn(known.member.assigned)
        ids = self._ids(known.member.assigned)
        with self._signals.watch([watch_id(known.group_id), *ids]) as watch:
            while True:
                watch.clear()
                page = await self._storage.read(_read, heartbeat, ids, request.size)
                if page.spans:
                    if poll_epoch is None or deadline.disconnected or await self._save_last_poll(page, poll_epoch):
                        return page
                    continue
                if deadline.expired or self._signals.closed or _changed(page, had) or _moved(known, page.standing):
                    return page
                watch.log_end_offsets = page.ends
                await deadline.wait(watch)

    def _ids(self, partitions: Iterable[Partition]) -> dict[int, _NamedPartition]:
        """Return partitions by the storage's ids, those of deleted topics left out."""
        known = ((partition, self._topics.place(*partition)) for partition in partitions)
        return {place[1]: _NamedPartition(place[0], partition) for partition, place in known if place is not None}

    async def _begin(
        self, request: PollRequest, gone: Gone
    ) -> tuple[MemberSnapshot, Collection[Partition], int | None]:
        """Join if the member is not there, else commit and heartbeat.

        Returns:
            The member after that; what it was assigned before: nothing, if it has just joined; and the poll epoch under
            which it saves what it returns, or None.
        """
        heartbeat, join_request = request.heartbeat, request.join_request
        found = await self._storage.read(members.find, heartbeat.group, heartbeat.member_id)
        if join_request is not None and (found is None or found.member.join_request != join_request):
            standing, _ = await self._groups.join(heartbeat.group, join_request, by_poll=True)
            poll_epoch = 0 if found is None else found.poll_epoch
            if request.auto_commit:
                await self._storage.write(members.begin_poll, standing.group_id, heartbeat.member_id, poll_epoch)
                poll_epoch += 1
            return standing, (), poll_epoch if request.auto_commit else None
        if found is None:
            raise await self._storage.read(refuse, heartbeat.group, heartbeat.member_id)
        if heartbeat.member_epoch is None:
            heartbeat = heartbeat._replace(member_epoch=found.member.member_epoch)
        had = found.member.assigned.keys()
        if _begins_turn(request, found):
            return (
                await self._commit_and_beat(request, heartbeat, gone, found, found.poll_epoch),
                had,
                found.poll_epoch + 1,
            )
        standing = (
            await self._commit_and_beat(request, heartbeat, gone, found, None)
            if request.commits
            else await self._groups.heartbeat(heartbeat, found, gone)
        )
        return standing, had, found.poll_epoch if request.auto_commit else None

    async def _commit_and_beat(
        self, request: PollRequest, heartbeat: Heartbeat, gone: Gone, found: MemberSnapshot, poll_epoch: int | None
    ) -> MemberSnapshot:
        for _ in range(_ATTEMPTS):
            commits = await self._offsets.resolve(request.commits)
            before = partial(
                _commit, heartbeat=heartbeat, commits=commits, poll_epoch=poll_epoch, auto=request.auto_commit
            )
            await refuse_gone(gone)
            try:
                quick = await self._storage.write(_commit_and_renew, heartbeat, before)
                if quick is None:
                    return await self._groups.step(heartbeat, found, before, gone)
                self._groups.hear(quick)
                return quick
            except StaleTopic:
                self._offsets.look_again(request.commits)
        raise topics_change()

    async def _save_last_poll(self, page: PollResult, poll_epoch: int) -> bool:
        """Note what is returned, for the next poll to commit it. Return False if the member moved meanwhile.

        Raises:
            ConcurrentRequest: A later poll has begun; its client has perhaps given up on this one.
        """
        spans = {partition: (span.from_offset, span.offset) for partition, span in page.spans.items()}
        if await self._storage.write(members.save_last_poll, page.standing, poll_epoch, spans):
            return True
        now = await self._storage.read(members.find_poll_epoch, page.standing)
        if now is not None and now != poll_epoch:
            raise _overtaken()
        return False


def _begins_turn(request: PollRequest, found: MemberSnapshot) -> bool:
    """Return whether a poll commits what was handed out, or does without it: an older one then hands out nothing.

    The first with auto_commit begins one too: those that do without it can tell that there may be something to end.
    """
    handed = found.last_poll
    if request.auto_commit:
        return handed is None or bool(handed.spans)
    return handed is not None


def _overtaken() -> ConcurrentRequest:
    return ConcurrentRequest("a later poll of this member has begun; poll one at a time, each after the last's answer")


def _changed(page: PollResult, had: Collection[Partition]) -> bool:
    """Return whether a member that had something is to learn of another assignment."""
    return bool(had) and page.standing.member.assigned.keys() != set(had)


def _moved(known: MemberSnapshot, now: MemberSnapshot) -> bool:
    """Return whether a member has to read elsewhere, or to heartbeat."""
    beats = not now.settled and now.assignment_epoch != known.assignment_epoch
    return beats or now.member.assigned.keys() != known.member.assigned.keys()


def _commit_and_renew(tx: Tx, heartbeat: Heartbeat, before: Before) -> MemberSnapshot | None:
    """Commit and beat under the member's lock alone. Return None where the beat may change more than the lease."""
    found = members.load(tx, heartbeat.group, heartbeat.member_id)
    if found is None or not found.settled or found.member.member_epoch != heartbeat.member_epoch:
        return None
    before(tx, found.group_id, found.member)
    if not found.member.lease_is_fresh(found.now_ms):
        members.renew_one(tx, found)
    return found


def _commit(
    tx: Tx,
    group_id: int,
    member: Member,
    *,
    heartbeat: Heartbeat,
    commits: Sequence[Commit],
    poll_epoch: int | None,
    auto: bool,
) -> None:
    if commits and heartbeat.member_epoch is not None:
        store(tx, group_id, Holder(member, heartbeat.member_epoch), commits)
    if poll_epoch is not None:
        handed = members.begin_poll(tx, group_id, member.join_request.member_id, poll_epoch)
        if handed is None:
            raise _overtaken()
        if auto and handed.member_epoch <= member.member_epoch:
            _commit_handed_out(tx, group_id, member, handed)


def _commit_handed_out(tx: Tx, group_id: int, member: Member, handed: LastPoll) -> None:
    """Commit what the previous poll returned, where the member still holds it and nobody committed otherwise."""
    lost = set(rules.check_commit(member, handed.member_epoch, handed.spans))
    committed = offsets.committed(tx, group_id, handed.spans)
    moves = {
        partition: end
        for partition, (start, end) in handed.spans.items()
        if partition not in lost and committed.get(partition, start) == start
    }
    if moves:
        commits = [Commit("", topic_id, number, 0, end) for (topic_id, number), end in moves.items()]
        offsets.commit(tx, group_id, commits, clock.read(tx))


def _read(tx: Tx, heartbeat: Heartbeat, ids: Mapping[int, _NamedPartition], size: PageSize) -> PollResult:
    """Read a page for a member, if it is in the group and its assignment is the one known; else none of it."""
    standing = members.find(tx, heartbeat.group, heartbeat.member_id)
    if standing is None:
        raise refuse(tx, heartbeat.group, heartbeat.member_id)
    member = standing.member
    rules.check_epoch(member, -1 if heartbeat.member_epoch is None else heartbeat.member_epoch, None)
    found = [
        one
        for one in offsets.progress(tx, standing.group_id, sorted(ids))
        if ids[one.bounds.partition_id].id in member.assigned
    ]
    starts = [_start(one, member, ids[one.bounds.partition_id]) for one in found]
    records: list[tuple[str, int, StoredRecord]] = []
    spans: dict[Partition, OffsetRange] = {}
    for one, start in zip(found, starts, strict=True):
        place = ids[one.bounds.partition_id]
        if one.committed_offset is not None and start != one.committed_offset:
            spans[place.id] = OffsetRange(place.topic, place.id[1], one.committed_offset, start)
    skipped = list(spans.values())
    for number, taken in _shares(tx, found, starts, size).items():
        place = ids[found[number].bounds.partition_id]
        records += [(place.topic, place.id[1], record) for record in taken]
        at = found[number].committed_offset
        spans[place.id] = OffsetRange(
            place.topic, place.id[1], starts[number] if at is None else at, taken[-1].offset + 1
        )
    return PollResult(
        standing, records, spans, skipped, {one.bounds.partition_id: one.bounds.log_end_offset for one in found}
    )


def _shares(
    tx: Tx, found: Sequence[PartitionProgress], starts: Sequence[int], size: PageSize
) -> dict[int, list[StoredRecord]]:
    """Read what each partition gives to the page, exactly within its bounds.

    The partition whose offset was committed longest ago is the first: none is passed over for ever, however large
    the records of others are.
    """
    unread = [number for number, one in enumerate(found) if starts[number] < one.bounds.log_end_offset]
    unread.sort(key=lambda number: found[number].committed_at_ms or 0)
    turns = unread[: size.max_records]
    read = shares_of(tx, [found[n].bounds for n in turns], [starts[n] for n in turns], size, in_order=True)
    left_records, left_bytes = size.max_records, size.max_bytes
    shares: dict[int, list[StoredRecord]] = {}
    for turn, share in read.items():
        if taken := _within(share, left_records, left_bytes, first=not shares):
            shares[turns[turn]] = taken
            left_records -= len(taken)
            left_bytes -= sum(record.size_bytes for record in taken)
    return shares


def _start(found: PartitionProgress, member: Member, place: _NamedPartition) -> int:
    """Return where a member reads on in a partition: where its group stands, or where the log begins by now."""
    at, first = found.committed_offset, found.bounds.log_start_offset
    if at is not None and at >= first:
        return at
    if member.join_request.auto_offset_reset == "none":
        where = f"partition {place.id[1]} of {place.topic}"
        raise NoOffsetForPartition(
            f"there is no committed offset in {where}"
            if at is None
            else f"retention has removed the records of {where} from the committed offset, {at}, to {first}",
            topic=place.topic,
            partition=place.id[1],
            committed_offset=at,
            log_start_offset=first,
        )
    return first


def _within(records: Sequence[StoredRecord], most: int, max_bytes: int, *, first: bool) -> list[StoredRecord]:
    """Return the records that fit into what is left of a page; the first of a page always does."""
    taken: list[StoredRecord] = []
    for record in records[: max(most, 0)]:
        max_bytes -= record.size_bytes
        if max_bytes < 0 and not (first and not taken):
            break
        taken.append(record)
    return taken
