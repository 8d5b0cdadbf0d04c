"""Topics: names, configuration and its bounds. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.errors.broker_error import BrokerError
from app.errors.log import InvalidConfig, InvalidPartitions, InvalidTopicName

MAX_PARTITIONS = 1_000
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_INT64 = 2**63 - 1
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

CleanupPolicy = Literal["delete", "compact", "compact,delete"]
TimestampType = Literal["CreateTime", "LogAppendTime"]
Int64 = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
"""An integer of the whole range, such as Kafka's `Long.MAX_VALUE`; all others are below 2^53."""


class TopicConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A topic's configuration, with Kafka's defaults."""

    cleanup_policy: CleanupPolicy = "delete"
    retention_ms: Int64 = 604_800_000
    retention_bytes: Int64 = -1
    max_message_bytes: int = 1_048_576
    message_timestamp_type: TimestampType = "CreateTime"
    delete_retention_ms: Int64 = 86_400_000
    min_compaction_lag_ms: Int64 = 0

    @property
    def compacted(self) -> bool:
        """Whether compaction keeps only the record with the highest offset of each key."""
        return self.cleanup_policy != "delete"

    @property
    def deleted(self) -> bool:
        """Whether retention deletes records by time and size."""
        return self.cleanup_policy != "compact"


_BOUNDS: dict[str, tuple[int, int]] = {
    "retention_ms": (-1, MAX_INT64),
    "retention_bytes": (-1, MAX_INT64),
    "max_message_bytes": (1, MAX_MESSAGE_BYTES),
    "delete_retention_ms": (0, MAX_INT64),
    "min_compaction_lag_ms": (0, MAX_INT64),
}


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as it was read from the database; `version` rises with each change.

    Attributes:
        partition_ids: The id of each partition in the database, by partition number.
    """

    topic_id: int
    name: str
    version: int
    created_at_ms: int
    config: TopicConfig
    partition_ids: tuple[int, ...]

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return len(self.partition_ids)


def check_name(name: str, noun: str, error: type[BrokerError] = InvalidTopicName) -> None:
    """Refuse an invalid name.

    Raises:
        InvalidTopicName: Or another `error`; its detail is the rule for names.
    """
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise error(f"a {noun} name is 1 to 249 characters of a-z A-Z 0-9 . _ - and not '.' or '..'")


def check_topic_name(name: str) -> None:
    """Refuse a name that clients cannot give to a topic: it is invalid, or reserved for the server.

    Raises:
        InvalidTopicName: Its detail is the rule for topic names.
    """
    check_name(name, "topic")
    check_not_reserved(name)


def check_not_reserved(name: str) -> None:
    """Refuse a change to a topic of the server. Clients can read such a topic.

    Raises:
        InvalidTopicName: The name is reserved for the server.
    """
    if name.startswith("__"):
        raise InvalidTopicName("names that start with '__' are reserved for the server: their topics are read only")


def check_partitions(partitions: int, present: int = 0) -> None:
    """Refuse a number of partitions that is out of bounds or below the present number.

    Raises:
        InvalidPartitions: With the bound.
    """
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidPartitions(f"partitions must be from 1 to {MAX_PARTITIONS}")
    if partitions < present:
        raise InvalidPartitions(
            f"the topic has {present} partitions, and their number can only rise", partitions=present
        )


def check_overrides(overrides: dict[str, object]) -> None:
    """Refuse configuration values that are out of bounds.

    Raises:
        InvalidConfig: With one entry in `errors` per field.
    """
    errors = [
        {"field": f"config.{name}", "detail": f"must be from {low} to {high}"}
        for name, (low, high) in _BOUNDS.items()
        if isinstance(value := overrides.get(name), int) and not low <= value <= high
    ]
    if errors:
        raise InvalidConfig("a configuration value is out of bounds", errors=errors)


def with_overrides(defaults: TopicConfig, overrides: dict[str, object]) -> TopicConfig:
    """Return the full configuration: the server's defaults with the topic's own values in their place."""
    return msgspec.structs.replace(defaults, **overrides)
