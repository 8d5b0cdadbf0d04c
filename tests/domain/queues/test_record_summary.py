"""Key hash and delivery time of a record."""

from __future__ import annotations

import pytest

from app.domain.queues.record_summary import deliver_at_ms, key_hash


def test_equal_keys_have_equal_hashes_and_no_key_has_hash_zero() -> None:
    assert key_hash(None) == 0
    assert key_hash(b"") != 0
    assert key_hash(b"a") == key_hash(b"a") != key_hash(b"b")


@pytest.mark.parametrize(
    ("headers", "at_ms"),
    [
        (None, 0),
        (b'[{"name":"n","value":"deliver_at_ms"}]', 0),
        (b'[{"name":"deliver_at_ms","value":"1700000000000"}]', 1_700_000_000_000),
        (b'[{"name":"deliver_at_ms","value":"soon"},{"name":"deliver_at_ms","value":null}]', 0),
    ],
)
def test_a_header_sets_the_delivery_time(headers: bytes | None, at_ms: int) -> None:
    assert deliver_at_ms(headers) == at_ms
