"""JSON pointers (RFC 6901) into bytes of JSON; what they point at keeps its spelling. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Raw

MAX_LIST_BYTES = 1_048_576
"""A pointer into a longer list is refused: each step decodes the whole list."""

_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_string = msgspec.json.Decoder(str)


class ListTooLong(Exception):
    """A step of the pointer goes into a list that is too long."""


def find(value: bytes, pointer: str) -> bytes | None:
    """Return the JSON at a pointer, or None if the value has nothing there.

    Raises:
        ListTooLong: A list on the way is longer than `MAX_LIST_BYTES`.
    """
    found = value
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            if found.lstrip().startswith(b"["):
                if len(found) > MAX_LIST_BYTES:
                    raise ListTooLong
                found = bytes(_list.decode(found)[int(name)]) if name.isdecimal() else b""
            else:
                found = bytes(_object.decode(found)[name])
        except (msgspec.DecodeError, KeyError, IndexError, ValueError, RecursionError):
            return None
        if not found:
            return None
    return found


def text_of(json: bytes) -> str | None:
    """Return the characters of a string or the spelling of a number; None for null, an object or a list."""
    if json.startswith(b'"'):
        return _string.decode(json)
    return None if json[:1] in b"{[" or json == b"null" else json.decode()
