"""Output formats of fetched records."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime
from typing import Literal

import msgspec

from app.cli.terminal.output import printable


class _Record(msgspec.Struct):
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: msgspec.Raw
    encoding: Literal["json", "text", "base64"] = "json"
    key_encoding: Literal["text", "base64"] = "text"
    topic: str | None = None


_decoder = msgspec.json.Decoder(_Record)
_string = msgspec.json.Decoder(str)


def values(lines: bytes) -> bytes:
    """Return one line for each record: its value as the JSON that was sent."""
    return b"".join(bytes(record.value) + b"\n" for record in _decoder.decode_lines(lines))


def text(lines: bytes) -> bytes:
    """Return one line for each record: its value as text or bytes; an empty line for a tombstone."""
    return b"".join(value_bytes(record.value, record.encoding) + b"\n" for record in _decoder.decode_lines(lines))


def readable(lines: bytes) -> bytes:
    """Return one readable line for each record: partition and offset, time, key, value."""
    return "".join(map(_line, _decoder.decode_lines(lines))).encode()


def value_bytes(value: msgspec.Raw, encoding: str) -> bytes:
    """Return a value's JSON as it was sent, its text or its bytes; nothing for a tombstone."""
    raw = bytes(value)
    if raw == b"null":
        return b""
    if encoding == "json":
        return raw
    characters: str = _string.decode(raw)
    return characters.encode() if encoding == "text" else b64decode(characters)


def _line(record: _Record) -> str:
    time = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    key = "null" if record.key is None else printable(record.key)
    value = printable(bytes(record.value).decode())
    topic = "" if record.topic is None else f"{record.topic}/"
    return f"{topic}{record.partition}/{record.offset}  {time[:-6]}Z  {key}  {value}\n"
