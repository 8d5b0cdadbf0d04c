"""Builds the verifier of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.domain.outbound.addresses import parse_networks
from app.settings import Settings

if TYPE_CHECKING:
    from app.broker.access.oidc import OidcVerifier


def build_oidc_verifier(settings: Settings, clock_ms: Callable[[], int]) -> OidcVerifier | None:
    """Return what verifies the tokens of the issuer; None without one, and then nothing is imported for it.

    Args:
        settings: The settings.
        clock_ms: Monotonic clock in milliseconds.
    """
    if not settings.oidc_issuer:
        return None
    from app.broker.access.issuer_keys import MAX_DOCUMENT_BYTES, IssuerKeys  # noqa: PLC0415 - only with an issuer
    from app.broker.access.oidc import OidcRules, OidcVerifier  # noqa: PLC0415 - as above
    from app.broker.outbound.client import OutboundClient  # noqa: PLC0415 - as above
    from app.broker.outbound.exchange import OutboundRules, SettingNames  # noqa: PLC0415 - as above
    from app.broker.outbound.resolver import SystemResolver  # noqa: PLC0415 - as above

    rules = OutboundRules(
        parse_networks(settings.oidc_allowed_networks),
        ca_file=settings.oidc_ca_file,
        proxy_url=settings.oidc_proxy_url,
        max_response_bytes=MAX_DOCUMENT_BYTES,
        settings=SettingNames("MILLRACE_OIDC_ALLOWED_NETWORKS", "", "MILLRACE_OIDC_CA_FILE"),
    )
    client = OutboundClient(rules, SystemResolver())
    keys = IssuerKeys(client, settings.oidc_issuer, settings.oidc_jwks_url, clock_ms)
    return OidcVerifier(
        OidcRules(
            settings.oidc_issuer, settings.oidc_audience, settings.oidc_principal_claim, settings.oidc_algorithms
        ),
        keys,
    )
