"""Records to append, stored records, and their limits. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

MAX_KEY_BYTES = 4096
MAX_HEADERS = 50
MAX_VALUE_DEPTH = 500
MAX_HEADER_BYTES = 16 * 1024
MAX_TIMESTAMP_AHEAD_MS = 3_600_000

VALUE_JSON = 0
VALUE_TEXT = 1
VALUE_BASE64 = 2
VALUE_MASK = 3
KEY_BASE64 = 4
"""Bit of `Record.encoding`: the key was sent as base64. The low two bits are the VALUE_* of the value."""

VALUE_ENCODINGS = ("json", "text", "base64")


class Record(msgspec.Struct, gc=False):
    """A record ready to be appended.

    Attributes:
        partition: The requested partition, or -1.
        timestamp_ms: Unix epoch in milliseconds, or -1 for the time of the append.
        key: Key bytes, or None.
        value: Value bytes, or None for a tombstone.
        headers: JSON list of header objects as a fetch returns them, or None without headers.
        encoding: VALUE_* plus KEY_BASE64: how key and value are encoded in JSON answers.
        header_bytes: Bytes of the headers' names and values.
    """

    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: bytes | None
    encoding: int
    header_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the key, the value, and the names and values of the headers."""
        return len(self.key or b"") + len(self.value or b"") + self.header_bytes


class StoredRecord(NamedTuple):
    """A record of the log; its fields have the order of the columns that a page reads.

    Attributes:
        start_bytes: Bytes of the records before it in the partition.
    """

    offset: int
    timestamp_ms: int
    encoding: int
    key: bytes | None
    value: bytes | None
    headers: bytes | None
    start_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of key, value and headers as stored."""
        return len(self.key or b"") + len(self.value or b"") + len(self.headers or b"")
