"""The `errors` list of an error."""

from __future__ import annotations

from app.errors.broker_error import BrokerError
from app.errors.http import InvalidRequest


def test_a_field_of_an_item_is_named_with_the_index_of_the_item() -> None:
    error = InvalidRequest.at(3, "key", "must be base64")

    assert error.detail == "record 3: key must be base64"
    assert error.facts == {"errors": [{"index": 3, "field": "key", "detail": "must be base64"}]}


def test_an_item_and_a_field_may_each_stand_alone() -> None:
    whole_item = InvalidRequest.at(0, None, "names a partition twice", item="offset")
    only_field = InvalidRequest.at(None, "to", "must be from 0 to 9")

    assert whole_item.detail == "offset 0 names a partition twice"
    assert whole_item.facts == {"errors": [{"index": 0, "detail": "names a partition twice"}]}
    assert only_field.detail == "to must be from 0 to 9"
    assert only_field.facts == {"errors": [{"field": "to", "detail": "must be from 0 to 9"}]}


def test_an_error_may_have_its_own_message_and_more_facts() -> None:
    error: BrokerError = InvalidRequest.at(1, "value", "has 9 bytes", message="record 1 is too large", max_bytes=8)

    assert error.detail == "record 1 is too large"
    assert list(error.facts) == ["max_bytes", "errors"]
