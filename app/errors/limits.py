"""Errors of limits that the operator sets."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class ThrottlingQuotaExceeded(BrokerError):
    code = "THROTTLING_QUOTA_EXCEEDED"
    title = "Quota exceeded"
    cause = "The principal, or without a key the address, has used its quota or has too many requests that wait."
    cure = "Send the request again after Retry-After. The RateLimit fields say what is left; /guides/limits has all limits."
    retriable = True


class PolicyViolation(BrokerError):
    code = "POLICY_VIOLATION"
    title = "Limit of the installation"
    cause = "The installation has as many topics, partitions, queues, webhooks or sources as its settings allow."
    cure = "Delete what is not used, or raise the setting that the detail names."
