"""Dead letters: headers that name the record which was archived, added on archiving and removed on redrive. Pure.

Source: KIP-1191; its `group` is the queue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from app.domain.log.headers import Header, decode_headers, encode_headers
from app.domain.queues.record_summary import DELIVER_AT

_PREFIX = "__dlq.errors."
_PREFIX_BYTES = _PREFIX.encode()
_NUMBER = re.compile(r"[0-9]{1,19}")


class Origin(NamedTuple):
    """The record that a dead letter is a copy of, and the queue that archived it."""

    topic: str
    partition: int
    offset: int
    queue: str


def with_origin(headers: bytes | None, origin: Origin, delivery_count: int, reason: str) -> bytes:
    """Return the headers of a dead letter: those of the record, then its origin, delivery count and reason."""
    added = {
        "topic": origin.topic,
        "partition": str(origin.partition),
        "offset": str(origin.offset),
        "group": origin.queue,
        "delivery.count": str(delivery_count),
        "message": reason,
    }
    kept = _without_prefix(decode_headers(headers))
    return encode_headers([*kept, *(Header(_PREFIX + name, value) for name, value in added.items())])


def origin_of(headers: bytes | None) -> Origin | None:
    """Return the origin of a dead letter, or None if the record is no dead letter.

    Any producer may write such headers, so their numbers are checked.
    """
    if headers is None or _PREFIX_BYTES not in headers:
        return None
    found = {header.name.removeprefix(_PREFIX): header.value or "" for header in decode_headers(headers)}
    partition, offset = found.get("partition", ""), found.get("offset", "")
    if "topic" not in found or "group" not in found or not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
        return None
    return Origin(found["topic"], int(partition), int(offset), found["group"])


def without_origin(headers: bytes | None) -> tuple[bytes | None, int]:
    """Return the headers of the original record, and the bytes of their names and values.

    The `deliver_at_ms` header is removed too, because the delay applied to the first delivery only.
    """
    kept = [each for each in _without_prefix(decode_headers(headers)) if each.name != DELIVER_AT]
    size_bytes = sum(len(each.name.encode()) + len((each.value or "").encode()) for each in kept)
    return (encode_headers(kept) if kept else None), size_bytes


def _without_prefix(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if not header.name.startswith(_PREFIX)]
