"""Groups and partitions, as requests and people name them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

Partition = tuple[str, int]


def group_path(group: str) -> str:
    """Return the path of a group."""
    return f"/v1/groups/{quote(group, safe='')}"


def by_topic(partitions: Iterable[Partition]) -> list[dict[str, Any]]:
    """Return partitions as they stand in a request."""
    return [
        {"topic": topic, "partitions": [number for _, number in some]}
        for topic, some in groupby(sorted(partitions), lambda partition: partition[0])
    ]


def in_words(assignment: Iterable[dict[str, Any]]) -> str:
    """Return partitions by topic for people: `orders 0-2, payments 1`."""
    return ", ".join(f"{one['topic']} {_ranges(sorted(one['partitions']))}" for one in assignment) or "nothing"


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, one)) for one in ranges)
