"""Turn msgspec's validation errors into errors for the client, with index, field and what to change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import msgspec
from typing_extensions import TypeIs

from app.errors.http import InvalidRequest

_CHOICES = {
    "encoding": "json, text, base64",
    "key_encoding": "text, base64",
    "lines": "records, values",
    "offset_reset": "earliest, latest",
    "assignor": "uniform, range",
    "cleanup_policy": "delete, compact, compact,delete",
    "message_timestamp_type": "CreateTime, LogAppendTime",
    "ordering": "none, key",
    "outcome": "accept, release, reject, renew",
    "state": "available, acquired, delayed, archived",
}
_KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "object": "an object",
    "str": "a string",
}
_SAMPLES = {"topics": '["orders"]', "partitions": "[0, 1]"}
_LONGEST_PATH = 400
_UNKNOWN = re.compile(r"Object contains unknown field (.{1,100})", re.DOTALL)
_MISSING = re.compile(r"Object missing required field (.{1,100})", re.DOTALL)
_EXPECTED = re.compile(r"Expected ([a-z |]{1,100}), got \w{1,20}")
_ITEM = re.compile(r"\.(?!headers\b)([a-z_]{1,100})\[(\d{1,9})\]")
_INDEX = re.compile(r"\[\d+\]")
_STEP = re.compile(r"\.([a-z_]+)|\[")


def invalid_request_of(error: msgspec.ValidationError, noun: str, expected: object = None) -> InvalidRequest:
    """Turn a validation error of msgspec into an error for the client, with index and field.

    The index is that of the item in the outermost list; the field is a field of that item.

    Args:
        error: The error of the decoder.
        noun: What the message calls a field, such as "field" or "parameter".
        expected: The type that the decoder expected; the message lists its fields.
    """
    message = str(error)
    head, found, path = message[-_LONGEST_PATH:].rpartition(" - at `$")
    path = path.removesuffix("`") if found else ""
    reason = plain(head if found and len(message) <= _LONGEST_PATH else message[:_LONGEST_PATH])
    items, rest = _items(path)
    fields = plain(_INDEX.sub("", rest).strip("."))
    named = _UNKNOWN.fullmatch(reason) or _MISSING.fullmatch(reason)
    entry: dict[str, object] = {"detail": _detail(reason, noun, path, expected)}
    names = [*(name for name, _ in items[1:]), *filter(None, [fields, named and named[1]])]
    if items:
        entry["index"] = items[0][1]
        names = names or [name for name, _ in items if name != "records"]
    if names:
        entry["field"] = ".".join(names)
    place = "".join(f"{name.removesuffix('s')} {index}: " for name, index in items)
    if fields:
        place += f"{noun} {fields}: "
    return InvalidRequest(f"{place}{entry['detail']}", errors=[entry])


def plain(text: str) -> str:
    """Return a message of the decoder in ASCII, without backticks and at most 200 characters long."""
    text = text.encode("ascii", "replace").decode().replace("`", "")
    return text if len(text) <= 200 else text[:197] + "..."


def _items(path: str) -> tuple[list[tuple[str, int]], str]:
    """Split a path into the lists on it, each with the index of its item, and the rest of the path."""
    items = []
    while found := _ITEM.match(path):
        items.append((found[1], int(found[2])))
        path = path[found.end() :]
    return items, path


def _detail(reason: str, noun: str, path: str, expected: object) -> str:
    """Return what is wrong, without the path."""
    if unknown := _UNKNOWN.fullmatch(reason):
        return f"there is no {noun} {unknown[1]}{_suggestion(unknown[1], _fields_at(expected, path))}"
    if missing := _MISSING.fullmatch(reason):
        return f"{noun} {missing[1]} is required"
    if reason.startswith("Invalid enum value"):
        return f"must be one of {_choices(path)}"
    if reason.startswith("Expected str") and path.endswith(".key"):
        return "must be a string, in quotes"
    if kinds := _EXPECTED.fullmatch(reason):
        return _must_be(kinds[1].split(" | "), path, _fields_at(expected, path))
    return reason


def _must_be(kinds: Iterable[str], path: str, fields: Collection[str]) -> str:
    """Return the sentence that names the expected kinds of value."""
    words = [_KINDS[kind] for kind in kinds if kind in _KINDS]
    sentence = f"must be {' or '.join(words)}" if words else "must be left out or null"
    if words == ["a list"] and (sample := _SAMPLES.get(path.rpartition(".")[2])):
        sentence += f", such as {sample}"
    if words == ["an object"] and fields:
        sentence += f" with {', '.join(fields)}"
    return sentence if path else f"the JSON {sentence}"


def _suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence that suggests the closest name, or lists all names."""
    if close := get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


def _fields_at(expected: object, path: str) -> Collection[str]:
    """Return the fields of the struct that a type expects at a path; empty if there is no struct."""
    types = [expected]
    for step in _STEP.finditer(path):
        types = [inner for each in types for inner in _inner_types(each, step[1])]
    return next((each.__struct_fields__ for each in types if _is_struct(each)), ())


def _inner_types(outer: object, field: str | None) -> Iterator[object]:
    """Return the types of a struct's field, or of a list's items if `field` is None."""
    inner = get_args(outer)
    if field is not None:
        inner = (get_type_hints(outer).get(field),) if _is_struct(outer) else ()
    for each in inner:
        yield from get_args(each) if get_origin(each) in {Union, UnionType} else (each,)


def _is_struct(kind: object) -> TypeIs[type[msgspec.Struct]]:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _choices(path: str) -> str:
    """Return the values that an enumerated field accepts."""
    name = path.rpartition(".")[2]
    if path.endswith("].encoding") and "headers[" in path:
        name = "key_encoding"
    return _CHOICES.get(name, "the values that /docs lists")
