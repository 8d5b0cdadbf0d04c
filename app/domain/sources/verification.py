"""Verify deliveries by the schemes of their senders, over the raw bytes and in constant time. Pure.

Source: the documentation of GitHub, Stripe, Slack, Shopify and Meta.
"""

from __future__ import annotations

import hmac
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal

import msgspec

from app.domain.sources.delivery import (
    TOLERANCE_S,
    Delivery,
    Unverified,
    check_signatures,
    check_time,
    required,
    string_member,
    text_of,
)
from app.domain.sources.standard import VerifyKey, verify_standard
from app.domain.sources.twilio import verify_twilio

Scheme = Literal[
    "github", "stripe", "slack", "shopify", "twilio", "meta", "standard", "hmac", "basic", "bearer", "none"
]
Algorithm = Literal["sha256", "sha512", "sha1"]
Encoding = Literal["hex", "base64", "base64url"]


class Verify(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a source verifies its deliveries; the last seven fields are for `hmac`.

    Attributes:
        allowed_origins: Origins whose CloudEvents handshake is granted.
        header: The header with the signature.
        prefix: What is before the signature in the header.
        template: The signed text: `{body}`, and `{timestamp}` with `timestamp_header`.
        timestamp_header: The header with the time in seconds since 1970.
        tolerance_ms: How far that time may differ from the server's clock.
    """

    scheme: Scheme
    allowed_origins: tuple[str, ...] = ()
    header: str = ""
    prefix: str = ""
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    template: str = "{body}"
    timestamp_header: str | None = None
    tolerance_ms: int = TOLERANCE_S * 1_000


def verify(how: Verify, secrets: Sequence[bytes], delivery: Delivery, now_s: int, ed25519: VerifyKey) -> str | None:
    """Verify a delivery, and return the id by which a repeat is recognized, or None without one.

    All secrets are tried, with no difference in time.

    Args:
        how: The scheme.
        secrets: The present secret, and the one before it during a rotation.
        delivery: The request.
        now_s: The time, in seconds since 1970.
        ed25519: Checks an ed25519 signature; only `standard` needs it.

    Raises:
        Unverified: The delivery is refused.
    """
    if how.scheme == "standard":
        return verify_standard(secrets, delivery, now_s, ed25519)
    if how.scheme == "hmac":
        return _generic(how, secrets, delivery, now_s)
    return _SCHEMES[how.scheme](secrets, delivery, now_s)


def _github(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    _check_hub_signature(secrets, delivery)
    return text_of(delivery.headers.get(b"x-github-delivery"))


def _meta(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify as GitHub does. Meta names no delivery: a repeat has the same body, which contains its time."""
    _ = now_s
    _check_hub_signature(secrets, delivery)
    return "body:" + sha256(delivery.body).hexdigest()


def _check_hub_signature(secrets: Sequence[bytes], delivery: Delivery) -> None:
    given = required(delivery, b"x-hub-signature-256")
    expected = [b"sha256=" + hmac.new(secret, delivery.body, sha256).hexdigest().encode() for secret in secrets]
    check_signatures([given], expected)


def _stripe(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    fields = [part.strip().partition(b"=") for part in required(delivery, b"stripe-signature").split(b",")]
    times = [value for name, _, value in fields if name == b"t"]
    given = [value for name, _, value in fields if name == b"v1"]
    if len(times) != 1:
        raise Unverified("Stripe-Signature has no single t=")
    check_time(times[0], now_s, TOLERANCE_S)
    content = times[0] + b"." + delivery.body
    check_signatures(given, [hmac.new(secret, content, sha256).hexdigest().encode() for secret in secrets])
    return string_member(delivery.body, "id")


def _slack(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    time = required(delivery, b"x-slack-request-timestamp")
    given = required(delivery, b"x-slack-signature")
    check_time(time, now_s, TOLERANCE_S)
    content = b"v0:" + time + b":" + delivery.body
    check_signatures([given], [b"v0=" + hmac.new(secret, content, sha256).hexdigest().encode() for secret in secrets])
    return string_member(delivery.body, "event_id")


def _shopify(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify the body. Repeats have the same event id; an event may be sent for several topics."""
    _ = now_s
    given = required(delivery, b"x-shopify-hmac-sha256")
    check_signatures([given], [b64encode(hmac.digest(secret, delivery.body, sha256)) for secret in secrets])
    event = text_of(delivery.headers.get(b"x-shopify-event-id"))
    if event is None:
        return text_of(delivery.headers.get(b"x-shopify-webhook-id"))
    return f"{event} {text_of(delivery.headers.get(b'x-shopify-topic')) or ''}"


def _generic(how: Verify, secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    given = required(delivery, how.header.lower().encode())
    if not given.startswith(how.prefix.encode()):
        raise Unverified("the signature has another prefix")
    time = b""
    if how.timestamp_header is not None:
        time = required(delivery, how.timestamp_header.lower().encode())
        check_time(time, now_s, how.tolerance_ms // 1_000)
    before, _, after = how.template.encode().partition(b"{body}")
    content = before.replace(b"{timestamp}", time) + delivery.body + after.replace(b"{timestamp}", time)
    signature = given.removeprefix(how.prefix.encode())
    if how.encoding == "hex":
        signature = signature.lower()
    elif how.encoding == "base64url":
        signature = signature.rstrip(b"=")
    check_signatures(
        [signature], [_encoded(hmac.digest(secret, content, how.algorithm), how.encoding) for secret in secrets]
    )
    return None


def _encoded(digest: bytes, encoding: Encoding) -> bytes:
    if encoding == "hex":
        return digest.hex().encode()
    if encoding == "base64":
        return b64encode(digest)
    return urlsafe_b64encode(digest).rstrip(b"=")  # many senders leave the padding out (RFC 7515)


def _basic(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    scheme, _, given = required(delivery, b"authorization").partition(b" ")
    if scheme.lower() != b"basic":
        raise Unverified("Authorization is not Basic")
    check_signatures([given.strip()], [b64encode(secret) for secret in secrets])
    return None


def _bearer(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    scheme, _, given = required(delivery, b"authorization").partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unverified("Authorization is not Bearer")
    check_signatures([given.strip()], secrets)
    return None


def _none(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Accept a delivery: its path has the token."""
    _ = secrets, delivery, now_s
    return None


_SCHEMES: dict[str, Callable[[Sequence[bytes], Delivery, int], str | None]] = {
    "github": _github,
    "stripe": _stripe,
    "slack": _slack,
    "shopify": _shopify,
    "twilio": verify_twilio,
    "meta": _meta,
    "basic": _basic,
    "bearer": _bearer,
    "none": _none,
}
