"""The errors list of a refusal."""

from __future__ import annotations

from app.errors.broker_error import BrokerError
from app.errors.http import InvalidRequest


def test_a_field_of_an_item_is_named_with_the_index_of_the_item() -> None:
    refusal = InvalidRequest.at(3, "key", "must be base64")

    assert refusal.detail == "record 3: key must be base64"
    assert refusal.facts == {"errors": [{"index": 3, "field": "key", "detail": "must be base64"}]}


def test_an_item_and_a_field_may_each_stand_alone() -> None:
    whole_item = InvalidRequest.at(0, None, "names a partition twice", item="offset")
    only_field = InvalidRequest.at(None, "to", "must be from 0 to 9")

    assert whole_item.detail == "offset 0 names a partition twice"
    assert whole_item.facts == {"errors": [{"index": 0, "detail": "names a partition twice"}]}
    assert only_field.detail == "to must be from 0 to 9"
    assert only_field.facts == {"errors": [{"field": "to", "detail": "must be from 0 to 9"}]}


def test_a_refusal_may_have_its_own_message_and_more_facts() -> None:
    refusal: BrokerError = InvalidRequest.at(1, "value", "has 9 bytes", message="record 1 is too large", max_bytes=8)

    assert refusal.detail == "record 1 is too large"
    assert list(refusal.facts) == ["max_bytes", "errors"]
