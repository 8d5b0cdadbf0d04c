"""Every refusal Millrace knows: one class is one problem type.

`code` is Kafka's symbolic name where Kafka has one. `cause` and `cure` are the text of the problem's page.
The HTTP status of each class stands in `app/api/problems.py`, the only place that knows one.
"""

from __future__ import annotations

from app.errors.groups import (
    CommitAboveLogEnd as CommitAboveLogEnd,
)
from app.errors.groups import (
    FencedInstanceId as FencedInstanceId,
)
from app.errors.groups import (
    FencedMemberEpoch as FencedMemberEpoch,
)
from app.errors.groups import (
    GroupIdNotFound as GroupIdNotFound,
)
from app.errors.groups import (
    GroupMaxSizeReached as GroupMaxSizeReached,
)
from app.errors.groups import (
    InvalidGroupId as InvalidGroupId,
)
from app.errors.groups import (
    NonEmptyGroup as NonEmptyGroup,
)
from app.errors.groups import (
    NoOffsetForPartition as NoOffsetForPartition,
)
from app.errors.groups import (
    OffsetConflict as OffsetConflict,
)
from app.errors.groups import (
    OffsetMetadataTooLarge as OffsetMetadataTooLarge,
)
from app.errors.groups import (
    StaleMemberEpoch as StaleMemberEpoch,
)
from app.errors.groups import (
    UnknownMemberId as UnknownMemberId,
)
from app.errors.refusal import BrokerError as BrokerError


class BadRequest(BrokerError):
    code = "BAD_REQUEST"
    title = "Bad request"
    cause = "The request could not be read: broken JSON, invalid UTF-8, a bad header or an unreadable parameter."
    cure = "Send valid UTF-8 JSON (no NaN, no lone surrogates, no excessive nesting); see the detail for the place."


class InvalidRequest(BrokerError):
    code = "INVALID_REQUEST"
    title = "Invalid request"
    cause = "The request was read, but a field or parameter is missing, unknown, of the wrong type or out of bounds."
    cure = "Correct the fields named in `errors`; `/docs` shows each operation with an example that works."


class InvalidRecord(BrokerError):
    code = "INVALID_RECORD"
    title = "Invalid record"
    cause = "A record breaks a rule of its topic: no key on a compacted topic, a key or headers beyond their bound."
    cure = "Correct the record at the `index` given; nothing of the request was written."


class InvalidTimestamp(BrokerError):
    code = "INVALID_TIMESTAMP"
    title = "Invalid record timestamp"
    cause = "A record's timestamp_ms is below 0 or more than one hour ahead of the server's clock."
    cure = "Send milliseconds since 1970-01-01T00:00:00Z, or leave timestamp_ms out to use the server's time."


class UnknownPartitionInRecord(BrokerError):
    code = "UNKNOWN_TOPIC_OR_PARTITION"
    title = "Unknown partition in a record"
    cause = "A record names a partition that its topic does not have."
    cure = "Use a partition from 0 to the topic's number of partitions less one, or leave it out."


class InvalidTopicName(BrokerError):
    code = "INVALID_TOPIC_EXCEPTION"
    title = "Invalid name"
    cause = "Names are 1 to 249 characters of a-z A-Z 0-9 . _ -, not '.' or '..'; user topics do not start with '__'."
    cure = "Choose a name of these characters."


class InvalidPartitions(BrokerError):
    code = "INVALID_PARTITIONS"
    title = "Invalid number of partitions"
    cause = "A topic has 1 to 1,000 partitions, and their number can only grow."
    cure = "Ask for at least as many partitions as the topic has, and at most 1,000."


class InvalidConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid topic configuration"
    cause = "A configuration value is out of its bounds."
    cure = "Correct the fields named in `errors`."


class UnknownTopicOrPartition(BrokerError):
    code = "UNKNOWN_TOPIC_OR_PARTITION"
    title = "Unknown topic or partition"
    cause = "There is no topic of this name, or it has no such partition; it may have been deleted."
    cure = "Create the topic with PUT /v1/topics/{topic}, or list the topics with GET /v1/topics."


class UnknownProducerId(BrokerError):
    code = "UNKNOWN_PRODUCER_ID"
    title = "Unknown producer"
    cause = "No producer of this id is known, or it has been silent for seven days and was forgotten."
    cure = "Register it with POST /v1/producers/{producer_id}."


