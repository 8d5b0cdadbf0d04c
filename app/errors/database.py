"""Refusals that come from the database, or from a fault of the server."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


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
