"""Poll: the whole loop of a consumer in one request."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_structs import (
    MOST_OFFSETS,
    CommittedOffset,
    Epoch,
    Membership,
    TopicPartitions,
    assignment_of,
    check_group,
    check_member,
    commits_of,
    join_request_of,
    owned_of,
    readable_join_request,
    timeout_warnings,
)
from app.api.groups.members import FENCED
from app.api.http.authorization import Access
from app.api.http.call import JSON, Call, Reply
from app.api.http.operations import Description, OperationRoute, check_bound, describe
from app.api.log import compression
from app.api.log.warnings import FieldWarning
from app.broker.groups.group_transactions import Heartbeat
from app.broker.groups.poll_page import PollResult
from app.broker.groups.poller import PollRequest
from app.broker.log.page_reader import PageSize
from app.broker.log.page_reads import LARGE_PAGE_BYTES
from app.domain.access.permission import on
from app.domain.groups.member import MemberState
from app.domain.log import record_json
from app.domain.log.record_json import PolledRecord
from app.errors.groups import (
    CommitAboveLogEnd,
    GroupMaxSizeReached,
    NoOffsetForPartition,
    OffsetConflict,
    StaleMemberEpoch,
)
from app.errors.http import InvalidRequest

router = APIRouter(prefix="/v1/groups/{group}/members", tags=["members"], route_class=OperationRoute)

_MAX_RECORDS = 500
_MAX_WAIT_MS = 1_000


class PollBody(Membership, forbid_unknown_fields=True, kw_only=True):
    """One poll of a consumer: with `member_epoch` as a member, or with `topics`, which joins if necessary."""

    member_epoch: Annotated[Epoch | None, Meta(description="From the last answer; without it, send topics.")] = None
    owned: Annotated[
        list[TopicPartitions] | None,
        Meta(description="All partitions that the member still works on; null means none."),
    ] = None
    commit: Annotated[
        list[CommittedOffset],
        Meta(max_length=MOST_OFFSETS, description="Offsets to commit first: next_offsets of the last poll."),
    ] = msgspec.field(default_factory=list)
    auto_commit: Annotated[bool, Meta(description="Whether to commit first what this member's last poll returned.")] = (
        False
    )
    max_records: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="By default 500, or the limit of the server if that is lower."),
    ] = None
    max_bytes: Annotated[int, Meta(ge=1, le=33_554_432)] = 1_048_576
    max_wait_ms: Annotated[
        Annotated[int, Meta(ge=0, le=60_000)] | None,
        Meta(description="Longest wait for a record, by default 1000; at most heartbeat_interval_ms is used."),
    ] = None


class NextOffset(msgspec.Struct):
    """The committed offset of a partition, and the one after the records of this poll are committed."""

    topic: str
    partition: int
    from_offset: int
    offset: int


class Skipped(msgspec.Struct):
    """Offsets that retention has removed before the group read them."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int


class PollAnswer(msgspec.Struct, omit_defaults=True):
    """Records of the assigned partitions, and the state of the member. Send `next_offsets` as the next `commit`.

    `missing_topics` names `topics` of the request that do not exist; they are assigned once they are created.
    `warnings` has the time-outs of the request that are very likely in seconds.
    """

    member_epoch: int
    assignment: list[TopicPartitions]
    state: MemberState
    heartbeat_interval_ms: int
    records: list[PolledRecord]
    next_offsets: list[NextOffset]
    skipped: list[Skipped] = []
    missing_topics: list[str] = []
    warnings: list[FieldWarning] = []


