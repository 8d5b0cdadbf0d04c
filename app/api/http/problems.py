"""RFC 9457 problem documents, and the HTTP status of every error."""

from __future__ import annotations

import logging

import msgspec
from msgspec import UNSET, UnsetType

from app.errors.access import (
    AccessLimit,
    AuthenticationFailed,
    ClusterAuthorizationFailed,
    GroupAuthorizationFailed,
    InvalidAcl,
    InvalidKeyRequest,
    ProducerAuthorizationFailed,
    QueueAuthorizationFailed,
    SourceAuthorizationFailed,
    TopicAuthorizationFailed,
    UnknownAcl,
    UnknownKey,
    WebhookAuthorizationFailed,
)
from app.errors.broker_error import BrokerError
from app.errors.database import (
    DatabaseMisplaced,
    DiskFull,
    LockTimeout,
    OutcomeUnknown,
    ServiceUnavailable,
    UnknownServerError,
)
from app.errors.groups import (
    CommitAboveLogEnd,
    FencedInstanceId,
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupMaxSizeReached,
    InvalidGroupId,
    NonEmptyGroup,
    NoOffsetForPartition,
    OffsetConflict,
    OffsetMetadataTooLarge,
    StaleMemberEpoch,
    UnknownMemberId,
)
from app.errors.http import (
    BadRequest,
    BodyTooLarge,
    CrossOriginRefused,
    HeaderFieldsTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimedOut,
    UnsupportedMediaType,
    UriTooLong,
    WebhookRequestRefused,
    WrongHost,
)
from app.errors.limits import PolicyViolation, ThrottlingQuotaExceeded
from app.errors.log import (
    ConcurrentRequest,
    CursorExpired,
    DuplicateSequenceNumber,
    IdempotencyKeyReused,
    InvalidConfig,
    InvalidCursor,
    InvalidPartitions,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    InvalidTopicName,
    MessageTooLarge,
    OffsetAboveLogEnd,
    OffsetBelowLogStart,
    OffsetMismatch,
    OutOfOrderSequenceNumber,
    SequenceReused,
    TopicAlreadyExists,
    TopicInUse,
    UnknownPartitionInRecord,
    UnknownProducerId,
    UnknownTopicOrPartition,
)
from app.errors.queues import (
    DelayedRecordsLimit,
    InvalidQueueConfig,
    InvalidRecordState,
    QueueAlreadyExists,
    UnknownQueue,
)
from app.errors.webhooks import (
    InvalidSignature,
    InvalidSourceConfig,
    InvalidWebhookConfig,
    ReplaysLimit,
    SecretKeyMissing,
    SourceAlreadyExists,
    TooManyRefusals,
    UnknownReplay,
    UnknownSource,
    UnknownWebhook,
    WebhookAlreadyExists,
)

_log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 10
RETRY_AFTER_S = 1
RETRY_STATUSES = frozenset({429, 503, 507})

STATUS: dict[type[BrokerError], int] = {
    AccessLimit: 409,
    AuthenticationFailed: 401,
    BadRequest: 400,
    BodyTooLarge: 413,
    ClusterAuthorizationFailed: 403,
    CommitAboveLogEnd: 422,
    ConcurrentRequest: 409,
    CrossOriginRefused: 403,
    CursorExpired: 410,
    DelayedRecordsLimit: 409,
    DiskFull: 507,
    DuplicateSequenceNumber: 409,
    FencedInstanceId: 409,
    FencedMemberEpoch: 409,
    GroupAuthorizationFailed: 403,
    GroupIdNotFound: 404,
    GroupMaxSizeReached: 409,
    IdempotencyKeyReused: 422,
    InvalidAcl: 422,
    InvalidConfig: 422,
    InvalidCursor: 400,
    InvalidGroupId: 422,
    InvalidKeyRequest: 422,
    InvalidPartitions: 422,
    InvalidProducerEpoch: 409,
    InvalidQueueConfig: 422,
    InvalidRecord: 422,
    InvalidRecordState: 409,
    InvalidRequest: 422,
    InvalidSignature: 401,
    InvalidSourceConfig: 422,
    InvalidTimestamp: 422,
    InvalidTopicName: 422,
    InvalidWebhookConfig: 422,
    LockTimeout: 503,
    DatabaseMisplaced: 503,
    MessageTooLarge: 413,
    MethodNotAllowed: 405,
    NonEmptyGroup: 409,
    NoOffsetForPartition: 409,
    NotFound: 404,
    OffsetAboveLogEnd: 416,
    OffsetBelowLogStart: 410,
    OffsetConflict: 409,
    OffsetMetadataTooLarge: 422,
    OffsetMismatch: 412,
    OutcomeUnknown: 504,
    OutOfOrderSequenceNumber: 409,
    ProducerAuthorizationFailed: 403,
    PolicyViolation: 409,
    QueueAlreadyExists: 409,
    QueueAuthorizationFailed: 403,
    RequestTimedOut: 408,
    SecretKeyMissing: 422,
    SequenceReused: 422,
    ServiceUnavailable: 503,
    SourceAlreadyExists: 409,
    SourceAuthorizationFailed: 403,
    StaleMemberEpoch: 409,
    ThrottlingQuotaExceeded: 429,
    TooManyRefusals: 429,
    TopicAlreadyExists: 409,
    TopicAuthorizationFailed: 403,
    UnknownAcl: 404,
    UnknownKey: 404,
    WebhookAuthorizationFailed: 403,
    ReplaysLimit: 409,
    TopicInUse: 409,
    UnknownMemberId: 409,
    UnknownPartitionInRecord: 422,
    UnknownProducerId: 404,
    UnknownQueue: 404,
    UnknownReplay: 404,
    UnknownServerError: 500,
    UnknownSource: 404,
    UnknownTopicOrPartition: 404,
    UnknownWebhook: 404,
    UnsupportedMediaType: 415,
    UriTooLong: 414,
    WebhookAlreadyExists: 409,
    HeaderFieldsTooLarge: 431,
    WebhookRequestRefused: 403,
    WrongHost: 421,
}


