"""Filters of webhooks: a closed grammar of tests on key, headers and JSON value. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

MAX_DEPTH = 8
MAX_TESTS = 64
_MAX_CHOICES = 100
_GROUPS = ("all", "any", "not")
_SUBJECTS = ("key", "header", "value")
_TESTS = ("equals", "in", "prefix", "exists", "lt", "lte", "gt", "gte")
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,4})?")
_MISSING: Any = object()
_SCALAR = (str, int, float, bool, type(None))


class FilterError(Exception):
    """A filter is not of the grammar.

    Attributes:
        path: Where, as `filter/all/0/equals`.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(detail)
        self.path = path


class Subject(NamedTuple):
    """The parts of a record that a filter tests.

    Attributes:
        key: The key as text; None without a key, or if it is no text.
        headers: All values of each header, by name.
        value: The JSON value, bytes of JSON; None if the value is no JSON.
    """

    key: str | None
    headers: Mapping[str, Sequence[str]]
    value: bytes | None


class _Document:
    """The value of a record, decoded at the first test that needs it."""

    __slots__ = ("_decoded", "_raw", "subject")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._raw = subject.value
        self._decoded: Any = _MISSING

    def value(self) -> Any:  # noqa: ANN401 - any JSON
        """Return the value; `_MISSING` if there is none, or it has numbers or a depth that cannot be decoded."""
        if self._raw is not None:
            raw, self._raw = self._raw, None
            with contextlib.suppress(ValueError, RecursionError):
                self._decoded = msgspec.json.decode(raw)
        return self._decoded


_Test = Callable[[_Document], bool]


class Filter:
    """A compiled filter."""

    def __init__(self, test: _Test) -> None:
        self._test = test

    def matches(self, subject: Subject) -> bool:
        """Return whether a record passes. A value that cannot be decoded has no members."""
        return self._test(_Document(subject))


def compile_filter(given: object) -> Filter:
    """Compile a decoded filter.

    Raises:
        FilterError: With the path of the part that is not of the grammar.
    """
    budget = [MAX_TESTS]
    return Filter(_compile(given, "filter", 1, budget))


