"""Transactions: produce records and commit offsets, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.groups.group_structs import MOST_OFFSETS, Epoch, Offset, PartitionNumber, check_group, check_member
from app.api.http.authorization import require_all, require_created
from app.api.http.bodies.json_bodies import check_names, check_records, decode_json, without_bom
from app.api.http.call import Call, Reply
from app.api.http.media import media_type_of, require_json
from app.api.http.operations import Description, OperationRoute, describe
from app.api.http.request_memory import FEW_RECORDS
from app.api.log.produce import RecordPlace, idempotency_key, record_places
from app.api.log.record_decoding import RecordIn, records_of
from app.api.log.warnings import MOST_WARNINGS, ProduceWarning, delivery_time_warnings, timestamp_warnings
from app.api.monitoring.traced_operations import trace_of
from app.broker.groups.offsets import Committer, OffsetCommit
from app.broker.log.producer import ProduceRequest
from app.broker.transactions import TransactionRequest
from app.domain.access.permission import ANY_PRINCIPAL
from app.domain.log.append import Appended
from app.domain.log.trace_context import TraceContext
from app.errors.database import DiskFull, OutcomeUnknown
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedInstanceId,
    FencedMemberEpoch,
    NonEmptyGroup,
    OffsetConflict,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.http import InvalidRequest
from app.errors.log import (
    IdempotencyKeyReused,
    InvalidRecord,
    MessageTooLarge,
    UnknownPartitionInRecord,
    UnknownTopicOrPartition,
)

router = APIRouter(prefix="/v1/transactions", tags=["transactions"], route_class=OperationRoute)


class TopicRecords(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Records for one topic."""

    topic: str
    records: list[RecordIn]


