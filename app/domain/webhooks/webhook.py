"""The definition of a webhook: topics, configuration and its bounds. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import msgspec

from app.domain.log.offset_spec import parse_offset_spec
from app.domain.log.topic import check_topic_name
from app.domain.outbound import via
from app.domain.outbound.target import parse_target
from app.domain.webhooks.breaker import Breaker
from app.domain.webhooks.filter import FilterError, compile_filter
from app.domain.webhooks.retries import DEFAULT_DELAYS_MS, MAX_DELAY_MS, MAX_DELAYS
from app.errors.webhooks import InvalidWebhookConfig

Mode = Literal[
    "record", "envelope", "envelope-batch", "cloudevents-binary", "cloudevents-structured", "cloudevents-batch"
]
Ordering = Literal["key", "partition", "none"]
OnExhausted = Literal["dead_letter", "pause", "drop"]
SignatureScheme = Literal["hmac", "ed25519"]
Status = Literal["active", "paused", "disabled"]

BATCH_MODES = frozenset({"envelope-batch", "cloudevents-batch"})
NOT_COVERED = "the webhook does not cover this topic; GET /v1/webhooks/{webhook} shows its topics"
MAX_TOPICS = 100
MAX_HEADERS = 20
_MAX_HEADER_BYTES = 4_096
_BOUNDS: dict[str, tuple[int, int]] = {
    "max_in_flight": (1, 64),
    "max_batch_records": (1, 100),
    "timeout_ms": (1_000, 30_000),
    "rate_limit_per_s": (1, 100_000),
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_HOP_BY_HOP = frozenset(
    {
        "connection", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "accept-encoding", "traceparent",
    }
)  # fmt: skip
_OWN_PREFIXES = ("content-", "webhook-", "millrace-", "ce-")


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook's configuration, without its secrets and static headers.

    Attributes:
        topics: Names of the topics whose records are sent, unless there is a pattern.
        topic_pattern: A glob over the names of topics, or None.
        start: Where the webhook starts in each partition: an offset specification.
        filter: A filter in its grammar, or None for all records.
        rate_limit_per_s: The largest number of attempts per second, or None.
        retry_delays_ms: The delay after each failed attempt.
    """

    url: str
    topics: tuple[str, ...] = ()
    topic_pattern: str | None = None
    start: str = "latest"
    mode: Mode = "record"
    ordering: Ordering = "key"
    max_in_flight: int = 4
    max_batch_records: int = 100
    filter: Any = None
    signature: SignatureScheme = "hmac"
    timeout_ms: int = 15_000
    rate_limit_per_s: int | None = None
    retry_delays_ms: tuple[int, ...] = DEFAULT_DELAYS_MS
    on_exhausted: OnExhausted = "drop"
    dead_letter_topic: str | None = None
    description: str = ""
    paused: bool = False

    @property
    def batches(self) -> bool:
        """Whether an attempt carries several records."""
        return self.mode in BATCH_MODES

    @property
    def dead_letters(self) -> str | None:
        """The topic that exhausted records are appended to, or None."""
        return self.dead_letter_topic if self.on_exhausted == "dead_letter" else None

    def covers(self, topic: str) -> bool:
        """Return whether the records of a topic are sent; a pattern matches no internal topic."""
        if self.topic_pattern is None:
            return topic in self.topics
        return not topic.startswith("__") and fnmatchcase(topic, self.topic_pattern)


class WebhookInfo(NamedTuple):
    """A webhook.

    Attributes:
        disabled_reason: Why the webhook was disabled; None if it is not.
    """

    webhook_id: int
    name: str
    config: WebhookConfig
    disabled_reason: str | None
    disabled_at_ms: int | None
    breaker: Breaker
    created_at_ms: int

    @property
    def mark(self) -> str:
        """What tells the webhook from all others in the header `millrace-via`."""
        return via.mark_of(self.name, self.webhook_id, self.created_at_ms)

    @property
    def status(self) -> Status:
        """Return whether records are sent."""
        if self.disabled_reason is not None:
            return "disabled"
        return "paused" if self.config.paused else "active"


