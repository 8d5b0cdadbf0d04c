"""Members of consumer groups: join, heartbeat, poll, leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_wire import (
    MOST_OFFSETS,
    AssignmentAnswer,
    CommittedOffset,
    Epoch,
    Membership,
    TopicPartitions,
    answer_of,
    assignment_of,
    check_group,
    check_member,
    commits_of,
    join_request_of,
    new_member_id,
    owned_of,
)
from app.api.http.call import JSON, Call, Reply
from app.api.http.wire import Description, WireRoute, check_bound, describe
from app.api.log import record_encoding
from app.api.log.record_encoding import PolledRecord
from app.broker.groups.coordinator import Heartbeat
from app.broker.groups.poller import PollRequest, PollResult
from app.broker.log.page_reader import PageSize
from app.domain.groups import group as rules
from app.domain.groups.group import Member, MemberState
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupMaxSizeReached,
    InvalidGroupId,
    NoOffsetForPartition,
    OffsetConflict,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.http import InvalidRequest
from app.errors.log import InvalidTopicName

router = APIRouter(prefix="/v1/groups/{group}/members", tags=["groups"], route_class=WireRoute)
details = APIRouter(prefix="/v1/groups/{group}/members", tags=["groups"], route_class=WireRoute)

_MAX_RECORDS = 500
_MAX_WAIT_MS = 1_000
_FENCED = (UnknownMemberId, FencedMemberEpoch, FencedInstanceId)


class JoinBody(Membership, forbid_unknown_fields=True, kw_only=True):
    """Who joins, and what it wants to read."""

    member_id: Annotated[str | None, Meta(description="A name of the client's choice, or null for a new one.")] = None


class HeartbeatBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A heartbeat; without `owned` it confirms nothing."""

    member_epoch: Epoch
    owned: Annotated[
        list[TopicPartitions] | None, Meta(description="All partitions that the member still works on.")
    ] = None


class PollBody(Membership, forbid_unknown_fields=True, kw_only=True):
    """One turn of a consumer: with `member_epoch` as a member, or with `topics` joining if need be."""

    member_epoch: Annotated[Epoch | None, Meta(description="From the last answer; without it send topics.")] = None
    owned: Annotated[
        list[TopicPartitions] | None,
        Meta(description="All partitions that the member still works on; null says that it works on none."),
    ] = None
    commit: Annotated[
        list[CommittedOffset],
        Meta(max_length=MOST_OFFSETS, description="Offsets to commit first: next_offsets of the last poll."),
    ] = msgspec.field(default_factory=list)
    auto_commit: Annotated[bool, Meta(description="Commit first what this member's last poll returned.")] = False
    max_records: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="500 if not given, or what the server allows.")
    ] = None
    max_bytes: Annotated[int, Meta(ge=1, le=33_554_432)] = 1_048_576
    max_wait_ms: Annotated[
        Annotated[int, Meta(ge=0, le=60_000)] | None,
        Meta(description="Longest wait for a record, 1000 if not given; at most heartbeat_interval_ms counts."),
    ] = None


class NextOffset(msgspec.Struct):
    """Where the group stands in a partition, and where once the records of this poll are committed."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class Skipped(msgspec.Struct):
    """Offsets that retention removed before the group had read them."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class PollAnswer(msgspec.Struct, omit_defaults=True):
    """Records of the assigned partitions, and how the member stands. Send `next_offsets` as the next `commit`.

    `missing_topics` names those of the request's `topics` that do not exist; they are assigned once they do.
    """

    member_epoch: int
    assignment: list[TopicPartitions]
    state: MemberState
    heartbeat_interval_ms: int
    records: list[PolledRecord]
    next_offsets: list[NextOffset]
    skipped: list[Skipped] = []
    missing_topics: list[str] = []


class MemberAnswer(msgspec.Struct):
    """A member of a group.

    `last_heartbeat_ms` is the last beat that was written: one in each third of the session is.
    """

    member_id: str
    client_id: str
    instance_id: str | None
    member_epoch: int
    state: MemberState
    topics: list[str]
    topic_pattern: str | None
    assignment: list[TopicPartitions]
    revoking: list[TopicPartitions]
    joined_at_ms: int
    last_heartbeat_ms: int
    session_timeout_ms: int


@router.post("")
@describe(
    Description(
        answers={201: AssignmentAnswer, 200: AssignmentAnswer},
        refusals=(InvalidGroupId, InvalidTopicName, GroupMaxSizeReached),
        examples={"group": "billing", "body": {"topics": ["orders"], "member_id": "alice"}},
    )
)
async def join_group(call: Call, group: str, body: JoinBody) -> Reply:
    """Join a consumer group.

    201 with an epoch, and with the partitions that are free to be given. 200 for a member that is there already: it
    keeps its assignment, gets a new epoch, and whoever used the epoch before is fenced. Beat before
    `session_timeout_ms` is over, best every `heartbeat_interval_ms`.
    """
    check_group(group)
    join_request = join_request_of(new_member_id() if body.member_id is None else body.member_id, body)
    missing = await call.services.topics.missing(join_request.subscription.topics)
    standing, made = await call.services.groups.join(group, join_request)
    answer = await answer_of(call, standing)
    answer.missing_topics = missing
    return Reply.of(answer, 201 if made else 200)


