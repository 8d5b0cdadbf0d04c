"""Errors of webhooks and sources."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class UnknownWebhook(BrokerError):
    code = "UNKNOWN_WEBHOOK"
    title = "Unknown webhook"
    cause = "The webhook does not exist."
    cure = "Create the webhook with PUT /v1/webhooks/{webhook}, or list the webhooks with GET /v1/webhooks."


class WebhookAlreadyExists(BrokerError):
    code = "WEBHOOK_ALREADY_EXISTS"
    title = "Webhook exists with other settings"
    cause = "PUT found the webhook, but a field of the request differs."
    cure = "Change the webhook with PATCH /v1/webhooks/{webhook}, omit the fields that differ, or choose another name."


class InvalidWebhookConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid webhook configuration"
    cause = "A field of the webhook is not valid or not allowed."
    cure = "Correct the fields in `errors`."


class UnknownReplay(BrokerError):
    code = "UNKNOWN_REPLAY"
    title = "Unknown replay"
    cause = "The replay does not exist, or has ended more than a day ago."
    cure = "Start a replay with POST /v1/webhooks/{webhook}/replay."


class ReplaysLimit(BrokerError):
    code = "REPLAYS_LIMIT"
    title = "Too many replays"
    cause = "The webhook has 1,000 running replays, the maximum. Redeliveries and redrives are replays too."
    cure = "Wait until some are done, cancel some with DELETE, or replay a range instead of single records."


class SecretKeyMissing(BrokerError):
    code = "SECRET_KEY_MISSING"
    title = "No key for secrets"
    cause = "The server has no MILLRACE_SECRET_KEY, and secrets are not stored without encryption."
    cure = "Set MILLRACE_SECRET_KEY to the base64 of 32 random bytes on each node: openssl rand -base64 32."


class UnknownSource(BrokerError):
    code = "UNKNOWN_SOURCE"
    title = "Unknown source"
    cause = "The source does not exist."
    cure = "Create the source with PUT /v1/sources/{source}, or list the sources with GET /v1/sources."


class SourceAlreadyExists(BrokerError):
    code = "SOURCE_ALREADY_EXISTS"
    title = "Source exists with other settings"
    cause = "PUT found the source, but a field of the request differs."
    cure = "Change the source with PATCH /v1/sources/{source}, omit the fields that differ, or choose another name."


class InvalidSourceConfig(BrokerError):
    code = "INVALID_CONFIG"
    title = "Invalid source configuration"
    cause = "A field of the source is not valid."
    cure = "Correct the fields in `errors`."


class InvalidSignature(BrokerError):
    code = "INVALID_SIGNATURE"
    title = "Signature not accepted"
    cause = "The delivery was not verified: its signature, time, credentials or token are missing or wrong."
    cure = "Compare the secret of the sender with that of the source; GET /v1/sources/{source}/refusals has the reason."


class TooManyRefusals(BrokerError):
    code = "THROTTLING_QUOTA_EXCEEDED"
    title = "Too many refused deliveries"
    cause = "More than 100 deliveries of this address to sources were refused within a minute."
    cure = "Correct the secret of the sender, and send again after the time in the Retry-After header."
    retriable = True
