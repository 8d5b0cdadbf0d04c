"""Verify deliveries by the schemes of their senders, over the raw bytes and in constant time. Pure.

Source: the documentation of GitHub, Stripe, Slack, Shopify, Twilio, Meta and Standard Webhooks.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

Scheme = Literal[
    "github", "stripe", "slack", "shopify", "twilio", "meta", "standard", "hmac", "basic", "bearer", "none"
]
Algorithm = Literal["sha256", "sha512", "sha1"]
Encoding = Literal["hex", "base64", "base64url"]

TOLERANCE_S = 300
_MAX_SIGNATURES = 10
_MAX_FIELDS = 1_000
_STANDARD_PREFIXES = (b"webhook-", b"svix-")
_FORM = b"application/x-www-form-urlencoded"

VerifyKey = Callable[[bytes, bytes, bytes], bool]
"""Returns whether an ed25519 signature fits: public key, signature, content."""


class Unverified(Exception):
    """A delivery is refused. The message is for the source's list of refusals, not for the sender."""


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


class Delivery(NamedTuple):
    """A request to the delivery path of a source.

    Attributes:
        headers: By name in lower case; the values of a repeated header are joined by commas.
        url: The public URL with its query.
        media_type: Without parameters, in lower case.
    """

    body: bytes
    headers: Mapping[bytes, bytes]
    url: str = ""
    media_type: bytes = b""


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
        return _standard(secrets, delivery, now_s, ed25519)
    if how.scheme == "hmac":
        return _generic(how, secrets, delivery, now_s)
    return _SCHEMES[how.scheme](secrets, delivery, now_s)


