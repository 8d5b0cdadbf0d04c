"""Cursors: tokens with the next offset of all partitions of a topic, or of one of them. Pure.

A token is URL-safe base64. A short one contains MessagePack and a checksum of two bytes, a long one is compressed by
zlib, which is recognised by its first byte.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

import msgspec

from app.domain.log.offset_spec import At, OffsetSpec
from app.domain.log.topic import MAX_PARTITIONS
from app.errors.log import InvalidCursor

_MAX_BYTES = 16_384
_MAX_CHARACTERS = 16_384
_LONGEST_PLAIN = 64
_CHECK_BYTES = 2
_ZLIB = b"\x78"
_TRIPLE = b"\x93"
_UNREAD = -1


class Cursor(NamedTuple):
    """The next offsets of a read of all partitions of a topic.

    Attributes:
        offsets: Next offset of each partition, by number.
        rest: Where the partitions start that have no offset here. By default at 0: they were added after the cursor.
    """

    topic_id: int
    offsets: list[int]
    rest: OffsetSpec = At(0)


class PartitionCursor(NamedTuple):
    """The next offset of a read of one partition."""

    topic_id: int
    partition: int
    offset: int

    def to_cursor(self, rest: OffsetSpec) -> Cursor:
        """Return a cursor of all partitions, in which the others start at `rest`."""
        return Cursor(self.topic_id, [*[_UNREAD] * self.partition, self.offset], rest)


_encode = msgspec.msgpack.Encoder().encode
_decode_cursor = msgspec.msgpack.Decoder(tuple[int, list[int]]).decode
_decode_partition_cursor = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


def encode_cursor(cursor: Cursor) -> str:
    """Encode a cursor as a token of URL-safe characters."""
    packed = _encode((cursor.topic_id, cursor.offsets))
    if len(packed) <= _LONGEST_PLAIN:
        return _plain(packed)
    return urlsafe_b64encode(zlib.compress(packed, 1)).rstrip(b"=").decode()


def encode_partition_cursor(topic_id: int, partition: int, offset: int) -> str:
    """Encode a cursor of one partition as a token of URL-safe characters."""
    return _plain(_encode((topic_id, partition, offset)))


def decode_cursor(text: str) -> Cursor | PartitionCursor:
    """Decode a token.

    Raises:
        InvalidCursor: This module did not encode it.
    """
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError
        packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        return _decode(_unpacked(packed))
    except (ValueError, zlib.error, msgspec.DecodeError):
        raise InvalidCursor("the cursor is not valid; send one unchanged from an answer of this server") from None


def _plain(packed: bytes) -> str:
    return urlsafe_b64encode(packed + _check(packed)).rstrip(b"=").decode()


def _check(packed: bytes) -> bytes:
    return (zlib.crc32(packed) & 0xFFFF).to_bytes(_CHECK_BYTES, "big")


def _unpacked(packed: bytes) -> bytes:
    if packed[:1] == _ZLIB:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, _MAX_BYTES)
        if not unpacker.eof:
            raise ValueError
        return content
    content = packed[:-_CHECK_BYTES]
    if packed[-_CHECK_BYTES:] != _check(content):
        raise ValueError
    return content


def _decode(content: bytes) -> Cursor | PartitionCursor:
    if content[:1] == _TRIPLE:
        cursor = PartitionCursor(*_decode_partition_cursor(content))
        if not 0 <= cursor.partition < MAX_PARTITIONS or cursor.offset < 0:
            raise ValueError
        return cursor
    topic_id, offsets = _decode_cursor(content)
    if not 1 <= len(offsets) <= MAX_PARTITIONS or min(offsets) < 0:
        raise ValueError
    return Cursor(topic_id, offsets)
