"""Verify deliveries of Twilio, which signs the URL with the form, or a hash of the body in the URL. Pure.

Source: Twilio's documentation of webhook security.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from app.domain.sources.delivery import Delivery, Unverified, check_signatures, required, text_of

_MAX_FIELDS = 1_000
_FORM = b"application/x-www-form-urlencoded"


def verify_twilio(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify the URL and the form. Twilio names a delivery by a header, or a repeat has the same body.

    Raises:
        Unverified: The delivery is refused.
    """
    _ = now_s
    if not delivery.url.startswith(("http://", "https://")):
        raise Unverified(
            "Twilio signs the URL: set MILLRACE_PUBLIC_URL to the one under which clients reach the server"
        )
    given = required(delivery, b"x-twilio-signature")
    content = _twilio_form(delivery) if delivery.media_type == _FORM else ""
    if delivery.media_type != _FORM:
        _check_twilio_body(delivery)
    urls = _with_and_without_port(delivery.url)
    expected = [b64encode(hmac.digest(secret, (url + content).encode(), "sha1")) for secret in secrets for url in urls]
    check_signatures([given], expected)
    token = text_of(delivery.headers.get(b"i-twilio-idempotency-token"))
    return token or "body:" + sha256(delivery.url.encode() + b"\n" + delivery.body).hexdigest()


def _twilio_form(delivery: Delivery) -> str:
    try:
        fields = parse_qsl(delivery.body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Unverified("the form is not UTF-8, or has too many fields") from None
    return "".join(name + value for name, value in sorted(set(fields)))


def _check_twilio_body(delivery: Delivery) -> None:
    query = dict(parse_qsl(urlsplit(delivery.url).query, keep_blank_values=True))
    given = query.get("bodySHA256")
    if given is None:
        if delivery.body:
            raise Unverified("the URL has no bodySHA256")
        return
    check_signatures([given.encode()], [sha256(delivery.body).hexdigest().encode()])


def _with_and_without_port(url: str) -> list[str]:
    """Return a URL with its port and without it: Twilio signs one or the other."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    bare = host if host.endswith("]") else host.rpartition(":")[0] or host
    port = {"https": "443", "http": "80"}.get(parts.scheme, "")
    full = host if ":" in host.rpartition("]")[2] else f"{host}:{port}"
    return [parts._replace(netloc=netloc).geturl() for netloc in dict.fromkeys((host, bare, full))]
