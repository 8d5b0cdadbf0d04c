"""Secrets and signatures of webhooks. Pure.

Source: Standard Webhooks. The signed content is `{webhook-id}.{webhook-timestamp}.{body}`.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from hashlib import sha256

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of all secrets
PUBLIC_KEY_PREFIX = "whpk_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
SEED_BYTES = 32
"""Bytes of a secret with ed25519."""

Signer = Callable[[bytes], bytes]
"""Returns the bytes of an ed25519 signature."""


def parse_secret(text: str) -> bytes:
    """Return the bytes of a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`.

    Raises:
        ValueError: The message completes "secret …".
    """
    prefix, mark, encoded = text.partition("_")
    if prefix + mark != SECRET_PREFIX:
        raise ValueError("must begin with whsec_, followed by base64")
    try:
        secret = b64decode(encoded, validate=True)
    except (Base64Error, ValueError):
        raise ValueError("must be base64 after whsec_") from None
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise ValueError(f"must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes after whsec_, in base64")
    return secret


def check_seed(secret: bytes) -> None:
    """Check that a secret can be the seed of an ed25519 key.

    Raises:
        ValueError: The message completes "secret …".
    """
    if len(secret) != SEED_BYTES:
        raise ValueError(f"must have {SEED_BYTES} bytes after whsec_, in base64, because signature is ed25519")


def format_secret(secret: bytes) -> str:
    """Return a secret as clients see it."""
    return SECRET_PREFIX + b64encode(secret).decode()


def signed_content(message_id: str, timestamp_s: int, body: bytes) -> bytes:
    """Return the bytes that a signature covers."""
    return b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)


def sign_hmac(secrets: Sequence[bytes], content: bytes) -> list[str]:
    """Return the `v1` signature of each secret."""
    return [f"v1,{b64encode(hmac.digest(secret, content, sha256)).decode()}" for secret in secrets]


def sign_ed25519(signers: Sequence[Signer], content: bytes) -> list[str]:
    """Return the `v1a` signature of each private key."""
    return [f"v1a,{b64encode(sign(content)).decode()}" for sign in signers]
