"""Turn msgspec's validation errors into errors for the client, with index, field and what to change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from typing_extensions import TypeIs

from app.errors.http import InvalidRequest

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
_SIMILARITIES = ((0.9, 0.999), (0.8, 0.8), (0.7, 0.6))
"""How similar a suggested name is at the same level, and at another one: the nearest name comes first.

A plural of the name at the same level comes before the same name at another level.
"""
_SYNONYMS = {
    "messages": "records",
    "events": "records",
    "message": "value",
    "event": "value",
    "payload": "value",
    "data": "value",
    "body": "value",
    "key": "name",
    "pattern": "topic_pattern",
    "epoch": "member_epoch",
    "batch_size": "max_records",
    "wait": "max_wait_ms",
    "wait_ms": "max_wait_ms",
    "timeout": "max_wait_ms",
    "timeout_ms": "max_wait_ms",
    "visibility_timeout": "lock_duration_ms",
    "dlq": "dead_letter_topic",
    "num_partitions": "partitions",
}
"""Fields of other products, and what they are called here."""
_LARGEST = 2**53
"""A larger upper bound is that of the storage; an error does not mention it."""
_UNKNOWN = re.compile(r"Object contains unknown field (.{1,100})", re.DOTALL)
_MISSING = re.compile(r"Object missing required field (.{1,100})", re.DOTALL)
_EXPECTED = re.compile(r"Expected ([a-z |]{1,100}), got \w{1,20}")
_BOUND = re.compile(r"Expected (int|float|str|array|object)(?: of length)? [<>]=? -?[0-9.]{1,30}")
_ITEM = re.compile(r"\.(?!headers\b)([a-z_]{1,100})\[(\d{1,9})\]")
_HEADER = re.compile(r"headers\[(\d{1,9})\]")
_INDEX = re.compile(r"\[\d+\]")
_OF_A_VALUE = "[...]"
"""How the decoder names the values of an object that has any names."""
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
    fields = plain(_INDEX.sub("", rest).replace(_OF_A_VALUE, "").strip("."))
    named = _UNKNOWN.fullmatch(reason) or _MISSING.fullmatch(reason)
    entry: dict[str, object] = {"detail": _detail(reason, noun, path, expected)}
    names = [*(name for name, _ in items[1:]), *filter(None, [fields, named and named[1]])]
    if items:
        entry["index"] = items[0][1]
        names = names or [name for name, _ in items if name != "records"]
    if names:
        entry["field"] = ".".join(names)
    place = "".join(f"{name.removesuffix('s')} {index}: " for name, index in items)
    if header := _HEADER.search(rest):
        place += f"header {header[1]}: "
        fields = fields.removeprefix("headers").removeprefix(".")
    if fields:
        place += f"{noun} {fields}: "
    return InvalidRequest(f"{place}{entry['detail']}", errors=[entry])


def repeated_parameter(names: Sequence[str]) -> InvalidRequest:
    """Return the error for the first name of a query that is repeated."""
    name = plain(next(each for place, each in enumerate(names) if each in names[:place]))
    detail = "is given twice; send one"
    return InvalidRequest.at(None, name, detail, message=f"parameter {name} {detail}")


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
        return f"there is no {noun} {unknown[1]}{_suggestion(unknown[1], noun, path, expected)}"
    if missing := _MISSING.fullmatch(reason):
        return f"{noun} {missing[1]} is required"
    if reason.startswith("Invalid enum value"):
        return f"must be one of {_choices(_types_at(expected, path))}"
    kinds = _EXPECTED.fullmatch(reason) or _BOUND.fullmatch(reason)
    if kinds or reason == "Integer value out of range":
        return _must_be(kinds[1].split(" | ") if kinds else ["int"], path, expected)
    return reason


def _must_be(kinds: Collection[str], path: str, expected: object) -> str:
    """Return the sentence that names the expected kinds of value, and their bounds."""
    if path.endswith(".key") and "str" in kinds:
        return "must be a string, in quotes"
    types = _types_at(expected, path)
    words = [_KINDS[kind] + _bounds(kind, types) for kind in kinds if kind in _KINDS]
    sentence = f"must be {' or '.join(words)}" if words else "must be left out or null"
    if path.endswith("_ms") and words and words[0].startswith("an integer from 1"):
        sentence += ", in milliseconds"
    if path.endswith(_OF_A_VALUE):
        return f"each value {sentence}{', in quotes' if 'str' in kinds else ''}"
    if words and words[0].startswith("a list") and (sample := _SAMPLES.get(path.rpartition(".")[2])):
        sentence += f", such as {sample}"
    fields = _fields_of(types)
    if words == ["an object"] and fields:
        sentence += f" with {', '.join(fields)}"
        if "value" in fields:
            sentence += '; send {"name":…,"value":…}' if "name" in fields else '; send {"value":…}'
    return sentence if path else f"the JSON {sentence}"


def _bounds(kind: str, types: Iterable[object]) -> str:
    """Return the bounds that a type gives to a kind of value, such as " from 1 to 100"; "" without bounds."""
    python_type = {"int": int, "float": float, "str": str, "array": list}.get(kind)
    for each in types:
        inner = _bare(each)
        if (get_origin(inner) or inner) is python_type:
            for meta in getattr(each, "__metadata__", ()):
                low, high, unit = meta.ge, meta.le, ""
                if kind in {"str", "array"}:
                    low, high, unit = meta.min_length, meta.max_length, " characters" if kind == "str" else " items"
                high = None if high is not None and high >= _LARGEST else high
                if words := _range(low, high):
                    return f" of {words[1:].removeprefix('from ')}{unit}" if unit else words
    return ""


def _range(low: int | None, high: int | None) -> str:
    if low is None:
        return "" if high is None else f" at most {high}"
    return f" from {low}" if high is None else f" from {low} to {high}"


def _suggestion(name: str, noun: str, path: str, expected: object) -> str:
    """Return the end of a sentence that suggests the closest name, the place of a field, or lists all names."""
    known = _fields_of(_types_at(expected, path))
    if (meant := _SYNONYMS.get(name.lower())) in known:
        return f"; did you mean {meant}?"
    for here, elsewhere in _SIMILARITIES:
        if close := get_close_matches(name.lower(), known, n=1, cutoff=here):
            return f"; did you mean {close[0]}?"
        if place := _place_of(name.lower(), path, expected, elsewhere):
            return place
    return f"; the {noun}s are {', '.join(known)}" if known else ""


def _place_of(name: str, path: str, expected: object, cutoff: float) -> str:
    """Return where a field belongs that was sent one level too high or too low; "" if it belongs to neither."""
    for field in _fields_of(_types_at(expected, path)):
        inner = _types_at(expected, f"{path}.{field}")
        is_list = any(get_origin(_bare(each)) is list for each in inner)
        fields = _fields_of(_types_at(expected, f"{path}.{field}[") if is_list else inner)
        if close := get_close_matches(name, fields, n=1, cutoff=cutoff):
            sample = f'{{"{close[0]}":…}}'
            return f'; send {{"{field}":{f"[{sample}]" if is_list else sample}}}'
    outer, _, own = path.rpartition(".")
    if own and (close := get_close_matches(name, _fields_of(_types_at(expected, outer)), n=1, cutoff=cutoff)):
        return f"; {close[0]} belongs beside {_INDEX.sub('', own)}, not into it"
    return ""


def _fields_of(types: Iterable[object]) -> Collection[str]:
    """Return the fields of the first struct among types."""
    return next((each.__struct_fields__ for each in types if _is_struct(each)), ())


def _types_at(expected: object, path: str) -> list[object]:
    """Return the types that a type expects at a path: each member of a union, with its annotations."""
    types = list(_members(expected))
    for step in _STEP.finditer(path):
        types = [inner for each in types for inner in _inner_types(each, step[1])]
    return types


def _inner_types(outer: object, field: str | None) -> Iterator[object]:
    """Return the types of a struct's field, or of a list's items if `field` is None."""
    if field is not None:
        if _is_struct(outer):
            yield from _members(get_type_hints(outer, include_extras=True).get(field))
        return
    for each in get_args(_bare(outer)):
        yield from _members(each)


def _members(kind: object) -> Iterator[object]:
    """Return the members of a union, without annotations around the union."""
    inner = _bare(kind)
    if get_origin(inner) in {Union, UnionType}:
        for each in get_args(inner):
            yield from _members(each)
    else:
        yield kind


def _bare(kind: object) -> object:
    """Return a type without its annotations."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_struct(kind: object) -> TypeIs[type[msgspec.Struct]]:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _choices(types: Iterable[object]) -> str:
    """Return the values that an enumerated field accepts."""
    values: list[object] = []
    for each in types:
        inner = _bare(each)
        if get_origin(inner) is Literal:
            values += get_args(inner)
        elif isinstance(inner, type) and issubclass(inner, Enum):
            values += [member.value for member in inner]
    return ", ".join(str(value) for value in values if value is not None) or "the values that /docs lists"
