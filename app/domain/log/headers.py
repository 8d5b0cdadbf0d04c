"""Headers of records as they are stored: JSON, decoded only for the few records whose headers a queue uses. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Header(msgspec.Struct, omit_defaults=True):
    """A stored header."""

    name: str
    value: str | None
    encoding: str = "text"


_decoder = msgspec.json.Decoder(list[Header])
_encoder = msgspec.json.Encoder()


def decode_headers(headers: bytes | None) -> list[Header]:
    """Decode the stored headers of a record."""
    return [] if headers is None else _decoder.decode(headers)


def encode_headers(headers: Sequence[Header]) -> bytes:
    """Encode headers as they are stored."""
    return _encoder.encode(headers)


def values_of(headers: bytes, name: str) -> list[str]:
    """Return the values of all headers of a name, in order."""
    return [header.value for header in decode_headers(headers) if header.name == name and header.value is not None]