class NotFound(BrokerError):
    code = "NOT_FOUND"
    title = "Not found"
    cause = "There is nothing at this path."
    cure = "See /docs for the operations."


class UriTooLong(BrokerError):
    code = "URI_TOO_LONG"
    title = "URI too long"
    cause = "The path and query of the request are longer than the server reads."
    cure = "Send what is long in the body, or use fewer parameters."


class HeaderFieldsTooLarge(BrokerError):
    code = "REQUEST_HEADER_FIELDS_TOO_LARGE"
    title = "Request header fields too large"
    cause = "The request has too many headers, or headers that are together too large."
    cure = "Send fewer or shorter headers; record headers belong in the body."


class MethodNotAllowed(BrokerError):
    code = "METHOD_NOT_ALLOWED"
    title = "Method not allowed"
    cause = "The path exists, but not with this method."
    cure = "Use one of the methods in the Allow header."


class TopicAlreadyExists(BrokerError):
    code = "TOPIC_ALREADY_EXISTS"
    title = "Topic exists with other settings"
    cause = "PUT confirms a topic only if no given field differs from it."
    cure = "Change the topic with PATCH /v1/topics/{topic}, or leave the differing fields out."


class TopicInUse(BrokerError):
    code = "TOPIC_IN_USE"
    title = "Topic is in use"
    cause = "A queue names the topic as its dead-letter topic."
    cure = "Name another dead_letter_topic, or null, with PATCH /v1/queues/{queue}, or delete the queue first."


class UnknownQueue(BrokerError):
    code = "UNKNOWN_QUEUE"
    title = "Unknown queue"
    cause = "There is no queue of this name. A queue is deleted with its topic."
    cure = "Create it with PUT /v1/queues/{queue}, or list the queues with GET /v1/queues."


class QueueAlreadyExists(BrokerError):
    code = "QUEUE_ALREADY_EXISTS"
    title = "Queue exists with other settings"
    cause = "PUT confirms a queue only if no given field differs from it, and a queue stays with its topic."
    cure = "Change the queue with PATCH /v1/queues/{queue}, leave the differing fields out, or choose another name."


class InvalidQueueConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid queue configuration"
    cause = "A configuration value of a queue is out of its bounds, or its topics do not go together."
    cure = "Correct the fields named in `errors`."


class InvalidRecordState(BrokerError):
    code = "INVALID_RECORD_STATE"
    title = "Delivery has ended"
    cause = "The delivery was accepted, released or rejected before, its lock has passed, or it never was."
    cure = (
        "Nothing is left to do for it: if the lock has passed, the record is delivered again. Renew long work in time."
    )


class DelayedRecordsLimit(BrokerError):
    code = "DELAYED_RECORDS_LIMIT"
    title = "Too many delayed records"
    cause = "100,000 records of the queue are delayed already. The delivery is as it was before."
    cure = "Release without delay_ms, renew, or wait until some are due."


