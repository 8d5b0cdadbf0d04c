"""Verify deliveries by Standard Webhooks, with a shared secret or a public key. Pure.

Source: the specification of Standard Webhooks.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Literal

from app.domain.sources.delivery import (
    MAX_SIGNATURES,
    TOLERANCE_S,
    Delivery,
    Unverified,
    check_time,
    equal_any,
    required,
    text_of,
)

_PREFIXES = (b"webhook-", b"svix-")

VerifyKey = Callable[[bytes, bytes, bytes], bool]
"""Returns whether an ed25519 signature fits: public key, signature, content."""


def verify_standard(secrets: Sequence[bytes], delivery: Delivery, now_s: int, ed25519: VerifyKey) -> str | None:
    """Verify the id, the time and the body, and return the id.

    Raises:
        Unverified: The delivery is refused.
    """
    prefix = next((each for each in _PREFIXES if each + b"signature" in delivery.headers), b"webhook-")
    identity = required(delivery, prefix + b"id")
    if b"." in identity:
        raise Unverified("the id has a dot, which separates it from the time")
    time = required(delivery, prefix + b"timestamp")
    given = required(delivery, prefix + b"signature").split(b" ")
    if len(given) > MAX_SIGNATURES:
        raise Unverified(f"there are more than {MAX_SIGNATURES} signatures")
    check_time(time, now_s, TOLERANCE_S)
    content = identity + b"." + time + b"." + delivery.body
    accepted = False
    for secret in secrets:
        kind, key = parse_standard_secret(secret)
        if kind == "public":
            accepted |= any(ed25519(key, signature, content) for signature in _decoded(given, b"v1a,"))
        else:
            accepted |= equal_any(given, [b"v1," + b64encode(hmac.digest(key, content, sha256))])
    if not accepted:
        raise Unverified("no signature fits")
    return text_of(identity)


def parse_standard_secret(secret: bytes) -> tuple[Literal["shared", "public"], bytes]:
    """Return the key of `whsec_…` or `whpk_…`.

    Raises:
        Unverified: The secret has another form.
    """
    prefix, _, encoded = secret.partition(b"_")
    kinds: dict[bytes, Literal["shared", "public"]] = {b"whsec": "shared", b"whpk": "public"}
    try:
        return kinds[prefix], b64decode(encoded, validate=True)
    except (KeyError, Base64Error):
        raise Unverified("the secret of the source is neither whsec_… nor whpk_…") from None


def _decoded(signatures: Sequence[bytes], prefix: bytes) -> list[bytes]:
    found = []
    for signature in signatures:
        if signature.startswith(prefix):
            try:
                decoded = b64decode(signature.removeprefix(prefix), validate=True)
            except Base64Error:
                continue
            if b64encode(decoded) == signature.removeprefix(prefix):
                found.append(decoded)
    return found