def check_config(given: Mapping[str, Any], config: WebhookConfig) -> None:
    """Check the given fields of a configuration.

    Args:
        given: The fields of the request.
        config: The configuration with these fields.

    Raises:
        InvalidWebhookConfig: `errors` has one entry per field.
        InvalidTopicName, InvalidRequest: A topic's name or `start` is not valid.
    """
    errors = [*_bound_errors(given), *_url_errors(config), *_topic_errors(config), *_delay_errors(config)]
    if config.on_exhausted == "dead_letter" and config.dead_letter_topic is None:
        errors.append(("dead_letter_topic", "is required with on_exhausted dead_letter"))
    if config.dead_letter_topic is not None and config.covers(config.dead_letter_topic):
        errors.append(("dead_letter_topic", "must not be a topic of the webhook, nor match its topic_pattern"))
    if config.filter is not None:
        try:
            compile_filter(config.filter)
        except FilterError as error:
            errors.append((error.path, str(error)))
    raise_errors(errors)
    for topic in (*config.topics, *filter(None, [config.dead_letter_topic])):
        check_topic_name(topic)
    parse_offset_spec(config.start, "start")


def check_headers(headers: Mapping[str, str]) -> None:
    """Check static headers.

    Raises:
        InvalidWebhookConfig: `errors` has one entry per header.
    """
    errors = []
    if len(headers) > MAX_HEADERS:
        errors.append(("headers", f"must be at most {MAX_HEADERS}"))
    for name, value in headers.items():
        lowered = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            errors.append((f"headers/{name[:64]}", "is not the name of a header"))
        elif lowered in _HOP_BY_HOP or lowered.startswith(_OWN_PREFIXES):
            errors.append((f"headers/{name}", "is set by the server"))
        elif len(value) > _MAX_HEADER_BYTES or (value and not _HEADER_VALUE.fullmatch(value)):
            errors.append((f"headers/{name}", f"must be at most {_MAX_HEADER_BYTES} printable ASCII characters"))
    if len({name.lower() for name in headers}) < len(headers):
        errors.append(("headers", "must not name a header twice"))
    raise_errors(errors)


def raise_errors(errors: Sequence[tuple[str, str]]) -> None:
    """Raise the errors of fields, if there are any.

    Raises:
        InvalidWebhookConfig: With all of them.
    """
    if errors:
        message = "; ".join(f"{field} {detail}" for field, detail in errors)
        raise InvalidWebhookConfig(message, errors=[{"field": field, "detail": detail} for field, detail in errors])


def _bound_errors(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"must be from {low:,} to {high:,}")
        for name, (low, high) in _BOUNDS.items()
        if isinstance(value := given.get(name), int) and not low <= value <= high
    ]


def _url_errors(config: WebhookConfig) -> list[tuple[str, str]]:
    if not config.url:
        return [("url", "is required")]
    try:
        parse_target(config.url)
    except ValueError as error:
        return [("url", str(error))]
    return []


def _topic_errors(config: WebhookConfig) -> list[tuple[str, str]]:
    if bool(config.topics) == (config.topic_pattern is not None):
        return [("topics", "or topic_pattern is required, and not both")]
    if config.topic_pattern == "":
        return [("topic_pattern", "must not be empty; * matches all topics")]
    if len(config.topics) > MAX_TOPICS:
        return [("topics", f"must be at most {MAX_TOPICS}")]
    if len(set(config.topics)) < len(config.topics):
        return [("topics", "must not name a topic twice")]
    return []


def _delay_errors(config: WebhookConfig) -> list[tuple[str, str]]:
    delays = config.retry_delays_ms
    if len(delays) > MAX_DELAYS or not all(0 <= each <= MAX_DELAY_MS for each in delays):
        return [("retry_delays_ms", f"must be at most {MAX_DELAYS} delays of 0 to {MAX_DELAY_MS:,} ms")]
    return []
