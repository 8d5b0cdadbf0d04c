"""Take in a delivery: verify it, make a record of it, and append it once."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from app.broker.log.producer import Producer, ProduceRequest
from app.broker.sources.refusals import Refusals
from app.broker.sources.sources import OpenSource, Sources
from app.domain.log import json_pointer
from app.domain.log.append import Accepted, IdempotencyKey, fingerprint
from app.domain.log.headers import Header, encode_headers
from app.domain.log.json_pointer import ListTooLong, is_deeper
from app.domain.log.record import (
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_DEPTH,
    VALUE_BASE64,
    VALUE_JSON,
    VALUE_TEXT,
    Record,
)
from app.domain.outbound import via
from app.domain.sources.delivery import Delivery, Unverified
from app.domain.sources.source import SourceConfig, header_name
from app.domain.sources.verification import verify
from app.errors.broker_error import BrokerError
from app.errors.http import BadRequest, BodyTooLarge
from app.errors.webhooks import InvalidSignature
from app.storage.sources.sources import Refusal

_REFUSED = "the delivery was not verified"
_TEXT_TYPES = (b"text/", b"application/x-www-form-urlencoded", b"application/xml")
_GUESSABLE = frozenset({"basic", "bearer", "none"})
"""Schemes whose secret is in the request, and may be short."""
_MAX_CHALLENGE = 1_024
_raw = msgspec.json.Decoder(msgspec.Raw)


class Received(NamedTuple):
    """What becomes of a delivery.

    Attributes:
        accepted: The append; None for a challenge.
        challenge: The text that answers a challenge; None for a delivery.
    """

    accepted: Accepted | None
    challenge: str | None = None


class Receiver:
    """Takes in the deliveries of all sources.

    Args:
        wall_ms: The clock of the log.
    """

    def __init__(self, sources: Sources, producer: Producer, refusals: Refusals, wall_ms: Callable[[], int]) -> None:
        self._sources = sources
        self._producer = producer
        self._refusals = refusals
        self._wall_ms = wall_ms

    @property
    def refused(self) -> int:
        """How many deliveries this node has refused."""
        return self._refusals.total

    async def admit(self, name: str, address: str) -> int:
        """Return the most bytes that a body may have, before it is read.

        An address with too many refused deliveries is refused here if the scheme's secret can be guessed. A signature
        cannot: a sender with the right secret delivers, although others of its address are refused.

        Raises:
            UnknownSource: There is no source of this name.
            TooManyRefusals: Too many deliveries of this address were refused.
        """
        config = (await self._sources.open(name)).info.config
        if config.verify.scheme in _GUESSABLE:
            self._refusals.check(address)
        return config.max_body_bytes

    async def refuse_large(self, name: str, max_bytes: int, address: str) -> BodyTooLarge:
        """Note the refusal of a body that is too large, and return its error."""
        source = await self._sources.open(name)
        self._refuse(source, f"the body is larger than {max_bytes} bytes", 0, address, counts=False)
        return BodyTooLarge(
            f"the body is larger than {max_bytes} bytes; max_body_bytes of the source, MILLRACE_MAX_BODY_BYTES and "
            "max_message_bytes of the topic are the limits",
            max_bytes=max_bytes,
        )

    async def receive(self, name: str, token: str | None, delivery: Delivery, address: str) -> Received:
        """Verify a delivery and append it; a repeat is not appended again.

        Raises:
            UnknownSource: There is no source of this name.
            InvalidSignature: The delivery is not verified. The error does not say why.
            TooManyRefusals: Too many deliveries of this address were refused.
            BrokerError: The append is refused; the sender may repeat the delivery.
        """
        source = await self._sources.open(name)
        try:
            identity = await self._verified(source, token, delivery, address)
        except Unverified as error:
            self._refuse(source, str(error), len(delivery.body), address)
            raise InvalidSignature(_REFUSED) from None
        if len(_marks(delivery)) > via.MAX_MARKS:
            reason = f"the delivery has passed more than {via.MAX_MARKS} webhooks"
            self._refuse(source, reason, len(delivery.body), address)
            raise BadRequest(reason)
        if (challenge := _slack_challenge(source.info.config, delivery.body)) is not None:
            return Received(None, challenge)
        return Received(await self._append(source, identity, delivery, address))

    async def answer_meta(self, name: str, mode: str, verify_token: str, challenge: str, address: str) -> str:
        """Answer the challenge that Meta sends when its webhook is set up.

        Raises:
            UnknownSource, InvalidSignature
        """
        self._refusals.check(address)
        source = await self._sources.open(name)
        expected = source.verify_token if source.info.config.verify.scheme == "meta" else None
        fits = expected is not None and hmac.compare_digest(expected, verify_token.encode())
        if not fits or mode != "subscribe" or len(challenge) > _MAX_CHALLENGE:
            self._refuse(source, "the challenge has another verify_token", 0, address)
            raise InvalidSignature(_REFUSED)
        return challenge

    async def allows_origin(self, name: str, token: str | None, origin: str) -> bool:
        """Return whether the CloudEvents handshake of an origin is granted.

        Raises:
            UnknownSource: There is no source of this name.
            InvalidSignature: The token in the path is missing or wrong.
        """
        source = await self._sources.open(name)
        try:
            _check_token(source, token)
        except Unverified:
            raise InvalidSignature(_REFUSED) from None
        return origin in source.info.config.verify.allowed_origins

    async def store_refusals(self) -> bool:
        """Store what was refused since the last call. Return False: there is no more to do now."""
        return await self._refusals.store()

    async def _verified(self, source: OpenSource, token: str | None, delivery: Delivery, address: str) -> str | None:
        """Verify a delivery, and once more with the source as it is in the database by now."""
        try:
            return self._verify(source, token, delivery)
        except Unverified:
            self._refusals.check(address)  # without a read of the database
            current = await self._sources.open(source.info.name, refresh=True)
            if current == source:
                raise
            return self._verify(current, token, delivery)

    def _verify(self, source: OpenSource, token: str | None, delivery: Delivery) -> str | None:
        _check_token(source, token)
        return verify(source.info.config.verify, source.secrets, delivery, self._wall_ms() // 1_000, _verify_ed25519)

    async def _append(self, source: OpenSource, identity: str | None, delivery: Delivery, address: str) -> Accepted:
        config = source.info.config
        if config.dedupe_from is not None:
            identity = _place(config.dedupe_from, delivery) or identity
        key = None
        if identity is not None and config.dedupe_ms > 0:
            hashed = fingerprint(b"source", b"%d" % source.info.source_id, identity.encode())
            key = IdempotencyKey(hashed, hashed, config.dedupe_ms)
        record = _record(config, delivery)
        request = ProduceRequest(config.topic, None, [record], record.size_bytes, key=key)
        try:
            return await self._producer.produce(request)
        except BrokerError as error:
            if not getattr(error, "retriable", False):
                self._refuse(source, error.detail, len(delivery.body), address, counts=False)
            raise

    def _refuse(self, source: OpenSource, reason: str, size_bytes: int, address: str, *, counts: bool = True) -> None:
        """Note a refused delivery; `counts` says whether it may be a guess of the secret."""
        refusal = Refusal(0, self._wall_ms(), reason[:500], address, size_bytes)
        self._refusals.add(source.info.source_id, refusal, counts=counts)


def _check_token(source: OpenSource, token: str | None) -> None:
    """Check the token in the path of a delivery, which the scheme `none` has.

    Raises:
        Unverified: It is wrong, missing, or too much.
    """
    if source.info.config.verify.scheme == "none":
        given = sha256((token or "").encode()).digest()
        if source.verify_token is None or not hmac.compare_digest(given, source.verify_token):
            raise Unverified("the token in the path is missing or wrong")
    elif token is not None:
        raise Unverified("the path has a token, which only the scheme none takes")


def _record(config: SourceConfig, delivery: Delivery) -> Record:
    """Return the record of a delivery: the body byte for byte, chosen headers, and the key if it is there."""
    encoding = _encoding(delivery)
    text = None if config.key_from is None else _place(config.key_from, delivery)
    key = None if text is None else text.encode()
    headers = _headers(config, delivery)
    size = sum(len(each.name.encode()) + len((each.value or "").encode()) for each in headers)
    value = None if encoding == VALUE_JSON and delivery.body.strip() == b"null" else delivery.body
    return Record(
        -1,
        -1,
        key if key is None or len(key) <= MAX_KEY_BYTES else None,
        value,
        encode_headers(headers) if headers else None,
        encoding,
        size,
    )


def _encoding(delivery: Delivery) -> int:
    media_type = delivery.media_type
    if media_type.endswith((b"/json", b"+json")) and _is_json(delivery.body):
        return VALUE_JSON
    if media_type.startswith(_TEXT_TYPES) or media_type.endswith((b"/json", b"+json", b"+xml")):
        try:
            delivery.body.decode()
        except UnicodeDecodeError:
            return VALUE_BASE64
        return VALUE_TEXT
    return VALUE_BASE64


def _is_json(body: bytes) -> bool:
    try:
        body.decode()
        _raw.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not is_deeper(body, MAX_VALUE_DEPTH)


def _headers(config: SourceConfig, delivery: Delivery) -> list[Header]:
    """Return the chosen request headers. Those that would exceed the limit of a record are left out."""
    found = [Header(via.HEADER, via.join(marks))] if (marks := _marks(delivery)) else []
    size = sum(len(each.name) + len(each.value or "") for each in found)
    for name in config.headers:
        value = delivery.headers.get(name.lower().encode())
        if value is not None and name.lower() != via.HEADER:
            text = value.decode("latin-1")
            size += len(name) + len(text.encode())
            if size > MAX_HEADER_BYTES:
                break
            found.append(Header(name, text))
    return found


def _marks(delivery: Delivery) -> list[str]:
    """Return the marks of the webhooks that a delivery has passed."""
    value = delivery.headers.get(via.HEADER.encode())
    return [] if value is None else via.parse([value.decode("latin-1")])


def _place(place: str, delivery: Delivery) -> str | None:
    """Return the text at a JSON pointer into the body, or that of a header; None if there is none."""
    if (name := header_name(place)) is not None:
        value = delivery.headers.get(name)
        return value.decode("latin-1") if value else None
    try:
        found = json_pointer.find(delivery.body, place)
    except ListTooLong:
        return None
    return None if found is None else json_pointer.text_of(found)


def _slack_challenge(config: SourceConfig, body: bytes) -> str | None:
    """Return the text that Slack expects when a URL is set up, or None for any other delivery."""
    if config.verify.scheme != "slack" or b"url_verification" not in body:
        return None
    if _place("/type", Delivery(body, {})) != "url_verification":
        return None
    challenge = _place("/challenge", Delivery(body, {}))
    return challenge if challenge is not None and len(challenge) <= _MAX_CHALLENGE else None


def _verify_ed25519(public_key: bytes, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature as WrongSignature  # noqa: PLC0415 - only for this scheme
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - only with such a key

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, content)
    except (WrongSignature, ValueError):
        return False
    return True
