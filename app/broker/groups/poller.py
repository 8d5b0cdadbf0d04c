"""Poll: the whole loop of a consumer in one call. It commits, counts as a heartbeat, and reads assigned partitions.

The usual poll is that of a stable member, and it does not wait. It runs at most two transactions. The first one reads
the member and the page on one snapshot. The second one runs only if there is something to write: under the member's
lock, it commits, renews the session and saves which offsets the page returns. Explicit commits run in a write of their
own, before the page is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from app.broker.groups import group_transactions, poll_page
from app.broker.groups.coordinator import Coordinator, IsDisconnected, refuse_disconnected, watch_id
from app.broker.groups.group_transactions import GroupChange, Heartbeat, member_not_found
from app.broker.groups.offsets import (
    CommittingMember,
    OffsetCommit,
    Offsets,
    commit_last_poll,
    commit_offsets,
    topic_changes_too_often,
)
from app.broker.groups.poll_page import FindPartition, PolledRange, PollResult, checked, named_partitions
from app.broker.log.page_reader import PageSize
from app.broker.log.page_reads import LARGE_PAGE_BYTES, PageReads
from app.broker.log.topics import StaleTopic, Topics
from app.broker.waiting.deadline import Deadline
from app.broker.waiting.signals import Signals
from app.domain.groups.assignor import Partition
from app.domain.groups.member import JoinRequest, Member
from app.errors.broker_error import BrokerError
from app.errors.groups import NoOffsetForPartition
from app.errors.log import ConcurrentRequest
from app.storage.db.engine import Storage
from app.storage.db.transaction import Tx
from app.storage.groups import members
from app.storage.groups.members import LastPoll, MemberSnapshot
from app.storage.groups.offsets import Commit

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 5


class PollRequest(NamedTuple):
    """One poll of a consumer.

    Attributes:
        heartbeat: Its heartbeat.
        join_request: What to join with if the member is not in the group; None refuses the poll in that case.
        commits: Offsets to commit first.
        auto_commit: Whether to commit first what the last poll of this membership returned.
        size: Bounds of the page.
        check_topic: Raises an error for a topic that the client may not read; None if it may read all.
    """

    heartbeat: Heartbeat
    join_request: JoinRequest | None
    commits: Sequence[OffsetCommit]
    auto_commit: bool
    size: PageSize
    check_topic: Callable[[str], None] | None = None


class _Begun(NamedTuple):
    """A poll after its join, commits and heartbeat.

    Attributes:
        member: The member after them.
        assigned_before: What it was assigned before the poll: nothing, if it has just joined.
        poll_epoch: The poll epoch under which the poll saves what it returns, or None if it saves nothing.
        page: The page, if it was read in the same snapshot as the member.
        saved: Whether the page is saved, so that it may be returned.
    """

    member: MemberSnapshot
    assigned_before: Collection[Partition]
    poll_epoch: int | None
    page: PollResult | None = None
    saved: bool = False


class Poller:
    """Runs polls, and waits for records until their deadline."""

    def __init__(
        self,
        storage: Storage,
        topics: Topics,
        signals: Signals,
        coordinator: Coordinator,
        offsets: Offsets,
        page_reads: PageReads,
    ) -> None:
        self._storage = storage
        self._page_reads = page_reads
        self._topics = topics
        self._signals = signals
        self._coordinator = coordinator
        self._offsets = offsets

    async def poll(self, request: PollRequest, deadline: Deadline) -> PollResult:
        """Commit, heartbeat and read; wait for records or for another assignment until the deadline.

        The deadline is cut to the member's heartbeat interval. A member without partitions waits for a partition, and
        then for records in it.

        Raises:
            UnknownMemberId, FencedMemberEpoch, FencedInstanceId, StaleMemberEpoch: Nothing was changed.
            NoOffsetForPartition: auto_offset_reset is none, and a partition has no valid committed offset.
            ConcurrentRequest: A later poll of the member has begun.
            ServiceUnavailable: The client has disconnected; nothing was changed.
        """
        begun = await self._begin(request, deadline.check_disconnected)
        member, page = begun.member, begun.page
        deadline.shorten_to(member.member.heartbeat_interval_ms)
        if page is not None and self._is_final(page, begun, deadline):
            page = page if begun.saved or await self._save(page, begun.poll_epoch, deadline) else None
            if page is not None:
                return page
        heartbeat_epoch = member.assignment_epoch
        while True:
            heartbeat = request.heartbeat._replace(member_epoch=member.member.member_epoch)
            if not member.reconciled and member.assignment_epoch != heartbeat_epoch:
                member = await self._coordinator.step(heartbeat, member, deadline.check_disconnected)
                heartbeat_epoch = member.assignment_epoch
                continue
            page = await self._read_or_wait(request, heartbeat, member, begun, deadline)
            if self._is_final(page, begun, deadline):
                return page
            member = page.member

    async def _begin(self, request: PollRequest, is_disconnected: IsDisconnected) -> _Begun:
        """Join if the member is not in the group, else commit and take the heartbeat."""
        if request.commits and request.join_request is None:
            return await self._commit(request, is_disconnected)
        found, page = await self._read(
            request, _find, request, checked(self._topics.find_partition, request.check_topic)
        )
        if found is None or (request.join_request is not None and found.member.join_request != request.join_request):
            return await self._join(request, found)
        heartbeat = request.heartbeat
        if heartbeat.member_epoch is None:
            heartbeat = heartbeat._replace(member_epoch=found.member.member_epoch)
            request = request._replace(heartbeat=heartbeat)
        if request.commits or _begins_poll_epoch(request, found.last_poll):
            return await self._commit(request, is_disconnected, found, page)
        member = await self._coordinator.heartbeat(heartbeat, found, is_disconnected)
        poll_epoch = found.poll_epoch if request.auto_commit else None
        return _Begun(member, found.member.assigned.keys(), poll_epoch, page if member is found else None)

    async def _join(self, request: PollRequest, found: MemberSnapshot | None) -> _Begun:
        heartbeat, join_request = request.heartbeat, request.join_request
        if join_request is None:
            raise await self._storage.read(member_not_found, heartbeat.group, heartbeat.member_id)
        member, _ = await self._coordinator.join(heartbeat.group, join_request, by_poll=True)
        if not request.auto_commit:
            return _Begun(member, (), None)
        poll_epoch = 0 if found is None else found.poll_epoch
        await self._storage.write(members.begin_poll, member.group_id, heartbeat.member_id, poll_epoch)
        return _Begun(member, (), poll_epoch + 1)

    async def _commit(
        self,
        request: PollRequest,
        is_disconnected: IsDisconnected,
        found: MemberSnapshot | None = None,
        page: PollResult | None = None,
    ) -> _Begun:
        """Commit and take the heartbeat in one transaction; save the page in it if it begins after what is committed.

        The group's lock is taken only for a heartbeat that may change more than the session.
        """
        heartbeat = request.heartbeat
        for _ in range(_ATTEMPTS):
            commits = await self._resolve_commits(request, found)
            await refuse_disconnected(is_disconnected)
            try:
                begun = await self._storage.write(_commit_for_member, request, commits, found, page)
                if isinstance(begun, _Begun):
                    self._coordinator.note_heartbeat(begun.member)
                    return begun
                owned = await self._coordinator.owned_ids(heartbeat.owned, begun)
                await refuse_disconnected(is_disconnected)
                changed, poll_epoch = await self._storage.write(_commit_for_group, request, commits, found, owned)
                self._coordinator.announce(changed, heartbeat.member_id)
                member = changed.member(heartbeat.member_id)
                self._coordinator.note_heartbeat(member)
                return _Begun(member, begun.member.assigned.keys(), poll_epoch)
            except StaleTopic:
                self._offsets.drop_topics(request.commits)
        raise topic_changes_too_often()

    async def _resolve_commits(self, request: PollRequest, found: MemberSnapshot | None) -> list[Commit]:
        """Return the explicit commits with the ids of their partitions. An unknown member is refused before them."""
        try:
            return await self._offsets.resolve(request.commits)
        except BrokerError:
            if found is None:
                await self._storage.read(_check_is_member, request.heartbeat)
            raise

    async def _read_or_wait(
        self, request: PollRequest, heartbeat: Heartbeat, known: MemberSnapshot, begun: _Begun, deadline: Deadline
    ) -> PollResult:
        """Read a page; wait until there are records, the member has changed, or the deadline is over."""
        await self._topics.load_topics_of(known.member.assigned)
        partitions = named_partitions(known.member, checked(self._topics.find_partition, request.check_topic))
        with self._signals.watch([watch_id(known.group_id), *partitions]) as watch:
            while True:
                watch.clear()
                page = await self._read(request, poll_page.read, heartbeat, partitions, request.size)
                if self._is_final(page, begun, deadline):
                    if await self._save(page, begun.poll_epoch, deadline):
                        return page
                    continue
                if _has_moved(known, page.member):
                    return page
                watch.log_end_offsets = page.log_end_offsets
                await deadline.wait(watch)

    async def _read(
        self, request: PollRequest, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a read that may return a page; a large one in its turn."""
        if request.size.max_bytes <= LARGE_PAGE_BYTES:
            return await self._storage.read(function, *args, **kwargs)
        return await self._page_reads.read(request.size.max_bytes, None, function, *args, **kwargs)

    def _is_final(self, page: PollResult, begun: _Begun, deadline: Deadline) -> bool:
        """Return whether a page answers the poll: it has something, it may not wait, or the assignment has changed."""
        if page.ranges or deadline.expired or self._signals.closed:
            return True
        before = begun.assigned_before
        return bool(before) and page.member.member.assigned.keys() != set(before)

    async def _save(self, page: PollResult, poll_epoch: int | None, deadline: Deadline) -> bool:
        """Save what a page returns, for the next poll to commit it. Return False if the member has changed meanwhile.

        Raises:
            ConcurrentRequest: A later poll has begun; the client may have given up on this one.
        """
        if not page.ranges or poll_epoch is None or deadline.disconnected:
            return True
        if await self._storage.write(members.save_last_poll, page.member, poll_epoch, _offsets(page.ranges)):
            return True
        current = await self._storage.read(members.find_poll_epoch, page.member)
        if current is not None and current != poll_epoch:
            raise _later_poll()
        return False


