"""Partitions as text."""

from __future__ import annotations

from app.cli.groups.partitions import format_partitions


def test_consecutive_partitions_are_a_range() -> None:
    assert format_partitions([]) == "nothing"
    assert (
        format_partitions([{"topic": "a", "partitions": [3, 0, 1, 5]}, {"topic": "b", "partitions": [2]}])
        == "a 0-1,3,5, b 2"
    )
