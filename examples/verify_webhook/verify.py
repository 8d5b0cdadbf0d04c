"""Verify a webhook: verify.py SECRET ID TIMESTAMP SIGNATURE < BODY prints `verified`, or fails."""

import base64
import hmac
import sys
import time
from collections.abc import Mapping


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > 300:
        raise ValueError("the attempt is too old, or the clocks differ")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{message_id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, content, "sha256"))
    given = headers["webhook-signature"].encode().split(b" ")
    if not any(hmac.compare_digest(each, expected) for each in given):
        raise ValueError("no signature fits")


if __name__ == "__main__":
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    verify(sys.argv[1], dict(zip(names, sys.argv[2:], strict=True)), sys.stdin.buffer.read())
    print("verified")
