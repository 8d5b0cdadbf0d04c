"""Refusals of queues."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


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
