"""Errors of topics, records, offsets and producers."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class InvalidRecord(BrokerError):
    code = "INVALID_RECORD"
    title = "Invalid record"
    cause = "A record has no key on a compacted topic, or its key or headers are too large."
    cure = "Correct the record at `index`. No record of the request was written."


class InvalidTimestamp(BrokerError):
    code = "INVALID_TIMESTAMP"
    title = "Invalid record timestamp"
    cause = "A record's timestamp_ms is below 0 or more than one hour ahead of the server's clock."
    cure = "Send milliseconds since 1970-01-01T00:00:00Z, or omit timestamp_ms to use the server's time."


class UnknownPartitionInRecord(BrokerError):
    code = "UNKNOWN_TOPIC_OR_PARTITION"
    title = "Unknown partition in a record"
    cause = "A record names a partition that its topic does not have."
    cure = "Send a partition below the topic's number of partitions, or omit the partition."


class InvalidTopicName(BrokerError):
    code = "INVALID_TOPIC_EXCEPTION"
    title = "Invalid name"
    cause = (
        "A name must be 1 to 249 characters of a-z A-Z 0-9 . _ -, and not '.' or '..'. A topic's name must not start "
        "with '__'."
    )
    cure = "Choose a name of these characters."


class InvalidPartitions(BrokerError):
    code = "INVALID_PARTITIONS"
    title = "Invalid number of partitions"
    cause = "A topic has 1 to 1,000 partitions, and the number cannot decrease."
    cure = "Send a number from the topic's current number of partitions to 1,000."


class InvalidConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid topic configuration"
    cause = "A configuration value is out of bounds."
    cure = "Correct the fields in `errors`."


class UnknownTopicOrPartition(BrokerError):
    code = "UNKNOWN_TOPIC_OR_PARTITION"
    title = "Unknown topic or partition"
    cause = "The topic or the partition does not exist. The topic may have been deleted."
    cure = "Create the topic with PUT /v1/topics/{topic}, or list the topics with GET /v1/topics."


class UnknownProducerId(BrokerError):
    code = "UNKNOWN_PRODUCER_ID"
    title = "Unknown producer"
    cause = "The producer is not registered, or it expired after seven days without a request."
    cure = "Register the producer with POST /v1/producers/{producer_id}."


class TopicAlreadyExists(BrokerError):
    code = "TOPIC_ALREADY_EXISTS"
    title = "Topic exists with other settings"
    cause = "PUT found the topic, but a field of the request differs from the topic's."
    cure = "Change the topic with PATCH /v1/topics/{topic}, or omit the fields that differ."


class TopicInUse(BrokerError):
    code = "TOPIC_IN_USE"
    title = "Topic is in use"
    cause = "A queue or a webhook names the topic as its dead-letter topic."
    cure = "Set another dead_letter_topic with PATCH of the queue or the webhook, or delete the queue or the webhook."


class OffsetBelowLogStart(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Offset below the log start"
    cause = "Retention or a deletion removed the records at this offset."
    cure = "Read from log_start_offset, or send offset_reset=earliest or offset_reset=latest."


class OffsetAboveLogEnd(BrokerError):
    code = "OFFSET_OUT_OF_RANGE"
    title = "Offset above the log end"
    cause = "The offset is greater than log_end_offset, the offset of the next record."
    cure = "Read from an offset up to log_end_offset, or send offset_reset=earliest or offset_reset=latest."


class InvalidCursor(BrokerError):
    code = "INVALID_CURSOR"
    title = "Invalid cursor"
    cause = "The cursor is damaged, or belongs to another list or topic."
    cure = "Send next_cursor unchanged, or start again without a cursor."


class CursorExpired(BrokerError):
    code = "UNKNOWN_TOPIC_ID"
    title = "Cursor of a deleted topic"
    cause = "The topic of the cursor was deleted. A new topic with the same name is another topic."
    cure = "Start again with offset=earliest."


class OffsetMismatch(BrokerError):
    code = "OFFSET_MISMATCH"
    title = "Expected offset does not match"
    cause = "expected_offset is not the partition's log_end_offset: another request appended records."
    cure = "Read the records up to log_end_offset, decide again, and send log_end_offset as expected_offset."


class MessageTooLarge(BrokerError):
    code = "MESSAGE_TOO_LARGE"
    title = "Record too large"
    cause = "The key, value and headers of a record are together larger than the topic's max_message_bytes."
    cure = "Split the record or raise max_message_bytes. No record of the request was written."


class IdempotencyKeyReused(BrokerError):
    code = "IDEMPOTENCY_KEY_REUSED"
    title = "Idempotency-Key used for another request"
    cause = "Within 24 hours, the key was used on this topic for a request with another path, query, type or body."
    cure = "Send a new key with each new request. Send the same key only to repeat a request."


class ConcurrentRequest(BrokerError):
    code = "CONCURRENT_REQUEST"
    title = "The same request is running"
    cause = (
        "Another request with this Idempotency-Key did not finish within five seconds, or another poll of this member "
        "began."
    )
    cure = "Send the same request with the same key again. Send each poll after the answer of the one before."
    retriable = True


class DuplicateSequenceNumber(BrokerError):
    code = "DUPLICATE_SEQUENCE_NUMBER"
    title = "Sequence number is too old"
    cause = "The sequence is older than the last five requests, whose answers the server keeps."
    cure = "Continue with expected_sequence. The records of the request are already in the log."


class OutOfOrderSequenceNumber(BrokerError):
    code = "OUT_OF_ORDER_SEQUENCE_NUMBER"
    title = "Gap in the sequence numbers"
    cause = "The sequence is not the next one of this producer and topic. A new producer or epoch starts at 0."
    cure = "Send the requests in order, starting with expected_sequence."


class SequenceReused(BrokerError):
    code = "SEQUENCE_REUSED"
    title = "Sequence number used for another request"
    cause = "One of the last five sequences was sent again with another path, query, type or body."
    cure = "Repeat a request unchanged, or send a new request with the next sequence."


class InvalidProducerEpoch(BrokerError):
    code = "INVALID_PRODUCER_EPOCH"
    title = "Producer epoch is fenced"
    cause = "A newer instance of this producer raised the epoch."
    cure = "Stop this instance, or get a new epoch with POST /v1/producers/{producer_id} and start at sequence 0."
