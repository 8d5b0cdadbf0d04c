"""Produce: append records to a topic or to one partition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.authorization import Access
from app.api.http.call import JSON, Call, Reply
from app.api.http.media import LINE_TYPES, charset_of, media_type_of, refuse_form
from app.api.http.operations import MAX_INT64, Description, OperationRoute, describe
from app.api.http.request_memory import FEW_RECORDS
from app.api.log import event_decoding, examples
from app.api.log.event_decoding import Target
from app.api.log.record_decoding import ProduceBody, decode_json_body, decode_raw, decode_record_lines
from app.api.log.value_lines import decode_value_lines
from app.api.log.warnings import MOST_WARNINGS, ProduceWarning, delivery_time_warnings, timestamp_warnings
from app.api.monitoring.traced_operations import trace_of
from app.broker.log.producer import ProduceRequest
from app.domain.access.permission import on
from app.domain.log.append import Accepted, Appended, IdempotencyKey, fingerprint
from app.domain.log.producer import MAX_EPOCH, MAX_SEQUENCE, ProducerStamp
from app.domain.log.record import Record
from app.domain.log.topic import check_name
from app.errors.database import DiskFull, OutcomeUnknown
from app.errors.http import BadRequest, InvalidRequest, UnsupportedMediaType
from app.errors.log import (
    ConcurrentRequest,
    DuplicateSequenceNumber,
    IdempotencyKeyReused,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    InvalidTopicName,
    MessageTooLarge,
    OffsetMismatch,
    OutOfOrderSequenceNumber,
    UnknownTopicOrPartition,
)

router = APIRouter(prefix="/v1/topics/{topic}", tags=["records"], route_class=OperationRoute)

Natural = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Short = Annotated[str, Meta(max_length=512)]

_MAX_POINTER_PARTS = 16
_MINIMAL = re.compile(rb'(?:^|,)[ \t]*return[ \t]*=[ \t]*(?:minimal|"minimal")[ \t]*(?:[;,]|$)', re.IGNORECASE)
"""The preference for a short answer (RFC 7240)."""


class _ProduceQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to decode the body, and the record's fields if the body is one value."""

    lines: Annotated[
        Literal["records", "values"] | None, Meta(description="The body has one record, or one value, per line.")
    ] = None
    key_from: Annotated[
        Short | None,
        Meta(description="With lines=values: JSON pointer to the key in each value.", examples=["/user/id"]),
    ] = None
    timestamp_from: Annotated[
        Short | None,
        Meta(
            description="With lines=values: JSON pointer to the timestamp (ms or RFC 3339) in each value.",
            examples=["/created_at"],
        ),
    ] = None
    key: Annotated[str | None, Meta(description="Key of a body that is one value.", examples=["alice"])] = None
    timestamp_ms: Annotated[
        Natural | None,
        Meta(description="Timestamp of a body that is one value, in epoch ms.", examples=[1_769_860_800_000]),
    ] = None


class ProduceQuery(_ProduceQuery, forbid_unknown_fields=True, kw_only=True):
    """How to decode the body, and the record's fields if the body is one value."""

    partition: Annotated[Natural | None, Meta(description="Partition of a body that is one value.", examples=[0])] = (
        None
    )


class ProducePartitionQuery(_ProduceQuery, forbid_unknown_fields=True, kw_only=True):
    """The parameters of a produce to a topic, and the condition of the append."""

    expected_offset: Annotated[
        Natural | None,
        Meta(description="Append only if this is the log_end_offset; otherwise 412.", examples=[41]),
    ] = None


class RecordPlace(msgspec.Struct, gc=False):
    """Partition, offset and timestamp of an appended record."""

    partition: int
    offset: int
    timestamp_ms: int


class PartitionPlace(msgspec.Struct, gc=False):
    """The records of a request in one partition: their offsets are contiguous from `base_offset`."""

    partition: int
    base_offset: int
    count: int


