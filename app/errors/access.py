"""Errors of authentication and authorization."""

from __future__ import annotations

from app.errors.broker_error import BrokerError

_DENIED = "No access control list allows the operation to the principal, or one denies it."
_ALLOW = "Ask an admin to allow it with POST /v1/acls. The detail names the operation and the resource."


class AuthenticationFailed(BrokerError):
    code = "SASL_AUTHENTICATION_FAILED"
    title = "Authentication failed"
    cause = "The request has no key or token, or one that is unknown, expired or revoked."
    cure = "Send a key as `Authorization: Bearer mr_…` or `X-API-Key: mr_…`. `millrace keys create` makes one."


class TopicAuthorizationFailed(BrokerError):
    code = "TOPIC_AUTHORIZATION_FAILED"
    title = "Not allowed on this topic"
    cause = _DENIED
    cure = _ALLOW


class GroupAuthorizationFailed(BrokerError):
    code = "GROUP_AUTHORIZATION_FAILED"
    title = "Not allowed on this group"
    cause = _DENIED
    cure = _ALLOW


class QueueAuthorizationFailed(BrokerError):
    code = "QUEUE_AUTHORIZATION_FAILED"
    title = "Not allowed on this queue"
    cause = _DENIED
    cure = _ALLOW


class WebhookAuthorizationFailed(BrokerError):
    code = "WEBHOOK_AUTHORIZATION_FAILED"
    title = "Not allowed on this webhook"
    cause = _DENIED
    cure = _ALLOW


class SourceAuthorizationFailed(BrokerError):
    code = "SOURCE_AUTHORIZATION_FAILED"
    title = "Not allowed on this source"
    cause = _DENIED
    cure = _ALLOW


class ProducerAuthorizationFailed(BrokerError):
    code = "PRODUCER_AUTHORIZATION_FAILED"
    title = "Not allowed on this producer"
    cause = _DENIED
    cure = _ALLOW


class ClusterAuthorizationFailed(BrokerError):
    code = "CLUSTER_AUTHORIZATION_FAILED"
    title = "Not allowed on the cluster"
    cause = "The operation needs an admin, or an access control list of the type `cluster`."
    cure = "Use the key of an admin, or ask an admin to allow it with POST /v1/acls."


class InvalidKeyRequest(BrokerError):
    code = "INVALID_API_KEY_REQUEST"
    title = "Invalid API key"
    cause = "A field of the new key is not valid, or the first key of an installation is not an admin's."
    cure = "Correct the fields in `errors`. Create a key with `admin: true` first, then the others."


class UnknownKey(BrokerError):
    code = "UNKNOWN_API_KEY"
    title = "Unknown API key"
    cause = "No key has this id, or it was revoked."
    cure = "List the keys with GET /v1/keys."


class InvalidAcl(BrokerError):
    code = "INVALID_ACL"
    title = "Invalid access control list"
    cause = "A field of the access control list is not valid."
    cure = "Correct the fields in `errors`."


class UnknownAcl(BrokerError):
    code = "UNKNOWN_ACL"
    title = "Unknown access control list"
    cause = "No access control list has this id."
    cure = "List them with GET /v1/acls."


class AccessLimit(BrokerError):
    code = "ACCESS_LIMIT"
    title = "Too many keys or access control lists"
    cause = "The installation has the maximum number of keys or access control lists."
    cure = "Delete some; prefixed patterns and `*` replace many entries."
