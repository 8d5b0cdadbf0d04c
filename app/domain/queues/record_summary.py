"""What a queue reads of a record of the log to admit it: the hash of its key and its delivery time. Pure."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

from app.domain.log.headers import values_of

KEYLESS = 0
"""`key_hash` of a record that blocks no other record."""

DELIVER_AT = "deliver_at_ms"
"""Name of the header with the time before which no queue delivers the record."""

_DELIVER_AT_BYTES = DELIVER_AT.encode()
_TIME = re.compile(r"[0-9]{1,15}")


class RecordSummary(NamedTuple):
    """A record of the log that is to be admitted to a share partition; `deliver_at_ms` is 0 for at once."""

    offset: int
    key_hash: int
    deliver_at_ms: int


def key_hash(key: bytes | None) -> int:
    """Return the signed 64-bit hash of a key; two keys with the same hash block each other, which is harmless."""
    if key is None:
        return KEYLESS
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big", signed=True) or 1


def deliver_at_ms(headers: bytes | None) -> int:
    """Return the latest valid time among the `deliver_at_ms` headers of a record, or 0."""
    if headers is None or _DELIVER_AT_BYTES not in headers:
        return 0
    return max((int(value) for value in values_of(headers, DELIVER_AT) if _TIME.fullmatch(value)), default=0)
