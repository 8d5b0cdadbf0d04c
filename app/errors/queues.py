"""Errors of queues."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class UnknownQueue(BrokerError):
    code = "UNKNOWN_QUEUE"
    title = "Unknown queue"
    cause = "The queue does not exist. Deleting a topic deletes its queues."
    cure = "Create the queue with PUT /v1/queues/{queue}, or list the queues with GET /v1/queues."


class QueueAlreadyExists(BrokerError):
    code = "QUEUE_ALREADY_EXISTS"
    title = "Queue exists with other settings"
    cause = "PUT found the queue, but a field of the request differs. The topic of a queue cannot change."
    cure = "Change the queue with PATCH /v1/queues/{queue}, omit the fields that differ, or choose another name."


class InvalidQueueConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid queue configuration"
    cause = "A configuration value of the queue is out of bounds, or its dead_letter_topic is not allowed."
    cure = "Correct the fields in `errors`."


class InvalidRecordState(BrokerError):
    code = "INVALID_RECORD_STATE"
    title = "Delivery has ended"
    cause = "The delivery was already accepted, released or rejected, its lock expired, or it never existed."
    cure = (
        "Acquire again: a record whose lock expired is delivered again. Renew the lock before it expires if the "
        "work takes long."
    )


class DelayedRecordsLimit(BrokerError):
    code = "DELAYED_RECORDS_LIMIT"
    title = "Too many delayed records"
    cause = "The queue has 100,000 delayed records, the maximum. The delivery did not change."
    cure = "Release without delay_ms, renew the lock, or wait until delayed records are due."
