"""Answers of other servers, failures to get one, and what the operator allows.

Apart from the client, so that a server without webhooks does not import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from app.domain.outbound.addresses import Network

Headers = Sequence[tuple[bytes, bytes]]


MAX_RESPONSE_BYTES = 16 * 1024


class Response(NamedTuple):
    """The answer of another server.

    Attributes:
        body: At most the first `max_response_bytes` of the rules, not decompressed.
    """

    status: int
    headers: Headers
    body: bytes


class SendFailed(Exception):
    """No answer came. The message is for the owner of the receiver and names no address inside the network."""


class SendBlocked(SendFailed):
    """The address may not be used."""


class SendUnresolved(SendFailed):
    """The name has no address. The resolver works, so this is no sign of a fault on this side."""


class SendTimedOut(SendFailed):
    """The answer did not come in time."""


class NotSent(SendFailed):
    """A fault on this side: the resolver or the proxy cannot be reached."""


class SettingNames(NamedTuple):
    """The settings that the messages name.

    Attributes:
        allow_http: Empty if no setting allows public URLs without TLS.
    """

    allowed_networks: str = "MILLRACE_WEBHOOK_ALLOWED_NETWORKS"
    allow_http: str = "MILLRACE_WEBHOOK_ALLOW_HTTP"
    ca_file: str = "MILLRACE_WEBHOOK_CA_FILE"


class OutboundRules(NamedTuple):
    """What the operator allows.

    Attributes:
        allowed_networks: Networks inside which private and loopback addresses may be used, also without TLS.
        allow_http: Whether public addresses may be used without TLS.
        ca_file: A file of CA certificates instead of the system's; empty for the system's.
        proxy_url: The proxy for all requests; empty for none.
        max_response_bytes: How much is read of the body of an answer.
        settings: The names of the settings that these rules come from.
    """

    allowed_networks: tuple[Network, ...] = ()
    allow_http: bool = False
    ca_file: str = ""
    proxy_url: str = ""
    max_response_bytes: int = MAX_RESPONSE_BYTES
    settings: SettingNames = SettingNames()


class Client(Protocol):
    """Sends requests to other servers; see `OutboundClient`."""

    async def post(self, url: str, headers: Headers, body: bytes, timeout_s: float) -> Response:
        """Send a POST request."""

    async def close(self) -> None:
        """Close all connections."""
