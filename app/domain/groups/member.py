"""A member of a consumer group: what it joins with, what it holds, and what its epoch allows. Pure.

Source: KIP-848; Kafka's `ConsumerGroupMember`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
from msgspec.structs import force_setattr

from app.domain.groups.assignor import Partition
from app.errors.groups import FencedMemberEpoch

MAX_HEARTBEAT_INTERVAL_MS = 5_000

_MIN_AMPLE_MS = 1_000

AssignorName = Literal["uniform", "range"]
MemberState = Literal["STABLE", "UNREVOKED_PARTITIONS", "UNRELEASED_PARTITIONS"]


class Subscription(msgspec.Struct, frozen=True):
    """The topics that a member reads: by name, sorted and unique, whether they exist or not; and by a glob."""

    topics: tuple[str, ...] = ()
    topic_pattern: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "topics", tuple(sorted(set(self.topics))))

    def matches(self, name: str) -> bool:
        """Return whether it includes a topic. The glob does not match names that begin with __."""
        if name in self.topics:
            return True
        pattern = self.topic_pattern
        return pattern is not None and not name.startswith("__") and fnmatchcase(name, pattern)


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The settings with which a member joins.

    Attributes:
        instance_id: Name of a static member, or None.
    """

    member_id: str
    subscription: Subscription
    client_id: str = ""
    instance_id: str | None = None
    auto_offset_reset: str = "earliest"
    assignor: AssignorName = "uniform"
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group.

    Attributes:
        replaced_member_id: The member that had its instance_id before, or None.
        previous_epoch: Its epoch before, if `member_epoch` rose by reconciliation; else -1.
        assigned: Partitions that it may read, each with the epoch at which it was assigned.
        revoking: Partitions that it must give up and has not yet confirmed, likewise.
        target: Its target assignment.
        deadline_ms: End of its session.
        revoke_deadline_ms: Time by which it must have confirmed the revocation, or None.
    """

    join_request: JoinRequest
    replaced_member_id: str | None = None
    member_epoch: int
    previous_epoch: int = -1
    assigned: dict[Partition, int] = msgspec.field(default_factory=dict)
    revoking: dict[Partition, int] = msgspec.field(default_factory=dict)
    target: frozenset[Partition] = frozenset()
    deadline_ms: int
    revoke_deadline_ms: int | None = None
    joined_at_ms: int

    def state(self, assignment_epoch: int) -> MemberState:
        """Return its state: `UNREVOKED_PARTITIONS` has to revoke, `UNRELEASED_PARTITIONS` waits for other members."""
        if self.revoking:
            return "UNREVOKED_PARTITIONS"
        arrived = self.member_epoch == assignment_epoch and self.assigned.keys() == self.target
        return "STABLE" if arrived else "UNRELEASED_PARTITIONS"

    def is_reconciled(self, assignment_epoch: int) -> bool:
        """Return whether its heartbeat changes only its session: it may still wait for partitions of others."""
        return self.member_epoch >= assignment_epoch and not self.revoking and self.assigned.keys() <= self.target

    @property
    def heartbeat_interval_ms(self) -> int:
        """Recommended interval of its heartbeats."""
        return min(MAX_HEARTBEAT_INTERVAL_MS, self.join_request.session_timeout_ms // 6)

    def session_is_ample(self, now_ms: int) -> bool:
        """Return whether two heartbeats and at least a second remain, so that its renewal need not be awaited."""
        return self.deadline_ms - now_ms >= max(self.join_request.session_timeout_ms // 3, _MIN_AMPLE_MS)

    def session_is_fresh(self, now_ms: int) -> bool:
        """Return whether two thirds of the session remain, so that a heartbeat need not be written."""
        return 3 * (self.deadline_ms - now_ms) >= 2 * self.join_request.session_timeout_ms


def check_epoch(member: Member, member_epoch: int, owned: Collection[Partition] | None) -> None:
    """Refuse a heartbeat with an epoch other than the member's.

    The previous epoch is accepted if the epoch rose by reconciliation and the member owns only partitions that it
    holds: the answer with the new epoch was lost.

    Raises:
        FencedMemberEpoch: With the member's epoch.
    """
    if member_epoch == member.member_epoch:
        return
    held = member.assigned.keys() | member.revoking.keys()
    if member_epoch < 0 or member_epoch != member.previous_epoch or not held.issuperset(owned or ()):
        raise _fenced(member, member_epoch)


def check_commit(member: Member, member_epoch: int, partitions: Iterable[Partition]) -> list[Partition]:
    """Return the partitions that a member may not commit at an epoch: not held, or assigned at a later epoch.

    Raises:
        FencedMemberEpoch: The epoch is above the member's.
    """
    if member_epoch > member.member_epoch:
        raise _fenced(member, member_epoch)
    held = member.assigned | member.revoking
    return [p for p in partitions if p not in held or member_epoch < held[p]]


def _fenced(member: Member, member_epoch: int) -> FencedMemberEpoch:
    return FencedMemberEpoch(
        f"member_epoch is {member.member_epoch}, not {member_epoch}; drop all partitions and join again",
        member_epoch=member.member_epoch,
    )
