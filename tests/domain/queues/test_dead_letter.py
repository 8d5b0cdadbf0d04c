"""Headers of dead letters."""

from __future__ import annotations

import json

import pytest

from app.domain.queues.dead_letter import Origin, origin_of, with_origin, without_origin


def test_a_dead_letter_has_the_headers_of_its_origin_until_it_is_redriven() -> None:
    original = b'[{"name":"n","value":"v"},{"name":"b","value":"eA==","encoding":"base64"},{"name":"z","value":null}]'
    origin = Origin("orders", 3, 17, "jobs")
    headers = with_origin(original, origin, 2, "rejected")
    assert origin_of(headers) == origin
    assert without_origin(headers)[0] == original
    assert origin_of(with_origin(headers, Origin("dead", 0, 1, "other"), 1, "rejected")) == Origin(
        "dead", 0, 1, "other"
    )
    assert origin_of(original) is None
    assert without_origin(with_origin(None, origin, 1, "x")) == (None, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partition", "-1"),
        ("partition", "1_0"),
        ("partition", " 1"),
        ("partition", "\u0663"),
        ("partition", "9" * 20),
        ("partition", None),
        ("offset", "-1"),
        ("offset", "x"),
    ],
)
def test_a_record_with_an_impossible_origin_is_no_dead_letter(name: str, value: str | None) -> None:
    fields = {"topic": "orders", "partition": "3", "offset": "17", "group": "jobs"} | {name: value}
    headers = json.dumps([{"name": f"__dlq.errors.{each}", "value": text} for each, text in fields.items()])

    assert origin_of(headers.encode()) is None
