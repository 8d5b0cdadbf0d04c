"""Offsets of consumer groups: commit, list with lag, reset."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_structs import (
    MOST_OFFSETS,
    CommittedOffset,
    Epoch,
    PartitionNumber,
    check_group,
    check_member,
    commits_of,
)
from app.api.http.authorization import may_describe, require_all
from app.api.http.call import Call, Reply
from app.api.http.operations import Description, OperationRoute, describe
from app.broker.groups.offsets import Committer
from app.domain.access.permission import on
from app.domain.log.offset_spec import parse_offset_spec
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    NonEmptyGroup,
    OffsetConflict,
    OffsetMetadataTooLarge,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.http import InvalidRequest
from app.errors.log import UnknownPartitionInRecord, UnknownTopicOrPartition

router = APIRouter(prefix="/v1/groups/{group}/offsets", tags=["members"], route_class=OperationRoute)


class CommitBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Offsets to commit, as a member; or without one, while the group has no members."""

    offsets: Annotated[list[CommittedOffset], Meta(max_length=MOST_OFFSETS)] = []
    member_id: str | None = None
    member_epoch: Epoch | None = None


class CommitAnswer(msgspec.Struct):
    """The number of offsets that were committed."""

    committed: int


class GroupOffset(msgspec.Struct):
    """The lag of a group in a partition. Without a committed offset all its records count."""

    topic: str
    partition: int
    committed_offset: int | None
    log_end_offset: int
    lag: int
    lag_ms: Annotated[int, Meta(description="Age of the oldest record that is not committed.")]
    metadata: str


class GroupOffsets(msgspec.Struct):
    """All partitions of the topics that the group subscribes to or has committed."""

    offsets: list[GroupOffset]


class ResetBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where a group is to go on; only a plan, unless `dry_run` is false."""

    topic: str
    to: Annotated[
        str | int,
        Meta(description="`earliest`, `latest`, an offset, `-N` (the last N), or `@` and epoch ms or RFC 3339."),
    ]
    partitions: Annotated[
        Annotated[list[PartitionNumber], Meta(min_length=1)] | None, Meta(description="All partitions if null.")
    ] = None
    dry_run: Annotated[bool, Meta(description="Whether to return only the plan.")] = True


class PlannedReset(msgspec.Struct):
    """The committed offset of a partition, and the offset after the reset."""

    topic: str
    partition: int
    committed_offset: int | None
    offset: int


class ResetAnswer(msgspec.Struct):
    """The plan, and whether it was applied."""

    offsets: list[PlannedReset]
    applied: bool


@router.post("")
@describe(
    Description(
        permission=on("group", "read"),
        answers={200: CommitAnswer},
        errors=(
            UnknownMemberId,
            FencedMemberEpoch,
            FencedInstanceId,
            StaleMemberEpoch,
            NonEmptyGroup,
            OffsetConflict,
            CommitAboveLogEnd,
            UnknownPartitionInRecord,
            OffsetMetadataTooLarge,
        ),
        examples={
            "group": "billing",
            "body": {
                "member_id": "alice",
                "member_epoch": 1,
                "offsets": [{"topic": "orders", "partition": 0, "offset": 0}],
            },
        },
    )
)
async def commit_offsets(call: Call, group: str, body: CommitBody) -> Reply:
    """Commit offsets: all of the request or none.

    An offset is that of the next record to read. A member may commit the partitions that it holds; a commit without a
    member needs a group without members.
    """
    check_group(group)
    if not body.offsets:
        raise InvalidRequest.at(None, "offsets", "must not be empty", message="offsets is empty")
    if (body.member_id is None) != (body.member_epoch is None):
        raise InvalidRequest("send member_id and member_epoch together, or neither")
    if body.member_id is not None:
        check_member(body.member_id)
    require_all(call, "read", "topic", (one.topic for one in body.offsets))
    committer = Committer(group, body.member_id, -1 if body.member_epoch is None else body.member_epoch)
    await call.services.offsets.commit(committer, commits_of(body.offsets))
    return Reply.of(CommitAnswer(len(body.offsets)))


@router.get("")
@describe(
    Description(
        permission=on("group", "describe"),
        answers={200: GroupOffsets},
        errors=(GroupIdNotFound,),
        examples={"group": "billing"},
    )
)
async def list_offsets(call: Call, group: str) -> Reply:
    """List the committed offset of a group in each partition, and its lag in records and in time.

    `committed_offset` is that of the next record to read, or null if none is committed.
    """
    check_group(group)
    offsets = [GroupOffset(*one) for one in await call.services.offsets.lags(group)]
    return Reply.of(GroupOffsets([one for one in offsets if may_describe(call, "topic", one.topic)]))


@router.post("/reset")
@describe(
    Description(
        permission=on("group", "read"),
        audited=True,
        answers={200: ResetAnswer},
        errors=(UnknownTopicOrPartition, NonEmptyGroup, InvalidRequest),
        examples={"group": "billing", "body": {"topic": "orders", "to": "earliest", "dry_run": True}},
    )
)
async def reset_offsets(call: Call, group: str, body: ResetBody) -> Reply:
    """Reset the offsets of a group in a topic: first plan, then apply with `dry_run: false`.

    The group must have no members when the plan is applied.
    """
    check_group(group)
    require_all(call, "read", "topic", [body.topic])
    to = parse_offset_spec(str(body.to), "to")
    plan = await call.services.offsets.reset(group, body.topic, body.partitions, to, dry_run=body.dry_run)
    return Reply.of(ResetAnswer([PlannedReset(body.topic, *one) for one in plan], not body.dry_run))
