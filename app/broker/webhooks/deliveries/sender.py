"""Send one attempt: build it, sign it, post it, and say what came back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from app import __version__
from app.broker.outbound.egress import Egress
from app.broker.outbound.exchange import Client, NotSent, SendBlocked, SendFailed, SendTimedOut, SendUnresolved
from app.broker.webhooks.keys import SigningKeys
from app.domain.log.trace_context import context_of
from app.domain.outbound import via
from app.domain.outbound.target import parse_target
from app.domain.webhooks.retries import retry_after_ms

if TYPE_CHECKING:
    from app.broker.tracing.tracer import Tracer
    from app.domain.webhooks.message import Content, WebhookRecord
    from app.domain.webhooks.webhook import Mode

_log = logging.getLogger(__name__)
AttemptOutcome = Literal["delivered", "failed", "timed_out", "blocked", "not_sent"]

_USER_AGENT = f"Millrace/{__version__}".encode()
_NEVER_KEPT = {b"set-cookie", b"set-cookie2"}
_MAX_KEPT_HEADERS = 50
_MAX_KEPT_BYTES = 4 * 1024
_MAX_HEADER_BYTES = 16 * 1024
"""Headers that depend on the record: more than this is refused by common servers, with 431."""
_GONE = 410


class Sent(NamedTuple):
    """What came back from an attempt.

    Attributes:
        requested_ms: What Retry-After asked for; 0 for nothing.
        error: What went wrong, for the owner of the receiver.
    """

    outcome: AttemptOutcome
    at_ms: int
    duration_ms: int
    status: int | None = None
    error: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    requested_ms: int = 0

    @property
    def is_charged(self) -> bool:
        """Whether the attempt counts for the record and the breaker."""
        return self.outcome != "not_sent"

    @property
    def is_gone(self) -> bool:
        """Whether the receiver has said that it does not exist any more."""
        return self.status == _GONE


class Receiver(NamedTuple):
    """Where and how a webhook sends.

    Attributes:
        mark: What tells the webhook from others in the header `millrace-via`.
    """

    name: str
    url: str
    timeout_ms: int
    headers: Mapping[str, str]
    keys: SigningKeys
    mark: str


class Sender:
    """Sends attempts through the guarded client.

    Args:
        make_client: Makes the HTTP client, at the first attempt.
        egress: Notes whether any server answers.
        tracer: Begins the spans of attempts; None without traces.
    """

    def __init__(self, make_client: Callable[[], Client], egress: Egress, tracer: Tracer | None = None) -> None:
        self._make_client = make_client
        self._client: Client | None = None
        self._egress = egress
        self._tracer = tracer

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def send_records(
        self, receiver: Receiver, mode: Mode, records: Sequence[WebhookRecord], number: int, now_ms: int
    ) -> Sent:
        """Send records in one attempt. A fault of this server is `not_sent`.

        Args:
            receiver: Where to.
            mode: How they are sent.
            records: What.
            number: Number of the attempt.
            now_ms: The wall clock.
        """
        if self._tracer is None:
            return await self._send_records(receiver, mode, records, number, now_ms)
        contexts = [context_of(each.record.headers) for each in records]
        with self._tracer.delivery(receiver.name, records[0].topic, number, contexts) as span:
            sent = await self._send_records(receiver, mode, records, number, now_ms)
            span.ended(sent.outcome, sent.status)
        return sent

    async def _send_records(
        self, receiver: Receiver, mode: Mode, records: Sequence[WebhookRecord], number: int, now_ms: int
    ) -> Sent:
        from app.domain.webhooks.message import content  # noqa: PLC0415 - only servers that send anything

        try:
            return await self.send(receiver, content(mode, receiver.name, records, number), now_ms)
        except Exception:  # noqa: BLE001 - whatever it is, the records must not be lost
            _log.exception("an attempt of webhook %s failed in this server; its records wait", receiver.name)
            return Sent("not_sent", now_ms, 0, None, "a fault of this server, which its log describes")

    async def send(self, receiver: Receiver, content: Content, now_ms: int) -> Sent:
        """Send one attempt. It never raises for a fault of the receiver.

        Args:
            receiver: Where to.
            content: What.
            now_ms: The wall clock, for the header `webhook-timestamp`.
        """
        if (size := sum(len(name) + len(value) for name, value in content.headers)) > _MAX_HEADER_BYTES:
            error = f"not posted: the record makes {size} bytes of headers, and at most {_MAX_HEADER_BYTES} are sent"
            return Sent("failed", now_ms, 0, None, f"{error}; another mode has them in the body")
        began = time.monotonic()
        headers = _headers(receiver, content, now_ms // 1_000)
        if self._client is None:
            self._client = self._make_client()
        try:
            answer = await self._client.post(receiver.url, headers, content.body, receiver.timeout_ms / 1_000)
        except SendFailed as error:
            return self._failure(receiver, error, now_ms, _since(began))
        self._egress.answered()
        delivered = 200 <= answer.status < 300
        wanted = {name.lower(): value for name, value in answer.headers}.get(b"retry-after")
        return Sent(
            "delivered" if delivered else "failed",
            now_ms,
            _since(began),
            answer.status,
            None if delivered else f"the receiver answered {answer.status}",
            _kept(answer.headers),
            None if delivered else answer.body,
            retry_after_ms(wanted, now_ms, _date_ms(wanted)),
        )

    def _failure(self, receiver: Receiver, error: SendFailed, now_ms: int, duration_ms: int) -> Sent:
        outcome: AttemptOutcome = "failed"
        if isinstance(error, SendBlocked):
            outcome = "blocked"
        elif isinstance(error, NotSent):
            outcome = "not_sent"
        elif not isinstance(error, SendUnresolved):
            self._egress.failed(parse_target(receiver.url).host)
            outcome = "timed_out" if isinstance(error, SendTimedOut) else "failed"
            if self._egress.is_down:
                outcome = "not_sent"
        return Sent(outcome, now_ms, duration_ms, None, str(error))


def _headers(receiver: Receiver, content: Content, timestamp_s: int) -> list[tuple[bytes, bytes]]:
    static = [(name.encode(), value.encode()) for name, value in receiver.headers.items()]
    return [
        *static,
        *content.headers,
        (b"user-agent", _USER_AGENT),
        (b"webhook-id", content.message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp_s),
        (b"webhook-signature", receiver.keys.sign(content.message_id, timestamp_s, content.body)),
        (b"millrace-webhook", receiver.name.encode()),
        (via.HEADER.encode(), via.join([*content.via, receiver.mark]).encode()),
    ]


def _kept(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the first headers, as many as may be kept, without cookies."""
    kept: list[tuple[str, str]] = []
    size = 0
    for name, value in headers[:_MAX_KEPT_HEADERS]:
        size += len(name) + len(value)
        if size <= _MAX_KEPT_BYTES and name.lower() not in _NEVER_KEPT:
            kept.append((name.decode("latin-1").lower(), value.decode("latin-1")))
    return kept


def _date_ms(value: bytes | None) -> int | None:
    """Return the time of a date; one without a zone is in UTC, as all dates of HTTP."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value.decode("latin-1"))
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    except (ValueError, OverflowError):
        return None


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1_000)
