"""Who a request is from, and what tells it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from app.domain.access.acl import Operation, ResourceType
from app.domain.access.principal import Principal
from app.errors.broker_error import BrokerError

Right = tuple[Operation, ResourceType, str]
"""An operation on a resource: the type and the name."""

GrantKey = tuple[bytes, str, str, str]
"""The header with the key, the operation of the API, the name of the resource, and the address if that counts."""


class AccessRules(NamedTuple):
    """The settings of access control.

    Attributes:
        mode: `none` needs no keys, `keys` always does; `auto` needs none on a loopback address until the first key.
        on_loopback: Whether the server listens on a loopback address.
        admin_key: A key of an admin besides those in the database; empty without one.
        super_users: Names of principals that no access control list restricts.
    """

    mode: str = "none"
    on_loopback: bool = True
    admin_key: str = ""
    super_users: frozenset[str] = frozenset()


class Identity(NamedTuple):
    """A principal and when what proves it expires.

    Attributes:
        expires_at_ms: None for never.
    """

    principal: Principal
    expires_at_ms: int | None = None


class Grant:
    """What a node keeps of a request that was admitted, for the next one with the same key, operation and resource.

    Attributes:
        right: Operation, type and name of the resource; None if the operation needs none.
        was_used: Whether a request used it since the use of its key was stored.
    """

    __slots__ = ("identity", "right", "was_used")

    def __init__(self, identity: Identity, right: Right | None) -> None:
        self.identity = identity
        self.right = right
        self.was_used = True


class TokenVerifier(Protocol):
    """Verifies tokens that another service issues."""

    async def identify(self, token: str, now_ms: int) -> Identity:
        """Return whom a token names.

        Raises:
            AuthenticationFailed: The token is not valid.
            ServiceUnavailable: The keys of the issuer cannot be fetched.
        """

    async def close(self) -> None:
        """Close the connections to the issuer."""


class WatchedAccess(Protocol):
    """The rights of a request that waits.

    Attributes:
        version: The version of keys and access control lists at which they were judged last.
    """

    identity: Identity
    version: int

    def recheck(self) -> BrokerError | None:
        """Return the error of the first right that it no longer has, or None."""

    def end(self, error: BrokerError) -> None:
        """End the request with an error."""
