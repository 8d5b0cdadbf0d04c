"""RFC 9457 problem documents. The only place that knows the status of a refusal."""

from __future__ import annotations

import msgspec

from app import errors
from app.errors import BrokerError

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 10
RETRY_AFTER_S = 1

STATUS: dict[type[BrokerError], int] = {
    errors.BadRequest: 400,
    errors.BodyTooLarge: 413,
    errors.CommitAboveLogEnd: 422,
    errors.ConcurrentRequest: 409,
    errors.CrossOriginRefused: 403,
    errors.CursorExpired: 410,
    errors.DelayedRecordsLimit: 409,
    errors.DiskFull: 507,
    errors.DuplicateSequenceNumber: 409,
    errors.FencedInstanceId: 409,
    errors.FencedMemberEpoch: 409,
    errors.GroupIdNotFound: 404,
    errors.GroupMaxSizeReached: 409,
    errors.IdempotencyKeyReused: 422,
    errors.InvalidConfig: 422,
    errors.InvalidCursor: 400,
    errors.InvalidGroupId: 422,
    errors.InvalidPartitions: 422,
    errors.InvalidProducerEpoch: 409,
    errors.InvalidQueueConfig: 422,
    errors.InvalidRecord: 422,
    errors.InvalidRecordState: 409,
    errors.InvalidRequest: 422,
    errors.InvalidTimestamp: 422,
    errors.InvalidTopicName: 422,
    errors.LockTimeout: 503,
    errors.MessageTooLarge: 413,
    errors.MethodNotAllowed: 405,
    errors.NonEmptyGroup: 409,
    errors.NoOffsetForPartition: 409,
    errors.NotFound: 404,
    errors.OffsetAboveLogEnd: 416,
    errors.OffsetBelowLogStart: 410,
    errors.OffsetConflict: 409,
    errors.OffsetMetadataTooLarge: 422,
    errors.OffsetMismatch: 412,
    errors.OutcomeUnknown: 504,
    errors.OutOfOrderSequenceNumber: 409,
    errors.QueueAlreadyExists: 409,
    errors.SequenceReused: 422,
    errors.ServiceUnavailable: 503,
    errors.StaleMemberEpoch: 409,
    errors.TopicAlreadyExists: 409,
    errors.TopicInUse: 409,
    errors.UnknownMemberId: 409,
    errors.UnknownPartitionInRecord: 422,
    errors.UnknownProducerId: 404,
    errors.UnknownQueue: 404,
    errors.UnknownServerError: 500,
    errors.UnknownTopicOrPartition: 404,
    errors.UnsupportedMediaType: 415,
    errors.UriTooLong: 414,
    errors.HeaderFieldsTooLarge: 431,
    errors.WrongHost: 421,
}


class FieldError(msgspec.Struct, omit_defaults=True):
    """One thing that is wrong: the index of the record, or of the item of another list, and the field, if any."""

    detail: str
    index: int | None = None
    field: str | None = None


class Problem(msgspec.Struct, omit_defaults=True):
    """A refusal (RFC 9457). Facts such as `log_start_offset` stand beside these members.

    `retriable: true` promises that nothing was written.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    retriable: bool
    request_id: str
    errors: list[FieldError] | None = None


def slug(kind: type[BrokerError]) -> str:
    """Return the last part of a problem's type, such as `unknown-topic-or-partition`."""
    return kind.code.lower().replace("_", "-")


def document(error: BrokerError, request_id: str) -> dict[str, object]:
    """Return the problem document of a refusal; at most ten `errors` are told."""
    facts = dict(error.facts)
    if isinstance(found := facts.get("errors"), list):
        facts["errors"] = found[:MAX_ERRORS]
    return {
        "type": f"/problems/{slug(type(error))}",
        "title": error.title,
        "status": STATUS[type(error)],
        "detail": error.detail,
        "code": error.code,
        "retriable": error.retriable,
        "request_id": request_id,
        **facts,
    }


def headers(error: BrokerError) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to a refusal's status."""
    if STATUS[type(error)] in {429, 503, 507}:
        return [(b"retry-after", b"%d" % RETRY_AFTER_S)]
    if isinstance(error, errors.MethodNotAllowed):
        return [(b"allow", str(error.facts["allow"]).encode())]
    if isinstance(error, errors.UnsupportedMediaType):
        return [(b"accept-encoding", b"gzip")]
    return []