class OffsetBelowLogStart(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Offset below the log start"
    cause = "The records at this offset were removed by retention or by a deletion."
    cure = "Go on at log_start_offset, or send offset_reset=earliest or offset_reset=latest."


class OffsetAboveLogEnd(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Offset above the log end"
    cause = "The offset is beyond the next one to be written."
    cure = "Use an offset up to log_end_offset, or send offset_reset=earliest or offset_reset=latest."


class InvalidCursor(BrokerError):
    code = "INVALID_CURSOR"
    title = "Invalid cursor"
    cause = "The cursor was not made by this server, belongs to another list or topic, or was cut."
    cure = "Use next_cursor exactly as it was given, or start again without one."


class CursorExpired(BrokerError):
    code = "UNKNOWN_TOPIC_ID"
    title = "Cursor of a topic that is gone"
    cause = "The topic of the cursor was deleted; one created again under its name is another topic."
    cure = "Start again with offset=earliest."


class OffsetMismatch(BrokerError):
    code = "OFFSET_MISMATCH"
    title = "Expected offset differs"
    cause = "expected_offset is not the partition's log_end_offset: somebody else has appended."
    cure = "Read up to log_end_offset, decide again, and send the new expected_offset."


class MessageTooLarge(BrokerError):
    code = "MESSAGE_TOO_LARGE"
    title = "Record too large"
    cause = "A record's key, value and headers are together larger than the topic's max_message_bytes."
    cure = "Split the record or raise max_message_bytes; nothing of the request was written."


class BodyTooLarge(BrokerError):
    code = "REQUEST_TOO_LARGE"
    title = "Request body too large"
    cause = "The body, compressed or decompressed, is beyond the bound."
    cure = "Send the records in several requests."


class UnsupportedMediaType(BrokerError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    title = "Unsupported media type"
    cause = "The Content-Type or Content-Encoding is not one that this operation reads; `curl -d` sends a form type."
    cure = "Use curl --json '…', or add -H 'Content-Type: application/json' with a curl before 7.82."


class IdempotencyKeyReused(BrokerError):
    code = "IDEMPOTENCY_KEY_REUSED"
    title = "Idempotency-Key used for another request"
    cause = "The key was used within 24 hours on this topic for a request with another path, query, type or body."
    cure = "Use a new key for each new request, and the same key only to repeat one."


class ConcurrentRequest(BrokerError):
    code = "CONCURRENT_REQUEST"
    title = "A request like this is running"
    cause = "Another request with this Idempotency-Key did not finish within five seconds, or another poll of this member began."
    cure = "Send the same request with the same key again. Poll one at a time, each after the last's answer."
    retriable = True


class DuplicateSequenceNumber(BrokerError):
    code = "DUPLICATE_SEQUENCE_NUMBER"
    title = "Sequence number is too old"
    cause = "The sequence was used before the last five requests, so its answer is no longer kept."
    cure = "The request was already appended; go on with expected_sequence."


class OutOfOrderSequenceNumber(BrokerError):
    code = "OUT_OF_ORDER_SEQUENCE_NUMBER"
    title = "Gap in the sequence numbers"
    cause = "The sequence is not the next one of this producer and topic; a new producer or epoch starts at 0."
    cure = "Send the requests in order, from expected_sequence."


class SequenceReused(BrokerError):
    code = "SEQUENCE_REUSED"
    title = "Sequence number used for another request"
    cause = "One of the last five sequences came again with another path, query, type or body."
    cure = "Repeat a request unchanged, or give the new one the next sequence."


class InvalidProducerEpoch(BrokerError):
    code = "INVALID_PRODUCER_EPOCH"
    title = "Producer epoch is fenced"
    cause = "A newer instance of this producer has raised its epoch."
    cure = "Stop this instance, or take a new epoch with POST /v1/producers/{producer_id} and start at sequence 0."


class CrossOriginRefused(BrokerError):
    code = "CROSS_ORIGIN_REFUSED"
    title = "Cross-origin request refused"
    cause = "A web page of another origin tried to write."
    cure = "Add the origin to MILLRACE_CORS_ORIGINS if it is yours."


class WrongHost(BrokerError):
    code = "MISDIRECTED_REQUEST"
    title = "Wrong host"
    cause = "The Host header names a host that this server does not answer for."
    cure = "Use localhost or 127.0.0.1, or add the host to MILLRACE_ALLOWED_HOSTS."


class ServiceUnavailable(BrokerError):
    code = "SERVICE_UNAVAILABLE"
    title = "Service unavailable"
    cause = "The database did not answer in time, or the server is stopping or overloaded. Nothing was written."
    cure = "Send the request again after the time in Retry-After."
    retriable = True


class LockTimeout(ServiceUnavailable):
    """The kind of unavailability that tells the appender whom a request waited for; no problem of its own."""


class OutcomeUnknown(BrokerError):
    code = "REQUEST_TIMED_OUT"
    title = "Request timed out"
    cause = (
        "504: the connection to the database was lost while the transaction committed, so that it may or may not be "
        "written. 408: the rest of a request did not arrive in time, and nothing of it was read."
    )
    cure = "Send it again; after a 504 with the same Idempotency-Key or Producer-Sequence, which never writes twice."


class DiskFull(BrokerError):
    code = "KAFKA_STORAGE_ERROR"
    title = "Disk full"
    cause = "The database has no space left. Nothing was written; reading and deleting still work."
    cure = "Free space, lower retention or delete topics; writing resumes by itself."
    retriable = True


class UnknownServerError(BrokerError):
    code = "UNKNOWN_SERVER_ERROR"
    title = "Internal error"
    cause = "A fault of the server, which its log tells under the request_id."
    cure = "Report it with the request_id."
