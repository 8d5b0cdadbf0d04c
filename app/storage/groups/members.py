"""Single members of groups: found or locked without their group, their sessions, and what their last poll returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, bindparam, select, tuple_, update

from app.domain.groups.assignor import Partition
from app.domain.groups.group import Group
from app.domain.groups.member import JoinRequest, Member
from app.storage.db.clock import now_ms
from app.storage.db.statements import CompiledStatement
from app.storage.db.tables import consumer_groups, group_members
from app.storage.db.transaction import Tx

_groups, _members = consumer_groups.c, group_members.c


class _MemberDetails(msgspec.Struct, frozen=True, array_like=True):
    join_request: JoinRequest
    replaced_member_id: str | None
    previous_epoch: int
    assigned: dict[Partition, int]
    revoking: dict[Partition, int]
    target: frozenset[Partition]
    joined_at_ms: int


class LastPoll(msgspec.Struct, frozen=True, array_like=True):
    """What the last poll of a member returned, to be committed by the next.

    Attributes:
        poll_epoch: Rises when a poll begins that commits or discards what the last one returned. A poll of an earlier
            poll epoch returns nothing: its client may have given up on it.
        member_epoch: The member's epoch at that poll.
        ranges: By partition: the committed offset before the records, and the offset after the last record.
    """

    poll_epoch: int = 0
    member_epoch: int = 0
    ranges: dict[Partition, tuple[int, int]] = {}

    def merged_with(self, member_epoch: int, ranges: Mapping[Partition, tuple[int, int]]) -> LastPoll:
        """Return what this poll and another one of its poll epoch both returned.

        The client may have received either answer, so that only these records may be committed. Partitions that only
        one of the polls returned stay, with an empty range: something was saved in this poll epoch.
        """
        if not self.ranges:
            return LastPoll(self.poll_epoch, member_epoch, dict(ranges))
        merged = {partition: (start, start) for partition, (start, _) in {**ranges, **self.ranges}.items()}
        for partition, (start, end) in ranges.items():
            saved_start, saved_end = self.ranges.get(partition, (start, start))
            if saved_start == start:
                merged[partition] = (start, min(end, saved_end))
        return LastPoll(self.poll_epoch, min(self.member_epoch, member_epoch), merged)


class SessionKey(NamedTuple):
    """A member at an epoch: a session lasts at most as long as the epoch."""

    group_id: int
    member_id: str
    member_epoch: int


class Renewal(NamedTuple):
    """The result of renewing sessions.

    Attributes:
        renewed: Sessions that were renewed, of members at their group's assignment epoch; all others must reconcile.
        locked: Sessions that were not renewed, since another transaction holds the member's lock.
    """

    renewed: set[SessionKey]
    locked: set[SessionKey]


class MemberSnapshot(NamedTuple):
    """A member and the epochs of its group, as of one read.

    Attributes:
        now_ms: Time of the database at the read.
        last_poll: What its last poll returned; None if it has never polled with auto_commit.
    """

    group_id: int
    group_epoch: int
    assignment_epoch: int
    member: Member
    now_ms: int
    last_poll: LastPoll | None = None

    @property
    def poll_epoch(self) -> int:
        """The current epoch of its polls."""
        return 0 if self.last_poll is None else self.last_poll.poll_epoch

    @property
    def session_key(self) -> SessionKey:
        """The session that its heartbeat renews."""
        return SessionKey(self.group_id, self.member.join_request.member_id, self.member.member_epoch)

    @property
    def full_session_ms(self) -> int:
        """End of its session after a heartbeat at `now_ms`."""
        return self.now_ms + self.member.join_request.session_timeout_ms

    @property
    def reconciled(self) -> bool:
        """Whether its heartbeat changes only its session."""
        return self.member.is_reconciled(self.assignment_epoch)


_encode = msgspec.msgpack.Encoder().encode
_last_poll = msgspec.msgpack.Decoder(LastPoll)


@lru_cache(maxsize=10_000)
def _member_details(encoded: bytes) -> _MemberDetails:
    return _member_decoder.decode(encoded)


_member_decoder = msgspec.msgpack.Decoder(_MemberDetails)

columns = (
    _members.member_epoch,
    _members.deadline_ms,
    _members.revoke_deadline_ms,
    _members.details,
)
_snapshot = (
    select(
        _groups.group_id,
        _groups.group_epoch,
        _groups.assignment_epoch,
        now_ms(),
        _members.last_poll,
        *columns,
    )
    .join(group_members, _members.group_id == _groups.group_id)
    .where(_groups.name == bindparam("name"), _members.member_id == bindparam("member_id"))
)
_SNAPSHOT = CompiledStatement(_snapshot)
_SNAPSHOT_LOCKED = CompiledStatement(_snapshot.with_for_update(of=group_members))
_ids = tuple_(_members.group_id, _members.member_id, _members.member_epoch)
_SESSIONS = (
    select(_members.group_id, _members.member_id, _members.member_epoch, _groups.assignment_epoch)
    .join(consumer_groups, _groups.group_id == _members.group_id)
    .where(_ids.in_(bindparam("ids", expanding=True)))
    .order_by(_members.group_id, _members.member_id)
)
_LOCK_SESSIONS = _SESSIONS.with_for_update(of=group_members, skip_locked=True)
_of_member = (_members.group_id == bindparam("id"), _members.member_id == bindparam("name"))
_deadline_ms = now_ms() - bindparam("ago_ms", type_=BigInteger()) + _members.session_timeout_ms
_RENEW = update(group_members).where(*_of_member, _members.deadline_ms < _deadline_ms).values(deadline_ms=_deadline_ms)
_RENEW_ONE = update(group_members).where(*_of_member).values(deadline_ms=now_ms() + _members.session_timeout_ms)
_LAST_POLL = select(_members.member_epoch, _members.last_poll).where(*_of_member)
_LAST_POLL_LOCKED = _LAST_POLL.with_for_update()
_SAVE_LAST_POLL = update(group_members).where(*_of_member).values(last_poll=bindparam("new_last_poll"))


def find(tx: Tx, name: str, member_id: str) -> MemberSnapshot | None:
    """Return a member without locking it, or None."""
    return _snapshot_of(_SNAPSHOT.rows(tx, {"name": name, "member_id": member_id}))


def load(tx: Tx, name: str, member_id: str) -> MemberSnapshot | None:
    """Lock a member until the transaction ends, which also blocks every step of its group. Return it, or None."""
    return _snapshot_of(_SNAPSHOT_LOCKED.rows(tx, {"name": name, "member_id": member_id}))


def renew_sessions(tx: Tx, heartbeat_ages_ms: Mapping[SessionKey, int]) -> Renewal:
    """Write the last heartbeats of members; members that another transaction has locked are skipped.

    Args:
        tx: A transaction of its own.
        heartbeat_ages_ms: How long ago each heartbeat was.
    """
    sessions = sorted(heartbeat_ages_ms)
    found = {
        SessionKey(group_id, member_id, member_epoch): assignment_epoch
        for group_id, member_id, member_epoch, assignment_epoch in tx.connection.execute(
            _LOCK_SESSIONS, {"ids": sessions}
        )
    }
    if found:
        tx.connection.execute(
            _RENEW,
            [{"id": one.group_id, "name": one.member_id, "ago_ms": heartbeat_ages_ms[one]} for one in found],
        )
    missed = [session for session in sessions if session not in found]
    locked = {
        SessionKey(group_id, member_id, member_epoch)
        for group_id, member_id, member_epoch, _ in (
            tx.connection.execute(_SESSIONS, {"ids": missed}) if missed else ()
        )
    }
    renewed = {session for session, assignment_epoch in found.items() if session.member_epoch >= assignment_epoch}
    return Renewal(renewed, locked)


def renew_session(tx: Tx, found: MemberSnapshot) -> None:
    """Give a locked member a full session."""
    tx.connection.execute(_RENEW_ONE, {"id": found.group_id, "name": found.member.join_request.member_id})


def save_last_poll(tx: Tx, found: MemberSnapshot, poll_epoch: int, ranges: Mapping[Partition, tuple[int, int]]) -> bool:
    """Save what a poll returns. Return False if the member is at another epoch, or a later poll has begun.

    If another poll of the same poll epoch has saved before, only what both return is saved.
    """
    epoch, name = found.member.member_epoch, found.member.join_request.member_id
    row = tx.connection.execute(_LAST_POLL_LOCKED, {"id": found.group_id, "name": name}).one_or_none()
    if row is None or row.member_epoch != epoch or (saved := _decoded(row.last_poll)).poll_epoch != poll_epoch:
        return False
    store_last_poll(tx, found.group_id, name, saved.merged_with(epoch, ranges))
    return True


def find_poll_epoch(tx: Tx, found: MemberSnapshot) -> int | None:
    """Return the poll epoch of a member now, or None if the member is gone."""
    row = tx.connection.execute(
        _LAST_POLL, {"id": found.group_id, "name": found.member.join_request.member_id}
    ).one_or_none()
    return None if row is None else _decoded(row.last_poll).poll_epoch


def begin_poll(tx: Tx, group_id: int, member_id: str, poll_epoch: int) -> LastPoll | None:
    """Raise the poll epoch of a member and discard its last poll. Return it; None if another poll raised the epoch."""
    row = tx.connection.execute(_LAST_POLL_LOCKED, {"id": group_id, "name": member_id}).one_or_none()
    if row is None or (last_poll := _decoded(row.last_poll)).poll_epoch != poll_epoch:
        return None
    store_last_poll(tx, group_id, member_id, LastPoll(poll_epoch + 1))
    return last_poll


def find_last_poll(tx: Tx, group_id: int, member_id: str) -> LastPoll | None:
    """Return what the last poll of a locked member returned, or None."""
    row = tx.connection.execute(_LAST_POLL, {"id": group_id, "name": member_id}).one_or_none()
    return None if row is None or row.last_poll is None else _last_poll.decode(row.last_poll)


def store_last_poll(tx: Tx, group_id: int, member_id: str, last_poll: LastPoll) -> None:
    """Store what a poll of a locked member returns."""
    tx.connection.execute(_SAVE_LAST_POLL, {"id": group_id, "name": member_id, "new_last_poll": _encode(last_poll)})


def _decoded(encoded: bytes | None) -> LastPoll:
    return LastPoll() if encoded is None else _last_poll.decode(encoded)


def _snapshot_of(rows: Sequence[tuple[Any, ...]]) -> MemberSnapshot | None:
    if not rows:
        return None
    group_id, group_epoch, assignment_epoch, at_ms, last_poll, *member = rows[0]
    decoded = None if last_poll is None else _last_poll.decode(last_poll)
    return MemberSnapshot(group_id, group_epoch, assignment_epoch, decode(*member), at_ms, decoded)


def decode(member_epoch: int, deadline_ms: int, revoke_deadline_ms: int | None, encoded: bytes) -> Member:
    """Return a member from its `columns`."""
    details = _member_details(encoded)
    return Member(
        join_request=details.join_request,
        replaced_member_id=details.replaced_member_id,
        member_epoch=member_epoch,
        previous_epoch=details.previous_epoch,
        assigned=details.assigned,
        revoking=details.revoking,
        target=details.target,
        deadline_ms=deadline_ms,
        revoke_deadline_ms=revoke_deadline_ms,
        joined_at_ms=details.joined_at_ms,
    )


def row(group: Group, member: Member) -> dict[str, object]:
    """Return a member as it is stored."""
    return {
        "group_id": group.group_id,
        "member_id": member.join_request.member_id,
        "member_epoch": member.member_epoch,
        "reconciled": int(not member.revoking and member.assigned.keys() == member.target),
        "session_timeout_ms": member.join_request.session_timeout_ms,
        "deadline_ms": member.deadline_ms,
        "revoke_deadline_ms": member.revoke_deadline_ms,
        "details": _encode(
            _MemberDetails(
                member.join_request,
                member.replaced_member_id,
                member.previous_epoch,
                member.assigned,
                member.revoking,
                member.target,
                member.joined_at_ms,
            )
        ),
    }