@router.post("/{member_id}/heartbeat")
@describe(
    Description(
        answers={200: AssignmentAnswer},
        refusals=_FENCED,
        examples={"group": "billing", "member_id": "alice", "body": {"member_epoch": 1}},
        hot=True,
    )
)
async def heartbeat(call: Call, group: str, member_id: str, body: HeartbeatBody) -> Reply:
    """Say that a member lives, confirm what it gave up, and learn what it may read.

    Where `assignment` shrank: stop reading those partitions, commit, and beat with `owned`; only then are they
    given to another.
    """
    check_group(group)
    check_member(member_id)
    heartbeat = Heartbeat(group, member_id, body.member_epoch, owned_of(body.owned))
    standing = await call.services.groups.heartbeat(heartbeat, gone=call.is_disconnected)
    return Reply.of(await answer_of(call, standing))


@router.post("/{member_id}/poll")
@describe(
    Description(
        answers={200: PollAnswer},
        refusals=(
            *_FENCED,
            StaleMemberEpoch,
            OffsetConflict,
            NoOffsetForPartition,
            CommitAboveLogEnd,
            GroupMaxSizeReached,
        ),
        examples={
            "group": "billing",
            "member_id": "alice",
            "body": {"topics": ["orders"], "auto_commit": True, "max_wait_ms": 1000},
        },
        hot=True,
    )
)
async def poll(call: Call, group: str, member_id: str, body: PollBody) -> Reply:
    """Commit, beat and read in one call: the whole loop of a consumer.

    With `topics` a member that is not in the group joins first. With `auto_commit` the records of the last poll are
    committed first, so the same call again and again is a consumer that processes each record at least once. After
    an answer that was lost, poll once with `auto_commit` false: it returns the same records again.
    """
    check_group(group)
    services = call.services
    max_wait_ms = min(_MAX_WAIT_MS, services.max_wait_ms) if body.max_wait_ms is None else body.max_wait_ms
    check_bound("max_wait_ms", max_wait_ms, services.max_wait_ms)
    request = _poll_request(group, member_id, body, services.max_records)
    missing = await services.topics.missing(request.join_request.subscription.topics if request.join_request else ())
    with call.waiting(max_wait_ms) as deadline:
        polled = await services.poller.poll(request, deadline)
    return await _polled(call, polled, missing)


@details.get("/{member_id}")
@describe(
    Description(
        answers={200: MemberAnswer},
        refusals=(GroupIdNotFound, UnknownMemberId, FencedInstanceId),
        examples={"group": "billing", "member_id": "alice"},
    )
)
async def get_member(call: Call, group: str, member_id: str) -> Reply:
    """Describe a member: its epoch, what it holds, its last heartbeat."""
    check_group(group)
    check_member(member_id)
    found = await call.services.groups.get(group)
    return Reply.of(await member_answer(call, rules.find(found, member_id), found.assignment_epoch))


@details.delete("/{member_id}")
@describe(Description(answers={204: None}, refusals=_FENCED[::2], examples={"group": "billing", "member_id": "alice"}))
async def leave_group(call: Call, group: str, member_id: str) -> Reply:
    """Leave a group; its partitions are free at once."""
    check_group(group)
    check_member(member_id)
    await call.services.groups.leave(group, member_id)
    return Reply(b"", 204)


async def member_answer(call: Call, member: Member, assignment_epoch: int) -> MemberAnswer:
    """Return a member as it is shown."""
    join_request = member.join_request
    return MemberAnswer(
        join_request.member_id,
        join_request.client_id,
        join_request.instance_id,
        member.member_epoch,
        member.state(assignment_epoch),
        list(join_request.subscription.topics),
        join_request.subscription.topic_pattern,
        await assignment_of(call, member.assigned),
        await assignment_of(call, member.revoking),
        member.joined_at_ms,
        member.deadline_ms - join_request.session_timeout_ms,
        join_request.session_timeout_ms,
    )


def _poll_request(group: str, member_id: str, body: PollBody, bound: int) -> PollRequest:
    check_member(member_id)
    wants = bool(body.topics) or body.topic_pattern is not None
    if body.member_epoch is not None and wants:
        raise _conflict("member_epoch", "send member_epoch, or topics to join if need be, not both")
    if body.member_epoch is None and not wants:
        raise _conflict("topics", "send topics to join if need be, or the member_epoch of the last answer")
    if body.member_epoch is None and body.commit:
        raise _conflict(
            "commit", "commit goes with the member_epoch at which the records were read; or use auto_commit"
        )
    max_records = min(_MAX_RECORDS, bound) if body.max_records is None else body.max_records
    check_bound("max_records", max_records, bound)
    owned = owned_of(body.owned)
    return PollRequest(
        Heartbeat(group, member_id, body.member_epoch, owned, released=owned is None),
        join_request_of(member_id, body) if wants else None,
        commits_of(body.commit),
        body.auto_commit,
        PageSize(max_records, body.max_bytes, 1),
    )


def _conflict(field: str, detail: str) -> InvalidRequest:
    return InvalidRequest.at(None, field, detail, message=detail)


async def _polled(call: Call, polled: PollResult, missing: Iterable[str]) -> Reply:
    member = polled.standing.member
    assignment = await assignment_of(call, member.assigned)
    assigned = {each.topic for each in assignment}
    answer = PollAnswer(
        member.member_epoch,
        assignment,
        member.state(polled.standing.assignment_epoch),
        member.heartbeat_interval_ms,
        [record_encoding.topic_record_out(topic, partition, record) for topic, partition, record in polled.records],
        [NextOffset(*span) for span in polled.spans.values()],
        [Skipped(*span) for span in polled.skipped],
        [name for name in missing if name not in assigned and call.services.topics.known(name) is None],
    )
    body, headers = await record_encoding.compressed(
        record_encoding.encode(answer) + b"\n", call.header(b"accept-encoding")
    )
    return Reply(body, 200, JSON, headers)
