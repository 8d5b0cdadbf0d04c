"""The words that say where a read goes on: in all partitions of a topic, or in one of them. Pure.

A word is URL-safe base64. Short ones hold MessagePack and two bytes that check it, long ones are compressed by zlib,
whose first byte tells them apart.
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
    """Where a read of a whole topic goes on.

    Attributes:
        offsets: Next offset of each partition, by number.
        rest: Where partitions start that are not among the offsets; one that was added since starts at 0.
    """

    topic_id: int
    offsets: list[int]
    rest: OffsetSpec = At(0)


class PartitionCursor(NamedTuple):
    """Where a read of one partition goes on."""

    topic_id: int
    partition: int
    offset: int

    def among_all(self, rest: OffsetSpec) -> Cursor:
        """Return the cursor of a read of all partitions, where the others start at `rest`."""
        return Cursor(self.topic_id, [*[_UNREAD] * self.partition, self.offset], rest)


_encode = msgspec.msgpack.Encoder().encode
_decode_cursor = msgspec.msgpack.Decoder(tuple[int, list[int]]).decode
_decode_place = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


def encode_cursor(cursor: Cursor) -> str:
    """Write a cursor as a word of URL-safe characters."""
    packed = _encode((cursor.topic_id, cursor.offsets))
    if len(packed) <= _LONGEST_PLAIN:
        return _plain(packed)
    return urlsafe_b64encode(zlib.compress(packed, 1)).rstrip(b"=").decode()


def encode_partition_cursor(topic_id: int, partition: int, offset: int) -> str:
    """Write a place as a word of URL-safe characters."""
    return _plain(_encode((topic_id, partition, offset)))


def decode_cursor(text: str) -> Cursor | PartitionCursor:
    """Read a cursor or a place.

    Raises:
        InvalidCursor: It was not made by this module.
    """
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError
        packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        return _decode(_unpacked(packed))
    except (ValueError, zlib.error, msgspec.DecodeError):
        raise InvalidCursor("the cursor is not one of this server's; use it as it was given") from None


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
        place = PartitionCursor(*_decode_place(content))
        if not 0 <= place.partition < MAX_PARTITIONS or place.offset < 0:
            raise ValueError
        return place
    topic_id, offsets = _decode_cursor(content)
    if not 1 <= len(offsets) <= MAX_PARTITIONS or min(offsets) < 0:
        raise ValueError
    return Cursor(topic_id, offsets)
