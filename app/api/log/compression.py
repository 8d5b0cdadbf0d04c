"""Compress the bodies of answers."""

from __future__ import annotations

import asyncio
import zlib

import zstandard

from app.api.http.media import content_coding

_MIN_COMPRESSED_BYTES = 512
_MAX_BYTES_COMPRESSED_IN_LOOP = 256 * 1024
"""Longer bodies are compressed in a worker thread."""
_CODINGS = (b"zstd", b"gzip")


async def compressed(body: bytes, accepted: bytes | None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the body as `compress` does, and the Content-Encoding header; the event loop does not block.

    Args:
        body: The body of an answer.
        accepted: The request's Accept-Encoding.
    """
    if len(body) < _MAX_BYTES_COMPRESSED_IN_LOOP:
        body, coding = compress(body, accepted)
    else:
        body, coding = await asyncio.to_thread(compress, body, accepted)
    return body, [] if coding is None else [(b"content-encoding", coding)]


def compress(body: bytes, accepted: bytes | None) -> tuple[bytes, bytes | None]:
    """Return the body and its Content-Encoding.

    The body is compressed with zstd or gzip if the client accepts it, and if it is at least
    `_MIN_COMPRESSED_BYTES` long.
    """
    if accepted is None or len(body) < _MIN_COMPRESSED_BYTES:
        return body, None
    coding = content_coding(accepted, _CODINGS)
    if coding == b"zstd":
        return zstandard.ZstdCompressor(level=3).compress(body), coding
    if coding == b"gzip":
        packer = zlib.compressobj(level=4, wbits=31)
        return packer.compress(body) + packer.flush(), coding
    return body, None
