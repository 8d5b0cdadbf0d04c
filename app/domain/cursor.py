"""The cursor over all partitions of a topic: its id and an offset per partition, as one opaque word. Pure."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

import msgspec

from app.domain.topic import MAX_PARTITIONS
from app.errors import InvalidCursor

_MAX_BYTES = 16_384
_MAX_CHARACTERS = 16_384


class Cursor(NamedTuple):
    """Where a read of a whole topic goes on.

    Attributes:
        offsets: Next offset of each partition, by number; one that was added since starts at 0.
    """

    topic_id: int
    offsets: list[int]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, list[int]])


def encode_cursor(cursor: Cursor) -> str:
    """Write a cursor as a word of URL-safe characters."""
    packed = _encoder.encode((cursor.topic_id, cursor.offsets))
    return urlsafe_b64encode(zlib.compress(packed, 1)).rstrip(b"=").decode()


def decode_cursor(text: str) -> Cursor:
    """Read a cursor.

    Raises:
        InvalidCursor: It was not made by `encode_cursor`.
    """
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError
        packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        unpacker = zlib.decompressobj()
        topic_id, offsets = _decoder.decode(unpacker.decompress(packed, _MAX_BYTES))
        if not unpacker.eof or not 1 <= len(offsets) <= MAX_PARTITIONS or min(offsets) < 0:
            raise ValueError
    except (ValueError, zlib.error, msgspec.DecodeError):
        raise InvalidCursor("the cursor is not one of this server's; use next_cursor as it was given") from None
    return Cursor(topic_id, offsets)
