"""Authentication and authorization of a request: the one place that decides whether an operation runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from app.broker.access.access_control import NO_CREDENTIAL, AccessControl
from app.broker.access.identities import Grant, Identity, Right
from app.broker.groups.group_transactions import group_not_found
from app.broker.log.producer import UNKNOWN_PRODUCER
from app.broker.log.topics import UNKNOWN_TOPIC
from app.broker.queues.queues import UNKNOWN_QUEUE
from app.broker.sources.sources import UNKNOWN_SOURCE
from app.broker.webhooks.webhooks import UNKNOWN_WEBHOOK
from app.domain.access.acl import CLUSTER, Operation, ResourceType
from app.domain.access.addresses import canonical_address
from app.domain.access.audit import AuditRecord, without_secrets
from app.domain.access.permission import Permission
from app.domain.access.principal import ANONYMOUS, Principal
from app.errors.access import (
    AuthenticationFailed,
    ClusterAuthorizationFailed,
    GroupAuthorizationFailed,
    ProducerAuthorizationFailed,
    QueueAuthorizationFailed,
    SourceAuthorizationFailed,
    TopicAuthorizationFailed,
    WebhookAuthorizationFailed,
)
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest
from app.errors.log import TopicAlreadyExists, UnknownProducerId, UnknownTopicOrPartition
from app.errors.queues import QueueAlreadyExists, UnknownQueue
from app.errors.webhooks import SourceAlreadyExists, UnknownSource, UnknownWebhook, WebhookAlreadyExists

if TYPE_CHECKING:
    from app.api.http.call import Call


_FORBIDDEN: dict[ResourceType, type[BrokerError]] = {
    "topic": TopicAuthorizationFailed,
    "group": GroupAuthorizationFailed,
    "queue": QueueAuthorizationFailed,
    "webhook": WebhookAuthorizationFailed,
    "source": SourceAuthorizationFailed,
    "producer": ProducerAuthorizationFailed,
    "cluster": ClusterAuthorizationFailed,
}
_MISSING: dict[ResourceType, Callable[[], BrokerError]] = {
    "topic": lambda: UnknownTopicOrPartition(UNKNOWN_TOPIC),
    "group": group_not_found,
    "queue": lambda: UnknownQueue(UNKNOWN_QUEUE),
    "webhook": lambda: UnknownWebhook(UNKNOWN_WEBHOOK),
    "source": lambda: UnknownSource(UNKNOWN_SOURCE),
    "producer": lambda: UnknownProducerId(UNKNOWN_PRODUCER),
}
"""What a read of a name that does not exist is answered with."""

_TAKEN: dict[ResourceType, type[BrokerError]] = {
    "topic": TopicAlreadyExists,
    "queue": QueueAlreadyExists,
    "source": SourceAlreadyExists,
    "webhook": WebhookAlreadyExists,
}

_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)
_STREAM_TOKEN = re.compile(rb"(?:^|&)stream_token=([^&]*)")


class WaitingRequest:
    """A request whose waits end when it loses its rights.

    Attributes:
        identity: Who sends the request.
        version: The version of keys and access control lists at which its rights were judged last.
        refusal: Why the request was ended while it waited; None if it was not.
    """

    __slots__ = ("_control", "_waits", "identity", "refusal", "version")

    def __init__(self, control: AccessControl, identity: Identity, version: int) -> None:
        self._control = control
        self._waits: set[asyncio.Future[None]] | None = None
        self.identity = identity
        self.version = version
        self.refusal: BrokerError | None = None

    def watch(self, wait: asyncio.Future[None]) -> None:
        """End a wait when the request loses a right that it has used."""
        if self._waits is None:
            self._waits = set()
        if not self._waits:
            self._control.watch(self)
        self._waits.add(wait)
        wait.add_done_callback(self._unwatch)

    def recheck(self) -> BrokerError | None:
        """Return why an anonymous request must end: its server needs keys now."""
        return None if self._control.open else AuthenticationFailed(NO_CREDENTIAL)

    def end(self, error: BrokerError) -> None:
        """End the waits of the request; its answer is the error."""
        self.refusal = error
        for wait in list(self._waits or ()):
            wait.cancel()

    async def confirm(self) -> None:
        """Judge the rights of a request again whose body took a while to arrive.

        Raises:
            BrokerError: It has lost them.
        """
        await self._control.ensure_fresh()
        if (error := await self._control.refusal_of(self)) is not None:
            raise error

    def _unwatch(self, wait: asyncio.Future[None]) -> None:
        waits = self._waits or set()
        waits.discard(wait)
        if not waits:
            self._control.unwatch(self)


class Access(WaitingRequest):
    """The rights of a request with a key."""

    __slots__ = ("_audit", "_client", "_grant", "_operation", "_used")

    def __init__(self, call: Call, operation: str, grant: Grant, version: int) -> None:
        self._control = call.services.access
        self._waits = None
        self.identity = grant.identity
        self.version = version
        self.refusal = None
        self._audit = call.services.audit
        self._client = call.scope.get("client")  # not the call: a cycle of references would need garbage collections
        self._operation = operation
        self._grant = grant
        self._used: dict[Right, None] | None = None

    def allows(self, operation: Operation, resource_type: ResourceType, name: str) -> bool:
        """Return whether the principal may run an operation on a resource."""
        host = _address(self._client) if self._control.compares_hosts else ""
        return self._control.allows(self.identity.principal, host, operation, resource_type, name)

    def require(self, operation: Operation, resource_type: ResourceType, name: str = CLUSTER) -> None:
        """Refuse an operation that the principal may not run.

        Raises:
            BrokerError: The `…AuthorizationFailed` of the type.
        """
        if not self.allows(operation, resource_type, name):
            raise self.refused(_forbidden(self.identity.principal, operation, resource_type))
        if self._used is None:
            self._used = {}
        self._used[operation, resource_type, name] = None

    def require_admin(self) -> None:
        """Refuse a principal that is no super user.

        Raises:
            ClusterAuthorizationFailed
        """
        if not self.identity.principal.is_admin:
            message = "keys and access control lists are for admins only; use an admin's key"
            raise self.refused(ClusterAuthorizationFailed(message))

    def refused(self, error: BrokerError, reason: BrokerError | None = None) -> BrokerError:
        """Note a refusal for the audit topic, and return its error.

        Args:
            error: The error.
            reason: The real reason, if the error does not tell it.
        """
        code = (reason or error).code
        self._audit.note_refusal(self.identity.principal, _address(self._client), self._operation, code)
        return error

    def recheck(self) -> BrokerError | None:
        """Return the error of the first right that the request no longer has, or None."""
        granted = () if self._grant.right is None else (self._grant.right,)
        for operation, resource_type, name in (*granted, *(self._used or ())):
            if not self.allows(operation, resource_type, name):
                return _forbidden(self.identity.principal, operation, resource_type)
        return None


def authorize_at_once(call: Call, operation: str, permission: Permission) -> bool:
    """Admit a request as one before it, without waiting, if nothing has changed since. Return whether it did."""
    if permission.kind == "public":
        return True
    control = call.services.access
    if not control.is_fresh():
        return False
    if control.open and "millrace.remote" not in call.scope:
        return True
    headers, query = call.headers, call.scope["query_string"]
    bearer = headers.get(b"authorization")
    if bearer is None or b"x-api-key" in headers or (query and b"stream_token" in query):
        return False
    name = call.parameters[permission.parameter] if permission.parameter else CLUSTER
    grant = control.grants.get((bearer, operation, name, _host(call, control)))
    if grant is None or control.has_expired(grant.identity):
        return False
    grant.was_used = True
    call.access = Access(call, operation, grant, control.version)
    call.principal = grant.identity.principal
    return True


async def authorize(call: Call, operation: str, permission: Permission) -> None:
    """Authenticate a request and authorize its operation; `call.access` has its rights if it needs a key.

    Raises:
        AuthenticationFailed: It has no valid key.
        BrokerError: The principal may not run the operation: 403, or 404 as for a missing resource if it is a read of
            what the principal may not describe.
        ServiceUnavailable: Access cannot be decided without the database.
    """
    control = call.services.access
    await control.ensure_fresh()
    if control.open and "millrace.remote" not in call.scope:
        return
    version, query = control.version, call.scope["query_string"]
    identity = await _identify(call, control)
    access = call.access = Access(call, operation, Grant(identity, None), version)
    call.principal = identity.principal
    name = call.parameters[permission.parameter] if permission.parameter else CLUSTER
    right: Right | None = None
    if permission.kind == "admin":
        access.require_admin()
    elif permission.kind == "resource":
        right = permission.operation, permission.resource_type, name
        _require(access, permission, name, is_read=call.scope["method"] == "GET")
    bearer = call.header(b"authorization")
    if bearer is not None and version == control.version and b"stream_token" not in query:
        control.keep_grant((bearer, operation, name, _host(call, control)), Grant(identity, right))


def _require(access: Access, permission: Permission, name: str, *, is_read: bool) -> None:
    _, operation, resource_type, _ = permission
    missing = _MISSING.get(resource_type)
    if is_read and missing is not None and not access.allows("describe", resource_type, name):
        raise access.refused(missing(), _forbidden(access.identity.principal, operation, resource_type))
    access.require(operation, resource_type, name)


def is_recorded(call: Call, permission: Permission) -> bool:
    """Return whether the audit topic records a change: by a principal, or of the access to an open server."""
    if call.scope["method"] == "GET" or not call.services.access.enabled:
        return False
    return call.access is not None or permission.kind == "admin"


def audit_record(call: Call, operation: str, at_ms: int) -> AuditRecord:
    """Return the record of a change for the audit topic."""
    body = call.audited_body
    fields = without_secrets(msgspec.to_builtins(body)) if isinstance(body, msgspec.Struct) else {}
    return AuditRecord(
        type="change",
        at_ms=at_ms,
        principal=call.principal.name,
        operation=operation,
        key_id=call.principal.key_id,
        address=_address(call.scope.get("client")),
        request_id=call.request_id,
        resource=dict(call.parameters),
        parameters=fields,
    )


def require_all(call: Call, operation: Operation, resource_type: ResourceType, names: Iterable[str]) -> None:
    """Refuse an operation on resources that the body names.

    Raises:
        BrokerError: The `…AuthorizationFailed` of the type.
    """
    if call.access is not None:
        for name in names:
            call.access.require(operation, resource_type, name)


async def require_created(call: Call, names: Iterable[str]) -> None:
    """Refuse to create the topics that a request names and that do not exist.

    Raises:
        TopicAuthorizationFailed
    """
    if call.access is None or call.principal.is_admin:
        return
    for name in await call.services.topics.missing(sorted(set(names))):
        call.access.require("create", "topic", name)


def may_describe(call: Call, resource_type: ResourceType, name: str) -> bool:
    """Return whether a list shows a resource."""
    return call.access is None or call.access.allows("describe", resource_type, name)


def watched(call: Call) -> WaitingRequest | None:
    """Return what ends the waits of a request, or None on a server without access control."""
    control = call.services.access
    if call.access is not None or not control.enabled:
        return call.access
    return WaitingRequest(control, Identity(ANONYMOUS), control.version)


@contextmanager
def confirming(call: Call, resource_type: ResourceType, name: str) -> Iterator[None]:
    """Let a conflict with a resource that the principal may not describe say no more than that the name is taken."""
    try:
        yield
    except _TAKEN[resource_type]:
        refuse_hidden(call, resource_type, name)
        raise


def refuse_hidden(call: Call, resource_type: ResourceType, name: str) -> None:
    """Refuse to confirm a resource that exists to a principal that may not describe it.

    Raises:
        BrokerError: The `…AlreadyExists` of the type.
    """
    if not may_describe(call, resource_type, name):
        raise _TAKEN[resource_type]("the name is taken, by what this principal may not describe; choose another name")


async def _identify(call: Call, control: AccessControl) -> Identity:
    query = call.scope["query_string"]
    if query and call.scope["method"] == "GET" and (match := _STREAM_TOKEN.search(query)) is not None:
        rest = (query[: match.start()] + query[match.end() :]).lstrip(b"&")
        call.scope = {**call.scope, "query_string": rest}
        target = stream_target(call.scope["path"], rest.decode("latin-1"))
        return await control.take_stream_token(match[1].decode("latin-1"), target)
    return await control.identify(_credential(call))


def stream_target(path: str, query: str) -> str:
    """Return what a stream token is bound to."""
    return f"{path}?{query}" if query else path


def _credential(call: Call) -> bytes | None:
    """Return the key or the token of a request.

    Raises:
        BadRequest: It has both headers.
    """
    bearer, key = call.header(b"authorization"), call.header(b"x-api-key")
    if bearer is None:
        return None if key is None else key.strip()
    if key is not None:
        raise BadRequest("send the key either as Authorization: Bearer or as X-API-Key, not as both")
    match = _BEARER.fullmatch(bearer)
    return None if match is None else match[1]


def _host(call: Call, control: AccessControl) -> str:
    """Return the address of the client if that counts; else an empty text, which is cheaper."""
    return _address(call.scope.get("client")) if control.compares_hosts else ""


def _address(client: tuple[str, int] | None) -> str:
    """Return the address of a client in its canonical form."""
    return canonical_address(client[0]) if client else ""


def _forbidden(principal: Principal, operation: Operation, resource_type: ResourceType) -> BrokerError:
    return _FORBIDDEN[resource_type](
        f"the principal {principal.name} may not {operation} this {resource_type}: no access control list allows it, "
        "or one denies it; admins change them with POST /v1/acls"
    )
