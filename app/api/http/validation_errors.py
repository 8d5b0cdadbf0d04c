"""What is wrong with JSON of the wrong shape: msgspec's words turned into a refusal that says where and what to do."""

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


def invalid(error: msgspec.ValidationError, noun: str, shape: object = None) -> InvalidRequest:
    """Turn msgspec's words into a refusal with index and field.

    The index is that of the outermost list's item, and the field is within the item.

    Args:
        error: What msgspec says.
        noun: What its fields are called here.
        shape: The type it was to be, to tell which fields there are.
    """
    message = str(error)
    head, found, path = message[-_LONGEST_PATH:].rpartition(" - at `$")
    path = path.removesuffix("`") if found else ""
    said = plain(head if found and len(message) <= _LONGEST_PATH else message[:_LONGEST_PATH])
    items, rest = _items(path)
    fields = plain(_INDEX.sub("", rest).strip("."))
    named = _UNKNOWN.fullmatch(said) or _MISSING.fullmatch(said)
    entry: dict[str, object] = {"detail": _detail(said, noun, path, shape)}
    names = [*(name for name, _ in items[1:]), *filter(None, [fields, named and named[1]])]
    if items:
        entry["index"] = items[0][1]
        names = names or [name for name, _ in items if name != "records"]
    if names:
        entry["field"] = ".".join(names)
    where = "".join(f"{name.removesuffix('s')} {index}: " for name, index in items)
    if fields:
        where += f"{noun} {fields}: "
    return InvalidRequest(f"{where}{entry['detail']}", errors=[entry])


def plain(text: str) -> str:
    """Return a message of the decoder without what the caller sent at length."""
    text = text.encode("ascii", "replace").decode().replace("`", "")
    return text if len(text) <= 200 else text[:197] + "..."


def _items(path: str) -> tuple[list[tuple[str, int]], str]:
    """Return the lists that lead to a place, each with the index of its item, and the rest of the path."""
    items = []
    while found := _ITEM.match(path):
        items.append((found[1], int(found[2])))
        path = path[found.end() :]
    return items, path


def _detail(said: str, noun: str, path: str, shape: object) -> str:
    """Return what is wrong, without the place."""
    if unknown := _UNKNOWN.fullmatch(said):
        return f"there is no {noun} {unknown[1]}{_meant(unknown[1], _fields_at(shape, path))}"
    if missing := _MISSING.fullmatch(said):
        return f"{noun} {missing[1]} is required"
    if said.startswith("Invalid enum value"):
        return f"must be one of {_choices(path)}"
    if said.startswith("Expected str") and path.endswith(".key"):
        return "must be a string, in quotes"
    if expected := _EXPECTED.fullmatch(said):
        return _must_be(expected[1].split(" | "), path, _fields_at(shape, path))
    return said


def _must_be(kinds: Iterable[str], path: str, fields: Collection[str]) -> str:
    """Say of which kind a value must be."""
    words = [_KINDS[kind] for kind in kinds if kind in _KINDS]
    sentence = f"must be {' or '.join(words)}" if words else "must be left out or null"
    if words == ["a list"] and (sample := _SAMPLES.get(path.rpartition(".")[2])):
        sentence += f", such as {sample}"
    if words == ["an object"] and fields:
        sentence += f" with {', '.join(fields)}"
    return sentence if path else f"the JSON {sentence}"


def _meant(name: str, known: Collection[str]) -> str:
    """Return the rest of a sentence that says which names there are."""
    if close := get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


def _fields_at(shape: object, path: str) -> Collection[str]:
    """Return the fields of the struct that is to be at a path, or none."""
    shapes = [shape]
    for step in _STEP.finditer(path):
        shapes = [inner for each in shapes for inner in _within(each, step[1])]
    return next((each.__struct_fields__ for each in shapes if _is_struct(each)), ())


def _within(shape: object, name: str | None) -> Iterator[object]:
    """Return what a field may be, or without a name, an item."""
    inner = get_args(shape)
    if name is not None:
        inner = (get_type_hints(shape).get(name),) if _is_struct(shape) else ()
    for each in inner:
        yield from get_args(each) if get_origin(each) in {Union, UnionType} else (each,)


def _is_struct(shape: object) -> TypeIs[type[msgspec.Struct]]:
    return isinstance(shape, type) and issubclass(shape, msgspec.Struct)


def _choices(path: str) -> str:
    """Return the values that a field of a few may have."""
    name = path.rpartition(".")[2]
    if path.endswith("].encoding") and "headers[" in path:
        name = "key_encoding"
    return _CHOICES.get(name, "the values that /docs lists")
