"""Verify deliveries of Twilio, which signs the URL with the form, or a hash of the body in the URL. Pure.

Source: Twilio's documentation of webhook security.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from app.domain.sources.delivery import Delivery, Unverified, check_signatures, required

_MAX_FIELDS = 1_000
_FORM = b"application/x-www-form-urlencoded"


def verify_twilio(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify the URL and the form, and return a hash of what is signed as the id.

    Twilio names a delivery in a header, which is not signed: under another name it would be appended again.

    Raises:
        Unverified: The delivery is refused.
    """
    _ = now_s
    if not delivery.url.startswith(("http://", "https://")):
        raise Unverified(
            "Twilio signs the URL: set MILLRACE_PUBLIC_URL to the one under which clients reach the server"
        )
    given = required(delivery, b"x-twilio-signature")
    content = _content(delivery)
    urls = _without_and_with_port(delivery.url)
    expected = [b64encode(hmac.digest(secret, (url + content).encode(), "sha1")) for secret in secrets for url in urls]
    check_signatures([given], expected)
    return "signed:" + sha256(f"{urls[0]}\n{content}".encode()).hexdigest()


def _content(delivery: Delivery) -> str:
    """Return what is signed after the URL: the fields of a form, and nothing if the URL has the hash of the body.

    Raises:
        Unverified: The body is neither what the URL has the hash of, nor a form, nor empty.
    """
    query = dict(parse_qsl(urlsplit(delivery.url).query, keep_blank_values=True))
    if (given := query.get("bodySHA256")) is not None:
        check_signatures([given.encode()], [sha256(delivery.body).hexdigest().encode()])
        return ""
    if delivery.media_type == _FORM:
        return _joined_form(delivery.body)
    if delivery.body:
        raise Unverified("the URL has no bodySHA256")
    return ""


def _joined_form(body: bytes) -> str:
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Unverified("the form is not UTF-8, or has too many fields") from None
    return "".join(name + value for name, value in sorted(set(fields)))


def _without_and_with_port(url: str) -> list[str]:
    """Return a URL without its port and with it: Twilio signs one or the other."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    bare = host if host.endswith("]") else host.rpartition(":")[0] or host
    port = {"https": "443", "http": "80"}.get(parts.scheme, "")
    full = host if ":" in host.rpartition("]")[2] else f"{host}:{port}"
    return [parts._replace(netloc=netloc).geturl() for netloc in dict.fromkeys((bare, full, host))]