def _github(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    _check_hub_signature(secrets, delivery)
    return _text(delivery.headers.get(b"x-github-delivery"))


def _meta(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify as GitHub does. Meta names no delivery: a repeat has the same body, which contains its time."""
    _ = now_s
    _check_hub_signature(secrets, delivery)
    return "body:" + sha256(delivery.body).hexdigest()


def _check_hub_signature(secrets: Sequence[bytes], delivery: Delivery) -> None:
    given = _required(delivery, b"x-hub-signature-256")
    expected = [b"sha256=" + hmac.new(secret, delivery.body, sha256).hexdigest().encode() for secret in secrets]
    _check([given], expected)


def _stripe(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    fields = [part.strip().partition(b"=") for part in _required(delivery, b"stripe-signature").split(b",")]
    times = [value for name, _, value in fields if name == b"t"]
    given = [value for name, _, value in fields if name == b"v1"]
    if len(times) != 1:
        raise Unverified("Stripe-Signature has no single t=")
    _check_time(times[0], now_s, TOLERANCE_S)
    content = times[0] + b"." + delivery.body
    _check(given, [hmac.new(secret, content, sha256).hexdigest().encode() for secret in secrets])
    return _member(delivery.body, "id")


def _slack(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    time = _required(delivery, b"x-slack-request-timestamp")
    given = _required(delivery, b"x-slack-signature")
    _check_time(time, now_s, TOLERANCE_S)
    content = b"v0:" + time + b":" + delivery.body
    _check([given], [b"v0=" + hmac.new(secret, content, sha256).hexdigest().encode() for secret in secrets])
    return _member(delivery.body, "event_id")


def _shopify(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    given = _required(delivery, b"x-shopify-hmac-sha256")
    _check([given], [b64encode(hmac.digest(secret, delivery.body, sha256)) for secret in secrets])
    return _text(delivery.headers.get(b"x-shopify-webhook-id"))


def _twilio(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    """Verify the URL and the form. Twilio names a delivery by a header, or a repeat has the same body."""
    _ = now_s
    if not delivery.url.startswith(("http://", "https://")):
        raise Unverified(
            "Twilio signs the URL: set MILLRACE_PUBLIC_URL to the one under which clients reach the server"
        )
    given = _required(delivery, b"x-twilio-signature")
    content = _twilio_form(delivery) if delivery.media_type == _FORM else ""
    if delivery.media_type != _FORM:
        _check_twilio_body(delivery)
    urls = _with_and_without_port(delivery.url)
    expected = [b64encode(hmac.digest(secret, (url + content).encode(), "sha1")) for secret in secrets for url in urls]
    _check([given], expected)
    token = _text(delivery.headers.get(b"i-twilio-idempotency-token"))
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
    _check([given.encode()], [sha256(delivery.body).hexdigest().encode()])


def _with_and_without_port(url: str) -> list[str]:
    """Return a URL with its port and without it: Twilio signs one or the other."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    bare = host if host.endswith("]") else host.rpartition(":")[0] or host
    port = {"https": "443", "http": "80"}.get(parts.scheme, "")
    full = host if ":" in host.rpartition("]")[2] else f"{host}:{port}"
    return [parts._replace(netloc=netloc).geturl() for netloc in dict.fromkeys((host, bare, full))]


def _standard(secrets: Sequence[bytes], delivery: Delivery, now_s: int, ed25519: VerifyKey) -> str | None:
    prefix = next((each for each in _STANDARD_PREFIXES if each + b"signature" in delivery.headers), b"webhook-")
    identity = _required(delivery, prefix + b"id")
    time = _required(delivery, prefix + b"timestamp")
    given = _required(delivery, prefix + b"signature").split(b" ")
    if len(given) > _MAX_SIGNATURES:
        raise Unverified(f"there are more than {_MAX_SIGNATURES} signatures")
    _check_time(time, now_s, TOLERANCE_S)
    content = identity + b"." + time + b"." + delivery.body
    accepted = False
    for secret in secrets:
        kind, key = parse_standard_secret(secret)
        if kind == "public":
            accepted |= any(ed25519(key, signature, content) for signature in _decoded(given, b"v1a,"))
        else:
            accepted |= _equal_any(given, [b"v1," + b64encode(hmac.digest(key, content, sha256))])
    if not accepted:
        raise Unverified("no signature fits")
    return _text(identity)


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


def _generic(how: Verify, secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    given = _required(delivery, how.header.lower().encode())
    if not given.startswith(how.prefix.encode()):
        raise Unverified("the signature has another prefix")
    time = b""
    if how.timestamp_header is not None:
        time = _required(delivery, how.timestamp_header.lower().encode())
        _check_time(time, now_s, how.tolerance_ms // 1_000)
    before, _, after = how.template.encode().partition(b"{body}")
    content = before.replace(b"{timestamp}", time) + delivery.body + after.replace(b"{timestamp}", time)
    signature = given.removeprefix(how.prefix.encode())
    if how.encoding == "hex":
        signature = signature.lower()
    _check([signature], [_encoded(hmac.digest(secret, content, how.algorithm), how.encoding) for secret in secrets])
    return None


def _encoded(digest: bytes, encoding: Encoding) -> bytes:
    if encoding == "hex":
        return digest.hex().encode()
    return b64encode(digest) if encoding == "base64" else urlsafe_b64encode(digest)


def _basic(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    scheme, _, given = _required(delivery, b"authorization").partition(b" ")
    if scheme.lower() != b"basic":
        raise Unverified("Authorization is not Basic")
    _check([given.strip()], [b64encode(secret) for secret in secrets])
    return None


def _bearer(secrets: Sequence[bytes], delivery: Delivery, now_s: int) -> str | None:
    _ = now_s
    scheme, _, given = _required(delivery, b"authorization").partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unverified("Authorization is not Bearer")
    _check([given.strip()], secrets)
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
    "twilio": _twilio,
    "meta": _meta,
    "basic": _basic,
    "bearer": _bearer,
    "none": _none,
}


def _required(delivery: Delivery, header: bytes) -> bytes:
    if not (value := delivery.headers.get(header)):
        raise Unverified(f"the header {header.decode()} is missing")
    return value


def _check(given: Sequence[bytes], expected: Sequence[bytes]) -> None:
    if len(given) > _MAX_SIGNATURES:
        raise Unverified(f"there are more than {_MAX_SIGNATURES} signatures")
    if not _equal_any(given, expected):
        raise Unverified("no signature fits")


def _equal_any(given: Sequence[bytes], expected: Sequence[bytes]) -> bool:
    """Compare all with all, in a time that does not depend on which are equal."""
    found = False
    for each in given:
        for other in expected:
            found |= hmac.compare_digest(each, other)
    return found


def _check_time(text: bytes, now_s: int, tolerance_s: int) -> None:
    if not text.isdigit() or len(text) > 12:
        raise Unverified("the time is not a number of seconds")
    if abs(int(text) - now_s) > tolerance_s:
        raise Unverified(f"the time differs from the server's clock by more than {tolerance_s} s")


def _member(body: bytes, name: str) -> str | None:
    """Return a string member of a JSON object, or None."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) and value else None


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None
