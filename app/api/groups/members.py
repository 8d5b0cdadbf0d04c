"""Members of consumer groups: join, heartbeat, describe, leave."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_structs import (
    AssignmentAnswer,
    Epoch,
    Membership,
    TopicPartitions,
    assignment_answer,
    assignment_of,
    check_group,
    check_member,
    join_request_of,
    new_member_id,
    owned_of,
    readable_join_request,
    timeout_warnings,
)
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.groups.group_transactions import Heartbeat
from app.domain.access.permission import on
from app.domain.groups.group import find_member
from app.domain.groups.member import Member, MemberState
from app.errors.groups import (
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupMaxSizeReached,
    InvalidGroupId,
    UnknownMemberId,
)
from app.errors.log import InvalidTopicName

router = APIRouter(prefix="/v1/groups/{group}/members", tags=["members"], route_class=OperationRoute)
details = APIRouter(prefix="/v1/groups/{group}/members", tags=["groups"], route_class=OperationRoute)

FENCED = (UnknownMemberId, FencedMemberEpoch, FencedInstanceId)


class JoinBody(Membership, forbid_unknown_fields=True, kw_only=True):
    """A member that joins, and the topics that it reads."""

    member_id: Annotated[
        str | None, Meta(description="A name that the client chooses, or null for a generated one.")
    ] = None


class HeartbeatBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A heartbeat; without `owned` it confirms no revocation."""

    member_epoch: Epoch
    owned: Annotated[
        list[TopicPartitions] | None, Meta(description="All partitions that the member still works on.")
    ] = None


class MemberAnswer(msgspec.Struct):
    """A member of a group.

    `last_heartbeat_ms` is the last heartbeat that was written: at least one in each third of the session.
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
        permission=on("group", "read"),
        answers={201: AssignmentAnswer, 200: AssignmentAnswer},
        errors=(InvalidGroupId, InvalidTopicName, GroupMaxSizeReached),
        examples={"group": "billing", "body": {"topics": ["orders"], "member_id": "alice"}},
    )
)
async def join_group(call: Call, group: str, body: JoinBody) -> Reply:
    """Join a consumer group.

    201 with an epoch, and with the partitions that are free to be assigned. 200 for a member that is already in the
    group: it keeps its assignment and gets a new epoch, and the client with the old epoch is fenced. Send a heartbeat
    before `session_timeout_ms` is over, best every `heartbeat_interval_ms`.
    """
    check_group(group)
    join_request = join_request_of(new_member_id() if body.member_id is None else body.member_id, body)
    join_request = await readable_join_request(call, join_request)
    missing = await call.services.topics.missing(join_request.subscription.topics)
    member, created = await call.services.groups.join(group, join_request)
    answer = await assignment_answer(call, member)
    answer.missing_topics = missing
    answer.warnings = timeout_warnings(body)
    return Reply.of(answer, 201 if created else 200)


@router.post("/{member_id}/heartbeat")
@describe(
    Description(
        permission=on("group", "read"),
        answers={200: AssignmentAnswer},
        errors=FENCED,
        examples={"group": "billing", "member_id": "alice", "body": {"member_epoch": 1}},
        hot=True,
    )
)
async def heartbeat(call: Call, group: str, member_id: str, body: HeartbeatBody) -> Reply:
    """Renew a member's session, confirm revoked partitions, and return its assignment.

    When `assignment` has shrunk, stop reading the missing partitions, commit, and send `owned` with the next heartbeat;
    only then are they assigned to another member.
    """
    check_group(group)
    check_member(member_id)
    heartbeat = Heartbeat(group, member_id, body.member_epoch, owned_of(body.owned))
    member = await call.services.groups.heartbeat(heartbeat, is_disconnected=call.is_disconnected)
    return Reply.of(await assignment_answer(call, member))


@details.get("/{member_id}")
@describe(
    Description(
        permission=on("group", "describe"),
        answers={200: MemberAnswer},
        errors=(GroupIdNotFound, UnknownMemberId, FencedInstanceId),
        examples={"group": "billing", "member_id": "alice"},
    )
)
async def get_member(call: Call, group: str, member_id: str) -> Reply:
    """Describe a member: its epoch, its partitions, its last heartbeat.

    `assignment` has the partitions that it may read, and `revoking` those that it must still give up.
    """
    check_group(group)
    check_member(member_id)
    found = await call.services.groups.get(group)
    return Reply.of(await member_answer(call, find_member(found, member_id), found.assignment_epoch))


@details.delete("/{member_id}")
@describe(
    Description(
        permission=on("group", "read"),
        answers={204: None},
        errors=FENCED[::2],
        examples={"group": "billing", "member_id": "alice"},
    )
)
async def leave_group(call: Call, group: str, member_id: str) -> Reply:
    """Leave a group; its partitions are free at once.

    Commit before: other members continue at the committed offsets. A member that does not leave keeps its partitions
    until its session ends.
    """
    check_group(group)
    check_member(member_id)
    await call.services.groups.leave(group, member_id)
    return Reply(b"", 204)


async def member_answer(call: Call, member: Member, assignment_epoch: int) -> MemberAnswer:
    """Return the description of a member."""
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
