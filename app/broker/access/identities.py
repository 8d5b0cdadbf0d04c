"""Who a request is from, and what tells it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from app.domain.access.principal import Principal
from app.errors.broker_error import BrokerError


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