def _find(
    tx: Tx, request: PollRequest, find_partition: FindPartition
) -> tuple[MemberSnapshot | None, PollResult | None]:
    """Return the member and, if its heartbeat changes no assignment, its page in the same snapshot."""
    heartbeat, join_request = request.heartbeat, request.join_request
    found = members.find(tx, heartbeat.group, heartbeat.member_id)
    if found is None or request.commits or not found.reconciled:
        return found, None
    member = found.member
    if (join_request is not None and member.join_request != join_request) or (
        heartbeat.member_epoch not in {None, member.member_epoch}
    ):
        return found, None
    partitions = named_partitions(member, find_partition)
    if len(partitions) < len(member.assigned):  # a topic has to be loaded first
        return found, None
    try:
        return found, poll_page.read_for(tx, found, partitions, request.size, commits_last_poll=request.auto_commit)
    except NoOffsetForPartition:  # refused by the next read, after the heartbeat and the commits
        return found, None


def _check_is_member(tx: Tx, heartbeat: Heartbeat) -> None:
    if members.find(tx, heartbeat.group, heartbeat.member_id) is None:
        raise member_not_found(tx, heartbeat.group, heartbeat.member_id)


def _commit_for_member(
    tx: Tx, request: PollRequest, commits: Sequence[Commit], found: MemberSnapshot | None, page: PollResult | None
) -> _Begun | MemberSnapshot:
    """Commit and take the heartbeat under the member's lock.

    Args:
        tx: A transaction.
        request: The poll.
        commits: Its explicit commits.
        found: The member as it was last read, or None if it was not read yet.
        page: The page that was read with it.

    Returns:
        The poll as it begins; or the member alone, and nothing is written, if the heartbeat may change more than the
        session: it needs the group's lock.
    """
    heartbeat = request.heartbeat
    locked = members.load(tx, heartbeat.group, heartbeat.member_id)
    if locked is None:
        raise member_not_found(tx, heartbeat.group, heartbeat.member_id)
    if not locked.reconciled or locked.member.member_epoch != heartbeat.member_epoch:
        return locked
    _commit_explicit(tx, locked.group_id, locked.member, heartbeat, commits)
    poll_epoch, saved = _begin_poll(tx, request, locked.group_id, locked.member, locked.last_poll, found, page)
    if not locked.member.session_is_fresh(locked.now_ms):
        members.renew_session(tx, locked)
    assigned_before = (locked if found is None else found).member.assigned.keys()
    return _Begun(locked, assigned_before, poll_epoch, page if saved else None, saved)


