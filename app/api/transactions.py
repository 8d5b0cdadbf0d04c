"""Transactions: produce and commit, all or nothing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from msgspec import Meta

from app.api.groups.group_wire import MOST_OFFSETS, Epoch, Offset, PartitionNumber, check_group, check_member
from app.api.http.call import Call, Reply
from app.api.http.json_bodies import check_records, decode_json
from app.api.http.media import media_type_of, require_json
from app.api.http.wire import Description, WireRoute, describe
from app.api.log import record_decoding
from app.api.log.produce import RecordPlace, idempotency_key
from app.api.log.record_decoding import RecordIn
from app.broker.groups.offsets import Committer, OffsetCommit
from app.broker.log.producer import ProduceRequest
from app.broker.transactions import TransactionRequest
from app.domain.log.append import Appended
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

router = APIRouter(prefix="/v1/transactions", tags=["transactions"], route_class=WireRoute)


class TopicRecords(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Records for a topic."""

    topic: str
    records: list[RecordIn]


class MovedOffset(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A committed offset to move: only from `from_offset`, so that a repeat does nothing."""

    topic: str
    partition: PartitionNumber
    from_offset: Offset
    offset: Offset


class GroupCommit(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Offsets of a group, committed as a member or, while the group has no members, as nobody."""

    group: str
    offsets: Annotated[list[MovedOffset], Meta(max_length=MOST_OFFSETS)]
    member_id: str | None = None
    member_epoch: Epoch | None = None


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to be done together."""

    produce: Annotated[list[TopicRecords], Meta(max_length=1_000)] = []
    commit: Annotated[list[GroupCommit], Meta(max_length=100)] = []


class Produced(msgspec.Struct):
    """Where the records for a topic lie, in request order."""

    topic: str
    offsets: list[RecordPlace]


class TransactionAnswer(msgspec.Struct):
    """One entry per entry of `produce`. `duplicate`: answered as the first request with this Idempotency-Key was."""

    produced: list[Produced]
    duplicate: bool


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
        "schema": {"type": "string", "minLength": 1},
        "description": "A repeat with the same key within 24 hours is answered as the first request was.",
    }
}


@router.post("")
@describe(
    Description(
        answers={201: TransactionAnswer, 200: TransactionAnswer},
        refusals=(
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
    )
)
async def run_transaction(call: Call) -> Reply:
    """Produce to several topics and commit offsets of groups, all or nothing.

    Consume, transform, produce exactly once: the offsets move only from `from_offset`, in the transaction that
    appends the results. Sent again after a lost answer it is 409 `OFFSET_CONFLICT` and writes nothing; with an
    Idempotency-Key it is answered as the first time.
    """
    media_type = media_type_of(call)
    require_json(media_type)
    content = await call.body()
    body: TransactionBody = decode_json(_body, content)
    done = await call.services.transactions.run(
        TransactionRequest(
            _produce(body, len(content), call.services.max_records),
            [_commit(one) for one in body.commit],
            idempotency_key(call, media_type, content),
        )
    )
    produced = [
        Produced(one.topic, _places(appended)) for one, appended in zip(body.produce, done.produced, strict=True)
    ]
    return Reply.of(TransactionAnswer(produced, done.duplicate), 200 if done.duplicate else 201)


def _produce(body: TransactionBody, size_bytes: int, most: int) -> list[ProduceRequest]:
    if not body.produce and not body.commit:
        raise InvalidRequest("a transaction needs something to produce or to commit")
    if body.produce:
        check_records(sum(len(one.records) for one in body.produce), most)
    for index, one in enumerate(body.produce):
        if not one.records:
            raise InvalidRequest.at(index, None, "must have records", item="produce")
    return [
        ProduceRequest(one.topic, None, record_decoding.records_of(one.records), size_bytes) for one in body.produce
    ]


def _commit(given: GroupCommit) -> tuple[Committer, list[OffsetCommit]]:
    check_group(given.group)
    if (given.member_id is None) != (given.member_epoch is None):
        raise InvalidRequest("send member_id and member_epoch together, or neither")
    if given.member_id is not None:
        check_member(given.member_id)
    committer = Committer(given.group, given.member_id, -1 if given.member_epoch is None else given.member_epoch)
    return committer, [OffsetCommit(one.topic, one.partition, one.offset, one.from_offset) for one in given.offsets]


def _places(appended: Appended) -> list[RecordPlace]:
    return list(map(RecordPlace, appended.partitions, appended.offsets, appended.timestamps_ms))
