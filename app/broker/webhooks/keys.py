"""The secrets of webhooks: made, encrypted for their row, and turned into signatures."""

from __future__ import annotations

import contextlib
import secrets
from base64 import b64encode
from typing import NamedTuple

import msgspec

from app.broker.encryption.secret_box import SecretBox, WrongSecretKey
from app.domain.webhooks import signature
from app.domain.webhooks.signature import PUBLIC_KEY_PREFIX, sign_ed25519, sign_hmac, signed_content
from app.domain.webhooks.webhook import SignatureScheme
from app.storage.db.transaction import Tx
from app.storage.webhooks import webhooks
from app.storage.webhooks.webhooks import StoredWebhook

_SECRET_BYTES = 32
_PAGE = 100
_headers = msgspec.json.Decoder(dict[str, str])


class SigningKeys(NamedTuple):
    """The secrets that sign an attempt: the present one, and the one before it during a rotation."""

    scheme: SignatureScheme
    secrets: tuple[bytes, ...]

    def sign(self, message_id: str, timestamp_s: int, body: bytes) -> bytes:
        """Return the value of the header `webhook-signature`."""
        content = signed_content(message_id, timestamp_s, body)
        if self.scheme == "hmac":
            return " ".join(sign_hmac(self.secrets, content)).encode()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - only with it

        signers = [Ed25519PrivateKey.from_private_bytes(seed).sign for seed in self.secrets]
        return " ".join(sign_ed25519(signers, content)).encode()


def new_secret() -> bytes:
    """Return a random secret: the key of an HMAC, or the seed of an ed25519 key."""
    return secrets.token_bytes(_SECRET_BYTES)


def format_secret(secret: bytes, scheme: SignatureScheme) -> str:
    """Return what the answer to a creation or a rotation shows, once: the secret, or the public key of ed25519."""
    return signature.format_secret(secret) if scheme == "hmac" else public_key(secret)


def public_key(seed: bytes) -> str:
    """Return the public key of an ed25519 seed as receivers see it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - only with it

    raw = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return PUBLIC_KEY_PREFIX + b64encode(raw).decode()


def open_keys(box: SecretBox, stored: StoredWebhook, now_ms: int) -> SigningKeys:
    """Decrypt the secrets that sign now. A secret before the present one that cannot be decrypted is left out.

    Raises:
        WrongSecretKey: No key of the server decrypts the present secret.
    """
    bound = bound_to(stored.info.webhook_id, "secret")
    found = [box.decrypt(stored.secret, bound)] if stored.secret is not None else []
    if stored.previous_secret is not None and now_ms < stored.previous_until_ms:
        with contextlib.suppress(WrongSecretKey):
            found.append(box.decrypt(stored.previous_secret, bound))
    return SigningKeys(stored.info.config.signature, tuple(found))


def open_headers(box: SecretBox, stored: StoredWebhook) -> dict[str, str]:
    """Decrypt the static headers.

    Raises:
        WrongSecretKey: No key of the server decrypts them.
    """
    if stored.headers is None:
        return {}
    return _headers.decode(box.decrypt(stored.headers, bound_to(stored.info.webhook_id, "headers")))


def encrypt_headers(box: SecretBox, webhook_id: int, headers: dict[str, str]) -> bytes | None:
    """Encrypt static headers for the row of a webhook; None without any."""
    return box.encrypt(msgspec.json.encode(headers), bound_to(webhook_id, "headers")) if headers else None


def bound_to(webhook_id: int, field: str) -> str:
    """Return what a ciphertext of a webhook is bound to."""
    return f"webhooks/{webhook_id}/{field}"


def rewrap(tx: Tx, box: SecretBox) -> int:
    """Encrypt the secrets and static headers of all webhooks with the first key. Return how many had another key.

    Raises:
        WrongSecretKey: No key decrypts one; the message names the webhook.
    """
    rewrapped, after = 0, ""
    while page := webhooks.list_(tx, after, _PAGE):
        for webhook_id in [stored.info.webhook_id for stored in page]:
            if (stored := webhooks.lock_by_id(tx, webhook_id)) is not None:
                changed, number = _rewrapped(stored, box)
                if number:
                    webhooks.save(tx, changed)
                rewrapped += number
        after = page[-1].info.name
    return rewrapped


def _rewrapped(stored: StoredWebhook, box: SecretBox) -> tuple[StoredWebhook, int]:
    held = {"secret": stored.secret, "previous_secret": stored.previous_secret, "headers": stored.headers}
    changed: dict[str, bytes] = {}
    for field, secret in held.items():
        if secret is not None and not box.is_current(secret):
            bound = bound_to(stored.info.webhook_id, field.removeprefix("previous_"))
            try:
                changed[field] = box.encrypt(box.decrypt(secret, bound), bound)
            except WrongSecretKey as error:
                raise WrongSecretKey(f"webhook {stored.info.name}: {error}") from None
    return stored._replace(**changed), len(changed)  # type: ignore[arg-type] # the fields of secrets
