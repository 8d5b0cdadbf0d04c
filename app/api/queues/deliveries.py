"""Routes that acquire and acknowledge records."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, Meta, UnsetType

from app.api.http.bodies.reading import ClientDisconnected
from app.api.http.call import Call, Reply
from app.api.http.media import media_type_of
from app.api.http.operations import Description, OperationRoute, check_bound, describe
from app.api.log.warnings import FieldWarning, duration_warning
from app.api.queues.queue_access import check_creation, check_source
from app.broker.log.page_reads import LARGE_PAGE_BYTES
from app.broker.queues.queues import QueueRequest
from app.domain.access.permission import on
from app.domain.log import record_json
from app.domain.log.append import IdempotencyKey, fingerprint
from app.domain.log.record_json import FetchedRecord
from app.domain.queues.delivery import (
    MAX_ACKNOWLEDGEMENTS,
    MAX_DELAY_MS,
    Acknowledge,
    Acknowledgement,
    Acquire,
    Acquired,
    Settled,
)
from app.domain.queues.delivery_id import parse_delivery_id
from app.domain.queues.in_flight import AcknowledgeType
from app.domain.queues.queue import BOUNDS
from app.errors.http import InvalidRequest, NotFound
from app.errors.limits import PolicyViolation
from app.errors.log import IdempotencyKeyReused
from app.errors.queues import DelayedRecordsLimit, InvalidRecordState, QueueAlreadyExists, UnknownQueue

router = APIRouter(prefix="/v1/queues/{queue}", tags=["queues"], route_class=OperationRoute)

OutcomeName = Literal["accept", "release", "reject", "renew"]
_OUTCOMES = {
    "accept": AcknowledgeType.ACCEPT,
    "release": AcknowledgeType.RELEASE,
    "reject": AcknowledgeType.REJECT,
    "renew": AcknowledgeType.RENEW,
}
_MIN_LOCK_MS, _MAX_LOCK_MS = BOUNDS["lock_duration_ms"]
_Delay = Annotated[
    int, Meta(ge=0, le=MAX_DELAY_MS, description="With `release`: the record becomes available again after this time.")
]


class AcquireRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How many records to acquire, how long to wait for the first, and how long to lock them."""

    max_records: Annotated[int, Meta(ge=1, le=10_000)] = 10
    max_bytes: Annotated[int, Meta(ge=1, le=33_554_432)] = 33_554_432
    max_wait_ms: Annotated[int, Meta(ge=0, le=60_000, description="Longest time to wait for the first record.")] = 0
    lock_duration_ms: Annotated[
        Annotated[int, Meta(ge=_MIN_LOCK_MS, le=_MAX_LOCK_MS)] | None,
        Meta(description="If not given, that of the queue."),
    ] = None
    topic: Annotated[
        str | None, Meta(description="Creates the queue over this topic, with default settings, if it does not exist.")
    ] = None


class DeliveryAnswer(msgspec.Struct, gc=False):
    """An acquired record, locked until `locked_until_ms`; `delivery_count` is 1 for its first delivery."""

    delivery_id: str
    delivery_count: int
    locked_until_ms: int
    record: FetchedRecord


class AcquireAnswer(msgspec.Struct, gc=False):
    """Acquired records; empty if none became available in time.

    `created_topics` names the topic if this request created it with the queue. `warnings` has the fields of the request
    that are very likely a mistake, such as a duration in seconds. Both are omitted if empty.
    """

    deliveries: list[DeliveryAnswer]
    created_topics: list[str] | UnsetType = UNSET
    warnings: list[FieldWarning] | UnsetType = UNSET


class AcknowledgementIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The outcome of a delivery."""

    delivery_id: Annotated[str, Meta(max_length=64, description="From the response of acquire.")]
    outcome: OutcomeName
    delay_ms: _Delay = 0


class AcknowledgeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The outcomes of deliveries, each settled independently."""

    acknowledgements: Annotated[list[AcknowledgementIn], Meta(min_length=1, max_length=MAX_ACKNOWLEDGEMENTS)] | None = (
        None
    )