def _compile(given: object, path: str, depth: int, budget: list[int]) -> _Test:
    if depth > MAX_DEPTH:
        raise FilterError(path, f"is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(given, dict) or not given:
        raise FilterError(path, 'must be {"all": […]}, {"any": […]}, {"not": …} or one test such as {"key": true, …}')
    for group in _GROUPS:
        if group in given:
            return _compile_group(group, given, path, depth, budget)
    budget[0] -= 1
    if budget[0] < 0:
        raise FilterError("filter", f"must have at most {MAX_TESTS} tests")
    return _compile_test(given, path)


def _compile_group(group: str, given: dict[str, Any], path: str, depth: int, budget: list[int]) -> _Test:
    if len(given) > 1:
        raise FilterError(path, f"must have nothing besides {group}")
    inner = given[group]
    if group == "not":
        negated = _compile(inner, f"{path}/not", depth + 1, budget)
        return lambda document: not negated(document)
    if not isinstance(inner, list) or not inner:
        raise FilterError(f"{path}/{group}", "must be a list of at least one filter")
    tests = [_compile(each, f"{path}/{group}/{index}", depth + 1, budget) for index, each in enumerate(inner)]
    if group == "all":
        return lambda document: all(test(document) for test in tests)
    return lambda document: any(test(document) for test in tests)


def _compile_test(given: dict[str, Any], path: str) -> _Test:
    subjects = [name for name in _SUBJECTS if name in given]
    names = [name for name in _TESTS if name in given]
    unknown = given.keys() - {*_SUBJECTS, *_TESTS}
    if unknown:
        raise FilterError(path, f"has the unknown field {min(unknown)!r}; the fields are {', '.join(_ALL_FIELDS)}")
    if len(subjects) != 1:
        raise FilterError(path, "must have exactly one of key, header and value")
    if len(names) != 1:
        raise FilterError(path, f"must have exactly one of {', '.join(_TESTS)}")
    values = _values_of(subjects[0], given[subjects[0]], path)
    name = names[0]
    test = _compile_comparison(name, given[name], f"{path}/{name}", spelled=subjects[0] != "value")
    if name == "exists":
        return lambda document: bool(values(document)) is given["exists"]
    return lambda document: any(test(value) for value in values(document))


_ALL_FIELDS = (*_GROUPS, *_SUBJECTS, *_TESTS)


def _values_of(subject: str, argument: object, path: str) -> Callable[[_Document], Sequence[Any]]:
    """Return a function that returns the values to test; a header may have several, a missing one has none."""
    if subject == "key":
        if argument is not True:
            raise FilterError(f"{path}/key", 'must be true, beside the test: {"key": true, "prefix": "eu-"}')
        return lambda document: () if document.subject.key is None else (document.subject.key,)
    if not isinstance(argument, str):
        raise FilterError(f"{path}/{subject}", "must be a string")
    if subject == "header":
        return lambda document: document.subject.headers.get(argument, ())
    steps = parse_pointer(argument, f"{path}/value")
    return lambda document: _resolve(document.value(), steps)


def parse_pointer(pointer: str, path: str) -> list[str]:
    """Return the steps of a JSON pointer (RFC 6901).

    Raises:
        FilterError: The text is not a pointer.
    """
    if pointer and not pointer.startswith("/"):
        raise FilterError(path, "must be a JSON pointer, which begins with /, or empty for the whole value")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _resolve(value: Any, steps: Sequence[str]) -> Sequence[Any]:  # noqa: ANN401 - any JSON
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step, _MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(step):
            value = value[int(step)] if int(step) < len(value) else _MISSING
        else:
            return ()
    return () if value is _MISSING else (value,)


def _compile_comparison(
    name: str,
    argument: Any,  # noqa: ANN401 - any JSON
    path: str,
    *,
    spelled: bool,
) -> Callable[[Any], bool]:
    """Return the test of one value; with `spelled` a text that spells a number is compared with numbers as one."""
    if name == "exists":
        if not isinstance(argument, bool):
            raise FilterError(path, "must be true or false")
        return lambda _: argument
    if name == "prefix":
        if not isinstance(argument, str):
            raise FilterError(path, "must be a string")
        return lambda value: isinstance(value, str) and value.startswith(argument)
    if name in {"equals", "in"}:
        choices = argument if name == "in" else [argument]
        if not isinstance(choices, list) or not 1 <= len(choices) <= _MAX_CHOICES:
            raise FilterError(path, f"must be a list of 1 to {_MAX_CHOICES} values")
        if not all(isinstance(each, _SCALAR) for each in choices):
            raise FilterError(path, "must be a string, a number, true, false or null")
        return lambda value: any(_equal(value, choice, spelled=spelled) for choice in choices)
    if isinstance(argument, bool) or not isinstance(argument, int | float | str):
        raise FilterError(path, "must be a number or a string")
    return _ordering(name, argument, spelled=spelled)


def _equal(value: object, choice: object, *, spelled: bool) -> bool:
    """Compare as JSON does: true is not 1, and 1 is 1.0."""
    if spelled and isinstance(choice, int | float) and not isinstance(choice, bool):
        return _number(value, spelled=True) == choice
    return isinstance(value, bool) is isinstance(choice, bool) and value == choice


def _ordering(name: str, bound: float | str, *, spelled: bool) -> Callable[[Any], bool]:
    compare = _COMPARISONS[name]
    if isinstance(bound, str):
        return lambda value: isinstance(value, str) and compare(value, bound)

    def compare_numbers(value: object) -> bool:
        number = _number(value, spelled=spelled)
        return number is not None and compare(number, bound)

    return compare_numbers


def _number(value: object, *, spelled: bool) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if spelled and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if set(value) & {".", "e", "E"} else int(value)
    return None


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
}
