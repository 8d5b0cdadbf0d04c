"""Cursors of all partitions of a topic, and of one partition."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log.cursor import Cursor, PartitionCursor, decode_cursor, encode_cursor, encode_partition_cursor
from app.domain.log.offset_spec import At, Latest
from app.errors.log import InvalidCursor

OFFSETS = st.lists(st.integers(0, 2**42 - 1), min_size=1, max_size=1000)


def packed(content: object) -> str:
    return urlsafe_b64encode(zlib.compress(msgspec.msgpack.encode(content))).decode().rstrip("=")


@given(st.integers(1, 2**63 - 1), OFFSETS)
def test_a_cursor_is_decoded_as_it_was_encoded(topic_id: int, offsets: list[int]) -> None:
    word = encode_cursor(Cursor(topic_id, offsets))

    assert decode_cursor(word) == Cursor(topic_id, offsets)
    assert quote(word, safe="") == word


@given(st.integers(1, 2**63 - 1), st.integers(0, 999), st.integers(0, 2**42 - 1))
def test_a_partition_cursor_is_decoded_as_it_was_encoded(topic_id: int, partition: int, offset: int) -> None:
    word = encode_partition_cursor(topic_id, partition, offset)

    assert decode_cursor(word) == PartitionCursor(topic_id, partition, offset)
    assert quote(word, safe="") == word
    assert len(word) <= 32


def test_a_partition_cursor_has_no_offset_of_the_other_partitions() -> None:
    assert PartitionCursor(7, 2, 5).to_cursor(Latest()) == Cursor(7, [-1, -1, 5], Latest())
    assert Cursor(7, [1]).rest == At(0)


@pytest.mark.parametrize("token", [encode_partition_cursor(7, 2, 5), encode_cursor(Cursor(7, [1, 2, 3]))])
def test_a_token_with_another_character_is_refused(token: str) -> None:
    for at, other in ((0, "l"), (3, "B"), (len(token) - 1, "0")):
        with pytest.raises(InvalidCursor):
            decode_cursor(token[:at] + other + token[at + 1 :])


def test_a_cursor_of_the_largest_topic_fits_a_url() -> None:
    cursor = Cursor(2**63 - 1, [2**42 - 1 - 7919 * n * n for n in range(1000)])

    assert len(encode_cursor(cursor)) < 8192
    assert decode_cursor(encode_cursor(cursor)) == cursor


@given(st.text(max_size=60))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(text)


@given(st.data())
def test_a_truncated_cursor_is_refused(data: st.DataObject) -> None:
    word = encode_cursor(Cursor(7, [1, 2, 3]))

    with pytest.raises(InvalidCursor):
        decode_cursor(word[: data.draw(st.integers(0, len(word) - 1))])


@pytest.mark.parametrize(
    "content",
    [
        (7, 1000, 0),
        (7, -1, 0),
        (7, 0, -1),
        (7, 0, 0, 0),
        (7, []),
        (7, [-1]),
        (7, [0] * 1001),
        (7, ["0"]),
        ("7", [0]),
        (7, [0.5]),
        (7,),
        [7, [0], 1],
        {"topic_id": 7},
        None,
    ],
    ids=repr,
)
def test_a_cursor_of_another_shape_is_refused(content: object) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(packed(content))


def test_a_cursor_that_decompresses_to_gigabytes_is_refused() -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(urlsafe_b64encode(zlib.compress(b"\0" * 10_000_000)).decode())
