"""Delivery ids."""

from __future__ import annotations

from app.domain.queues.delivery_id import DeliveryId, parse_delivery_id


def test_a_delivery_id_is_parsed_as_it_is_formatted() -> None:
    delivery_id = DeliveryId(3, 0, 17, 2)
    assert (str(delivery_id), parse_delivery_id("3.0.17.2")) == ("3.0.17.2", delivery_id)
    for text in ("", "3.0.17", "3.0.17.2.1", "3.0.17.x", "-3.0.17.2", "3.0.17.2 ", "9" * 30):
        assert parse_delivery_id(text) is None
