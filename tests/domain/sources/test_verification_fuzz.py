"""Changed signatures and bodies of each scheme: none is accepted unless the sender has signed the same."""

from __future__ import annotations

import hmac
import os
import random
from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.domain.sources.delivery import Delivery, Unverified
from app.domain.sources.verification import Verify, verify
from tests.domain.sources.vectors import (
    FORM,
    GITHUB_BODY,
    GITHUB_SECRET,
    GITHUB_SIGNATURE,
    SLACK_BODY,
    SLACK_SECRET,
    SLACK_SIGNATURE,
    STANDARD,
    STANDARD_BODY,
    STANDARD_SECRET,
    TWILIO_BODY,
    TWILIO_SIGNATURE,
    TWILIO_URL,
    ed25519,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOW_S = 1_731_705_121
ROUNDS = 100_000 if os.environ.get("MILLRACE_FUZZ") == "long" else 6_000
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = PRIVATE.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def same(given: bytes, signed: bytes) -> bool:
    return given == signed


def same_hex(given: bytes, signed: bytes) -> bool:
    return given.lower() == signed.lower()


def same_base64(given: bytes, signed: bytes) -> bool:
    return given.rstrip(b"=") == signed.rstrip(b"=")


def has_standard_signature(given: bytes, signed: bytes) -> bool:
    return signed in given.split(b" ")


def has_stripe_signature(given: bytes, signed: bytes) -> bool:
    parts = [part.strip() for part in given.split(b",")]
    return set(signed.split(b",")) <= set(parts) and sum(part.startswith(b"t=") for part in parts) == 1


def has_credentials(given: bytes, signed: bytes) -> bool:
    scheme, _, credentials = given.partition(b" ")
    wanted, _, rest = signed.partition(b" ")
    return scheme.lower() == wanted.lower() and credentials.strip() == rest


class Signed(NamedTuple):
    """A delivery that is accepted at `now_s`.

    Attributes:
        signature: The header with the signature or the password.
        fits: Whether a changed header still has this signature.
        is_body_signed: Whether another body is refused.
    """

    how: Verify
    secret: bytes
    delivery: Delivery
    signature: bytes
    fits: Callable[[bytes, bytes], bool] = same
    is_body_signed: bool = True
    now_s: int = NOW_S


def signed(scheme: Verify, secret: bytes, header: bytes, value: bytes, body: bytes = GITHUB_BODY) -> Signed:
    return Signed(scheme, secret, Delivery(body, {header: value}), header)


def own(value: bytes, fits: Callable[[bytes, bytes], bool], **fields: str) -> Signed:
    how = Verify(scheme="hmac", header="X-Own", **fields)  # type: ignore[arg-type] # literals
    return signed(how, b"a secret", b"x-own", value)._replace(fits=fits)


DIGEST = hmac.digest(b"a secret", GITHUB_BODY, "sha256")
STRIPE = b"t=%d,v1=" % NOW_S + hmac.new(b"whsec_x", b"%d.{}" % NOW_S, "sha256").hexdigest().encode()
SHOPIFY = b64encode(hmac.digest(b"hush-hush", GITHUB_BODY, "sha256"))
SLACK = {b"x-slack-signature": SLACK_SIGNATURE, b"x-slack-request-timestamp": b"1531420618"}
ASYMMETRIC = STANDARD | {
    b"webhook-signature": b"v1a," + b64encode(PRIVATE.sign(b"msg_loFOjxBNrRLzqYUf.1731705121." + STANDARD_BODY))
}
ALL = [
    signed(Verify(scheme="github"), GITHUB_SECRET, b"x-hub-signature-256", GITHUB_SIGNATURE),
    signed(Verify(scheme="meta"), GITHUB_SECRET, b"x-hub-signature-256", GITHUB_SIGNATURE),
    signed(Verify(scheme="shopify"), b"hush-hush", b"x-shopify-hmac-sha256", SHOPIFY),
    signed(Verify(scheme="stripe"), b"whsec_x", b"stripe-signature", STRIPE, b"{}")._replace(fits=has_stripe_signature),
    Signed(
        Verify(scheme="slack"), SLACK_SECRET, Delivery(SLACK_BODY, SLACK), b"x-slack-signature", now_s=1_531_420_618
    ),
    Signed(
        Verify(scheme="twilio"),
        b"12345",
        Delivery(TWILIO_BODY, {b"x-twilio-signature": TWILIO_SIGNATURE}, TWILIO_URL, FORM),
        b"x-twilio-signature",
    ),
    Signed(
        Verify(scheme="standard"),
        STANDARD_SECRET,
        Delivery(STANDARD_BODY, STANDARD),
        b"webhook-signature",
        has_standard_signature,
    ),
    Signed(
        Verify(scheme="standard"),
        b"whpk_" + b64encode(PUBLIC),
        Delivery(STANDARD_BODY, ASYMMETRIC),
        b"webhook-signature",
        has_standard_signature,
    ),
    own(DIGEST.hex().encode(), same_hex),
    own(b64encode(DIGEST), same_base64, encoding="base64"),
    signed(Verify(scheme="basic"), b"user:password", b"authorization", b"Basic dXNlcjpwYXNzd29yZA==")._replace(
        fits=has_credentials, is_body_signed=False
    ),
    signed(Verify(scheme="bearer"), b"a long token", b"authorization", b"Bearer a long token")._replace(
        fits=has_credentials, is_body_signed=False
    ),
]


def identity_of(each: Signed, delivery: Delivery) -> tuple[bool, str | None]:
    """Return whether a delivery is accepted, and its id."""
    try:
        return True, verify(each.how, [each.secret], delivery, each.now_s, ed25519)
    except Unverified:
        return False, None


def mutated(random_: random.Random, text: bytes) -> bytes:
    """Return another text: bytes changed, removed, added, or repeated."""
    while True:
        changed = bytearray(text)
        for _ in range(random_.randint(1, 3)):
            place = random_.randint(0, len(changed))
            kind = random_.randint(0, 4)
            if kind == 0 and place < len(changed):
                changed[place] ^= 1 << random_.randint(0, 7)
            elif kind == 1:
                del changed[place:]
            elif kind == 2:
                changed[place:place] = random_.choice(
                    [b"&", b"=", b" ", b",", random_.randbytes(random_.randint(1, 4))]
                )
            elif kind == 3:
                changed = changed[place:] + changed[:place]
            else:
                del changed[place : place + 1]
        if changed != text:
            return bytes(changed)


def test_each_delivery_is_accepted_as_it_was_signed() -> None:
    assert [each.how.scheme for each in ALL if not identity_of(each, each.delivery)[0]] == []


def test_no_changed_delivery_is_accepted() -> None:
    random_ = random.Random(1)
    for _ in range(ROUNDS):
        each = random_.choice(ALL)
        delivery = each.delivery
        names = [None, *delivery.headers] if each.is_body_signed else [*delivery.headers]
        name = random_.choice(names)
        if name is None:
            changed = delivery._replace(body=mutated(random_, delivery.body))
            may_fit = each.how.scheme == "twilio"
        else:
            value = mutated(random_, delivery.headers[name])
            changed = delivery._replace(headers={**delivery.headers, name: value})
            may_fit = name == each.signature and each.fits(value, delivery.headers[name])
        accepted, identity = identity_of(each, changed)
        # Twilio signs names and values without separators: another form with the same text is the same delivery.
        assert not accepted or (may_fit and identity == identity_of(each, delivery)[1]), (each.how.scheme, changed)
