"""Verification of deliveries: vectors of the senders' documentation, and their SDKs as oracles."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook
from stripe import WebhookSignature

from app.domain.sources.delivery import Delivery, Unverified
from app.domain.sources.verification import Scheme, Verify, verify
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
    STANDARD_SIGNATURE,
    TWILIO_BODY,
    TWILIO_SIGNATURE,
    TWILIO_URL,
    ed25519,
)

SECRET = b"a secret of a test"
NOW_S = 1_531_420_618


def accepts(
    scheme: Scheme, delivery: Delivery, *secrets: bytes, now_s: int = NOW_S, **how: Any
) -> tuple[bool, str | None]:
    """Return whether a delivery is accepted, and its id."""
    try:
        return True, verify(Verify(scheme=scheme, **how), secrets, delivery, now_s, ed25519)
    except Unverified:
        return False, None


def test_the_vector_of_github_and_meta() -> None:
    headers = {b"x-hub-signature-256": GITHUB_SIGNATURE, b"x-github-delivery": b"72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    delivery = Delivery(GITHUB_BODY, headers)

    assert accepts("github", delivery, GITHUB_SECRET) == (True, "72d3162e-cc78-11e3-81ab-4c9367dc0958")
    assert accepts("meta", delivery, GITHUB_SECRET) == (True, f"body:{sha256(GITHUB_BODY).hexdigest()}")
    assert accepts("github", delivery, b"another secret", GITHUB_SECRET)[0]
    assert not accepts("github", delivery, b"another secret")[0]


def test_the_vector_of_slack() -> None:
    headers = {b"x-slack-signature": SLACK_SIGNATURE, b"x-slack-request-timestamp": b"1531420618"}
    delivery = Delivery(SLACK_BODY, headers)

    assert accepts("slack", delivery, SLACK_SECRET)[0]
    for now_s in (NOW_S - 300, NOW_S + 300):
        assert accepts("slack", delivery, SLACK_SECRET, now_s=now_s)[0]
    for now_s in (NOW_S - 301, NOW_S + 301):
        assert not accepts("slack", delivery, SLACK_SECRET, now_s=now_s)[0]


def test_the_vector_of_twilio_with_and_without_the_port() -> None:
    headers = {b"x-twilio-signature": TWILIO_SIGNATURE}
    for url in (TWILIO_URL, TWILIO_URL.replace(".com", ".com:443")):
        assert accepts("twilio", Delivery(TWILIO_BODY, headers, url, FORM), b"12345")[0]
    assert not accepts("twilio", Delivery(TWILIO_BODY + b"&x=1", headers, TWILIO_URL, FORM), b"12345")[0]
    assert not accepts("twilio", Delivery(TWILIO_BODY, headers, TWILIO_URL + "&x=1", FORM), b"12345")[0]
    assert not accepts("twilio", Delivery(TWILIO_BODY, headers, "/myapp.php", FORM), b"12345")[0]


def test_the_body_of_twilio_that_is_no_form_is_hashed_in_the_url() -> None:
    body = b'{"property": "value", "boolean": true}'
    url = f"{TWILIO_URL}&bodySHA256={sha256(body).hexdigest()}"
    headers = {b"x-twilio-signature": b"a9nBmqA0ju/hNViExpshrM61xv4="}

    assert accepts("twilio", Delivery(body, headers, url, b"application/json"), b"12345")[0]
    assert not accepts("twilio", Delivery(body + b" ", headers, url, b"application/json"), b"12345")[0]
    assert not accepts("twilio", Delivery(body, headers, TWILIO_URL, b"application/json"), b"12345")[0]


@pytest.mark.parametrize("media_type", [FORM, b"application/json", b"text/plain", b""])
@pytest.mark.parametrize("body", [b"", b"&", b"&&", b"x=1"])
def test_the_hash_in_a_url_of_twilio_counts_for_any_type_of_body(media_type: bytes, body: bytes) -> None:
    url = f"{TWILIO_URL}&bodySHA256={sha256(b'{}').hexdigest()}"
    headers = {b"x-twilio-signature": b64encode(hmac.digest(b"12345", url.encode(), "sha1"))}

    assert accepts("twilio", Delivery(b"{}", headers, url, media_type), b"12345")[0]
    assert not accepts("twilio", Delivery(body, headers, url, media_type), b"12345")[0]


def test_the_id_of_twilio_is_what_it_signs() -> None:
    headers = {b"x-twilio-signature": b64encode(hmac.digest(b"12345", f"{TWILIO_URL}BodyhiFromx".encode(), "sha1"))}

    def identity(body: bytes, **more: bytes) -> str | None:
        token = {name.encode(): value for name, value in more.items()}
        accepted, found = accepts("twilio", Delivery(body, headers | token, TWILIO_URL, FORM), b"12345")
        assert accepted
        return found

    first = identity(b"Body=hi&From=x")
    assert first is not None
    for same in (
        b"From=x&Body=hi",
        b"Body=hi&From=x&",
        b"Body=%68i&From=x",
        b"BodyhiFromx=",
        b"Body=hi&&From=x&From=x",
    ):
        assert identity(same) == first
    assert identity(b"Body=hi&From=x", **{"i-twilio-idempotency-token": b"another"}) == first
    with_port = Delivery(b"Body=hi&From=x", headers, TWILIO_URL.replace(".com", ".com:443"), FORM)
    assert accepts("twilio", with_port, b"12345") == (True, first)


def test_the_vector_of_standard_webhooks() -> None:
    delivery = Delivery(STANDARD_BODY, STANDARD)

    assert accepts("standard", delivery, STANDARD_SECRET, now_s=1_731_705_121) == (True, "msg_loFOjxBNrRLzqYUf")
    svix = {name.replace(b"webhook-", b"svix-"): value for name, value in STANDARD.items()}
    assert accepts("standard", Delivery(STANDARD_BODY, svix), STANDARD_SECRET, now_s=1_731_705_121)[0]
    assert not accepts("standard", delivery, STANDARD_SECRET, now_s=1_731_705_422)[0]


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"v1,",
        b"v1",
        STANDARD_SIGNATURE[:-1],
        STANDARD_SIGNATURE + b"=",
        STANDARD_SIGNATURE.replace(b"v1,", b"v2,"),
        STANDARD_SIGNATURE.replace(b"v1,", b"v1a,"),
        STANDARD_SIGNATURE.replace(b"v1,", b""),
        b" ".join([STANDARD_SIGNATURE] * 11),
        b" ".join([STANDARD_SIGNATURE] * 10_000),
        b"v1,\xff",
    ],
)
def test_a_signature_of_standard_webhooks_is_compared_whole(signature: bytes) -> None:
    delivery = Delivery(STANDARD_BODY, STANDARD | {b"webhook-signature": signature})

    assert not accepts("standard", delivery, STANDARD_SECRET, now_s=1_731_705_121)[0]


def test_one_of_several_signatures_is_enough() -> None:
    several = b"v1,AAAA v1a,AAAA " + STANDARD_SIGNATURE

    delivery = Delivery(STANDARD_BODY, STANDARD | {b"webhook-signature": several})

    assert accepts("standard", delivery, STANDARD_SECRET, now_s=1_731_705_121)[0]


def test_ed25519_signatures_of_standard_webhooks() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = b"v1a," + b64encode(private.sign(b"msg_1.1731705121." + STANDARD_BODY))
    headers = STANDARD | {b"webhook-id": b"msg_1", b"webhook-signature": signature}
    secret = b"whpk_" + b64encode(public)

    assert accepts("standard", Delivery(STANDARD_BODY, headers), secret, now_s=1_731_705_121)[0]
    assert not accepts("standard", Delivery(STANDARD_BODY + b" ", headers), secret, now_s=1_731_705_121)[0]


def test_a_part_of_the_body_is_not_taken_for_the_time() -> None:
    """A captured body that begins with a time must not be sent again under an id that ends in the old time."""
    content = b"msg_a.1500000000.%d.{}" % NOW_S
    key = b64decode(STANDARD_SECRET.removeprefix(b"whsec_"))
    headers = {
        b"webhook-id": b"msg_a.1500000000",
        b"webhook-timestamp": b"%d" % NOW_S,
        b"webhook-signature": b"v1," + b64encode(hmac.digest(key, content, "sha256")),
    }

    assert not accepts("standard", Delivery(b"{}", headers), STANDARD_SECRET)[0]


def test_the_sdk_of_standard_webhooks_signs_what_is_accepted() -> None:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(NOW_S, UTC)
    signature = Webhook(STANDARD_SECRET.decode()).sign("msg_2", moment, "{}").encode()
    headers = {b"webhook-id": b"msg_2", b"webhook-timestamp": b"%d" % NOW_S, b"webhook-signature": signature}

    assert accepts("standard", Delivery(b"{}", headers), STANDARD_SECRET) == (True, "msg_2")


def test_the_sdk_of_slack_signs_what_is_accepted() -> None:
    signature = SignatureVerifier("secret of slack").generate_signature(
        timestamp=str(NOW_S), body=b'{"event_id":"Ev1"}'
    )
    assert signature is not None
    headers = {b"x-slack-signature": signature.encode(), b"x-slack-request-timestamp": b"%d" % NOW_S}

    assert accepts("slack", Delivery(b'{"event_id":"Ev1"}', headers), b"secret of slack") == (True, "Ev1")


def test_the_sdk_of_stripe_signs_what_is_accepted() -> None:
    body = '{"id": "evt_1", "object": "event"}'
    signature = WebhookSignature._compute_signature(f"{NOW_S}.{body}", "whsec_test")
    for header, accepted in (
        (f"t={NOW_S},v1={signature}", True),
        (f"t={NOW_S},v1={'0' * 64},v1={signature},v0=old", True),
        (f"t={NOW_S},v0={signature}", False),
        (f"v1={signature}", False),
        (f"t={NOW_S},t={NOW_S},v1={signature}", False),
        (f"t={NOW_S + 1},v1={signature}", False),
        (f"t={NOW_S},v1=", False),
        (f"t=-{NOW_S},v1={signature}", False),
        (f"t={NOW_S}," + ",".join([f"v1={signature}"] * 11), False),
    ):
        delivery = Delivery(body.encode(), {b"stripe-signature": header.encode()})
        assert accepts("stripe", delivery, b"whsec_test") == (accepted, "evt_1" if accepted else None), header
    delivery = Delivery(body.encode(), {b"stripe-signature": f"t={NOW_S},v1={signature}".encode()})
    assert not accepts("stripe", delivery, b"whsec_test", now_s=NOW_S + 301)[0]
    assert not accepts("stripe", delivery, b"whsec_test", now_s=NOW_S - 301)[0]


def test_shopify_signs_in_base64() -> None:
    # printf '{"id":820982911946154508}' | openssl dgst -sha256 -hmac hush-hush -binary | openssl base64
    headers = {
        b"x-shopify-hmac-sha256": b"Tee3YpF35pCcQ4VpA7xaRvUaU8jattd/Rf/Cvq0k0tU=",
        b"x-shopify-webhook-id": b"b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
    }
    delivery = Delivery(b'{"id":820982911946154508}', headers)

    assert accepts("shopify", delivery, b"hush-hush") == (True, "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043")
    assert not accepts("shopify", delivery._replace(body=b"{}"), b"hush-hush")[0]

    def identity(topic: bytes, webhook: bytes) -> str | None:
        more = {b"x-shopify-event-id": b"e1", b"x-shopify-topic": topic, b"x-shopify-webhook-id": webhook}
        return accepts("shopify", delivery._replace(headers=headers | more), b"hush-hush")[1]

    assert identity(b"orders/create", b"1") == identity(b"orders/create", b"2") == "e1 orders/create"
    assert identity(b"orders/updated", b"1") == "e1 orders/updated"


@pytest.mark.parametrize(
    ("how", "signature"),
    [
        ({}, b"62976dabcc6a5f70fe790bb26a3cb9480c13cf2cd0dd1d585f476381f5f09f9e"),
        ({"prefix": "sha256="}, b"sha256=62976dabcc6a5f70fe790bb26a3cb9480c13cf2cd0dd1d585f476381f5f09f9e"),
        ({"algorithm": "sha1"}, b"e2333ac9cf1f8815c14db3d6344b069a2138d616"),
        (
            {"algorithm": "sha512", "encoding": "base64"},
            b"2v4LYJyUGCWC6i0RQ0HMJRx2Qp5mQNbkt3KvOeKzqtL1s0u5lBxUL4/4ZT2Op3GmO+grAHc1grCDrREzVs8Ciw==",
        ),
        ({"encoding": "base64url"}, b"Ypdtq8xqX3D-eQuyajy5SAwTzyzQ3R1YX0djgfXwn54="),
        ({"encoding": "base64url"}, b"Ypdtq8xqX3D-eQuyajy5SAwTzyzQ3R1YX0djgfXwn54"),
        (
            {"timestamp_header": "X-Time", "template": "{timestamp}.{body}"},
            b"3035e742643551b6a127c1d5f9ef111d5c4fbe0688ca7e70fd1ab2286841b174",
        ),
    ],
)
def test_a_scheme_of_ones_own(how: dict[str, Any], signature: bytes) -> None:
    headers = {b"x-signature": signature, b"x-time": b"%d" % NOW_S}
    delivery = Delivery(b"hello", headers)

    assert accepts("hmac", delivery, SECRET, header="X-Signature", **how)[0]
    assert not accepts("hmac", delivery._replace(body=b"hellp"), SECRET, header="X-Signature", **how)[0]
    if "timestamp_header" in how:
        assert not accepts("hmac", delivery, SECRET, now_s=NOW_S + 301, header="X-Signature", **how)[0]
        assert accepts("hmac", delivery, SECRET, now_s=NOW_S + 900, header="X-Signature", tolerance_ms=900_000, **how)[
            0
        ]


def test_basic_and_bearer() -> None:
    for scheme, header in (("basic", b"Basic dXNlcjpwYXNzd29yZA=="), ("bearer", b"bearer user:password")):
        for given, accepted in (
            (header, True),
            (header + b"x", False),
            (header[:-1], False),
            (b"user:password", False),
        ):
            delivery = Delivery(b"", {b"authorization": given})
            assert accepts(scheme, delivery, b"user:password")[0] == accepted  # type: ignore[arg-type] # a literal
