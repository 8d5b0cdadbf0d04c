"""Signatures of webhooks, against the example of Standard Webhooks and its library."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook

from app.domain.webhooks.signature import format_secret, parse_secret, sign_hmac, signed_content

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_example_of_standard_webhooks_has_its_signature() -> None:
    content = signed_content("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')

    assert sign_hmac([parse_secret(SECRET)], content) == ["v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="]


def test_the_library_verifies_each_of_several_secrets() -> None:
    now_s = time.time_ns() // 1_000_000_000
    body = b'{"n":1}'
    secrets = [parse_secret(SECRET), b"x" * 24]
    signatures = " ".join(sign_hmac(secrets, signed_content("msg_1", now_s, body)))
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now_s), "webhook-signature": signatures}

    for secret in secrets:
        assert Webhook(format_secret(secret)).verify(body, headers) == {"n": 1}


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_A", "whpk_" + "A" * 32, "whsec_" + "A" * 92, "whsec_ä" + "A" * 32]
)
def test_a_secret_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_secret(text)