class ProduceAnswer(msgspec.Struct, omit_defaults=True):
    """`offsets` has one entry per record, in request order.

    The answer to `Prefer: return=minimal` has `partitions` instead, with one entry per partition. `duplicate` is true
    in the answer to a repeated request, and omitted otherwise. `warnings` has up to ten records that are very likely a
    mistake, such as a timestamp in seconds; it is omitted if there are none.
    """

    offsets: list[RecordPlace] | UnsetType = UNSET
    partitions: list[PartitionPlace] | UnsetType = UNSET
    duplicate: bool = False
    warnings: list[ProduceWarning] | UnsetType = UNSET


_PRODUCE_ERRORS = (
    UnknownTopicOrPartition,
    InvalidTopicName,
    InvalidRecord,
    InvalidTimestamp,
    MessageTooLarge,
    IdempotencyKeyReused,
    ConcurrentRequest,
    DuplicateSequenceNumber,
    OutOfOrderSequenceNumber,
    InvalidProducerEpoch,
    DiskFull,
    OutcomeUnknown,
)


@router.post("/records")
@describe(
    Description(
        permission=on("topic", "write"),
        answers={201: ProduceAnswer, 200: ProduceAnswer},
        errors=_PRODUCE_ERRORS,
        examples={"topic": "orders"},
        bodies=examples.PRODUCE_BODIES,
        body_types=(ProduceBody,),
        headers=examples.PRODUCE_HEADERS,
        answer_headers=examples.PRODUCE_ANSWER_HEADERS,
        quota="produce",
        hot=True,
    )
)
async def produce(call: Call, topic: str, query: ProduceQuery) -> Reply:
    """Append records to a topic.

    All records of the request are appended, or none; they are on disk before the answer. A record goes to its
    `partition`, else to the partition of its key (murmur2, as in Kafka's default partitioner). All other records of
    the request go to one partition, chosen round-robin. With `auto_create_topics`, an unknown topic is created.
    The answer to a repeated request is 200 with `duplicate`.

    CloudEvents are accepted too, with headers `ce-*` or in their JSON format.
    """
    return await _produce(call, topic, query)


@router.post("/partitions/{partition}/records")
@describe(
    Description(
        permission=on("topic", "write"),
        answers={201: ProduceAnswer, 200: ProduceAnswer},
        errors=(*_PRODUCE_ERRORS, OffsetMismatch),
        examples={"topic": "orders", "partition": 0},
        bodies=examples.PRODUCE_BODIES,
        body_types=(ProduceBody,),
        headers=examples.PRODUCE_HEADERS,
        answer_headers=examples.PRODUCE_ANSWER_HEADERS,
        quota="produce",
        hot=True,
    )
)
async def produce_to_partition(call: Call, topic: str, partition: int, query: ProducePartitionQuery) -> Reply:
    """Append records to one partition.

    The same as for a topic. With `expected_offset`, the records are appended only if it is the partition's
    `log_end_offset`; otherwise the answer is 412.
    """
    return await _produce(call, topic, query, partition)


async def _produce(
    call: Call, topic: str, query: ProduceQuery | ProducePartitionQuery, partition: int | None = None
) -> Reply:
    media_type = media_type_of(call)
    refuse_form(media_type)
    request = await call.decode(partial(_decode_request, call, topic, partition, media_type, query), for_append=True)
    if call.access is not None:
        request = _authorized(call, call.access, request)
    if (count := len(request.records)) > FEW_RECORDS:
        await call.memory.admit_records(count)
    return _answer(call, request.records, await call.services.producer.produce(request))


def _authorized(call: Call, access: Access, request: ProduceRequest) -> ProduceRequest:
    """Check the producer of a request, and say whether it may create the topic.

    Raises:
        ProducerAuthorizationFailed
    """
    if request.stamp is not None:
        access.require("write", "producer", request.stamp.producer_id)
    if call.services.topics.cached(request.topic) is not None:
        return request
    return request._replace(check_create=partial(access.require, "create", "topic", request.topic))


