"""Errors of the database, and internal errors."""

from __future__ import annotations

from app.errors.broker_error import BrokerError

STOPPING = "the server is stopping; nothing was done"


class ServiceUnavailable(BrokerError):
    code = "SERVICE_UNAVAILABLE"
    title = "Service unavailable"
    cause = "The database did not answer in time, or the server is stopping or overloaded. Nothing was written."
    cure = "Send the request again after the time in the Retry-After header."
    retriable = True


class LockTimeout(ServiceUnavailable):
    """A lock of the database was not free in time. Its problem is that of `ServiceUnavailable`."""


class DatabaseMisplaced(ServiceUnavailable):
    """A file of the database was moved, deleted or replaced. Its problem is that of `ServiceUnavailable`."""


class OutcomeUnknown(BrokerError):
    code = "REQUEST_TIMED_OUT"
    title = "Outcome unknown"
    cause = "504: the database did not confirm the commit. The data may or may not be written."
    cure = "After a 504, send the same Idempotency-Key or Producer-Sequence, which prevents a second write."


class DiskFull(BrokerError):
    code = "KAFKA_STORAGE_ERROR"
    title = "Disk full"
    cause = "The disk of the database is full. Nothing was written. Reads and deletions still work."
    cure = "Free disk space, reduce retention or delete topics. Writes then resume without a restart."
    retriable = True


class UnknownServerError(BrokerError):
    code = "UNKNOWN_SERVER_ERROR"
    title = "Internal error"
    cause = "The server failed. Its log has the error under the request_id."
    cure = "Report the error with the request_id."