class FieldError(msgspec.Struct, omit_defaults=True):
    """One error: the index of the record (or of another list's item) and the field, where there is one."""

    detail: str
    index: int | None = None
    field: str | None = None


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document (RFC 9457).

    `retriable: true` means that nothing was written. The members after `request_id` are facts that some problems have;
    more may be added.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    retriable: bool
    request_id: str
    errors: list[FieldError] | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    partition: int | UnsetType = UNSET
    log_start_offset: int | UnsetType = UNSET
    log_end_offset: int | UnsetType = UNSET
    committed_offset: int | UnsetType | None = UNSET
    member_epoch: int | UnsetType = UNSET
    producer_epoch: int | UnsetType = UNSET
    expected_sequence: int | UnsetType = UNSET
    max_bytes: int | UnsetType = UNSET
    max_message_bytes: int | UnsetType = UNSET
    missing_bytes: int | UnsetType = UNSET
    outcome: str | UnsetType = UNSET


def slug(kind: type[BrokerError]) -> str:
    """Return the last part of a problem's `type`, such as `unknown-topic-or-partition`."""
    return kind.code.lower().replace("_", "-")


def document(error: BrokerError, request_id: str) -> dict[str, object]:
    """Return the problem document of an error, with at most `MAX_ERRORS` entries in `errors`.

    Each refusal is logged here, at the level debug, so that it can be found by its request id.
    """
    if _log.isEnabledFor(logging.DEBUG):
        _log_refusal(error, request_id)
    facts = dict(error.facts)
    if isinstance(errors := facts.get("errors"), list):
        facts["errors"] = errors[:MAX_ERRORS]
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


def cause_of(error: BaseException) -> str:
    """Return the class and the first line of the exception that led to an error, in parentheses; empty without one."""
    cause = error.__cause__
    if cause is None:
        return ""
    first, *_ = str(cause).strip().splitlines() or [""]
    return f" (cause: {type(cause).__name__}: {first})"


def _log_refusal(error: BrokerError, request_id: str) -> None:
    status = STATUS[type(error)]
    _log.debug(
        "request %s is refused with %d %s: %s%s",
        request_id,
        status,
        error.code,
        error.detail,
        cause_of(error),
        extra={"fields": {"request_id": request_id, "status": status, "code": error.code}},
    )


def headers(error: BrokerError) -> list[tuple[bytes, bytes]]:
    """Return the headers that the status of an error requires."""
    if STATUS[type(error)] in RETRY_STATUSES:
        wait_ms = error.facts.get("retry_after_ms")
        return [(b"retry-after", b"%d" % (-(-wait_ms // 1_000) if isinstance(wait_ms, int) else RETRY_AFTER_S))]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", str(error.facts["allow"]).encode())]
    if isinstance(error, AuthenticationFailed):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, InvalidSignature):
        return [(b"www-authenticate", b"Signature")]
    if isinstance(error, UnsupportedMediaType):
        return [(b"accept-encoding", b"gzip")]
    return []
