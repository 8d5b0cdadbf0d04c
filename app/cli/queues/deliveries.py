"""Acquired records, as the server delivers them."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct):
    """A record of the queue's topic; `value` and `headers` are the JSON that the server sent."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: msgspec.Raw
    headers: msgspec.Raw = msgspec.Raw(b"[]")
    encoding: str = "json"
    key_encoding: str = "text"


class Delivery(msgspec.Struct):
    """An acquired record and its lock."""

    delivery_id: str
    delivery_count: int
    locked_until_ms: int
    record: Record


class _AcquireAnswer(msgspec.Struct):
    deliveries: list[Delivery]


_decoder = msgspec.json.Decoder(_AcquireAnswer)


def decode_deliveries(content: bytes) -> list[Delivery]:
    """Return the deliveries of an acquire answer."""
    return _decoder.decode(content).deliveries
