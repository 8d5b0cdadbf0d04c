"""JSON pointers (RFC 6901) into bytes of JSON, and its depth; what they point at keeps its spelling. Pure."""

from __future__ import annotations

import re
from itertools import accumulate

import msgspec
from msgspec import Raw

MAX_LIST_BYTES = 1_048_576
"""A pointer into a longer list is refused: each step decodes the whole list."""

_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])
_string = msgspec.json.Decoder(str)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_CHANGE = [1 if byte in b"[{" else -1 for byte in range(256)]


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


def is_deeper(json: bytes, levels: int) -> bool:
    """Return whether JSON is nested more than `levels` deep.

    The JSON must be valid: the time for invalid JSON is not bounded by its length.
    """
    if len(json) <= levels or json.count(b"[") + json.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", json).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_DEPTH_CHANGE.__getitem__, brackets)), default=0) > levels
