"""Refusals of topics, records, offsets and producers."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


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