class MovedOffset(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A committed offset to move. It moves only if it is `from_offset`, so a repeated request has no effect."""

    topic: str
    partition: PartitionNumber
    from_offset: Offset
    offset: Offset


class GroupCommit(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Offsets of a group. `member_id` may be omitted only while the group has no members."""

    group: str
    offsets: Annotated[list[MovedOffset], Meta(max_length=MOST_OFFSETS)]
    member_id: str | None = None
    member_epoch: Epoch | None = None


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The records to append and the offsets to commit."""

    produce: Annotated[list[TopicRecords], Meta(max_length=1_000)] = []
    commit: Annotated[list[GroupCommit], Meta(max_length=100)] = []


class Produced(msgspec.Struct):
    """The appended records of one topic, in request order."""

    topic: str
    offsets: list[RecordPlace]


class TransactionWarning(ProduceWarning):
    """A record that is appended, but is very likely a mistake: record `index` of the entry `produce` of the request."""

    produce: int


class TransactionAnswer(msgspec.Struct):
    """One entry per entry of `produce`; `duplicate` if this is the answer to an earlier, equal request.

    `warnings` has up to ten records that are very likely a mistake; it is omitted if there are none.
    """

    produced: list[Produced]
    duplicate: bool
    warnings: list[TransactionWarning] | UnsetType = UNSET


_body = msgspec.json.Decoder(TransactionBody)

_EXAMPLE = {
    "produce": [{"topic": "invoices", "records": [{"key": "alice", "value": {"total": 25}}]}],
    "commit": [
        {
            "group": "billing",
            "member_id": "alice",
            "member_epoch": 1,
            "offsets": [{"topic": "orders", "partition": 0, "from_offset": 0, "offset": 0}],
        }
    ],
}
_BODIES: dict[str, dict[str, Any]] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/TransactionBody"}, "example": _EXAMPLE}
}
_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "schema": {"type": "string", "minLength": 1, "examples": ["transfer-4711"]},
        "description": "A repeated request with the same key within 24 hours gets the answer of the first.",
    }
}


@router.post("")
@describe(
    Description(
        permission=ANY_PRINCIPAL,
        answers={201: TransactionAnswer, 200: TransactionAnswer},
        errors=(
            OffsetConflict,
            UnknownMemberId,
            FencedMemberEpoch,
            FencedInstanceId,
            StaleMemberEpoch,
            NonEmptyGroup,
            CommitAboveLogEnd,
            UnknownTopicOrPartition,
            UnknownPartitionInRecord,
            InvalidRecord,
            MessageTooLarge,
            IdempotencyKeyReused,
            DiskFull,
            OutcomeUnknown,
        ),
        bodies=_BODIES,
        body_types=(TransactionBody,),
        headers=_HEADERS,
        quota="produce",
    )
)
async def run_transaction(call: Call) -> Reply:
    """Produce to several topics and commit offsets of groups, all or nothing.

    Consume, transform and produce exactly once: the offsets move only from `from_offset`, in the transaction that
    appends the results. A request repeated after a lost answer is refused with 409 `OFFSET_CONFLICT` and writes
    nothing. With an Idempotency-Key it gets the answer of the first request.
    """
    media_type = media_type_of(call)
    require_json(media_type)
    request = await call.decode(partial(_decode, call, media_type), for_append=True)
    _authorize(call, request)
    if (count := sum(len(each.records) for each in request.produce)) > FEW_RECORDS:
        await call.memory.admit_records(count)
    await require_created(call, [each.topic for each in request.produce])
    result = await call.services.transactions.run(request)
    produced = [
        Produced(each.topic, record_places(appended))
        for each, appended in zip(request.produce, result.produced, strict=True)
    ]
    warnings = _warnings(request.produce, result.produced)
    return Reply.of(TransactionAnswer(produced, result.duplicate, warnings), 200 if result.duplicate else 201)


def _authorize(call: Call, request: TransactionRequest) -> None:
    require_all(call, "write", "topic", (each.topic for each in request.produce))
    for committer, commits in request.commit:
        require_all(call, "read", "group", [committer.group])
        require_all(call, "read", "topic", (each.topic for each in commits))


def _warnings(requests: Sequence[ProduceRequest], produced: Sequence[Appended]) -> list[TransactionWarning] | UnsetType:
    found = [
        TransactionWarning(each.code, each.detail, each.index, number)
        for number, (request, appended) in enumerate(zip(requests, produced, strict=True))
        for each in timestamp_warnings(appended.timestamps_ms) + delivery_time_warnings(request.records)
    ]
    return found[:MOST_WARNINGS] or UNSET


def _decode(call: Call, media_type: bytes, content: bytes) -> TransactionRequest:
    body: TransactionBody = decode_json(_body, content)
    check_names(without_bom(content))
    return TransactionRequest(
        _produce_requests(body, len(content), call.services.max_records, trace_of(call)),
        [_commit(group) for group in body.commit],
        idempotency_key(call, media_type, content),
    )


def _produce_requests(
    body: TransactionBody, size_bytes: int, max_records: int, trace: TraceContext | None
) -> list[ProduceRequest]:
    if not body.produce and not body.commit:
        raise InvalidRequest("a transaction needs records to produce or offsets to commit")
    if body.produce:
        check_records(sum(len(topic_records.records) for topic_records in body.produce), max_records)
    for index, topic_records in enumerate(body.produce):
        if not topic_records.records:
            raise InvalidRequest.at(index, None, "must have records", item="produce")
    return [
        ProduceRequest(topic_records.topic, None, records_of(topic_records.records), size_bytes, trace=trace)
        for topic_records in body.produce
    ]


def _commit(commit: GroupCommit) -> tuple[Committer, list[OffsetCommit]]:
    check_group(commit.group)
    if (commit.member_id is None) != (commit.member_epoch is None):
        raise InvalidRequest("send member_id and member_epoch together, or neither")
    if commit.member_id is not None:
        check_member(commit.member_id)
    committer = Committer(commit.group, commit.member_id, -1 if commit.member_epoch is None else commit.member_epoch)
    offsets = [OffsetCommit(moved.topic, moved.partition, moved.offset, moved.from_offset) for moved in commit.offsets]
    return committer, offsets
