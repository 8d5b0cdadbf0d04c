"""The definition of a source: topic, verification, key and headers of its records. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.domain.log.topic import check_topic_name
from app.domain.sources.delivery import Unverified
from app.domain.sources.standard import parse_standard_secret
from app.domain.sources.verification import Verify
from app.errors.webhooks import InvalidSourceConfig

DEFAULT_DEDUPE_MS = 604_800_000
MAX_DEDUPE_MS = 2_592_000_000
DEFAULT_BODY_BYTES = 1_048_576
MAX_BODY_BYTES = 33_554_432
MAX_HEADERS = 40
_MIN_SECRET_BYTES = 8
_MIN_KEY_BYTES = 16
"""Of an HMAC: Standard Webhooks asks its senders for 24."""
_PUBLIC_KEY_BYTES = 32
_MAX_SECRET_BYTES = 1_024
_TOLERANCE_MS = (1_000, 3_600_000)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_ORIGIN = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?")
_NEVER_STORED = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
_HEADER_PREFIX = "header:"


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A source's configuration, without its secrets.

    Attributes:
        topic: The topic to which the deliveries are appended.
        key_from: Where the key of a record comes from: a JSON pointer into the body, `header:Name`, or None for no key.
        headers: Names of request headers that become record headers.
        dedupe_ms: How long a repeat is recognized by its id.
        dedupe_from: Where that id comes from, instead of where the scheme has it.
        max_body_bytes: Longest body.
    """

    topic: str
    verify: Verify
    key_from: str | None = None
    headers: tuple[str, ...] = ()
    dedupe_ms: int = DEFAULT_DEDUPE_MS
    dedupe_from: str | None = None
    max_body_bytes: int = DEFAULT_BODY_BYTES
    description: str = ""


class SourceInfo(NamedTuple):
    """A source.

    Attributes:
        secret: The secret, encrypted; None for the scheme `none`.
        previous_secret: The secret before the last rotation, encrypted.
        previous_until_ms: How long the previous secret is accepted.
        verify_token: The encrypted token of Meta's challenge, or the hash of the token in the delivery path.
    """

    source_id: int
    name: str
    config: SourceConfig
    secret: bytes | None
    previous_secret: bytes | None
    previous_until_ms: int
    verify_token: bytes | None
    created_at_ms: int


def check_config(config: SourceConfig) -> None:
    """Check a configuration.

    Raises:
        InvalidSourceConfig: `errors` has one entry per field.
        InvalidTopicName: The topic's name is not valid.
    """
    errors = [*_verify_errors(config.verify), *_place_errors("key_from", config.key_from)]
    errors += _place_errors("dedupe_from", config.dedupe_from)
    if not 0 <= config.dedupe_ms <= MAX_DEDUPE_MS:
        errors.append(("dedupe_ms", f"must be from 0 to {MAX_DEDUPE_MS:,}"))
    if not 1 <= config.max_body_bytes <= MAX_BODY_BYTES:
        errors.append(("max_body_bytes", f"must be from 1 to {MAX_BODY_BYTES:,}"))
    if len(config.headers) > MAX_HEADERS:
        errors.append(("headers", f"must be at most {MAX_HEADERS}"))
    for name in config.headers:
        if not _HEADER_NAME.fullmatch(name):
            errors.append(("headers", f"has a name that is not the name of a header: {name[:64]!r}"))
        elif name.lower() in _NEVER_STORED:
            errors.append(("headers", f"must not have {name}: credentials are not stored in records"))
    raise_errors(errors)
    check_topic_name(config.topic)


def check_secret(config: SourceConfig, secret: str | None) -> None:
    """Check the secret of a source against its scheme.

    Raises:
        InvalidSourceConfig: With the field.
    """
    scheme = config.verify.scheme
    if scheme == "none":
        if secret is not None:
            raise_errors([("verify/secret", "must be left out: the scheme none has a token in its delivery path")])
        return
    if secret is None:
        raise_errors([("verify/secret", f"is required by the scheme {scheme}")])
        return
    size = len(secret.encode())
    if not _MIN_SECRET_BYTES <= size <= _MAX_SECRET_BYTES:
        raise_errors([("verify/secret", f"must have {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} bytes")])
    if scheme == "basic" and ":" not in secret:
        raise_errors([("verify/secret", "must be user:password for the scheme basic")])
    if scheme == "standard":
        try:
            kind, key = parse_standard_secret(secret.encode())
        except Unverified:
            raise_errors([("verify/secret", "must be whsec_… or whpk_… for the scheme standard")])
            return
        if kind == "public" and len(key) != _PUBLIC_KEY_BYTES:
            raise_errors([("verify/secret", f"must have {_PUBLIC_KEY_BYTES} bytes in base64 after whpk_")])
        if kind == "shared" and len(key) < _MIN_KEY_BYTES:
            raise_errors([("verify/secret", f"must have at least {_MIN_KEY_BYTES} bytes in base64 after whsec_")])


def raise_errors(errors: Sequence[tuple[str, str]]) -> None:
    """Raise the errors of fields, if there are any.

    Raises:
        InvalidSourceConfig: With all of them.
    """
    if errors:
        message = "; ".join(f"{field} {detail}" for field, detail in errors)
        raise InvalidSourceConfig(message, errors=[{"field": field, "detail": detail} for field, detail in errors])


def header_name(place: str) -> bytes | None:
    """Return the name of the header that a place such as `header:X-Id` names, in lower case; None for a pointer."""
    return place.removeprefix(_HEADER_PREFIX).lower().encode() if place.startswith(_HEADER_PREFIX) else None


def _place_errors(field: str, place: str | None) -> list[tuple[str, str]]:
    if place is None or (place.startswith("/") and len(place) <= 512):
        return []
    if place.startswith(_HEADER_PREFIX) and _HEADER_NAME.fullmatch(place.removeprefix(_HEADER_PREFIX)):
        return []
    return [(field, "must be a JSON pointer such as /repository/full_name, or header: and a name")]


def _verify_errors(verify: Verify) -> list[tuple[str, str]]:
    errors = [
        ("verify/allowed_origins", "must be hosts such as eventgrid.azure.net, without *")
        for origin in verify.allowed_origins
        if not _ORIGIN.fullmatch(origin)
    ][:1]
    if verify.scheme != "hmac":
        return errors
    if not _HEADER_NAME.fullmatch(verify.header):
        errors.append(("verify/header", "is required: the name of the header with the signature"))
    if verify.timestamp_header is not None and not _HEADER_NAME.fullmatch(verify.timestamp_header):
        errors.append(("verify/timestamp_header", "is not the name of a header"))
    if verify.template.count("{body}") != 1:
        errors.append(("verify/template", "must contain {body} once"))
    if ("{timestamp}" in verify.template) != (verify.timestamp_header is not None):
        errors.append(("verify/template", "must contain {timestamp} if, and only if, there is a timestamp_header"))
    low, high = _TOLERANCE_MS
    if not low <= verify.tolerance_ms <= high:
        errors.append(("verify/tolerance_ms", f"must be from {low:,} to {high:,}"))
    return errors