class AcknowledgementResult(msgspec.Struct, omit_defaults=True, gc=False):
    """The result of an acknowledgement; `code` is `INVALID_RECORD_STATE` if the delivery had already ended.

    `warnings` has a `delay_ms` that is very likely in seconds; it is omitted if empty.
    """

    delivery_id: str
    outcome: OutcomeName
    code: Annotated[str | None, Meta(description="Code of the error, or null.")]
    locked_until_ms: int | None = None
    warnings: list[FieldWarning] | UnsetType = UNSET


class AcknowledgeAnswer(msgspec.Struct):
    """One result per acknowledgement, in the order of the request."""

    results: list[AcknowledgementResult]


class OutcomeQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Query of a single acknowledgement."""

    delay_ms: Annotated[_Delay | None, Meta(examples=[60_000])] = None


class OutcomeBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a `release`, as an alternative to the query; other outcomes take no body."""

    delay_ms: _Delay | None = None


_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "schema": {"type": "string", "minLength": 1, "examples": ["acquire-7f3a"]},
        "description": "A repetition with the same key within 24 hours gets the response of the first request; "
        "for an acquire, while all its locks last.",
    }
}
_JOBS = {"queue": "jobs"}
_ERRORS = (UnknownQueue, IdempotencyKeyReused)


_ACKNOWLEDGE = {
    "acknowledgements": [
        {"delivery_id": "1.0.0.1", "outcome": "renew"},
        {"delivery_id": "1.0.1.1", "outcome": "reject"},
    ]
}


@router.post("/acquire")
@describe(
    Description(
        permission=on("queue", "read"),
        answers={200: AcquireAnswer},
        errors=(*_ERRORS, PolicyViolation, QueueAlreadyExists),
        examples=_JOBS | {"body": {"topic": "orders", "max_records": 10, "max_wait_ms": 0}},
        headers=_HEADERS,
        quota="fetch",
        hot=True,
    )
)
async def acquire(call: Call, queue: str, body: AcquireRequest) -> Reply:
    """Acquire records under a lock.

    No other client acquires them until `locked_until_ms`. Accept, release or reject them before that, or renew the
    lock. When a lock expires, its record is delivered again, up to `max_delivery_count` times. With `max_wait_ms` the
    request waits for the first record.
    """
    services = call.services
    check_bound("max_wait_ms", body.max_wait_ms, services.max_wait_ms)
    check_bound("max_records", body.max_records, services.max_records)
    if large := body.max_bytes > LARGE_PAGE_BYTES:
        call.memory.check_room()
    answer = AcquireAnswer([])
    if body.topic is not None:
        creation = QueueRequest(body.topic, {})
        await check_creation(call, queue, creation)
        made = await services.queues.create(queue, creation)
        answer.created_topics = list(made.created_topics) or UNSET
    if body.lock_duration_ms is not None:
        answer.warnings = duration_warning("lock_duration_ms", body.lock_duration_ms, _MAX_LOCK_MS) or UNSET
    await check_source(call, queue)
    key = _key(call, body)
    request = Acquire(body.max_records, body.max_bytes, body.lock_duration_ms, key)
    with call.waiting(body.max_wait_ms) as deadline:
        acquired = await services.deliveries.acquire(queue, request, deadline)
        if deadline.disconnected:
            raise ClientDisconnected
    return Reply(await services.memory.run(_encode, answer, acquired) if large else _encode(answer, acquired))


@router.post("/acknowledge")
@describe(
    Description(
        permission=on("queue", "read"),
        answers={200: AcknowledgeAnswer},
        errors=_ERRORS,
        examples=_JOBS | {"body": _ACKNOWLEDGE},
        headers=_HEADERS,
        hot=True,
    )
)
async def acknowledge(call: Call, queue: str, body: AcknowledgeRequest) -> Reply:
    """Accept, release, reject or renew deliveries.

    Each is settled independently, in order; the status is 200 even if all of them had already ended. `release` makes a
    record available again, after `delay_ms` if that is given. `reject` archives it, with a dead letter if the queue has
    a dead-letter topic. `renew` extends the lock by the queue's `lock_duration_ms`.
    """
    given = body.acknowledgements
    if given is None:
        message = 'send {"acknowledgements": [{"delivery_id": "…", "outcome": "accept"}]}'
        raise InvalidRequest.at(None, "acknowledgements", "is required", message=message)
    items = [_acknowledgement(index, each) for index, each in enumerate(given)]
    done = await call.services.deliveries.acknowledge(queue, Acknowledge(items, _key(call, body)))
    results = [
        AcknowledgementResult(
            each.delivery_id,
            each.outcome,
            settled.code,
            settled.locked_until_ms,
            _warnings(each) if each.delay_ms else UNSET,
        )
        for each, settled in zip(given, done.results, strict=True)
    ]
    return Reply.of(AcknowledgeAnswer(results))