def _commit_for_group(
    tx: Tx,
    request: PollRequest,
    commits: Sequence[Commit],
    found: MemberSnapshot | None,
    owned: Collection[Partition] | None,
) -> tuple[GroupChange, int | None]:
    """Commit and take the heartbeat under the group's lock. Return the change and the poll epoch."""
    heartbeat = request.heartbeat
    before, now_ms = group_transactions.load(tx, heartbeat.group)
    stepped = group_transactions.with_heartbeat(before, heartbeat, owned, now_ms)
    member = before.members[heartbeat.member_id]
    _commit_explicit(tx, before.group_id, member, heartbeat, commits)
    last_poll = members.find_last_poll(tx, before.group_id, heartbeat.member_id)
    poll_epoch, _ = _begin_poll(tx, request, before.group_id, member, last_poll, found, None)
    return group_transactions.save(
        tx, before, group_transactions.assign_if_due(tx, stepped, now_ms), now_ms
    ), poll_epoch


def _commit_explicit(tx: Tx, group_id: int, member: Member, heartbeat: Heartbeat, commits: Sequence[Commit]) -> None:
    if commits and heartbeat.member_epoch is not None:
        commit_offsets(tx, group_id, CommittingMember(member, heartbeat.member_epoch), commits)


def _begin_poll(
    tx: Tx,
    request: PollRequest,
    group_id: int,
    member: Member,
    last_poll: LastPoll | None,
    found: MemberSnapshot | None,
    page: PollResult | None,
) -> tuple[int | None, bool]:
    """Commit or discard what the last poll of a locked member returned, and begin a new poll epoch.

    Returns:
        The poll epoch under which this poll saves what it returns, or None; and whether its page is saved already.

    Raises:
        ConcurrentRequest: Another poll has begun since the member was read.
    """
    current = 0 if last_poll is None else last_poll.poll_epoch
    if found is not None and found.poll_epoch != current:
        raise _later_poll()
    if not _begins_poll_epoch(request, last_poll):
        return current if request.auto_commit else None, False
    committed = commit_last_poll(tx, group_id, member, last_poll) if request.auto_commit else {}
    saves = page is not None and page.commits == committed
    next_poll = LastPoll(current + 1, member.member_epoch, _offsets(page.ranges) if page is not None and saves else {})
    members.store_last_poll(tx, group_id, member.join_request.member_id, next_poll)
    return current + 1, saves


def _begins_poll_epoch(request: PollRequest, last_poll: LastPoll | None) -> bool:
    """Return whether a poll commits or discards what the last one returned; earlier polls then return nothing.

    The first poll with auto_commit also begins a poll epoch: from then on, `last_poll` is set, and polls without
    auto_commit discard it.
    """
    if request.auto_commit:
        return last_poll is None or bool(last_poll.ranges)
    return last_poll is not None


def _offsets(ranges: dict[Partition, PolledRange]) -> dict[Partition, tuple[int, int]]:
    return {partition: (one.from_offset, one.offset) for partition, one in ranges.items()}


def _later_poll() -> ConcurrentRequest:
    return ConcurrentRequest("a later poll of this member has begun; poll one at a time, each after the last's answer")


def _has_moved(known: MemberSnapshot, now: MemberSnapshot) -> bool:
    """Return whether a member has other partitions to read, or has to reconcile."""
    reconciles = not now.reconciled and now.assignment_epoch != known.assignment_epoch
    return reconciles or now.member.assigned.keys() != known.member.assigned.keys()
