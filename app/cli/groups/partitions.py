"""Groups and partitions, as requests and messages name them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

Partition = tuple[str, int]
"""Topic and partition number."""


def group_path(group: str) -> str:
    """Return the path of a group."""
    return f"/v1/groups/{quote(group, safe='')}"


def by_topic(partitions: Iterable[Partition]) -> list[dict[str, Any]]:
    """Return partitions as a list of topics with partition numbers, as requests contain them."""
    return [
        {"topic": topic, "partitions": [number for _, number in partitions_of_topic]}
        for topic, partitions_of_topic in groupby(sorted(partitions), lambda partition: partition[0])
    ]


def format_partitions(assignment: Iterable[dict[str, Any]]) -> str:
    """Return an assignment as text: `orders 0-2, payments 1`."""
    topics = (f"{entry['topic']} {_ranges(sorted(entry['partitions']))}" for entry in assignment)
    return ", ".join(topics) or "nothing"


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, each)) for each in ranges)