@router.post("/{member_id}/poll")
@describe(
    Description(
        permission=on("group", "read"),
        answers={200: PollAnswer},
        errors=(
            *FENCED,
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
        quota="fetch",
        hot=True,
    )
)
async def poll(call: Call, group: str, member_id: str, body: PollBody) -> Reply:
    """Commit, send a heartbeat and read in one call: the whole loop of a consumer.

    With `topics`, a member that is not in the group joins first. With `auto_commit`, the records of the last poll are
    committed first; the same call, repeated, is then a consumer that processes each record at least once. If an answer
    was lost, poll once with `auto_commit` false: it returns the same records again.
    """
    check_group(group)
    services = call.services
    max_wait_ms = min(_MAX_WAIT_MS, services.max_wait_ms) if body.max_wait_ms is None else body.max_wait_ms
    check_bound("max_wait_ms", max_wait_ms, services.max_wait_ms)
    request = _poll_request(group, member_id, body, services.max_records)
    if call.access is not None:
        request = await _authorized(call, call.access, request)
    missing = await services.topics.missing(request.join_request.subscription.topics if request.join_request else ())
    if large := body.max_bytes > LARGE_PAGE_BYTES:
        call.memory.check_room()
    with call.waiting(max_wait_ms) as deadline:
        polled = await services.poller.poll(request, deadline)
    warnings = timeout_warnings(body) if body.member_epoch is None else []
    return await _reply(call, polled, missing, warnings, large=large)


def _poll_request(group: str, member_id: str, body: PollBody, limit: int) -> PollRequest:
    check_member(member_id)
    joins = bool(body.topics) or body.topic_pattern is not None
    _check_combination(body, joins=joins)
    max_records = min(_MAX_RECORDS, limit) if body.max_records is None else body.max_records
    check_bound("max_records", max_records, limit)
    owned = owned_of(body.owned)
    return PollRequest(
        Heartbeat(group, member_id, body.member_epoch, owned, released=owned is None),
        join_request_of(member_id, body) if joins else None,
        commits_of(body.commit),
        body.auto_commit,
        PageSize(max_records, body.max_bytes, 1),
    )


async def _authorized(call: Call, access: Access, request: PollRequest) -> PollRequest:
    """Return the request with a check of each topic that it reads.

    Raises:
        TopicAuthorizationFailed: The principal may not read a topic that the request names.
    """
    for commit in request.commits:
        access.require("read", "topic", commit.topic)
    join_request = request.join_request
    if join_request is not None:
        join_request = await readable_join_request(call, join_request)
    return request._replace(join_request=join_request, check_topic=partial(access.require, "read", "topic"))


def _check_combination(body: PollBody, *, joins: bool) -> None:
    """Refuse fields that exclude each other, and a poll with neither `member_epoch` nor topics."""
    if body.member_epoch is not None:
        if joins:
            raise _invalid("member_epoch", "send either member_epoch, or topics to join if necessary")
    elif not joins:
        raise _invalid("topics", "send topics to join if necessary, or the member_epoch of the last answer")
    elif body.commit:
        raise _invalid("commit", "commit goes with the member_epoch at which the records were read; or use auto_commit")


def _invalid(field: str, detail: str) -> InvalidRequest:
    return InvalidRequest.at(None, field, detail, message=detail)


async def _reply(
    call: Call, polled: PollResult, missing: Iterable[str], warnings: list[FieldWarning], *, large: bool
) -> Reply:
    member = polled.member.member
    assignment = await assignment_of(call, member.assigned)
    assigned = {each.topic for each in assignment}

    def encode() -> bytes:
        answer = PollAnswer(
            member.member_epoch,
            assignment,
            member.state(polled.member.assignment_epoch),
            member.heartbeat_interval_ms,
            [record_json.topic_record_out(topic, partition, record) for topic, partition, record in polled.records],
            [NextOffset(*one) for one in polled.ranges.values()],
            [Skipped(*one) for one in polled.skipped],
            [name for name in missing if name not in assigned and call.services.topics.cached(name) is None],
            warnings,
        )
        return record_json.encode(answer) + b"\n"

    content = await call.services.memory.run(encode) if large else encode()
    body, headers = await compression.compressed(content, call.header(b"accept-encoding"))
    return Reply(body, 200, JSON, headers)
