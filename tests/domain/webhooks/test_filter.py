"""Filters of webhooks: what passes, and which filters are refused."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from app.domain.webhooks.filter import FilterError, Subject, compile_filter

ORDER = {"id": 7, "total": 12.5, "state": "paid", "tags": ["new", "eu"], "buyer": {"name": "Ann", "a/b": None}}


def passes(
    test: Any, *, value: Any = ORDER, key: str | None = "eu-7", headers: dict[str, list[str]] | None = None
) -> bool:
    raw = None if value is None else msgspec.json.encode(value)
    return compile_filter(test).matches(Subject(key, headers or {"type": ["order", "7"]}, raw))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ({"value": "/state", "equals": "paid"}, True),
        ({"value": "/state", "equals": "open"}, False),
        ({"value": "/id", "equals": 7.0}, True),
        ({"value": "/id", "equals": True}, False),
        ({"value": "/id", "equals": "7"}, False),
        ({"value": "/buyer/a~1b", "equals": None}, True),
        ({"value": "/missing", "equals": None}, False),
        ({"value": "/tags/1", "in": ["us", "eu"]}, True),
        ({"value": "/tags/2", "exists": True}, False),
        ({"value": "/tags/01", "exists": False}, True),
        ({"value": "/tags/99999999999999999999", "exists": False}, True),
        ({"value": "/buyer/name", "prefix": "A"}, True),
        ({"value": "/total", "gt": 12}, True),
        ({"value": "/total", "lte": 12.5}, True),
        ({"value": "/total", "lt": "13"}, False),
        ({"value": "", "exists": True}, True),
        ({"key": True, "prefix": "eu-"}, True),
        ({"key": True, "exists": False}, False),
        ({"header": "type", "equals": "order"}, True),
        ({"header": "type", "gte": 7}, True),
        ({"header": "Type", "exists": False}, True),
        ({"not": {"value": "/id", "equals": 7}}, False),
        ({"all": [{"value": "/id", "gt": 1}, {"value": "/id", "lt": 8}]}, True),
        ({"any": [{"value": "/id", "gt": 8}, {"key": True, "equals": "eu-7"}]}, True),
    ],
)  # fmt: skip
def test_a_record_passes_by_its_key_headers_and_value(test: Any, expected: bool) -> None:
    assert passes(test) is expected


def test_a_record_without_json_has_no_members() -> None:
    assert passes({"value": "", "exists": False}, value=None)
    assert not passes({"value": "/id", "equals": 7}, value=None)
    assert passes({"key": True, "exists": False}, key=None)


@pytest.mark.parametrize("raw", [b"[" * 2_000 + b"]" * 2_000, b"1" * 5_000, b'{"n":' + b"9" * 400 + b"}"])
def test_a_value_that_cannot_be_decoded_passes_no_test_and_raises_nothing(raw: bytes) -> None:
    found = compile_filter({"value": "/n", "gt": 10**300}).matches(Subject(None, {}, raw))

    assert found in {False, True}


@pytest.mark.parametrize(
    ("test", "path"),
    [
        ([], "filter"),
        ({}, "filter"),
        ({"value": "/a"}, "filter"),
        ({"equals": 1}, "filter"),
        ({"value": "/a", "equals": 1, "gt": 2}, "filter"),
        ({"value": "a", "equals": 1}, "filter/value"),
        ({"value": 1, "equals": 1}, "filter/value"),
        ({"key": "eu", "equals": 1}, "filter/key"),
        ({"value": "/a", "exists": 1}, "filter/exists"),
        ({"value": "/a", "in": []}, "filter/in"),
        ({"value": "/a", "in": [{}]}, "filter/in"),
        ({"value": "/a", "equals": []}, "filter/equals"),
        ({"value": "/a", "gt": True}, "filter/gt"),
        ({"value": "/a", "prefix": 1}, "filter/prefix"),
        ({"value": "/a", "matches": "x"}, "filter"),
        ({"all": []}, "filter/all"),
        ({"all": [{"value": "/a", "equals": 1}], "any": []}, "filter"),
        ({"all": [{"value": "/a", "equals": 1}, {"any": {}}]}, "filter/all/1/any"),
        ({"all": [{"value": "/a", "equals": 1}] * 65}, "filter"),
    ],
)  # fmt: skip
def test_a_filter_that_is_not_of_the_grammar_is_refused_with_its_place(test: Any, path: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(test)
    assert refused.value.path == path
    assert str(refused.value)


def test_a_filter_is_at_most_eight_levels_deep() -> None:
    test: Any = {"key": True, "exists": True}
    for _ in range(7):
        test = {"not": test}
    compile_filter(test)
    with pytest.raises(FilterError):
        compile_filter({"not": test})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
TESTS = st.fixed_dictionaries(
    {},
    optional={
        "value": st.sampled_from(["", "/a", "/0", "/a/0", "/~1"]) | JSON,
        "key": JSON,
        "header": JSON,
        "equals": JSON,
        "in": JSON,
        "prefix": JSON,
        "exists": JSON,
        "lt": JSON,
        "gte": JSON,
    },
)
FILTERS = st.recursive(
    TESTS,
    lambda inner: st.fixed_dictionaries({"all": st.lists(inner, max_size=2)}) | st.fixed_dictionaries({"not": inner}),
    max_leaves=4,
)


@settings(max_examples=300)
@given(test=FILTERS, value=JSON, key=st.none() | st.text(), header=st.text())
def test_a_filter_is_refused_or_answers_for_every_record(test: Any, value: Any, key: str | None, header: str) -> None:
    try:
        compiled = compile_filter(test)
    except FilterError:
        return
    assert compiled.matches(Subject(key, {"h": [header]}, msgspec.json.encode(value))) in {True, False}