def _decode_request(
    call: Call,
    topic: str,
    partition: int | None,
    media_type: bytes,
    query: ProduceQuery | ProducePartitionQuery,
    body: bytes,
) -> ProduceRequest:
    if event_decoding.has_events(call.headers, media_type):
        records = _decode_events(call, media_type, body, query)
    else:
        records = _decode(call, media_type, body, query)
    size_bytes = len(body) if query.key is None else len(body) + len(query.key.encode())
    expected_offset = query.expected_offset if isinstance(query, ProducePartitionQuery) else None
    key, stamp = _idempotence(call, media_type, body)
    return ProduceRequest(topic, partition, records, size_bytes, expected_offset, key, stamp, trace_of(call))


def _decode_events(
    call: Call, media_type: bytes, body: bytes, query: ProduceQuery | ProducePartitionQuery
) -> list[Record]:
    """Decode CloudEvents. Of the fields of a record, the query may have the partition and the timestamp."""
    _refuse_pointers(query)
    if query.lines is not None or query.key is not None:
        raise InvalidRequest("lines and key are not for CloudEvents; the key of an event is its partitionkey")
    partition = query.partition if isinstance(query, ProduceQuery) else None
    target = Target.of(partition, query.timestamp_ms)
    if event_decoding.is_json_format(media_type):
        return event_decoding.decode_events(media_type, body, call.services.max_records, target)
    return event_decoding.decode_binary(call.scope["headers"], media_type, charset_of(call), body, target)


def _decode(call: Call, media_type: bytes, body: bytes, query: ProduceQuery | ProducePartitionQuery) -> list[Record]:
    """Decode a body as its media type and the query say: a JSON body, lines of JSON, or one raw value."""
    max_records = call.services.max_records
    if media_type == JSON and not call.scope["query_string"]:
        return decode_json_body(body, max_records)
    lines = query.lines or ("records" if media_type in LINE_TYPES else None)
    if lines is not None:
        return _decode_lines(media_type, body, lines, query, max_records)
    _refuse_pointers(query)
    if media_type == JSON:
        _refuse_record_fields(query)
        return decode_json_body(body, max_records)
    return [
        decode_raw(
            body,
            media_type,
            charset_of(call),
            key=query.key,
            partition=query.partition if isinstance(query, ProduceQuery) else None,
            timestamp_ms=query.timestamp_ms,
        )
    ]


def _decode_lines(
    media_type: bytes,
    body: bytes,
    lines: Literal["records", "values"],
    query: ProduceQuery | ProducePartitionQuery,
    max_records: int,
) -> list[Record]:
    if media_type != JSON and not media_type.endswith(b"+json") and media_type not in LINE_TYPES:
        raise UnsupportedMediaType("lines needs a JSON type; use: curl --json @file 'URL?lines=values'")
    if lines == "records":
        _refuse_pointers(query)
        _refuse_record_fields(query)
        return decode_record_lines(body, max_records)
    _refuse_record_fields(query)
    return decode_value_lines(body, _pointer(query.key_from), _pointer(query.timestamp_from), max_records)


def _refuse_pointers(query: ProduceQuery | ProducePartitionQuery) -> None:
    if query.key_from is not None or query.timestamp_from is not None:
        raise InvalidRequest("key_from and timestamp_from need lines=values")


def _refuse_record_fields(query: ProduceQuery | ProducePartitionQuery) -> None:
    partition = query.partition if isinstance(query, ProduceQuery) else None
    if query.key is not None or partition is not None or query.timestamp_ms is not None:
        raise InvalidRequest("key, partition and timestamp_ms in the query are for a body that is one raw value")