@router.post("/deliveries/{delivery_id}/{outcome}")
@describe(
    Description(
        permission=on("queue", "read"),
        answers={200: AcknowledgementResult},
        errors=(*_ERRORS, NotFound, InvalidRecordState, DelayedRecordsLimit),
        examples=_JOBS | {"delivery_id": "1.0.0.1", "outcome": "release", "body": {"delay_ms": 0}},
        headers=_HEADERS,
    )
)
async def settle_delivery(
    call: Call, queue: str, delivery_id: str, outcome: OutcomeName, query: OutcomeQuery, body: OutcomeBody
) -> Reply:
    """Accept, release, reject or renew one delivery, for use in a shell.

    The status is 409 `INVALID_RECORD_STATE` if the delivery has ended or its lock has expired. `delay_ms` is allowed
    with `release`, in the query or in the body.
    """
    if outcome not in _OUTCOMES:
        raise NotFound(f"the outcomes of a delivery are {', '.join(_OUTCOMES)}")
    given = AcknowledgementIn(delivery_id, outcome, _delay_ms(outcome, query, body))
    request = Acknowledge([_acknowledgement(0, given)], _key(call, given))
    done = await call.services.deliveries.acknowledge(queue, request)
    (settled,) = done.results
    if parse_delivery_id(delivery_id) is None:
        raise InvalidRecordState("this is not a delivery_id such as 1.0.0.1; copy it from the response of acquire")
    if settled.code is not None:
        raise _error_of(settled)
    return Reply.of(AcknowledgementResult(delivery_id, given.outcome, None, settled.locked_until_ms, _warnings(given)))


def _delay_ms(outcome: str, query: OutcomeQuery, body: OutcomeBody) -> int:
    """Return the delay of the query or the body.

    Raises:
        InvalidRequest: They differ, or the body has a delay and the outcome is not release.
    """
    if body.delay_ms is None:
        return query.delay_ms or 0
    if outcome != "release":
        detail = f"is allowed with release only; {outcome} takes no body"
    elif query.delay_ms not in {None, body.delay_ms}:
        detail = f"is {query.delay_ms} in the query and {body.delay_ms} in the body; send it once"
    else:
        return body.delay_ms
    raise InvalidRequest.at(None, "delay_ms", detail)


def _error_of(settled: Settled) -> InvalidRecordState | DelayedRecordsLimit:
    kind = DelayedRecordsLimit if settled.code == DelayedRecordsLimit.code else InvalidRecordState
    return kind(settled.detail)


def _warnings(given: AcknowledgementIn) -> list[FieldWarning] | UnsetType:
    return duration_warning("delay_ms", given.delay_ms, MAX_DELAY_MS) or UNSET


def _acknowledgement(index: int, given: AcknowledgementIn) -> Acknowledgement:
    if given.delay_ms and given.outcome != "release":
        detail = "is allowed with the outcome release only"
        raise InvalidRequest.at(index, "delay_ms", detail, item="acknowledgement")
    return Acknowledgement(parse_delivery_id(given.delivery_id), _OUTCOMES[given.outcome], given.delay_ms)


def _encode(answer: AcquireAnswer, acquired: Acquired) -> bytes:
    answer.deliveries = [
        DeliveryAnswer(
            str(delivery_id),
            delivery_id.delivery_count,
            locked_until_ms,
            record_json.record_out(delivery_id.partition, record),
        )
        for delivery_id, record, locked_until_ms in acquired.deliveries
    ]
    return record_json.encode(answer) + b"\n"


def _key(call: Call, body: AcquireRequest | AcknowledgeRequest | AcknowledgementIn) -> IdempotencyKey | None:
    """Return the Idempotency-Key of a request; equal bodies have equal fingerprints, however they are formatted."""
    key = call.idempotency_key()
    if key is None:
        return None
    parts = (call.scope["path"].encode(), media_type_of(call), record_json.encode(body))
    return IdempotencyKey(sha256(key).digest(), fingerprint(*parts))
