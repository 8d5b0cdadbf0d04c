"""Inflate bodies with `Content-Encoding: gzip`, of one member."""

from __future__ import annotations

import zlib

from app.errors.http import BadRequest, BodyTooLarge, UnsupportedMediaType

_CODINGS = frozenset({b"gzip", b"x-gzip"})
_HIGHEST_RATIO = 1_032
"""Of decompressed to compressed bytes in deflate."""


def inflated_size(body: bytes | bytearray, encoding: bytes, limit: int) -> int:
    """Return the most bytes that a body may inflate to: the size that its last four bytes state, within bounds.

    Args:
        body: The compressed body.
        encoding: Its Content-Encoding.
        limit: The largest size that is accepted.

    Raises:
        UnsupportedMediaType: The encoding is not gzip.
    """
    if encoding.strip().lower() not in _CODINGS:
        raise UnsupportedMediaType("Content-Encoding must be gzip, or left out")
    return min(int.from_bytes(body[-4:], "little"), limit, len(body) * _HIGHEST_RATIO)


def inflate(body: bytes | bytearray, size: int, limit: int) -> bytes:
    """Return the decompressed body, which has the size that it states.

    Raises:
        BodyTooLarge: It is larger than the limit.
        BadRequest: It is not one gzip member.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        inflated = unpacker.decompress(body, size + 1)
    except zlib.error:
        raise BadRequest("the body is not valid gzip, although its Content-Encoding is gzip") from None
    if len(inflated) > limit:
        raise too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest("the body is not one complete gzip member, although its Content-Encoding is gzip")
    return inflated


def too_large(limit: int) -> BodyTooLarge:
    """Return the error for a body that is larger than the limit."""
    return BodyTooLarge(f"the body is larger than {limit} bytes; send the records in several requests", max_bytes=limit)