def _pointer(text: str | None) -> str | None:
    """Check the syntax of a JSON pointer.

    Raises:
        InvalidRequest: It does not start with "/", or has too many parts.
    """
    if text is not None and not (text.startswith("/") and text.count("/") <= _MAX_POINTER_PARTS):
        raise InvalidRequest(
            f"key_from and timestamp_from are JSON pointers, such as /network, of at most {_MAX_POINTER_PARTS} parts"
        )
    return text


def _idempotence(call: Call, media_type: bytes, body: bytes) -> tuple[IdempotencyKey | None, ProducerStamp | None]:
    """Return the Idempotency-Key or the producer's sequence of a request; both None without such headers.

    Raises:
        BadRequest: Some of the three producer headers are missing or invalid.
        InvalidRequest: The request has an Idempotency-Key and producer headers.
    """
    key = call.idempotency_key()
    name = call.header(b"producer-id")
    epoch = call.header(b"producer-epoch")
    sequence = call.header(b"producer-sequence")
    stamped = name is not None or epoch is not None or sequence is not None
    if key is None and not stamped:
        return None, None
    if not stamped:
        return idempotency_key(call, media_type, body), None
    if key is not None:
        raise InvalidRequest("send either Idempotency-Key or the Producer headers, not both")
    if name is None or epoch is None or sequence is None:
        raise BadRequest("send Producer-Id, Producer-Epoch and Producer-Sequence together, or none of them")
    producer_id = name.decode("latin-1")
    check_name(producer_id, "producer")
    return None, ProducerStamp(
        producer_id,
        _integer("Producer-Epoch", epoch, MAX_EPOCH),
        _integer("Producer-Sequence", sequence, MAX_SEQUENCE),
        _fingerprint(call, media_type, body),
    )


def idempotency_key(call: Call, media_type: bytes, body: bytes) -> IdempotencyKey | None:
    """Return the Idempotency-Key and the fingerprint of a request, or None without the header."""
    key = call.idempotency_key()
    return None if key is None else IdempotencyKey(sha256(key).digest(), _fingerprint(call, media_type, body))


def _fingerprint(call: Call, media_type: bytes, body: bytes) -> bytes:
    parts = call.scope["path"].encode(), call.scope["query_string"], media_type, body
    if event_decoding.has_events(call.headers, media_type):
        return fingerprint(*parts, event_decoding.fingerprint_of(call.scope["headers"]))
    return fingerprint(*parts)


def _integer(name: str, value: bytes, highest: int) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) > highest:
        raise BadRequest(f"{name} must be an integer from 0 to {highest}")
    return int(value)


def _answer(call: Call, records: Sequence[Record], accepted: Accepted) -> Reply:
    appended = accepted.appended
    status = 200 if accepted.duplicate else 201
    prefer = call.header(b"prefer")
    if prefer is not None and _MINIMAL.search(prefer):
        answer = ProduceAnswer(partitions=_by_partition(appended), duplicate=accepted.duplicate)
        headers: list[tuple[bytes, bytes]] | None = [(b"preference-applied", b"return=minimal")]
    else:
        answer, headers = ProduceAnswer(record_places(appended), UNSET, accepted.duplicate), None
    if found := timestamp_warnings(appended.timestamps_ms) + delivery_time_warnings(records):
        answer.warnings = found[:MOST_WARNINGS]
    return Reply.of(answer, status, headers)


def record_places(appended: Appended) -> list[RecordPlace]:
    """Return partition, offset and timestamp of each appended record, in request order."""
    return list(map(RecordPlace, appended.partitions, appended.offsets, appended.timestamps_ms))


def _by_partition(appended: Appended) -> list[PartitionPlace]:
    places: dict[int, PartitionPlace] = {}
    for partition, offset in zip(appended.partitions, appended.offsets, strict=True):
        if (place := places.get(partition)) is None:
            places[partition] = PartitionPlace(partition, offset, 1)
        else:
            place.count += 1
    return list(places.values())
